"""Scores of runs: what is scored, and when kept scores are used again."""

import numpy as np
import pandas as pd
import pytest

from mudiff import paths
from mudiff.data import dataset
from mudiff.data.masks import lesion_mask
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics, scores
from mudiff.synthesis import sample
from mudiff.training import profiles

TASK = [("brats", "t2")]
RUN = "brats_t2_mudiff"


class FakeSlices:
    """Two subjects of three slices each; the lesion of the second is empty."""

    subjects = ("007", "NA")
    index = pd.DataFrame({"subject": ["007"] * 3 + ["NA"] * 3, "slice": [40, 41, 42, 50, 51, 52]})
    info = {"data_hash": "data", "settings": {"dataset": "isles"}}  # noqa: RUF012

    def subject(self, name):
        return np.flatnonzero(self.index.subject == name)

    def example(self, name):
        return self.subject(name)[1]

    def images(self, indices, contrast):
        grid = np.linspace(-1, 1, 16 * 16, dtype=np.float32).reshape(16, 16)
        return np.stack([grid * (0.5 + i / 12) for i in indices])

    def brain(self, indices):
        return np.ones((len(indices), 16, 16), bool)

    def lesion(self, indices):
        masks = np.zeros((len(indices), 16, 16), np.uint8)
        masks[np.asarray(indices) < 3, 6:9, 6:9] = 4
        return masks


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Stand in for prepared data, runs, and synthetic slices of a third too bright to 0.2 too bright."""
    slices = FakeSlices()

    def read_synthetic(folder, subject):
        real = (slices.images(slices.subject(subject), None) + 1) / 2
        return np.clip(real + (1 / 3 if "linear" in folder.name else 0.1), 0, 1)

    monkeypatch.setattr(dataset, "open_slices", lambda folder, split: slices)
    monkeypatch.setattr(sample, "read_synthetic", read_synthetic)
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    for (name, target), methods in profiles.profile("smoke").runs.items():
        paths.prepared("smoke", name).mkdir(parents=True, exist_ok=True)
        for method in methods:
            run = f"{name}_{target}_{method}"
            record = {"weights": "0123456789abcdef", "data": "data", "split": "test", "seed": 0}
            paths.write_json(paths.synthetic("smoke", run) / "synthetic.json", record)
    return slices


@pytest.fixture
def counted(monkeypatch):
    """Count how often a subject is scored."""
    calls = []
    real = metrics.score_subject
    monkeypatch.setattr(metrics, "score_subject", lambda *args: calls.append(args) or real(*args))
    return calls


def test_each_task_is_scored_for_its_own_methods(runs):
    frame, tasks = scores.score_runs("smoke", "brain"), profiles.profile("smoke").runs
    assert len(frame) == sum(map(len, tasks.values())) * 2 * (6 + 2)  # both protocols; slices and subjects
    found = frame.groupby(["dataset", "target"], sort=False).method.unique().map(tuple).to_dict()
    assert found == {task: tuple(methods) for task, methods in tasks.items()}
    assert frame[frame.unit == "subject"].slice.isna().all()
    assert set(frame[frame.unit == "slice"].slice) == {40, 41, 42, 50, 51, 52}
    masked = frame[(frame.protocol == "masked") & (frame.unit == "subject")].groupby("method").mae.max()
    assert masked["mudiff"] == pytest.approx(0.1, abs=0.01) and masked["linear"] > 0.25
    assert (frame.run == frame.dataset + "_" + frame.target + "_" + frame.method).all()
    assert set(frame.weights) == {"0123456789ab"}


def test_lesions_are_dilated_for_isles_and_left_out_where_there_are_none(runs, counted):
    frame = scores.score_runs("smoke", "lesion")
    assert {args[4] for args in counted} == {True, False} and set(frame.dataset) == {"brats", "isles"}
    assert frame[frame.subject == "NA"].psnr.isna().all() and frame[frame.subject == "007"].mae.notna().all()
    none = scores.score_runs("smoke", "lesion", runs=[("healthy", "flair")])
    assert none.empty and list(none) == list(frame)


def test_scores_are_kept_until_the_weights_change(runs, counted):
    first = scores.score_runs("smoke", "brain", TASK, ["mudiff"])
    count = len(counted)
    pd.testing.assert_frame_equal(scores.score_runs("smoke", "brain", TASK, ["mudiff"]), first)
    assert len(counted) == count
    path = paths.synthetic("smoke", RUN) / "synthetic.json"
    paths.write_json(path, paths.read_json(path) | {"weights": "of another training"})
    scores.score_runs("smoke", "brain", TASK, ["mudiff"])
    assert len(counted) == 2 * count


def test_slices_of_other_data_or_weights_are_refused(runs):
    path, weights = paths.synthetic("smoke", RUN) / "synthetic.json", paths.run("smoke", RUN) / "weights.safetensors"
    for spoil, says in (
        (lambda: paths.write_text(weights, "trained again"), "made from other weights"),
        (lambda: paths.write_json(path, paths.read_json(path) | {"data": "other"}), "made from other data than are"),
        (path.unlink, "no synthetic test slices; make them with `snakemake"),
    ):
        spoil()
        with pytest.raises(MudiffError, match=says):
            scores.score_runs("smoke", "brain", TASK)


def test_only_prepared_datasets_count(runs):
    paths.prepared("smoke", "isles").rmdir()
    assert {name for name, _ in scores.prepared_runs("smoke")} == {"brats", "healthy"}
    for name in ("brats", "healthy"):
        paths.prepared("smoke", name).rmdir()
    with pytest.raises(MudiffError, match="no dataset is prepared"):
        scores.prepared_runs("smoke")


def test_an_example_is_the_shown_slice_with_its_scores(runs, tmp_path):
    found = scores.example(runs, "t1", "007", {"mudiff": tmp_path / "mudiff", "linear": tmp_path / "linear"})
    assert found.label == "T1\nsubject 007" and found.lesion.max() == 4
    np.testing.assert_allclose(found.synthetic["mudiff"], np.clip(found.truth + 0.1, 0, 1), atol=1e-6)
    inside = lesion_mask(found.lesion, dilate=True)  # as for the ISLES scores
    expected = metrics.masked_protocol(found.truth, found.synthetic["linear"], inside)["ssim"]
    assert found.ssim["linear"][1] == pytest.approx(expected)
