"""Synthesis: prepared slices, whole volumes, and what belongs to which run."""

import json
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import SMALL, lively, refused, save_run

from mudiff import storage
from mudiff.data.dataset import open_slices
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.synthesis import sample
from mudiff.training import runs

CPU = torch.device("cpu")


def untrained(folder: Path, **changes) -> Path:
    """Write a run whose weights are those that training starts from."""
    return save_run(build(Settings(**SMALL | changes)), folder)


def loaded(path: Path) -> np.ndarray:
    return nibabel.load(path).get_fdata()


@pytest.fixture
def run(tmp_path) -> Path:
    return untrained(tmp_path / "run")


def test_slices_depend_on_their_seeds_and_conditions_alone(run, prepared, monkeypatch):
    slices, indices = open_slices(prepared, "train"), np.arange(9)
    made = partial(sample.sample_slices, runs.load(run), slices, indices)
    images = made()
    assert images.shape == (9, 16, 16) and images.dtype == np.float32 and 0 <= images.min() <= images.max() <= 1
    own = {"flair": slices.images(indices, "flair").astype(float)}
    assert (made(replaced=own) == images).all() and (made(seed=1) != images).any()
    own["flair"][8] = -1
    assert (made(replaced=own) != images).any(axis=(1, 2)).tolist() == [False] * 8 + [True]
    monkeypatch.setattr(sample, "BATCH", 1)
    np.testing.assert_allclose(made(), images, atol=1e-6)


def test_a_run_can_be_sampled_in_another_precision(run, prepared):
    slices = open_slices(prepared, "test")
    own, single, half = (
        sample.sample_slices(runs.load(run, CPU, precision), slices, np.arange(4))
        for precision in (None, "float32", "bfloat16")
    )
    assert (own == single).all() and 0 < np.abs(half - single).max() < 0.05
    refused("precision", runs.load, run, CPU, "half")


def test_synthetic_slices_resume_and_belong_to_their_run(run, prepared, tmp_path):
    folder = tmp_path / "synthetic"
    sample.synthesize_split(run, prepared, "test", folder)
    slices = open_slices(prepared, "test")
    (subject,) = slices.subjects
    first = sample.read_synthetic(folder, subject)
    assert first.shape == (4, 16, 16) and first.min() >= 0 and first.max() <= 1
    (folder / f"{subject}.npy").unlink()
    sample.synthesize_split(run, prepared, "test", folder)
    assert (sample.read_synthetic(folder, subject) == first).all()
    record = json.loads((folder / "synthetic.json").read_text())
    assert record["run"] == "brats_t1ce_mudiff" and record["seconds_per_slice"] > 0
    sample.synthesize_split(untrained(tmp_path / "other", seed=5), prepared, "test", folder)
    assert (sample.read_synthetic(folder, subject) != first).any()
    refused("not found", sample.read_synthetic, folder, "nobody")
    (folder / f"{subject}.npy").write_bytes(b"nothing")
    refused("no synthetic slices", sample.read_synthetic, folder, subject)


def test_foreign_files_are_never_deleted(run, prepared):
    folder = prepared / "test"  # same file names, other content
    before = {path: path.read_bytes() for path in folder.iterdir()}
    refused("choose a new folder", sample.synthesize_split, run, prepared, "test", folder)
    assert before and {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_whole_volume_comes_back_on_its_own_grid(run, tmp_path, write_subject, monkeypatch):
    affine = np.array([[0, 0, 1.5, -7], [-1, 0, 0, 3], [0, 2, 0, 11], [0, 0, 0, 1.0]])  # slices along axis 1
    files = write_subject(tmp_path / "mine", "someone", affine)
    files["t1ce"].unlink()
    image = nibabel.load(files["flair"])  # the first condition, whose header is taken
    image.header["toffset"] = 7
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(), None, image.header), files["flair"])
    subject, sd = tmp_path / "mine/someone", tmp_path / "sd.nii.gz"
    out = sample.synthesize_volume(run, subject, "T1CE", tmp_path / "out.nii.gz", samples=2, uncertainty=sd)
    made, source = nibabel.load(out), nibabel.load(files["t1"])
    assert made.shape == source.shape and made.header.get_zooms() == source.header.get_zooms()
    np.testing.assert_allclose(made.affine, source.affine)
    assert made.header["toffset"] == 7
    voxels = made.get_fdata()
    background = np.logical_and.reduce([loaded(files[c]) == 0 for c in ("t1", "t2", "flair")])
    assert voxels.min() >= 0 and voxels.max() <= 1 and not voxels[background].any() and voxels.any()
    assert loaded(sd).max() > 0
    monkeypatch.setattr(sample, "BATCH", 1)  # batches, the last of one slice, decide nothing
    again = sample.synthesize_volume(run, files, "T1CE", tmp_path / "2.nii", samples=2)  # its files
    np.testing.assert_allclose(loaded(again), voxels, atol=1e-5)


def test_all_slices_begin_with_one_noise_unless_told(tmp_path, write_subject):
    run = save_run(lively(steps=2), tmp_path / "run")
    files = write_subject(tmp_path / "mine", "someone")
    for path in files.values():  # all slices alike: what differs in the result is the noise
        image = nibabel.load(path)
        alike = np.repeat(image.get_fdata()[:, :, 8:9], image.shape[2], axis=2)
        nibabel.save(nibabel.Nifti1Image(alike, image.affine), path)
    ways = {"shared": {}, "independent": {"noise": "independent"}, "one": {"steps": 1}, "two": {"steps": 2}}
    volume = partial(sample.synthesize_volume, run, tmp_path / "mine/someone", "T1CE")
    made = {name: loaded(volume(tmp_path / f"{name}.nii", **options)) for name, options in ways.items()}
    spread = {name: np.ptp(volume, axis=2).max() for name, volume in made.items()}
    assert spread["shared"] == pytest.approx(0, abs=1e-5) and spread["independent"] > 1e-3
    np.testing.assert_allclose(made["two"], made["shared"], atol=1e-5)  # at t = 0 the mean is that of the predictions
    assert np.abs(made["one"] - made["shared"]).max() > 1e-3


def test_one_step_is_the_mean_of_the_first_predictions(run, prepared):
    method, slices, seen = runs.load(run), open_slices(prepared, "train"), []
    images = sample.sample_slices(method, slices, np.arange(3), callback=seen.append, steps=1)
    assert [step["t"] for step in seen] == [1]
    mean = (seen[0]["x_p1"] + seen[0]["x_p2"])[:, 0].numpy() / 2
    np.testing.assert_allclose(images * 2 - 1, np.clip(mean, -1, 1), atol=1e-6)
    refused("--steps 3: expected 1 to 2", sample.sample_slices, method, slices, np.arange(3), steps=3)
    linear = runs.load(untrained(run.parent / "linear", method="linear"))
    words = "--steps 1: method linear makes an image in one pass"
    refused(words, sample.sample_slices, linear, slices, np.arange(3), steps=1)


def test_a_run_of_any_completes_a_subject(tmp_path, write_subject):
    run = untrained(tmp_path / "brats_any_mudiff", target="any")
    files = write_subject(tmp_path / "mine", "someone")
    subject, out = tmp_path / "mine/someone", tmp_path / "out"
    for contrast in ("t1ce", "t2"):
        files[contrast].unlink()
    made = sample.synthesize_missing(run, subject, out, samples=2, uncertainty=out)
    assert [path.name for path in made] == ["someone_t1ce_synthetic.nii.gz", "someone_t2_synthetic.nii.gz"]
    assert all((out / f"someone_{c}_synthetic_uncertainty.nii.gz").is_file() for c in ("t1ce", "t2"))
    first, source = nibabel.load(made[0]), nibabel.load(files["flair"])
    assert first.shape == source.shape and (first.affine == source.affine).all()
    assert loaded(made[0]).min() >= 0 and loaded(made[0]).max() <= 1 and (loaded(made[0]) != loaded(made[1])).any()
    alone = sample.synthesize_volume(run, subject, "T2", tmp_path / "t2.nii", samples=2)
    np.testing.assert_array_equal(loaded(alone), loaded(made[1]))
    volume, missing = (partial(f, run, subject) for f in (sample.synthesize_volume, sample.synthesize_missing))
    o = tmp_path / "o.nii"
    refused("T1 is there already .* --force", volume, "T1", o)
    assert volume("T1", tmp_path / "t1.nii", force=True).is_file()
    refused("contrast 'dwi' is unknown: choose one of t1, t1ce, t2, flair", volume, "DWI", o)
    (tmp_path / "sub-7").mkdir()
    (tmp_path / "sub-7/ses-1").symlink_to(subject)
    made = sample.synthesize_missing(run, tmp_path / "sub-7/ses-1", subject, steps=1)  # not taken for acquired ones
    assert [p.name for p in made] == [f"sub-7_ses-1_{c}_synthetic.nii.gz" for c in ("t1ce", "t2")]
    assert sample.files.find_contrasts(subject).keys() == {"t1", "flair", "mask"}
    refused("noise 'loud' is unknown", volume, "T2", o, noise="loud")
    other = partial(sample.synthesize_volume, untrained(tmp_path / "brats_t1ce_mudiff"), subject)
    storage.write_json(run / "provenance.json", {})  # complete
    refused("T2 not found, .*; run .*brats_any_mudiff can do without", other, "T1CE", o)
    files["t1"].rename(files["t1ce"])
    files["flair"].unlink()
    refused("holds none of T1, T2, FLAIR", volume, "T1CE", o, force=True)
    refused(r"not found, which this run needs\.$", other, "T1CE", o)  # T1CE alone is no help, either
    (subject / "VSD.Brain.XX.O.MR_DWI.1").mkdir()  # of another layout
    files["t1ce"].rename(subject / "VSD.Brain.XX.O.MR_DWI.1/x.nii.gz")
    refused("holds none of T1, T1CE, T2, FLAIR", missing, out)
    write_subject(tmp_path / "mine", "someone")
    refused(r"nothing is missing of what this run makes \(T1, T1CE, T2, FLAIR\)", missing, out)


def test_requests_that_cannot_be_met(run, tmp_path, write_subject, monkeypatch):
    files = write_subject(tmp_path / "mine", "someone")
    volume, o = partial(sample.synthesize_volume, run, tmp_path / "mine/someone"), tmp_path / "o.nii"
    refused("choose another name", volume, "T1CE", files["t1"])
    refused("choose another name", volume, "T1CE", o, samples=2, uncertainty=o)
    (loop := tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    refused("choose another name", volume, "T1CE", loop, samples=2, uncertainty=loop)
    refused("at least 2", volume, "T1CE", o, uncertainty=tmp_path / "sd.nii")
    refused("choose such a name", volume, "T1CE", tmp_path / "o.png")
    refused("makes T1CE", volume, "T2", o)
    weights = runs.load(run).state_dict()
    runs.save_weights(run / "weights.safetensors", {name: value * 1e30 for name, value in weights.items()})
    refused("NaN or infinite voxels", volume, "T1CE", o)
    monkeypatch.setattr(sample, "_sample_stack", None)  # what cannot be written is refused before the work
    refused("cannot be written", volume, "T1CE", files["t1"] / "o.nii")
    files["t2"].unlink()
    refused("T2 not found", volume, "T1CE", o)
    assert not o.exists()
