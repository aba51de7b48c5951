"""MU-Diff against the best baseline: paired tests, effect sizes, Holm's correction, and what they decide.

The paper compares with "the second-best performed model" (section "Evaluation procedure"). Here that is the
best of its six baselines, by the mean of the metric in question, whether or not MU-Diff is better still.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics

COHORTS = ("brats", "isles")
"""Datasets of Tables 1 and 2, which the paper's P values belong to."""

PROTOCOLS = {"subject": "masked", "slice": "released"}
"""Unit -> protocol of its scores, as in the tables: subjects are independent, slices are the paper's way."""

LEVEL = 0.05
"""The paper's level of significance."""

SIGN = {"psnr": 1, "ssim": 1, "mae": -1}
"""Turns MAE, so that a positive difference always means better."""

_NUMBERS = ("difference", "low", "high", "cohens_dz", "t", "p", "p_holm", "p_wilcoxon", "icc", "n_effective")
_UNDEFINED = dict.fromkeys(_NUMBERS, math.nan)


def paired(ours: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Compare two methods on the same units with the paired t-test and Wilcoxon's signed-rank test.

    Parameters
    ----------
    ours, others : sequence of float
        Finite scores; equal places belong to the same unit.

    Returns
    -------
    dict of str to float
        ``difference`` (mean of ours - others), its 95 % interval ``low`` to ``high``, ``cohens_dz`` (mean
        over standard deviation of the differences), ``t``, two-sided ``p`` and ``p_wilcoxon``. With fewer
        than two pairs all but the difference are NaN; so are those that have no value where all differences
        are equal.
    """
    from scipy import stats

    ours, others = np.asarray(ours, float), np.asarray(others, float)
    result = dict.fromkeys(("difference", "low", "high", "cohens_dz", "t", "p", "p_wilcoxon"), math.nan)
    difference = ours - others
    if len(difference) == 0:
        return result
    result["difference"] = float(difference.mean())
    if len(difference) < 2:
        return result
    # Wilcoxon's own rule: zero differences speak for neither side and are left out.
    changed = difference[difference != 0]
    if len(changed):  # exact up to 50 pairs (13 where some are equal), beyond that approximate
        result["p_wilcoxon"] = float(stats.wilcoxon(changed).pvalue)
    if not _varies(ours, others):
        return result
    test = stats.ttest_rel(ours, others)
    interval = test.confidence_interval(0.95)
    return result | {
        "low": float(interval.low),
        "high": float(interval.high),
        "cohens_dz": float(difference.mean() / difference.std(ddof=1)),
        "t": float(test.statistic),
        "p": float(test.pvalue),
    }


def _varies(ours: np.ndarray, others: np.ndarray) -> bool:
    """Tell whether the differences differ by more than rounding; else t would be a rounding error's size."""
    return bool(np.ptp(ours - others) > 1e-12 * max(np.abs(ours).max(), np.abs(others).max()))


def holm(p: Sequence[float]) -> np.ndarray:
    """Return P values corrected for their number by Holm's step-down method.

    The smallest of m values is multiplied by m, the next by m - 1, and so on; none may fall below the one
    before it, nor rise above 1. NaN stays NaN and does not count in m.
    """
    p = np.asarray(p, float)
    corrected = np.full(p.shape, math.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def effective(values: Sequence[float], subjects: Sequence[str]) -> tuple[float, float]:
    """Return how alike the values of one subject are, and how many independent values they amount to.

    Parameters
    ----------
    values : sequence of float
        One value per slice.
    subjects : sequence of str
        The subject of each.

    Returns
    -------
    icc : float
        Intraclass correlation of a one-way analysis of variance, not below 0. NaN where it is undefined:
        fewer than two subjects, one slice each, or no variation.
    n_effective : float
        Number of slices over the design effect 1 + (m - 1) icc; m is the number of slices of a subject,
        averaged over the slices. NaN where `icc` is.
    """
    groups = pd.Series(np.asarray(values, float)).groupby(np.asarray(subjects))
    sizes, total = groups.size().to_numpy(), len(np.asarray(values))
    count = len(sizes)
    if count < 2 or total == count:
        return math.nan, math.nan
    grand = np.mean(values)
    between = (sizes * (groups.mean().to_numpy() - grand) ** 2).sum() / (count - 1)
    within = (groups.var(ddof=0).to_numpy() * sizes).sum() / (total - count)
    typical = (total - (sizes**2).sum() / total) / (count - 1)  # slices per subject, if sizes are unequal
    spread = between + (typical - 1) * within
    if spread <= 0:
        return math.nan, math.nan
    icc = max(0.0, float((between - within) / spread))
    return icc, float(total / (1 + ((sizes**2).sum() / total - 1) * icc))


def compare(scores: pd.DataFrame, protocols: Mapping[str, str] = PROTOCOLS) -> pd.DataFrame:
    """Compare MU-Diff with the best baseline of every task, region and metric, on the same units.

    Parameters
    ----------
    scores : DataFrame
        From ``tables.score_runs``, one or both regions; rows of other datasets than `COHORTS` are ignored.
    protocols : mapping of str to str
        Unit ("subject", "slice") -> protocol of its scores.

    Returns
    -------
    DataFrame
        One row per unit, region, dataset, target and metric: unit, protocol, region, dataset, target,
        metric, compared (the trained baselines), best_baseline, n (pairs), difference (mean; positive means
        that MU-Diff is better, also for MAE), low and high (95 % interval), cohens_dz, t, p, p_holm,
        p_wilcoxon, icc and n_effective (slices only), reason. `p_holm` corrects for all tests of a unit:
        every task, region and metric. `reason` says why values are NaN or pairs were left out, and is empty
        else.

    Raises
    ------
    MudiffError
        If there are no scores of `COHORTS`, or one method has two scores of one unit.
    """
    rows = []
    keys = ["region", "dataset", "target"]
    for unit, protocol in protocols.items():
        chosen = scores[(scores.unit == unit) & (scores.protocol == protocol) & scores.dataset.isin(COHORTS)]
        for key, part in chosen.groupby(keys, sort=False, observed=True):
            for metric in metrics.METRICS:
                names = {"unit": unit, "protocol": protocol, **dict(zip(keys, key, strict=True))}
                rows.append(names | {"metric": metric} | _row(values(part, metric), metric, unit))
    if not rows:
        raise MudiffError(
            f"the scores hold no {' or '.join(f'{u}s of protocol {p}' for u, p in protocols.items())} of "
            f"{' or '.join(COHORTS)}, the datasets of Tables 1 and 2; prepare one of them first."
        )
    frame = pd.DataFrame(rows)
    frame["p_holm"] = frame.groupby("unit", sort=False).p.transform(holm)
    return frame


def values(part: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one task's scores with a column per method: a row holds the scores of one and the same unit.

    Parameters
    ----------
    part : DataFrame
        Rows of ``tables.score_runs`` of one dataset, target, region, protocol and unit.
    metric : str
        Which score.

    Raises
    ------
    MudiffError
        If one method has two scores of one unit.
    """
    index = ["subject"] if (part.unit == "subject").all() else ["subject", "slice"]
    twice = part[part.duplicated([*index, "method"])]
    if len(twice):
        first = twice.iloc[0]
        raise MudiffError(
            f"{first.dataset} {first.target}: method {first.method} has two scores of subject {first.subject} in "
            "one place; give the scores of one run per method, region, protocol and unit."
        )
    return part.pivot(index=index, columns="method", values=metric).astype(float)


def _row(wide: pd.DataFrame, metric: str, unit: str) -> dict[str, object]:
    """Return what `compare` says of one task and metric."""
    trained = [method for method in datasets.BASELINES if method in wide]
    row = {"compared": " ".join(trained), "best_baseline": None, "n": 0} | _UNDEFINED
    if "mudiff" not in wide:
        return row | {"reason": "MU-Diff is not trained"}
    if not trained:
        return row | {"reason": "no baseline is trained"}
    # Infinite scores would decide a mean alone. Equal means: the first in the paper's order.
    merit = SIGN[metric] * wide[trained].where(np.isfinite(wide[trained])).mean()
    if merit.isna().all():
        return row | {"reason": "no baseline has a defined score"}
    row["best_baseline"] = merit.idxmax()
    both = wide[["mudiff", row["best_baseline"]]].dropna()
    pairs = both[np.isfinite(both).all(axis=1)]
    ours, others = (SIGN[metric] * pairs[method].to_numpy() for method in pairs)
    row |= {"n": len(pairs)} | paired(ours, others)
    reasons = []
    if len(both) > len(pairs):
        reasons.append(f"pairs with an infinite score left out: {len(both) - len(pairs)}")
    if len(pairs) < 2:
        reasons.append("fewer than two pairs")
    elif not _varies(ours, others):
        reasons.append("all differences are equal")
    elif unit == "slice":
        subjects = pairs.index.get_level_values("subject")
        row["icc"], row["n_effective"] = effective(ours - others, subjects)
    return row | {"reason": "; ".join(reasons)}


@dataclass(frozen=True)
class Statement:
    """What the paper says of one dataset and region: its words, where, and whether it says so of all."""

    dataset: str
    region: str
    words: str
    where: str
    of_all: bool = True


_BETTER = "MU-Diff is significantly better (P < 0.05) than the second best method in"
_TABLE_1 = 'Table 1, section "Evaluation of synthesis accuracy for whole brain MRI"'
_TABLE_2 = 'Table 2, section "Evaluation of synthesis accuracy for brain lesions"'
STATEMENTS = (
    Statement("brats", "brain", f"{_BETTER} every metric", _TABLE_1),
    Statement("isles", "brain", f"{_BETTER} all tasks", _TABLE_1),
    Statement("brats", "lesion", f"{_BETTER} all tasks", _TABLE_2),
    Statement("isles", "lesion", f"{_BETTER} many tasks", _TABLE_2, of_all=False),
)
"""The paper's sentences with a P value."""


def statements(frame: pd.DataFrame) -> pd.DataFrame:
    """Decide the paper's statements by the comparisons at hand.

    Parameters
    ----------
    frame : DataFrame
        From `compare`.

    Returns
    -------
    DataFrame
        One row per statement and unit: dataset, region, statement, where (in the paper), unit, ours (in
        words), verdict (P uncorrected, as in the paper), verdict_holm (corrected).

        A comparison is one of the paper's tasks in one metric. It is won or lost where P < 0.05, and open
        where not, or where it is missing: no significance is no proof of equality. A statement of all
        comparisons holds if all are won, one of "many" if more than half are. It does not hold where even
        the open ones could not save it, and cannot be decided otherwise.
    """
    rows = []
    for said in STATEMENTS:
        total = len(datasets.dataset(said.dataset).targets) * len(metrics.METRICS)
        needed = total if said.of_all else total // 2 + 1
        for unit in frame.unit.unique():
            part = frame[
                (frame.dataset == said.dataset) & (frame.region == said.region) & (frame.unit == unit)
            ]
            rows.append(
                {"dataset": said.dataset, "region": said.region, "statement": said.words}
                | {"where": said.where, "unit": unit, "ours": _in_words(part, total)}
                | {"verdict": _verdict(part, "p", total, needed)}
                | {"verdict_holm": _verdict(part, "p_holm", total, needed)}
            )
    return pd.DataFrame(rows)


def _won_and_lost(part: pd.DataFrame, p: str) -> tuple[int, int]:
    significant = part[p] < LEVEL
    return int((significant & (part.difference > 0)).sum()), int((significant & (part.difference < 0)).sum())


def _verdict(part: pd.DataFrame, p: str, total: int, needed: int) -> str:
    won, lost = _won_and_lost(part, p)
    if won >= needed:
        return "holds"
    return "does not hold" if total - lost < needed else "cannot be decided"


def _in_words(part: pd.DataFrame, total: int) -> str:
    tested = part[part.p.notna()]
    if tested.empty:
        return f"none of {total} comparisons could be made"
    (won, lost), (won_holm, lost_holm) = _won_and_lost(part, "p"), _won_and_lost(part, "p_holm")
    better, worse = int((tested.difference > 0).sum()), int((tested.difference < 0).sum())
    return (
        f"MU-Diff is better in {better} of {total} comparisons (P < 0.05: {won}, corrected: {won_holm}) and worse "
        f"in {worse} (P < 0.05: {lost}, corrected: {lost_holm})"
        + (f"; {total - len(tested)} could not be made" if len(tested) < total else "")
    )
