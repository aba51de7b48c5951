"""Motion in FLAIR: what is synthesised from it, kept and scored."""

import dataclasses
import shutil

import numpy as np
import pytest
from conftest import head, prepare_subjects, refused, run_cells, save_run

from mudiff import paths
from mudiff.data import dataset, motion, prepare, volumes
from mudiff.evaluation import metrics
from mudiff.methods import base
from mudiff.synthesis import sample
from mudiff.training import profiles

PAIR = ("mudiff", "linear")  # linear stands in for SynDiff: it is set to copy FLAIR
C, D = "Brats18_2_1", "Brats18_3_1"


def write_run(method: str, change: float = 0.0) -> None:
    """Write a run of weights as drawn, with its clean syntheses; `linear` gives FLAIR, brighter by `change`."""
    settings = profiles.settings("smoke", "brats", "t1ce", method)
    built = base.build(settings)
    if method == "linear":
        built.coefficients[settings.conditions.index("flair")] = 1.0
        built.coefficients[-1] = change
    folder, made = save_run(built, paths.run("smoke", settings.run_name)), paths.synthetic("smoke", settings.run_name)
    sample.synthesize_split(folder, paths.prepared("smoke", "brats"), "test", made)


@pytest.fixture
def slices(tmp_path, monkeypatch, write_subject, rng) -> dataset.Slices:
    """Two test subjects, T1CE of the second equal to FLAIR, and the runs of `PAIR`; raw volumes in ``raw``."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    # Faster than "smoke".
    for field, value in {"image_size": 16, "width": 4, "embedding": 8, "critic_blocks": 2}.items():
        monkeypatch.setitem(profiles.PROFILES["smoke"].overrides, field, value)
    images = [head(rng) for _ in range(4)]
    given = [{"flair": image, "t1ce": image[:: 1 if i == 3 else -1]} for i, image in enumerate(images)]
    splits = ("train", "val", "test", "test")
    prepared = prepare_subjects(write_subject, zip(splits, given, strict=True))
    for method in PAIR:
        write_run(method)
    return dataset.open_slices(prepared, "test")


NOTEBOOK = "09_motion_robustness"


def raw_files(slices, root):
    return run_cells(NOTEBOOK, "def raw_files(", "def raw_files(", slices=slices)["raw_files"](root)


raw = pytest.fixture(lambda slices, tmp_path: raw_files(slices, tmp_path / "raw"), name="raw")


def stacks(slices, raw, strengths=(2,), chosen=PAIR):
    """Return (subject, strength) -> name -> slices."""
    given = {"profile": "smoke", "slices": slices, "raw": raw, "methods": chosen}
    made = run_cells(NOTEBOOK, "def moved(", "def syntheses(", **given)["syntheses"]
    return {(subject, strength): made(subject, strength) for subject in raw for strength in strengths}


def test_missing_or_other_raw_volumes_and_unknown_strengths_are_named(slices, raw, tmp_path):
    refused("strength 4", stacks, slices, raw, (4,), ["mudiff"])
    for root in (tmp_path / "nowhere", tmp_path / "raw"):
        (tmp_path / f"raw/{D}/{D}_flair.nii.gz").unlink(missing_ok=True)
        refused(r"FLAIR of test subject Brats18_._1, or another .*pass data_root", raw_files, slices, root)
    shutil.copy(tmp_path / f"raw/{C}/{C}_flair.nii.gz", tmp_path / f"raw/{D}/{D}_flair.nii.gz")
    refused(f"test subject {D}, or another one", raw_files, slices, tmp_path / "raw")


def test_flair_alone_moves_and_the_noise_stays(slices, raw, monkeypatch):
    """Without motion every synthesis is that of the clean data, bit for bit."""
    monkeypatch.setattr(motion, "move", lambda volume, affine, movement: volume)
    made = stacks(slices, raw, (0, 2))
    for subject in raw:
        for name in PAIR:
            np.testing.assert_array_equal(made[subject, 0][name], made[subject, 2][name])
        np.testing.assert_allclose(made[subject, 0]["flair"], made[subject, 2]["flair"], atol=1e-7)
        clean = sample.read_synthetic(paths.synthetic("smoke", "brats_t1ce_mudiff"), subject)
        np.testing.assert_array_equal(made[subject, 0]["mudiff"], clean)


def test_syntheses_come_from_the_moved_volume(slices, raw):
    made = stacks(slices, raw, (0, 1, 3))
    for (subject, strength), images in made.items():
        if strength:
            volume = volumes.load_volume(raw[subject])  # the raw volume is moved first: its percentiles count
            data = motion.move(volume.data, volume.affine, motion.draw(subject, strength))
            preparation = profiles.preparation("smoke", "brats")
            moved, *_ = prepare.contrast_slices(preparation, dataclasses.replace(volume, data=data))
            np.testing.assert_array_equal(images["flair"], moved.astype(np.float32) / 65535)
        np.testing.assert_allclose(images["linear"], images["flair"], atol=1e-4)  # copies FLAIR
    images = [made[C, s]["mudiff"] for s in (0, 1, 3)]
    assert not any(np.array_equal(images[a], images[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_what_is_computed_is_kept_until_the_weights_change(slices, raw, monkeypatch):
    first = stacks(slices, raw, chosen=["linear"])
    monkeypatch.setattr(motion, "move", None)  # nothing is moved again, whatever the weights
    with monkeypatch.context() as patch:  # nor sampled with the same ones
        patch.setattr(sample, "sample_slices", None)
        again = stacks(slices, raw, chosen=["linear"])
    np.testing.assert_array_equal(again[C, 2]["linear"], first[C, 2]["linear"])
    write_run("linear", change=0.1)
    brighter = stacks(slices, raw, chosen=["linear"])
    assert brighter[C, 2]["linear"].mean() > first[C, 2]["linear"].mean()


def test_scores_are_those_of_the_clean_masks_and_target(slices, raw):
    given = {"profile": "smoke", "slices": slices, "raw": raw, "strengths": (1, 3), "methods": PAIR}
    frame = run_cells(NOTEBOOK, "def moved(", "_, whole =", **given)["scores"]
    assert list(frame) == ["method", "strength", "region", "subject", "psnr", "ssim", "mae"]
    assert len(frame) == 2 * 3 * 2 * 2
    indices = slices.subject(D)
    real, lesion = (slices.images(indices, "t1ce") + 1) / 2, slices.lesion(indices)
    made = stacks(slices, {D: raw[D]}, (3,))[D, 3]
    expected = metrics.score_subject(real, made["mudiff"], lesion, "masked")[1]
    keys = ["method", "strength", "region", "subject"]
    row = frame.set_index(keys).loc["mudiff", 3, "lesion", D]
    assert row.to_dict() == {name: expected[name] for name in ("psnr", "ssim", "mae")}
    copied = frame.set_index(keys).mae.loc["linear", :, "brain", D]  # it copies FLAIR, which here is T1CE
    assert copied[0] < 1e-4 and min(copied[1], copied[3]) > 0.01
