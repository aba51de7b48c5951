"""Paired tests, effect sizes, Holm's correction, and MU-Diff against the best baseline of each task.

The paper compares with "the second-best performed model" (section "Evaluation procedure"). Here that is the
best of its six baselines, by the mean of the metric in question, whether or not MU-Diff is better still.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics

COHORTS = ("brats", "isles")
"""Datasets of Tables 1 and 2, which the paper's P values belong to."""

PROTOCOLS = {"subject": "masked", "slice": "released"}
"""Unit -> protocol of its scores, as in the tables: subjects are independent, slices are the paper's way."""

SIGN = {"psnr": 1, "ssim": 1, "mae": -1}  # turns MAE, so that a positive difference always means better

_TASK = ["region", "dataset", "target"]


def paired(ours: Sequence[float], others: Sequence[float] | float = 0.0) -> dict[str, float]:
    """Test the mean of ours - others with the paired t-test and Wilcoxon's signed-rank test.

    Scores are finite, one per unit (subject or slice), in one order. Returned are ``n``, ``difference`` (mean), its
    95 % interval ``low`` to ``high``, ``cohens_dz`` (mean over standard deviation), ``t``, two-sided ``p`` and
    ``p_wilcoxon``: NaN for fewer than two units, or differences that are all equal but for rounding.
    """
    from scipy import stats

    ours, others = np.asarray(ours, float), np.asarray(others, float)
    d = ours - others
    names = ("difference", "low", "high", "cohens_dz", "t", "p", "p_wilcoxon")
    result = dict.fromkeys(names, math.nan) | {"n": len(d)}
    if len(d):
        result["difference"] = float(d.mean())
    if len(d) < 2:
        return result
    if (d != 0).any():  # Wilcoxon's own rule: zero differences speak for neither side
        result["p_wilcoxon"] = float(stats.wilcoxon(d[d != 0]).pvalue)
    if np.ptp(d) <= 1e-12 * max(np.abs(ours).max(), np.abs(others).max()):  # equal but for rounding
        return result
    test = stats.ttest_1samp(d, 0.0)
    low, high = map(float, test.confidence_interval(0.95))
    result |= {"low": low, "high": high, "cohens_dz": float(d.mean() / d.std(ddof=1))}
    return result | {"t": float(test.statistic), "p": float(test.pvalue)}


def holm(p: Sequence[float]) -> np.ndarray:
    """Return P values corrected for their number by Holm's step-down method; NaN stays and does not count."""
    p = np.asarray(p, float)
    corrected = np.full(p.shape, math.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def effective(values: Sequence[float], subjects: Sequence[str]) -> tuple[float, float]:
    """Return how alike the values (one per slice) of one subject are, and how many independent ones they amount to.

    The first is the intraclass correlation (icc) of a one-way analysis of variance, not below 0; the second the
    number of slices over the design effect 1 + (m - 1) icc, with m the number of slices of a subject, averaged over
    the slices. NaN with fewer than two subjects, one slice each, or no variation.
    """
    groups = pd.Series(np.asarray(values, float)).groupby(np.asarray(subjects))
    sizes, total = groups.size().to_numpy(), len(np.asarray(values))
    count = len(sizes)
    if count < 2 or total == count:
        return math.nan, math.nan
    between = (sizes * (groups.mean().to_numpy() - np.mean(values)) ** 2).sum() / (count - 1)
    within = (groups.var(ddof=0).to_numpy() * sizes).sum() / (total - count)
    typical = (total - (sizes**2).sum() / total) / (count - 1)  # slices per subject, if sizes are unequal
    spread = between + (typical - 1) * within
    if spread <= 0:
        return math.nan, math.nan
    icc = max(0.0, float((between - within) / spread))
    return icc, float(total / (1 + ((sizes**2).sum() / total - 1) * icc))


def wide(scores: pd.DataFrame, metric: str, column: str = "method") -> pd.DataFrame:
    """Return one task's scores (one region, protocol and unit) with a row per unit and a column per method.

    MAE is turned, so that more is always better. Two scores of one unit are refused.
    """
    of_slices = "unit" in scores and not scores.unit.eq("subject").all()
    index = ["subject", "slice"] if of_slices else ["subject"]
    for _, row in scores[scores.duplicated([*index, column])].iterrows():
        raise MudiffError(f"{row[column]} has two scores of subject {row.subject}; give the scores of one run.")
    return SIGN[metric] * scores.pivot(index=index, columns=column, values=metric).astype(float)


def compare(scores: pd.DataFrame, protocols: Mapping[str, str] = PROTOCOLS) -> pd.DataFrame:
    """Compare MU-Diff with the best baseline of every task, region and metric, on the same units.

    Scores are of `scores.score_runs`, one or both regions; other datasets than `COHORTS` are left out.

    Returns
    -------
    DataFrame
        One row per unit, region, dataset, target and metric that have MU-Diff and a baseline: those names,
        protocol, best_baseline, what `paired` returns (a positive difference means that MU-Diff is better, also for
        MAE), p_holm (corrected for all tests of a unit), and of slices icc and n_effective (`effective`).
    """
    rows = []
    for unit, protocol in protocols.items():
        chosen = scores[(scores.unit == unit) & (scores.protocol == protocol) & scores.dataset.isin(COHORTS)]
        for key, part in chosen.groupby(_TASK, sort=False):
            for metric in metrics.METRICS:
                names = {"unit": unit, "protocol": protocol} | dict(zip(_TASK, key, strict=True))
                row = _against_best(wide(part, metric), unit)
                rows += [names | {"metric": metric} | row] if row else []
    if not rows:
        raise MudiffError("the scores hold no task of brats or isles with MU-Diff and a baseline; train them first.")
    frame = pd.DataFrame(rows)
    frame["p_holm"] = frame.groupby("unit", sort=False).p.transform(holm)
    return frame


def _against_best(scores: pd.DataFrame, unit: str) -> dict[str, object] | None:
    trained = [method for method in datasets.BASELINES if method in scores]
    finite = scores.where(np.isfinite(scores))  # infinite scores would decide a mean alone
    if "mudiff" not in scores or finite[trained].isna().all(axis=None):
        return None
    best = finite[trained].mean().idxmax()
    differences = (finite["mudiff"] - finite[best]).dropna()
    row = {"best_baseline": best} | paired(differences) | {"icc": math.nan, "n_effective": math.nan}
    if unit == "slice":
        subjects = differences.index.get_level_values("subject")
        row["icc"], row["n_effective"] = effective(differences, subjects)
    return row
