"""Paired tests, effect sizes and Holm's correction."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mudiff.errors import MudiffError

SIGN = {"psnr": 1, "ssim": 1, "mae": -1}  # turns MAE, so that a positive difference always means better


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


def wide(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one task's scores (one region, protocol and unit) with a row per unit and a column per method.

    MAE is turned, so that more is always better. Two scores of one unit are refused.
    """
    of_slices = "unit" in scores and not scores.unit.eq("subject").all()
    index = ["subject", "slice"] if of_slices else ["subject"]
    for _, row in scores[scores.duplicated([*index, "method"])].iterrows():
        raise MudiffError(f"{row.method} has two scores of subject {row.subject}; give the scores of one run.")
    return SIGN[metric] * scores.pivot(index=index, columns="method", values=metric).astype(float)
