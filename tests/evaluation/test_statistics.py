"""Paired comparisons against scipy and numbers worked out by hand; what is decided from them."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics, significance
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation import old_tables as tables
from mudiff.plots import old_style as style

NUMBERS = ["difference", "low", "high", "cohens_dz", "t", "p", "p_holm", "p_wilcoxon"]


def scores(psnr, region="brain", dataset="brats", target="t1ce", unit="subject", slices=None):
    """Return long scores from {method: [psnr of each unit]}; SSIM = PSNR/40, MAE = 1/PSNR."""
    rows = [
        {"dataset": dataset, "target": target, "method": m, "region": region, "unit": unit}
        | {"protocol": statistics.PROTOCOLS[unit], "subject": f"s{i if slices is None else i // slices}"}
        | {"slice": None if slices is None else i % slices, "psnr": v, "ssim": v / 40, "mae": 1 / v}
        for m, given in psnr.items()
        for i, v in enumerate(given)
    ]
    return pd.DataFrame(rows).astype({"slice": "Int64"})


@pytest.fixture
def noisy(rng):
    """Both units of all tasks of Tables 1 and 2, both regions: MU-Diff, two baselines and the floor."""
    frames = []
    for region in tables.REGIONS:
        for dataset in statistics.COHORTS:
            for target in datasets.dataset(dataset).targets:
                for unit, count in (("subject", 6), ("slice", 24)):
                    hard = rng.normal(22, 2, count)
                    given = {
                        m: hard + shift + rng.normal(0, 0.5, count)
                        for m, shift in {"pix2pix": -1, "syndiff": 0, "mudiff": 0.5, "linear": 2}.items()
                    }
                    slices = 4 if unit == "slice" else None
                    frames.append(scores(given, region, dataset, target, unit, slices))
    return pd.concat(frames, ignore_index=True)


def entry(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


# One comparison


def test_four_differences_by_hand():
    result = statistics.paired([11, 22, 33, 44], [10, 20, 30, 40])  # differences 1, 2, 3, 4
    error = math.sqrt(5 / 3) / 2  # their standard error
    assert result["difference"] == 2.5
    assert result["t"] == pytest.approx(2.5 / error)
    assert result["cohens_dz"] == pytest.approx(2.5 / math.sqrt(5 / 3))
    assert result["low"] == pytest.approx(2.5 - 3.182446 * error)  # 97.5 % point of t with 3 degrees
    assert result["high"] == pytest.approx(2.5 + 3.182446 * error)
    assert result["p"] == pytest.approx(0.0305, abs=1e-4)
    assert result["p_wilcoxon"] == 2 / 2**4  # both extremes of the 16 equally likely signs


def test_many_differences_as_scipy_has_them(rng):
    ours, others = rng.normal(22, 3, 30), rng.normal(21.5, 3, 30)
    result, expected = statistics.paired(ours, others), scipy_stats.ttest_rel(ours, others)
    assert (result["t"], result["p"]) == (expected.statistic, expected.pvalue)
    assert result["p_wilcoxon"] == scipy_stats.wilcoxon(ours, others).pvalue
    assert (result["low"] > 0 or result["high"] < 0) == (result["p"] < 0.05)


def test_swapped_methods_swap_the_sign_only(rng):
    ours, others = rng.normal(22, 3, (2, 9))
    one, two = statistics.paired(ours, others), statistics.paired(others, ours)
    for name in ("difference", "cohens_dz", "t"):
        assert one[name] == pytest.approx(-two[name])
    assert (one["low"], one["high"]) == pytest.approx((-two["high"], -two["low"]))
    assert (one["p"], one["p_wilcoxon"]) == pytest.approx((two["p"], two["p_wilcoxon"]))


def test_what_both_methods_share_does_not_count(rng):
    ours, others = rng.normal(22, 1, (2, 9))
    hard = rng.normal(0, 50, 9)  # difficulty of the subjects
    assert statistics.paired(ours + hard, others + hard) == pytest.approx(statistics.paired(ours, others))


def test_zero_differences_and_no_differences():
    some = statistics.paired([1.0, 2.0, 3.0, 5.0], [1.0, 2.0, 2.0, 2.0])
    assert some["p_wilcoxon"] == 2 / 2**2  # the two zeros are left out
    none = statistics.paired([1.0, 2.0], [1.0, 2.0])
    assert none.pop("difference") == 0 and np.isnan(list(none.values())).all()
    shifted = statistics.paired([0.1 + 0.2, 1.1, 2.3], [0.2, 1.0, 2.2])  # equal up to rounding
    assert math.isnan(shifted["t"]) and shifted["difference"] == pytest.approx(0.1)


# Correction and design effect


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.6, 0.001, 0.5]) == pytest.approx([1.0, 0.003, 1.0])
    assert statistics.holm([0.02, math.nan, 0.03]) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)
    assert np.isnan(statistics.holm([math.nan])).all() and len(statistics.holm([])) == 0


def test_holm_keeps_the_order_and_never_helps(rng):
    p = rng.random(40) ** 3
    corrected = statistics.holm(p)
    assert (corrected >= p).all() and (corrected <= 1).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert (corrected <= np.minimum(1, 40 * p)).all()  # never worse than Bonferroni


def test_effective_number_by_hand():
    icc, effective = statistics.effective([1, 3, 5, 7], ["a", "a", "b", "b"])  # mean squares 16 and 2
    assert icc == pytest.approx((16 - 2) / (16 + 2))
    assert effective == pytest.approx(4 / (1 + icc))
    assert statistics.effective([1, 1, 1, 5, 5, 5], list("aaabbb")) == pytest.approx((1, 2))  # two subjects
    assert statistics.effective([1, 5, 1, 5], list("aabb")) == (0, 4)  # all variation is inside subjects


@pytest.mark.parametrize("values, subjects", [([1, 2], "aa"), ([1, 2], "ab"), ([3, 3, 3, 3], "aabb")])
def test_effective_number_may_be_undefined(values, subjects):
    assert np.isnan(statistics.effective(values, list(subjects))).all()


# The frame of comparisons


def test_the_best_of_the_six_is_chosen_per_metric():
    frame = scores(
        {"linear": [30, 31, 33], "pgan": [20, 21, 25], "syndiff": [21, 22, 25], "mudiff": [19, 22, 22]}
    )
    frame.loc[frame.method == "pgan", "mae"] = 0.01
    result = statistics.compare(frame, {"subject": "masked"})
    assert list(result.metric) == list(metrics.METRICS)
    assert list(result.best_baseline) == ["syndiff", "syndiff", "pgan"]  # the floor is none of the six
    assert set(result.compared) == {"pgan syndiff"}  # in the paper's order
    assert entry(result, metric="psnr").difference == pytest.approx(-5 / 3)


def test_positive_means_better_also_for_mae():
    result = statistics.compare(
        scores({"hinet": [20, 21, 22], "mudiff": [21, 23, 25]}), {"subject": "masked"}
    )
    assert (result.difference > 0).all() and (result.t > 0).all() and (result.low < result.high).all()
    expected = np.mean([1 / 20 - 1 / 21, 1 / 21 - 1 / 23, 1 / 22 - 1 / 25])
    assert entry(result, metric="mae").difference == pytest.approx(expected)


def test_every_task_region_and_unit_has_its_rows(noisy):
    result = statistics.compare(noisy)
    assert len(result) == 2 * 2 * 6 * 3 and (result.reason == "").all()
    assert result[NUMBERS].notna().all(axis=None)
    assert set(result[result.unit == "subject"].n) == {6} and set(result[result.unit == "slice"].n) == {24}
    assert result[result.unit == "slice"].n_effective.between(1, 24).all()
    assert result[result.unit == "subject"].n_effective.isna().all()
    for _, part in result.groupby("unit"):  # the family: all tests of a unit
        assert part.p_holm.to_numpy() == pytest.approx(statistics.holm(part.p))
        assert entry(part[part.p == part.p.min()]).p_holm == pytest.approx(36 * part.p.min())


def test_pairs_are_found_by_subject_and_slice(noisy):
    shuffled = noisy.sample(frac=1, random_state=3)
    keys = ["unit", "region", "dataset", "target", "metric"]
    first, second = (statistics.compare(f).set_index(keys).sort_index() for f in (noisy, shuffled))
    pd.testing.assert_frame_equal(first, second)
    beside = noisy.copy()  # the control: broken pairs do change the numbers
    ours = beside.method == "mudiff"
    beside.loc[ours, "psnr"] = beside.loc[ours, "psnr"].to_numpy()[::-1]
    third = statistics.compare(beside).set_index(keys).sort_index()
    assert not np.allclose(first.t, third.t)


def test_other_datasets_and_further_columns_are_ignored(noisy):
    healthy = scores({"mudiff": [20, 21], "pgan": [19, 19]}, dataset="healthy", target="flair")
    more = pd.concat([noisy.assign(run="x"), healthy.assign(run="y")], ignore_index=True)
    pd.testing.assert_frame_equal(statistics.compare(more), statistics.compare(noisy))
    with pytest.raises(MudiffError, match="brats or isles"):
        statistics.compare(healthy)


def test_slices_without_a_lesion_are_dropped_in_pairs():
    nan = math.nan
    frame = scores({"mudiff": [22, nan, 24, 27], "ddpm": [20, 21, nan, 22]}, "lesion", unit="slice", slices=2)
    result = entry(statistics.compare(frame, {"slice": "released"}), metric="psnr")
    assert (result.n, result.difference, result.reason) == (2, 3.5, "")


def test_infinite_scores_are_left_out_and_counted():
    given = {"mudiff": [22, math.inf, 24, 27], "ddpm": [20, 21, 23, 22], "pgan": [math.inf, 1, 1, 1]}
    result = entry(statistics.compare(scores(given), {"subject": "masked"}), metric="psnr")
    assert result.best_baseline == "ddpm" and result.n == 3
    assert result.reason == "pairs with an infinite score left out: 1"
    assert result.t == pytest.approx(scipy_stats.ttest_rel([22, 24, 27], [20, 23, 22]).statistic)


@pytest.mark.parametrize(
    "given, reason, n",
    [
        ({"mudiff": [22], "ddpm": [20]}, "fewer than two pairs", 1),
        ({"mudiff": [22, math.nan], "ddpm": [math.nan, 21]}, "fewer than two pairs", 0),
        ({"mudiff": [22, 23, 24], "ddpm": [21, 22, 23]}, "all differences are equal", 3),
        ({"mudiff": [22, 23], "ddpm": [22, 23]}, "all differences are equal", 2),
        ({"mudiff": [22, 23], "linear": [20, 20]}, "no baseline is trained", 0),
        ({"linear": [22, 23], "ddpm": [20, 20]}, "MU-Diff is not trained", 0),
        ({"mudiff": [22, 23], "ddpm": [math.nan] * 2}, "no baseline has a defined score", 0),
    ],
)
def test_what_cannot_be_computed_is_missing_with_a_reason(given, reason, n, tmp_path):
    result = statistics.compare(scores(given), {"subject": "masked"})
    row = entry(result, metric="psnr")
    assert (row.reason, row.n) == (reason, n)
    assert row[["low", "high", "cohens_dz", "t", "p", "p_holm"]].isna().all()
    significance.write(result, tmp_path / "significance", significance.caption(result, "demo"))
    assert reason in (tmp_path / "significance.md").read_text()
    crosses = [line for line in significance.forest(result, "demo").axes[0].lines if line.get_marker() == "x"]
    assert len(crosses) == 1
    if not result.p.notna().any():
        assert set(statistics.statements(result).verdict) == {"cannot be decided"}


def test_two_scores_of_one_unit_are_an_error():
    frame = scores({"mudiff": [22, 23], "ddpm": [20, 20]})
    with pytest.raises(MudiffError, match=r"brats t1ce: method ddpm .* s1"):
        statistics.compare(pd.concat([frame, frame.tail(1)]))


def test_units_have_the_protocols_of_the_tables():
    assert {protocol: unit for unit, protocol in statistics.PROTOCOLS.items()} == tables.UNITS


# The paper's statements


def made(changes=(), dataset="isles", region="lesion"):
    """Return six comparisons over subjects, all won, with `changes` (row, column, value)."""
    rows = [
        {"unit": "subject", "region": region, "dataset": dataset, "target": t, "metric": m}
        | {"difference": 1.0, "p": 0.001, "p_holm": 0.04, "compared": "syndiff"}
        for t in datasets.dataset(dataset).targets
        for m in metrics.METRICS
    ]
    frame = pd.DataFrame(rows)
    for row, column, value in changes:
        frame.loc[row, column] = value
    return frame


def verdicts(frame, dataset="isles"):
    row = entry(statistics.statements(frame), dataset=dataset, region=frame.region.iloc[0])
    return row.verdict, row.verdict_holm, row.ours


@pytest.mark.parametrize(
    "region, changes, verdict",
    [
        ("brain", [], "holds"),
        ("brain", [(0, "p", 0.06)], "cannot be decided"),
        ("brain", [(0, "p", math.nan)], "cannot be decided"),
        ("brain", [(0, "difference", -1)], "does not hold"),
        ("lesion", [(0, "p", 0.06), (1, "difference", -1)], "holds"),  # "many": more than half
        ("lesion", [(i, "p", 0.06) for i in range(3)], "cannot be decided"),
        ("lesion", [(i, "difference", -1) for i in range(2)], "holds"),
        ("lesion", [(i, "difference", -1) for i in range(3)], "does not hold"),
    ],
)
def test_verdicts_follow_from_the_comparisons(region, changes, verdict):
    assert verdicts(made(changes, region=region))[0] == verdict


def test_corrected_and_uncorrected_are_told_apart():
    plain, corrected, ours = verdicts(made([(0, "p_holm", 0.06), (1, "p_holm", 0.06)], region="brain"))
    assert (plain, corrected) == ("holds", "cannot be decided")
    assert "better in 6 of 6 comparisons (P < 0.05: 6, corrected: 4) and worse in 0" in ours


def test_a_task_that_is_missing_leaves_the_statement_open():
    frame = made(region="brain").iloc[:3]
    assert verdicts(frame)[0] == "cannot be decided" and "3 could not be made" in verdicts(frame)[2]
    rest = statistics.statements(frame)
    assert set(rest[rest.dataset == "brats"].ours) == {"none of 12 comparisons could be made"}


def test_prose_names_data_statements_and_baselines(noisy):
    text = significance.prose(statistics.compare(noisy), "demo")
    assert text.startswith("Data: generated phantoms, no patients; profile demo.")
    assert text.count("* Over subjects") == text.count("* Over slices") == len(statistics.STATEMENTS)
    assert "FLAIR, T1: Pix2Pix, SynDiff" in text
    isles_only = statistics.compare(noisy[noisy.dataset == "isles"])
    assert "Baselines that were compared: none." in significance.prose(isles_only, "demo")
    every = made()
    every["compared"] = " ".join(datasets.BASELINES)
    assert "FLAIR, T1: all six" in significance.prose(every, "demo")


# Files and figure


def test_p_values_are_written_so_that_their_side_shows():
    shown = [significance.p_value(p) for p in (0.0, 0.0004, 0.012, 0.0499, 0.05, 0.0502, 1.0, math.nan)]
    assert shown == ["< 0.001", "< 0.001", "0.012", "0.0499", "0.0500", "0.0502", "1.000", "NA"]


def test_written_files_are_stable_numeric_and_complete(noisy, tmp_path):
    result = statistics.compare(noisy)
    text = significance.caption(result, "demo")
    for words in ("generated phantoms", "Profile demo", "36 over subjects", "slices: protocol released"):
        assert words in text
    for folder in ("a", "b"):
        significance.write(result, tmp_path / folder / "significance", text)
        style.save(significance.forest(result, "demo"), tmp_path / folder / "significance")
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("a", "b"))
    assert first == second
    assert {name.split(".")[1] for name in first} == {"csv", "md", "tex", "png", "svg"}
    back = pd.read_csv(tmp_path / "a" / "significance.csv")
    assert back[NUMBERS].to_numpy() == pytest.approx(result[NUMBERS].to_numpy(float), rel=1e-5)
    tex = first["significance.tex"].decode()
    assert tex.isascii() and tex.count(r"\begin{table}") == tex.count(r"\end{table}") == 4
    assert re.search(r"(?<!\\)%(?!\n)", tex) is None and tex.count(text[:40]) == 1
    blocks = re.findall(r"(?:^\|.*\n)+", first["significance.md"].decode(), flags=re.MULTILINE)
    assert len(blocks) == 4
    for block in blocks:
        assert len(block.splitlines()) == 2 + 18
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_forest_has_a_row_per_task_and_an_interval_per_unit(noisy):
    result = statistics.compare(noisy)
    figure = significance.forest(result, "demo")
    assert len(figure.axes) == 3
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert len(labels) == 14 and labels[0] == "Whole brain" and labels[7] == "Lesions"
    for axis, metric in zip(figure.axes, metrics.METRICS, strict=True):
        part = result[result.metric == metric]
        drawn = [line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2]
        intervals = {tuple(x) for x in drawn} - {(0, 0)}  # the line at zero
        assert intervals == set(zip(part.low, part.high, strict=True))
    assert "phantoms" in style.caption(figure) and "A cross" not in style.caption(figure)
