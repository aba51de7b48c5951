"""Scores of runs: what is scored, and when kept scores are used again."""

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import LIVELY, SHAPE, prepare_subjects, refused, write_synthetic

from mudiff import paths, storage
from mudiff.data import dataset
from mudiff.data.masks import lesion_mask
from mudiff.evaluation import metrics, scores
from mudiff.settings import Settings
from mudiff.training import profiles

TASK = [("brats", "t2")]
RUN = "brats_t2_mudiff"


@pytest.fixture
def runs(monkeypatch, tmp_path, write_subject):
    """Return two subjects, the second without lesion, that stand for all datasets; linear is far too bright."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    subjects = [("test", {"name": "007"}), ("test", {"name": "NA", "seg": np.zeros(SHAPE, np.uint8)})]
    folder = prepare_subjects(write_subject, subjects, Settings(**LIVELY).preparation())
    slices = dataset.open_slices(folder, "test")
    monkeypatch.setattr(dataset, "open_slices", lambda folder, split: slices)
    for (name, target), methods in profiles.profile("smoke").runs.items():
        paths.prepared("smoke", name).mkdir(parents=True, exist_ok=True)
        for method in methods:
            run, factor = f"{name}_{target}_{method}", 0.5 if method == "linear" else 0.9
            write_synthetic(slices, paths.synthetic("smoke", run), target, lambda true, factor=factor: factor * true)
    return slices


@pytest.fixture
def counted(monkeypatch):
    """Count how often a subject is scored."""
    calls = []
    real = metrics.score_subject
    monkeypatch.setattr(metrics, "score_subject", lambda *args: calls.append(args) or real(*args))
    return calls


def test_each_task_is_scored_for_its_own_methods(runs):
    tasks = profiles.profile("smoke").runs
    frame = scores.score_runs("smoke", "brain", list(tasks))
    assert len(frame) == sum(map(len, tasks.values())) * 2 * (len(runs) + 2)  # both protocols; slices and subjects
    found = frame.groupby(["dataset", "target"], sort=False).method.unique().map(tuple).to_dict()
    assert found == {task: tuple(methods) for task, methods in tasks.items()}
    assert frame[frame.unit == "subject"].slice.isna().all()
    assert set(frame[frame.unit == "slice"].slice) == set(runs.index.slice)
    masked = frame[(frame.protocol == "masked") & (frame.unit == "subject") & (frame.subject == "007")]
    masked = masked.set_index(["dataset", "target", "method"]).mae
    rows = runs.subject("007")
    level = ((runs.images(rows, "t2") + 1) / 2)[runs.brain(rows)].mean()
    for method, lost in (("mudiff", 0.1), ("linear", 0.5)):
        assert masked["brats", "t2", method] == pytest.approx(lost * level, rel=1e-3)
    assert (frame.run == frame.dataset + "_" + frame.target + "_" + frame.method).all()
    assert set(frame.weights) == {"0123456789ab"}


def test_lesions_are_dilated_for_isles_and_undefined_where_there_are_none(runs, counted):
    frame = scores.score_runs("smoke", "lesion", [("brats", "t2"), ("isles", "flair")])
    assert {args[4] for args in counted} == {True, False}
    of_subjects = frame[frame.unit == "subject"]
    assert frame[frame.subject == "NA"].psnr.isna().all()
    assert of_subjects[of_subjects.subject == "007"].mae.notna().all()


def test_scores_are_kept_until_the_weights_change(runs, counted):
    first = scores.score_runs("smoke", "brain", TASK)
    count = len(counted)
    pd.testing.assert_frame_equal(scores.score_runs("smoke", "brain", TASK), first)
    assert len(counted) == count
    path = paths.synthetic("smoke", RUN) / "synthetic.json"
    storage.write_json(path, storage.read_json(path) | {"weights": "of another training"})
    scores.score_runs("smoke", "brain", TASK)
    assert len(counted) == count + count // 3  # one of three methods


def test_slices_of_other_data_or_weights_are_refused(runs):
    path, weights = paths.synthetic("smoke", RUN) / "synthetic.json", paths.run("smoke", RUN) / "weights.safetensors"
    other = storage.read_json(path) | {"data": "other"}
    for spoil, says in (
        (lambda: storage.write_text(weights, "trained again"), "made from other weights"),
        (lambda: storage.write_json(path, other), "made from other data than are"),
        (path.unlink, "no synthetic test slices; make them with `snakemake"),
    ):
        spoil()
        refused(says, scores.score_runs, "smoke", "brain", TASK)


def test_only_prepared_datasets_count(runs):
    shutil.rmtree(paths.prepared("smoke", "isles"))
    assert {name for name, _ in scores.prepared_runs("smoke")} == {"brats", "healthy"}
    for name in ("brats", "healthy"):
        shutil.rmtree(paths.prepared("smoke", name))
    refused("no dataset is prepared", scores.prepared_runs, "smoke")


def test_an_example_is_the_shown_slice_with_its_scores(runs):
    runs.info["settings"]["dataset"] = "isles"
    folders = {method: paths.synthetic("smoke", f"brats_t1_{method}") for method in ("mudiff", "linear")}
    found = scores.example(runs, "t1", "007", folders)
    assert found.label == "T1\nsubject 007" and found.lesion.max() == 4
    np.testing.assert_allclose(found.synthetic["mudiff"], 0.9 * found.truth, atol=1e-4)
    inside = lesion_mask(found.lesion, dilate=True)  # as for the ISLES scores
    expected = metrics.masked_protocol(found.truth, found.synthetic["linear"], inside)["ssim"]
    assert found.ssim["linear"][1] == pytest.approx(expected)
