"""From NIfTI to slices: what is written, what goes wrong, restart."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import LPS, REAL_DATA, SHAPE, head, lesion, refused, write_nifti

from mudiff.data import dataset, manifests, verify, volumes
from mudiff.data import prepare as data
from mudiff.data.dataset import Preparation
from mudiff.data.masks import brain_mask
from mudiff.data.slices import normalise, to_slices
from mudiff.phantoms import cohort as cohorts

SMALL = Preparation("brats", image_size=16, slices=4)


def prepare(cohort, folder, preparation=SMALL, **options):
    root, manifest = cohort
    return data.prepare(preparation, root, manifest, folder, **{"workers": 1, "progress": False} | options)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_prepared_files_hold_what_the_volumes_hold(cohort, tmp_path):
    info = prepare(cohort, tmp_path / "p")
    splits = [record["split"] for record in info["subjects"].values()]
    assert (info["failed"], splits) == ({}, ["train", "train", "train", "val", "test"])
    assert info == json.loads((tmp_path / "p/prepared.json").read_text())
    images = np.load(tmp_path / "p/train/Brats18_A_1.npy", allow_pickle=False)
    masks = np.load(tmp_path / "p/train/Brats18_A_1.masks.npy", allow_pickle=False)
    assert (images.dtype, images.shape) == (np.uint16, (4, 4, 16, 16))
    assert (masks.dtype, masks.shape) == (np.uint8, (4, 2, 16, 16))
    for channel, contrast in enumerate(("t1", "t1ce", "t2", "flair")):
        volume = volumes.load_volume(cohort[0] / f"Brats18_A_1/Brats18_A_1_{contrast}.nii.gz")
        expected, _ = to_slices(normalise(volume.data, "percentile"), volume.affine, 16)
        np.testing.assert_allclose(images[:, channel] / 65535, expected[4:8], atol=1e-5)
    np.testing.assert_array_equal(masks[:, 0], brain_mask(images.swapaxes(0, 1)))
    expected, _ = to_slices(lesion(), LPS, 16, order=0)
    np.testing.assert_array_equal(masks[:, 1], expected[4:8])
    index = pd.read_csv(tmp_path / "p/slices.csv")
    assert index[index["subject"] == "Brats18_A_1"]["slice"].tolist() == [4, 5, 6, 7]
    assert info["settings"]["image_size"] == 16 and info["subjects"]["Brats18_A_1"]["shape"] == list(SHAPE)


def test_few_slices_and_no_lesion_are_warnings(cohort, tmp_path, write_subject):
    write_subject(cohort[0], "Brats18_B_1", seg=lesion() * 0)
    info = prepare(cohort, tmp_path / "p", Preparation("brats", image_size=16, slices=40))
    warnings = "\n".join(info["warnings"])
    assert warnings.count("12 axial slices instead of 40") == 5 and "Brats18_B_1: has no lesion in" in warnings
    slices = dataset.open_slices(tmp_path / "p", "train")
    assert slices.index["slice"].tolist() == [*range(12)] * 3
    assert not slices.lesion(slices.subject("Brats18_B_1")).any()


def test_subjects_that_are_named_by_numbers(tmp_path, rng):
    for name, contrast in itertools.product("123", ("T1", "T2", "Flair", "DWI", "OT")):
        data = lesion() if contrast == "OT" else head(rng)
        write_nifti(tmp_path / "raw" / name / f"VSD.Brain.XX.O.MR_{contrast}.7" / "x.nii", data)
    manifest = pd.DataFrame({"subject": list("123"), "split": list(manifests.SPLITS), "reason": ""})
    info = prepare((tmp_path / "raw", manifest), tmp_path / "p", Preparation("isles", 16, 4))
    assert (info["failed"], info["warnings"]) == ({}, [])
    test = dataset.open_slices(tmp_path / "p", "test")
    assert test.subjects == ["3"] and len(test.contrasts) == 4 and test.lesion(range(4)).any()


def test_a_bad_subject_does_not_stop_the_others(cohort, tmp_path, rng, write_subject):
    root = cohort[0]
    write_subject(root, "Brats18_A_1", t2=head(rng, (20, 26, 10)))
    (root / "Brats18_B_1/Brats18_B_1_flair.nii.gz").write_bytes(b"x")
    (root / "Brats18_D_1/Brats18_D_1_t1ce.nii.gz").rename(root / "Brats18_D_1/Brats18_D_1_T1CE_brain.nii.gz")
    write_nifti(root / "Brats18_E_1/Brats18_E_1_t1.nii", head(rng))  # a second t1
    info = prepare(cohort, tmp_path / "p", workers=2)
    assert list(info["subjects"]) == ["Brats18_C_1"]
    says = {"A": "not on one grid", "B": "B_1_flair.nii.gz", "D": "has no t1ce; left out", "E": "both claim t1"}
    assert all(text in info["failed"][f"Brats18_{name}_1"] for name, text in says.items())
    for use, given in ((dataset.check, SMALL), (dataset.open_slices, "train")):  # whoever would train on the rest
        refused(r"4 of 5 subjects .*exclude .*: Brats18_A_1: ", use, tmp_path / "p", given)
    excluded = cohort[1].assign(split=["excluded", "excluded", "train", "excluded", "excluded"])
    prepare((root, excluded), tmp_path / "p")
    assert len(dataset.open_slices(tmp_path / "p", "train")) == 4
    refused("no slices of split 'test'", dataset.open_slices, tmp_path / "p", "test")


def test_without_training_subjects_nothing_is_touched(cohort, tmp_path):
    root, manifest = cohort
    prepare(cohort, tmp_path / "p")
    before = contents(tmp_path / "p")
    unknown, untrained = (manifest.assign(subject=[*"VWXYZ"[:n], *manifest["subject"][n:]]) for n in (5, 3))
    refused("none of the subjects of the", prepare, (root, unknown), tmp_path / "p")
    refused("none of the training subjects", prepare, (root, untrained), tmp_path / "p")
    assert contents(tmp_path / "p") == before
    test_only = manifest[manifest["split"] == "test"]  # an unseen cohort needs no training subjects
    info = prepare((root, test_only), tmp_path / "q")
    assert list(info["subjects"]) == ["Brats18_E_1"]
    listed = ", ".join(f"Brats18_{name}_1" for name in "ABCD")
    assert info["warnings"] == [f"4 subjects of the data folder are not in the manifest: {listed}"]


def test_a_second_run_prepares_nothing_and_a_damaged_subject_again(cohort, tmp_path):
    folder = tmp_path / "p"
    info = prepare(cohort, folder)
    before, first = contents(folder), folder / "train/Brats18_A_1.npy"
    changed = first.stat().st_mtime_ns
    (folder / "train/Brats18_B_1.json").unlink()  # as if it had been killed while writing this subject
    (folder / "train/Brats18_C_1.npy").unlink()
    os.utime(cohort[0] / "Brats18_D_1/Brats18_D_1_t1.nii.gz")  # a copy with another date is prepared again
    prepare(cohort, folder)
    same = [name for name, content in contents(folder).items() if before[name] == content]
    assert before.keys() - same == {"prepared.json", "val/Brats18_D_1.json"}  # which hold that date
    assert dataset.check(folder, SMALL) == info["data_hash"]
    assert first.stat().st_mtime_ns == changed
    assert not list(tmp_path.glob("p.old-*"))


def test_after_a_kill_only_the_missing_subjects_are_prepared(cohort, tmp_path, monkeypatch):
    prepare(cohort, tmp_path / "whole", workers=2)  # which writes the same as one process
    folder, flushed = tmp_path / "p", []

    def flush(handle):  # killed while the masks of the third subject are written: the file is cut in half
        flushed.append(handle)
        if len(flushed) == 8:
            for path in folder.glob("*/.tmp-*"):
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", flush)
        child = multiprocessing.get_context("fork").Process(target=prepare, args=(cohort, folder))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert (len(list(folder.glob("*/[!.]*.json"))), len(list(folder.glob("*/.tmp-*")))) == (2, 1)
    refused("no prepared slices", dataset.open_slices, folder, "train")

    done, work = [], data._prepare_subject
    monkeypatch.setattr(data, "_prepare_subject", lambda *job: done.append(job[1]) or work(*job))
    prepare(cohort, folder)
    assert done == ["Brats18_C_1", "Brats18_D_1", "Brats18_E_1"]
    whole = {name: content for name, content in contents(folder).items() if "/.tmp-" not in name}
    assert whole == contents(tmp_path / "whole")


def test_workers_end_soon_after_a_killed_process(tmp_path):
    beat = f"[(Path({str(tmp_path)!r}, str(k)).touch(), time.sleep(0.1)) for _ in range(600)]"
    imports = "import time; from pathlib import Path; from mudiff.data.prepare import each_subject"
    work = f"{imports}; list(each_subject(lambda k: {beat}, [(0,), (1,)], 2, '', False))"
    process = subprocess.Popen([sys.executable, "-c", work])
    while len(files := list(tmp_path.iterdir())) < 2:
        assert process.poll() is None
    process.kill()
    killed = time.time()
    while time.time() - max(file.stat().st_mtime for file in files) < 1:
        assert time.time() < killed + 10
    process.wait()


@pytest.mark.parametrize("change", ["source", "split", "dropped"])
def test_a_change_of_one_subject_leaves_the_others_in_place(cohort, tmp_path, change, write_subject):
    (root, manifest), folder = cohort, tmp_path / "p"
    old, before = prepare(cohort, folder), contents(folder / "train")
    dates = {path: path.stat().st_mtime_ns for path in folder.glob("*/*_[B-E]_1*")}
    if change == "source":
        write_subject(root, "Brats18_A_1")
    elif change == "split":  # subject A must not stay in train/ when it becomes a test subject
        manifest = manifest.assign(split=["test", "train", "train", "val", "test"])
    else:
        manifest = manifest.iloc[1:]
    assert prepare((root, manifest), folder)["data_hash"] != old["data_hash"]
    assert dates == {path: path.stat().st_mtime_ns for path in dates} and not list(tmp_path.glob("p.old-*"))
    places = [path.parent.name for path in folder.glob("*/Brats18_A_1.npy")]
    assert places == {"source": ["train"], "split": ["test"], "dropped": []}[change]
    assert dataset.open_slices(folder, "train").subjects[-1] == "Brats18_C_1"
    if change != "source":
        assert prepare(cohort, folder)["data_hash"] == old["data_hash"] and contents(folder / "train") == before


def test_the_same_files_under_two_ids_are_no_two_subjects(cohort, tmp_path):
    root, manifest = cohort
    for copy in ("B", "E"):
        for file in root.glob("Brats18_A_1/*_t[12].nii.gz"):
            shutil.copy(file, root / f"Brats18_{copy}_1" / file.name.replace("_A_", f"_{copy}_"))
    info = prepare(cohort, tmp_path / "p")  # A and B train, E is tested
    assert info["failed"] == {"Brats18_E_1": "Brats18_E_1: has the T2 file of Brats18_A_1; exclude one of them."}
    says = "Brats18_B_1: has the {} file of Brats18_A_1; exclude one of them."
    assert info["warnings"] == [says.format(c) for c in ("T1", "T2")]
    found = verify.verify("brats", root, manifest, 1)
    assert [(s, c) for s, c, _ in found] == [(f"Brats18_{s}_1", c) for s in "BE" for c in ("t1", "t2")]
    assert all("file as that of Brats18_A_1" in says for *_, says in found)


def test_other_settings_move_the_old_folder_aside_and_say_so(cohort, tmp_path, capsys):
    prepare(cohort, tmp_path / "p")
    before = contents(tmp_path / "p")
    prepare(cohort, tmp_path / "p", Preparation("brats", image_size=16, slices=5))
    assert "p: holds slices of other settings; moved to p.old-1." in capsys.readouterr().err
    assert contents(tmp_path / "p.old-1") == before
    prepare(cohort, tmp_path / "p")
    assert (tmp_path / "p.old-2").is_dir()


def test_the_origin_is_recorded_and_outlives_the_volumes(cohort, tmp_path, write_subject):
    cohorts.write_cohort("healthy", tmp_path / "phantoms", (1, 0, 0), spacing=4.0, workers=1, progress=False)
    listed = manifests.read_manifest("healthy", tmp_path / "phantoms/manifest.csv")
    (tmp_path / "phantoms").rename(tmp_path / "copy")
    prepare((tmp_path / "copy", listed), tmp_path / "p", Preparation("healthy", 16, 4))
    shutil.rmtree(tmp_path / "copy")
    prepare(cohort, tmp_path / "q")
    found = [dataset.origin(tmp_path / name) for name in ("p", "q", "none")]
    assert found == ["phantoms", "patients", "unknown"]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"no real volumes at {REAL_DATA}")
def test_a_real_healthy_subject_with_huge_values():
    names = {"t1": "MPRAGE", "t2": "T2w", "flair": "FLAIR"}
    found = {c: REAL_DATA / f"kirby21/113-02-{name}_processed_reg.nii.gz" for c, name in names.items()}
    images, masks, record = data.subject_slices(Preparation("healthy", 64, 100), "sub-113", found)
    assert np.abs(np.diag(record.pop("affine"))).tolist() == pytest.approx([1.2, 1, 1, 1])
    assert record.pop("notes") == ["has voxels of 1.2 x 1 mm in the slices; resample to 1 mm first"]
    assert record == {"shape": [170, 256, 256], "first_slice": 78, "slices": 100, "labels": [], "phantom": False}
    assert images.shape == (100, 3, 64, 64)
    columns = np.flatnonzero(masks[:, 0].any(axis=(0, 1)))
    assert columns.min() >= 10 and columns.max() <= 53  # 170 of 256 columns: padded, not stretched
    assert 0.1 < (images[masks[:, :1].repeat(3, axis=1) > 0] / 65535).mean() < 0.9
