"""Synthesis: prepared slices, whole volumes, and what belongs to which run."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import SMALL, save_run

from mudiff.data.dataset import open_slices
from mudiff.errors import MudiffError
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.synthesis import sample
from mudiff.training import runs

CPU = torch.device("cpu")


def untrained(folder: Path, **changes) -> Path:
    """Write a run whose weights are those that training starts from."""
    return save_run(build(Settings(**SMALL | changes)), folder)


@pytest.fixture
def run(tmp_path) -> Path:
    return untrained(tmp_path / "run")


def test_slices_depend_on_their_seeds_and_conditions_alone(run, prepared, monkeypatch):
    method, slices = runs.load(run), open_slices(prepared, "train")
    indices, seen = np.array([7, 2, 5]), []
    images = sample.sample_slices(method, slices, indices, callback=seen.append)
    assert images.shape == (3, 16, 16) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    assert [step["t"] for step in seen] == [1, 0] and seen[0]["x_p2"].shape == (3, 1, 16, 16)
    monkeypatch.setattr(sample, "BATCH", 1)
    np.testing.assert_allclose(sample.sample_slices(method, slices, indices), images, atol=1e-6)
    assert (sample.sample_slices(method, slices, indices, seed=1) != images).any()


def test_another_stack_in_the_place_of_a_condition(run, prepared):
    method, slices = runs.load(run), open_slices(prepared, "train")
    indices = np.arange(9)
    images = sample.sample_slices(method, slices, indices)
    own = {"flair": slices.images(indices, "flair").astype(float)}
    assert (sample.sample_slices(method, slices, indices, replaced=own) == images).all()
    own["flair"][8] = -1
    differs = (sample.sample_slices(method, slices, indices, replaced=own) != images).any(axis=(1, 2))
    assert differs.tolist() == [False] * 8 + [True]


def test_a_run_can_be_sampled_in_another_precision(run, prepared):
    slices = open_slices(prepared, "test")
    own, single, half = (
        sample.sample_slices(runs.load(run, CPU, precision), slices, np.arange(4))
        for precision in (None, "float32", "bfloat16")
    )
    assert (own == single).all() and 0 < np.abs(half - single).max() < 0.05
    with pytest.raises(MudiffError, match="precision"):
        runs.load(run, CPU, "half")


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
    with pytest.raises(MudiffError, match="not found"):
        sample.read_synthetic(folder, "nobody")
    (folder / f"{subject}.npy").write_bytes(b"nothing")
    with pytest.raises(MudiffError, match="damaged"):
        sample.read_synthetic(folder, subject)


def test_foreign_files_are_never_deleted(run, prepared):
    folder = prepared / "test"  # same file names, other content
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MudiffError, match="choose a new folder"):
        sample.synthesize_split(run, prepared, "test", folder)
    assert before and {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_whole_volume_comes_back_on_its_own_grid(run, tmp_path, write_subject, monkeypatch):
    affine = np.array([[0, 0, 1.5, -7], [-1, 0, 0, 3], [0, 2, 0, 11], [0, 0, 0, 1.0]])  # slices along axis 1
    files = write_subject(tmp_path / "mine", "someone", affine)
    files["t1ce"].unlink()
    subject = tmp_path / "mine/someone"
    options = {"samples": 2, "uncertainty": tmp_path / "sd.nii.gz"}
    out = sample.synthesize_volume(run, subject, "T1CE", tmp_path / "out.nii.gz", **options)
    made, source = nibabel.load(out), nibabel.load(files["t1"])
    assert made.shape == source.shape and made.header.get_zooms() == source.header.get_zooms()
    np.testing.assert_allclose(made.affine, source.affine)
    voxels = made.get_fdata()
    background = np.logical_and.reduce([nibabel.load(files[c]).get_fdata() == 0 for c in ("t1", "t2", "flair")])
    assert voxels.min() >= 0 and voxels.max() <= 1 and not voxels[background].any() and voxels.any()
    assert nibabel.load(tmp_path / "sd.nii.gz").get_fdata().max() > 0
    monkeypatch.setattr(sample, "BATCH", 1)  # batches, the last of one slice, decide nothing
    again = sample.synthesize_volume(run, subject, "T1CE", tmp_path / "2.nii", samples=2)
    np.testing.assert_allclose(nibabel.load(again).get_fdata(), voxels, atol=1e-5)


def test_requests_that_cannot_be_met(run, tmp_path, write_subject):
    files = write_subject(tmp_path / "mine", "someone")

    def refused(words: str, target: str = "T1CE", output: str | Path = "o.nii", **options) -> None:
        with pytest.raises(MudiffError, match=words):
            sample.synthesize_volume(run, tmp_path / "mine/someone", target, tmp_path / output, **options)

    refused("choose another name", output=files["t1"])
    refused("choose another name", samples=2, uncertainty=tmp_path / "o.nii")
    refused("at least 2", uncertainty=tmp_path / "sd.nii")
    refused("choose such a name", output="o.png")
    refused("makes T1CE", target="T2")
    files["t2"].unlink()
    refused("T2 not found")
    assert not (tmp_path / "o.nii").exists()
