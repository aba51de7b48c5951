"""Every target from every subset of contrasts: scenarios, scores and what each contrast adds."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import LIVELY, lively, run_cells, save_run

from mudiff import paths
from mudiff.data.dataset import open_slices
from mudiff.evaluation import metrics
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.synthesis import sample
from mudiff.training import loop, runs

NOTEBOOK = "15_any_subset"
CONTRASTS = ("t1", "t1ce", "t2", "flair")


@pytest.fixture
def any_runs(lively_slices):
    """Save runs of target "any", of MU-Diff and of the linear fit, and return the test slices."""
    save_run(lively(steps=2, target="any"), paths.run("smoke", "brats_any_mudiff"))
    made = build(Settings(**LIVELY, target="any", method="linear"))
    train = open_slices(paths.prepared("smoke", "brats"), "train")
    made.training_step(loop.make_batch(train, np.arange(len(train)), made.settings, 0), 0)
    save_run(made, paths.run("smoke", "brats_any_linear"))
    return lively_slices


def test_scores_are_those_of_the_scenarios_slices_and_are_kept(any_runs, monkeypatch):
    given = {"profile": "smoke", "cohort": "brats", "test": any_runs, "per_subject": 2}
    cells = run_cells(NOTEBOOK, "scenarios = ", "def any_scores", **given)
    frame = cells["any_scores"]("mudiff")
    assert len(frame) == 28 * len(any_runs.subjects) * 2
    subject, seen = any_runs.subjects[0], []
    indices, task = any_runs.subject(subject)[[1, 4]], (("t1", "flair"), "t2")  # of six slices
    image = sample.sample_slices(runs.load(paths.run("smoke", "brats_any_mudiff")), any_runs, indices, task=task)
    truth = (any_runs.images(indices, "t2") + 1) / 2
    expected = metrics.score_subject(truth, image, any_runs.brain(indices), "masked")[1]
    chosen = frame[(frame.target == "t2") & (frame.given == "T1 + FLAIR") & (frame.subject == subject)]
    row = chosen[chosen.protocol == "masked"].iloc[0]
    assert row.conditions == 2 and row[list(metrics.METRICS)].to_dict() == pytest.approx(expected)
    monkeypatch.setattr(sample, "sample_slices", None)
    pd.testing.assert_frame_equal(cells["any_scores"]("mudiff"), frame)
    cells["per_subject"] = 9  # more than there are: all of them
    with pytest.raises(ZeroDivisionError):
        cells["score"]([task], lambda task, subject, places: seen.append(places.tolist()) or 1 / 0)
    assert seen == [[*range(6)]]


def test_without_contrasts_the_mean_of_the_training_brains_is_left(any_runs):
    train = open_slices(paths.prepared("smoke", "brats"), "train")
    every = np.arange(len(train))
    mean = ((train.images(every, "flair") + 1) / 2)[train.brain(every)].mean()
    given = {"profile": "smoke", "cohort": "brats", "test": any_runs, "per_subject": 2}
    given = run_cells(NOTEBOOK, "scenarios = ", "def score(", **given)
    frame = run_cells(NOTEBOOK, "gram = ", "gram = ", **given)["nothing"]
    subject = any_runs.subjects[1]
    indices = any_runs.subject(subject)[[1, 4]]
    truth = ((any_runs.images(indices, "flair") + 1) / 2)[any_runs.brain(indices)]
    row = frame[(frame.target == "flair") & (frame.subject == subject) & (frame.protocol == "masked")].iloc[0]
    assert row.psnr == pytest.approx(-10 * np.log10(np.square(truth - mean).mean()), abs=1e-3)


def test_what_contrasts_add_is_shared_as_by_shapley():
    # Of a game whose value is a sum, each player's part is its own; a common bonus of two is halved.
    cells = run_cells(NOTEBOOK, "scenarios = ", "scenarios = ", test=SimpleNamespace(contrasts=CONTRASTS))
    worth, value = {"t1": 1.0, "t1ce": 2.5, "flair": -0.5}, {}
    for n in (1, 2, 3):
        for given in combinations(worth, n):
            bonus = 0.6 if {"t1", "flair"} <= set(given) else 0.0
            value["t2", cells["named"](given), "A"] = 10 + sum(worth[c] for c in given) + bonus
    cells |= {"value": value, "nothing": {("t2", "A"): 10.0}}
    shapley = run_cells(NOTEBOOK, "def shapley", "def shapley", **cells)["shapley"]
    assert shapley("t2", "A") == pytest.approx({"t1": 1.3, "t1ce": 2.5, "flair": -0.2})
