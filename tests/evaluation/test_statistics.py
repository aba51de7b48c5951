"""Paired comparisons against scipy and numbers worked out by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from conftest import refused, run_cells, score_rows

from mudiff.data import datasets
from mudiff.evaluation import metrics, statistics

COHORTS, PROTOCOLS = ("brats", "isles"), {"subject": "masked", "slice": "released"}

CELLS = run_cells("06_significance", "def effective(", "def compare(")
effective = CELLS["effective"]


def compare(scores, protocols=PROTOCOLS):
    return CELLS["compare"](scores, protocols)


@pytest.fixture
def noisy(rng):
    """Both units of all tasks of Tables 1 and 2, both regions: MU-Diff, two baselines and the floor."""
    frames, shifts = [], {"pix2pix": -1, "syndiff": 0, "mudiff": 0.5, "linear": 2}
    tasks = [(name, t) for name in COHORTS for t in datasets.dataset(name).targets]
    for region, task, unit in itertools.product(("brain", "lesion"), tasks, ("subject", "slice")):
        count, slices = (6, 1) if unit == "subject" else (24, 4)
        hard = rng.normal(22, 2, count)
        given = {(*task, m): hard + shift + rng.normal(0, 0.5, count) for m, shift in shifts.items()}
        frames.append(score_rows(given, region, unit, slices))
    return pd.concat(frames, ignore_index=True)


def of(frame, metric):
    return frame.set_index("metric", verify_integrity=True).loc[metric]


def test_four_differences_by_hand():
    result = statistics.paired([11, 22, 33, 44], [10, 20, 30, 40])  # differences 1, 2, 3, 4
    error = math.sqrt(5 / 3) / 2  # their standard error
    assert (result["n"], result["difference"]) == (4, 2.5)
    assert result["t"] == pytest.approx(2.5 / error)
    assert result["cohens_dz"] == pytest.approx(2.5 / math.sqrt(5 / 3))
    assert result["low"] == pytest.approx(2.5 - 3.182446 * error)  # 97.5 % point of t with 3 degrees
    assert result["high"] == pytest.approx(2.5 + 3.182446 * error)
    assert result["p"] == pytest.approx(0.0305, abs=1e-4)
    assert result["p_wilcoxon"] == 2 / 2**4  # both extremes of the 16 equally likely signs


def test_zero_differences_and_no_differences():
    some = statistics.paired([1.0, 2.0, 3.0, 5.0], [1.0, 2.0, 2.0, 2.0])
    assert some["p_wilcoxon"] == 2 / 2**2  # the two zeros are left out
    none = statistics.paired([1.0, 2.0], [1.0, 2.0])
    assert none["difference"] == 0 and math.isnan(none["t"]) and math.isnan(none["p_wilcoxon"])
    shifted = statistics.paired([0.1 + 0.2, 1.1, 2.3], [0.2, 1.0, 2.2])  # equal up to rounding
    assert math.isnan(shifted["t"]) and shifted["difference"] == pytest.approx(0.1)
    assert math.isnan(statistics.paired([], [])["difference"])


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.6, 0.001, 0.5]) == pytest.approx([1.0, 0.003, 1.0])
    assert statistics.holm([0.02, math.nan, 0.03]) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)
    assert len(statistics.holm([])) == 0


def test_effective_number_by_hand():
    icc, count = effective([1, 3, 5, 7], ["a", "a", "b", "b"])  # mean squares 16 and 2
    assert icc == pytest.approx((16 - 2) / (16 + 2)) and count == pytest.approx(4 / (1 + icc))
    assert effective([1, 1, 1, 5, 5, 5], list("aaabbb")) == pytest.approx((1, 2))  # two subjects
    assert effective([1, 5, 1, 5], list("aabb")) == (0, 4)  # all variation is inside subjects
    for values, subjects in (([1, 2], "aa"), ([1, 2], "ab"), ([3, 3, 3, 3], "aabb")):
        assert np.isnan(effective(values, list(subjects))).all()


def test_the_best_of_the_six_is_chosen_per_metric_and_positive_means_better():
    given = {"linear": [30, 31, 33], "pgan": [20, 21, 25], "syndiff": [21, 22, 25], "mudiff": [19, 22, 22]}
    frame = score_rows(given)
    frame.loc[frame.method == "pgan", "mae"] = 0.01
    result = compare(frame, {"subject": "masked"})
    assert list(result.metric) == list(metrics.METRICS)
    assert list(result.best_baseline) == ["syndiff", "syndiff", "pgan"]  # the floor is none of the six
    assert of(result, "psnr").difference == pytest.approx(-5 / 3)
    assert of(result, "mae").difference == pytest.approx(0.01 - np.mean([1 / 19, 1 / 22, 1 / 22]))


def test_every_task_region_and_unit_has_its_rows(noisy):
    result = compare(noisy)
    assert len(result) == 2 * 2 * 6 * 3 and result.p.notna().all()
    assert set(result[result.unit == "subject"].n) == {6} and set(result[result.unit == "slice"].n) == {24}
    assert result[result.unit == "slice"].n_effective.between(1, 24).all()
    for _, part in result.groupby("unit"):  # the family: all tests of a unit
        assert part.p_holm.to_numpy() == pytest.approx(statistics.holm(part.p))


def test_pairs_are_found_by_subject_and_slice(noisy):
    keys = ["unit", "region", "dataset", "target", "metric"]
    shuffled = noisy.sample(frac=1, random_state=3)
    first, second = (compare(f).set_index(keys).sort_index() for f in (noisy, shuffled))
    pd.testing.assert_frame_equal(first, second)
    beside = noisy.copy()  # the control: broken pairs do change the numbers
    ours = beside.method == "mudiff"
    beside.loc[ours, "psnr"] = beside.loc[ours, "psnr"].to_numpy()[::-1]
    assert not np.allclose(first.t, compare(beside).set_index(keys).sort_index().t)


def test_undefined_and_infinite_scores_are_left_out_in_pairs():
    nan = math.nan
    frame = score_rows({"mudiff": [22, nan, 24, 27], "ddpm": [20, 21, nan, 22]}, "lesion", "slice", 2)
    result = of(compare(frame, {"slice": "released"}), "psnr")
    assert (result.n, result.difference) == (2, 3.5)
    given = {"mudiff": [22, math.inf, 24, 27], "ddpm": [20, 21, 23, 22], "pgan": [math.inf, 1, 1, 1]}
    result = of(compare(score_rows(given), {"subject": "masked"}), "psnr")
    assert result.best_baseline == "ddpm" and result.n == 3


def test_two_scores_of_one_subject_are_an_error_and_tasks_without_a_baseline_are_left_out():
    both, lonely = score_rows({"mudiff": [22, 23], "ddpm": [20, 20]}), score_rows({"mudiff": [22], "linear": [20]})
    assert set(compare(pd.concat([both, lonely.assign(target="t2")])).target) == {"t1ce"}
    refused("two scores of subject s0", compare, pd.concat([both] * 2), {"subject": "masked"})
