"""Scores of runs: what is scored, and when kept scores are used again."""

import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mudiff import paths
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.evaluation import old_scores as scores
from mudiff.training import profiles

RUN = "brats_t2_mudiff"


class FakeSlices:
    """Two subjects of three slices each; the lesion of the second is empty."""

    subjects = ("007", "NA")
    index = pd.DataFrame({"subject": ["007"] * 3 + ["NA"] * 3, "slice": [40, 41, 42, 50, 51, 52]})
    info = {"data_hash": "data"}  # noqa: RUF012

    def subject(self, name):
        return np.flatnonzero(self.index.subject == name)

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

    for name, module in {
        "data.prepare": SimpleNamespace(open_slices=lambda folder, split: slices),
        "synthesis.sample": SimpleNamespace(read_synthetic=read_synthetic),
    }.items():
        monkeypatch.setitem(sys.modules, f"mudiff.{name}", module)
        room, _, file = name.partition(".")
        monkeypatch.setattr(importlib.import_module(f"mudiff.{room}"), file, module, raising=False)
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    for (dataset, target), methods in profiles.profile("smoke").runs.items():
        paths.prepared("smoke", dataset).mkdir(parents=True, exist_ok=True)
        for method in methods:
            name = f"{dataset}_{target}_{method}"
            record = {"run": name, "weights": "w", "data": "data", "split": "test", "seed": 0}
            paths.write_json(paths.synthetic("smoke", name) / "synthetic.json", record)
            (paths.synthetic("smoke", name) / "007.npy").write_bytes(b"slices")
            paths.write_json(paths.run("smoke", name) / "provenance.json", {"fingerprint": name[::-1]})
    return tmp_path


@pytest.fixture
def counted(monkeypatch):
    """Count how often a subject is scored."""
    calls = []
    real = metrics.score_subject
    monkeypatch.setattr(metrics, "score_subject", lambda *args: calls.append(args) or real(*args))
    return calls


def one(region="brain"):
    return scores.score_runs("smoke", region, runs=[("brats", "t2")], methods=["mudiff"])


def test_each_task_is_scored_for_its_own_methods(runs):
    frame = scores.score_runs("smoke", "brain")
    tasks = profiles.profile("smoke").runs
    assert len(frame) == sum(map(len, tasks.values())) * 2 * (6 + 2)  # both protocols; slices and subjects
    found = frame.groupby(["dataset", "target"], sort=False).method.unique().map(tuple).to_dict()
    assert found == tasks and len({len(methods) for methods in tasks.values()}) > 1
    assert frame[frame.unit == "subject"].slice.isna().all()
    assert set(frame[frame.unit == "slice"].slice) == {40, 41, 42, 50, 51, 52}
    masked = frame[(frame.protocol == "masked") & (frame.unit == "subject")].groupby("method").mae.max()
    assert masked["mudiff"] == pytest.approx(0.1, abs=0.01) and masked["linear"] > 0.25


def test_each_score_names_its_run(runs):
    frame = scores.score_runs("smoke", "brain")
    assert (frame.run == frame.dataset + "_" + frame.target + "_" + frame.method).all()
    assert (frame.fingerprint == frame.run.str[::-1]).all()
    (paths.run("smoke", RUN) / "provenance.json").unlink()
    assert one().fingerprint.isna().all()


def test_lesions_are_dilated_for_isles_and_left_out_where_there_are_none(runs, counted):
    frame = scores.score_runs("smoke", "lesion")
    assert {args[4] for args in counted} == {True, False}
    assert set(frame.dataset) == {"brats", "isles"}
    assert frame[frame.subject == "NA"].psnr.isna().all()
    assert frame[frame.subject == "007"].mae.notna().all()
    none = scores.score_runs("smoke", "lesion", datasets=["healthy"])
    assert none.empty and list(none) == list(frame)


def test_scores_are_of_what_is_prepared_or_chosen(runs):
    paths.prepared("smoke", "isles").rmdir()
    assert set(scores.score_runs("smoke").dataset) == {"brats", "healthy"}
    assert set(scores.score_runs("smoke", datasets=("isles", "healthy")).dataset) == {"healthy"}
    chosen = scores.score_runs("smoke", runs=[("brats", "t2")], methods=["linear", "pgan"])
    assert set(chosen.target) == {"t2"} and set(chosen.method) == {"linear"}  # pGAN is not trained for T2
    with pytest.raises(MudiffError, match="none of isles is prepared"):
        scores.score_runs("smoke", datasets=["isles"])
    with pytest.raises(MudiffError, match="no task t2 of isles"):
        scores.score_runs("smoke", runs=[("isles", "t2")])
    with pytest.raises(MudiffError, match="method 'unet' is unknown"):
        scores.score_runs("smoke", methods=["unet"])
    with pytest.raises(MudiffError, match="brain, lesion"):
        scores.score_runs("smoke", "liver")


@pytest.mark.parametrize("region", scores.REGIONS)
def test_kept_scores_are_equal_to_the_last_bit(runs, counted, region):
    first = one(region)
    assert len(counted) == 4 and (paths.synthetic("smoke", RUN) / f"scores_{region}.csv").is_file()
    pd.testing.assert_frame_equal(one(region), first, check_exact=True)
    assert len(counted) == 4
    assert first.subject.unique().tolist() == ["007", "NA"]
    assert (first.psnr.round(9) != first.psnr)[first.psnr.notna()].any()  # floats that need all their digits


def test_infinite_scores_are_kept_too(runs, monkeypatch):
    perfect = ([dict.fromkeys(metrics.METRICS, np.inf)] * 3, dict.fromkeys(metrics.METRICS, 1 / 3))
    monkeypatch.setattr(metrics, "score_subject", lambda *_: perfect)
    first = one()
    monkeypatch.setattr(metrics, "score_subject", None)  # the kept ones need it no more
    pd.testing.assert_frame_equal(one(), first, check_exact=True)
    assert np.isinf(first.psnr).any()


def change_record(folder, **values):
    path = folder / "synthetic.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


CHANGES = {
    "weights": lambda folder, _: change_record(folder, weights="others"),
    "seed": lambda folder, _: change_record(folder, seed=1),
    "slices": lambda folder, _: (folder / "007.npy").write_bytes(b"others"),
    "code": lambda _, patch: patch.setattr(scores, "_code", lambda: ["new"]),
    "cut": lambda folder, _: cut(folder / "scores_brain.csv"),
    "number": lambda folder, _: edit(folder / "scores_brain.csv"),
    "no text": lambda folder, _: (folder / "scores_brain.csv").write_bytes(b"\xff\xfe\x00"),
    "empty": lambda folder, _: (folder / "scores_brain.csv").write_text(""),
}


def cut(path):
    path.write_text(path.read_text()[:-40])


def edit(path):
    text = path.read_text()
    assert text.count("0.1") > 0
    path.write_text(text.replace("0.1", "0.2", 1))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_stale_and_damaged_scores_are_computed_again(runs, counted, monkeypatch, change):
    first = one()
    change(paths.synthetic("smoke", RUN), monkeypatch)
    pd.testing.assert_frame_equal(one(), first)
    assert len(counted) == 8
    pd.testing.assert_frame_equal(one(), first)
    assert len(counted) == 8  # and kept


def test_the_key_knows_dilation_and_region(runs):
    folder, record = paths.synthetic("smoke", RUN), {}
    keys = {
        scores._key(folder, record, *choice)
        for choice in (("brain", False), ("lesion", False), ("lesion", True))
    }
    assert len(keys) == 3


def test_scores_that_cannot_be_written_are_returned(runs, monkeypatch):
    def refuse(*_):
        raise MudiffError("the disk is full")

    monkeypatch.setattr(paths, "write_text", refuse)
    assert len(one()) == 16


def test_missing_and_outdated_slices_name_the_command(runs):
    folder = paths.synthetic("smoke", RUN)
    (paths.run("smoke", RUN) / "weights.safetensors").write_bytes(b"trained anew")
    with pytest.raises(MudiffError, match=r"other weights than .*snakemake --config profile=smoke"):
        one()
    (paths.run("smoke", RUN) / "weights.safetensors").unlink()
    change_record(folder, data="other")
    with pytest.raises(MudiffError, match="other data than is prepared now"):
        one()
    (folder / "synthetic.json").unlink()
    with pytest.raises(MudiffError, match=rf"{RUN} has no synthetic.*snakemake --config profile=smoke"):
        one()
