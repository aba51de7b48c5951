"""Does a run hold on subjects that no training saw? Known beside unseen, and what the errors are made of."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mudiff.analyses import cohorts
from mudiff.analyses.cohorts import Cohort
from mudiff.data import datasets
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation import old_tables as tables

COHORTS = ("known", "unseen")
REGIONS = {"brain": "Whole brain", "lesion": "Lesions"}
_TASK = ["dataset", "target", "method", "region"]
_PARTS = ("brightness", "contrast", "structure")


def changes(known: pd.DataFrame, unseen: pd.DataFrame) -> pd.DataFrame:
    """Put the scores of both cohorts side by side.

    Parameters
    ----------
    known, unseen : DataFrame
        From ``cohorts.score``.

    Returns
    -------
    DataFrame
        Tidy and numeric: dataset, target, method, region, protocol, unit, metric; mean, sd and n of each
        cohort (``known``, ``known_sd``, ``known_n`` and so on); ``change`` (unseen - known) with its 95 %
        interval ``low`` to ``high`` (Welch: independent subjects). There is no interval over slices, since
        those of one head are not independent.
    """
    keys = [*_TASK, "protocol", "unit", "metric"]
    sides, subjects = [], []
    for name, scores in zip(COHORTS, (known, unseen), strict=True):
        regions = [part for _, part in scores.groupby("region", sort=False, observed=True)]
        made = [tables.table(part, protocol) for part in regions for protocol in ("masked", "released")]
        names = {"mean": name, "sd": f"{name}_sd", "n": f"{name}_n"}
        sides.append(pd.concat(made).set_index(keys)[[*names]].rename(columns=names))
        subjects.append(dict(iter(scores[scores.unit == "subject"].groupby([*_TASK, "protocol"]))))
    frame = sides[0].join(sides[1], how="inner").reset_index()
    frame["change"] = frame["unseen"] - frame["known"]
    limits = [
        welch(*(groups[*task, protocol][metric] for groups in subjects))
        if unit == "subject"
        else (math.nan, math.nan)
        for *task, protocol, unit, metric in frame[keys].itertuples(index=False, name=None)
    ]
    return frame.assign(low=[low for low, _ in limits], high=[high for _, high in limits])


def welch(known: Sequence[float], unseen: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two means, unseen - known, by Welch's t-test.

    NaN where a cohort has fewer than two finite values, or neither varies.
    """
    known, unseen = (np.asarray(values, float) for values in (known, unseen))
    known, unseen = known[np.isfinite(known)], unseen[np.isfinite(unseen)]
    if min(len(known), len(unseen)) < 2 or not (np.ptp(known) > 0 or np.ptp(unseen) > 0):
        return math.nan, math.nan
    interval = statistics.ttest_ind(unseen, known, equal_var=False).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def leads(known: pd.DataFrame, unseen: pd.DataFrame, metric: str = "psnr") -> pd.DataFrame:
    """Compare MU-Diff's lead over each other method on both cohorts.

    A subject that is hard for all methods lowers every score; the lead, a difference within the subject, is
    free of that.

    Parameters
    ----------
    known, unseen : DataFrame
        From ``cohorts.score``.
    metric : str
        Which score, under protocol masked, over subjects.

    Returns
    -------
    DataFrame
        One row per region, target and other method: region, target, other, ``known`` and ``unseen`` (mean
        lead; positive means that MU-Diff is better), ``change`` with its 95 % interval ``low`` to ``high``,
        and verdict: "grows", "shrinks", or "not decided" where the interval holds 0. No rows without
        MU-Diff.
    """
    wide = [_wide(scores, metric) for scores in (known, unseen)]
    rows = []
    for key in [key for key in wide[0] if key in wide[1]]:
        pair = [frames[key] for frames in wide]
        for other in [m for m in datasets.METHODS if all({m, "mudiff"} <= set(p) for p in pair)]:
            if other == "mudiff":
                continue
            lead = [
                (statistics.SIGN[metric] * (p["mudiff"] - p[other])).dropna().to_numpy(float) for p in pair
            ]
            means = [float(values.mean()) if len(values) else math.nan for values in lead]
            low, high = welch(*lead)
            verdict = "grows" if low > 0 else "shrinks" if high < 0 else "not decided"
            row = dict(zip(("region", "target"), key, strict=True)) | {"other": other}
            row |= dict(zip(COHORTS, means, strict=True))
            rows.append(row | {"change": means[1] - means[0], "low": low, "high": high, "verdict": verdict})
    columns = ["region", "target", "other", *COHORTS, "change", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _wide(scores: pd.DataFrame, metric: str) -> dict[tuple[str, str], pd.DataFrame]:
    """Return (region, target) -> subjects x methods."""
    chosen = scores[(scores.protocol == "masked") & (scores.unit == "subject")]
    groups = chosen.groupby(["region", "target"], sort=False, observed=True)
    return {key: part.pivot(index="subject", columns="method", values=metric) for key, part in groups}


def verdict(frame: pd.DataFrame) -> str:
    """Return, as Markdown, what `leads` says of the question whether MU-Diff generalises better."""
    lines = []
    for (region, target), part in frame.groupby(["region", "target"], sort=False):
        words = {
            name: ", ".join(datasets.METHODS[row.other] for row in part[part.verdict == name].itertuples())
            or "none"
            for name in ("grows", "shrinks", "not decided")
        }
        lines.append(
            f"* {REGIONS[region]}, {datasets.LABELS[target]}: the lead grows over {words['grows']}; shrinks over "
            f"{words['shrinks']}; not decided for {words['not decided']}."
        )
    return "\n".join(lines) or "MU-Diff has no run to compare with here."


# What an error is made of


def error_parts(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """Split a mean squared error into brightness, contrast and structure, which add up to it.

    Parameters
    ----------
    real, synthetic : array (N,)
        Intensities of the same voxels.

    Returns
    -------
    dict of str to float
        ``brightness`` and ``contrast``, what the best offset and the best gain of the synthetic intensities
        take away, and ``structure``, what no offset and no gain can; NaN without voxels.
    """
    real, synthetic = np.asarray(real, float), np.asarray(synthetic, float)
    if not real.size:
        return dict.fromkeys(_PARTS, math.nan)
    spread, own = real.std(), synthetic.std()
    covariance = np.mean((real - real.mean()) * (synthetic - synthetic.mean()))
    shared = covariance / own if own > 0 else 0.0  # rho times the spread of the truth
    return {
        "brightness": float((real.mean() - synthetic.mean()) ** 2),
        "contrast": float((own - shared) ** 2),
        "structure": max(0.0, float(spread**2 - shared**2)),
    }


def errors(compared: Mapping[str, Cohort], target: str, methods: Sequence[str]) -> pd.DataFrame:
    """Split the mean squared error of each subject's brain, see `error_parts`.

    Parameters
    ----------
    compared : mapping of str to Cohort
        Name -> cohort.
    target : str
        The contrast.
    methods : sequence of str
        Methods with syntheses of each cohort.

    Returns
    -------
    DataFrame
        One row per method, cohort and subject: method, cohort, subject, the three parts, ``psnr``, and
        ``psnr_structure``, what it would be with the subject's best gain and offset.
    """
    rows = []
    for method in methods:
        for name, cohort in compared.items():
            for stack in cohorts.stacks(cohort, target, method):
                parts = error_parts(stack.real[stack.brain], stack.synthetic[stack.brain])
                row = {"method": method, "cohort": name, "subject": stack.subject} | parts
                rows.append(row | {"psnr": sum(parts.values()), "psnr_structure": parts["structure"]})
    frame, columns = pd.DataFrame(rows), ["psnr", "psnr_structure"]
    with np.errstate(divide="ignore"):  # no error at all: infinite
        return frame.assign(**{column: -10 * np.log10(frame[column]) for column in columns})
