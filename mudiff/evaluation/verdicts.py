"""One rule for every verdict on a claim, and the words and tables made of verdicts.

A claim on a difference holds where the 95 % interval (Student's t) of its mean over the test subjects lies on
the claimed side of zero in every metric, does not hold where it lies on the other side in any, and cannot be
decided otherwise. "Better than all" is decided by the closest pair of each metric; since the closest of many
is partly chance, the interval of a refutation is widened for the number of pairs (Bonferroni). Where a part of
a claim is missing, the rest can refute it, but it cannot hold.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from mudiff.data import datasets

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be decided"
NO_SCORES = "no scores", "", OPEN
COLUMNS = ["group", "claim", "where", "ours", "tolerance", "verdict"]
METRICS = {
    "psnr": ("PSNR", 1, "{:+.2f} dB"),
    "ssim": ("SSIM", 1, "{:+.3f}"),
    "mae": ("MAE", -1, "{:+.4f}"),
    "dice": ("Dice", 1, "{:+.3f}"),
    "m1": ("M1", 1, "{:+.2g}"),
    "m2": ("M2", 1, "{:+.2g}"),
    "map": ("log ratio", 1, "{:+.2g}"),
}
"""Score -> its name, +1 where more is better and -1 where less is, and how a difference is written."""

LABELS = datasets.METHODS | datasets.LABELS | {"f1": "F1", "f2": "F2"}
"""Name in code -> name in texts, of all that is compared."""

_TAIL = 0.025  # on each side of a 95 % interval

Decided = tuple[str, str, str]
"""Our value, the tolerance, the verdict."""
Row = tuple[str, str, str, str, str, str]
"""A row of `COLUMNS`."""
Scores = Mapping[str, pd.DataFrame]
"""Metric -> one row per subject, one column for each of what is compared."""


def wide(frame: pd.DataFrame, columns: str | list[str], metrics: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Return `Scores`: of each metric the subjects x `columns`, repeated values as their mean."""
    return {m: frame.pivot_table(index="subject", columns=columns, values=m, observed=True) for m in metrics}


def contest(scores: Scores, better: Sequence[str], worse: Sequence[str]) -> Decided:
    """Decide whether all of `better` beat all of `worse`, subject by subject.

    Each metric is decided by its closest pair: the worst of `better` against the best of `worse`.

    Parameters
    ----------
    scores : mapping of str to DataFrame
        Metric of `METRICS` -> subjects x names.
    better, worse : sequence of str
        Names; those that have no column count as missing.
    """
    there = next(iter(scores.values())).columns
    above, below = ([name for name in group if name in there] for group in (better, worse))
    if not above or not below:
        return NO_SCORES
    words, signs, closest, least = [], [], [], []
    for metric, frame in scores.items():
        name, sense, shape = METRICS[metric]
        means = sense * frame.mean()
        first, second = means[above].idxmin(), means[below].idxmax()
        difference = (frame[first] - frame[second]).dropna()
        words.append(f"{name} {shape.format(difference.mean())}")
        who = f"{_label(first)} against" if len(better) > 1 else "against"
        closest.append(f"{who} {_label(second)}" if len(better) + len(worse) > 2 else "")
        signs.append(standardised(sense * difference))
        least.append(len(difference))
    if not min(least):
        return NO_SCORES
    ours = f"{sentence(words, closest)}; n = {count(min(least), 'subject')}"
    partly = len(above) + len(below) < len(better) + len(worse)
    return judge(ours, signs, min(least), len(above) * len(below), [*above, *below] if partly else [])


def standardised(differences: pd.Series | np.ndarray) -> float:
    """Return the mean in standard errors; 0 where there is no spread to judge it by."""
    values = np.asarray(differences, float)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(values.mean() / error) if error > 0 else 0.0


def judge(
    ours: str, signs: Sequence[float], subjects: int, pairs: int = 1, only: Sequence[str] = ()
) -> Decided:
    """Return `ours`, the tolerance and the verdict.

    Parameters
    ----------
    ours : str
        The differences in words.
    signs : sequence of float
        The differences in standard errors, positive where the claim is right.
    subjects : int
        How many subjects the differences come from.
    pairs : int
        Of how many pairs they are the closest.
    only : sequence of str
        The methods or targets that are there, if some are not.
    """
    from scipy.stats import t

    tolerance = "95 % interval" + (f"; to refute, corrected for {pairs} pairs" if pairs > 1 else "")
    if only:
        names = [_label(name) for name in sorted(only, key=_place)]
        ours = f"only {', '.join(names)} trained: {ours}"
    if subjects < 3:  # an interval of two subjects says nothing
        return ours, tolerance, OPEN
    if min(signs) < -t.isf(_TAIL / pairs, subjects - 1):
        return ours, tolerance, FAILS
    return ours, tolerance, HOLDS if min(signs) > t.isf(_TAIL, subjects - 1) and not only else OPEN


def side(difference: float, margin: float = 0.0) -> str:
    """Return the verdict on one number without an interval: positive holds, within `margin` of 0 is open."""
    if not abs(difference) > margin:  # NaN too
        return OPEN
    return HOLDS if difference > 0 else FAILS


def most(verdicts: Sequence[str], total: int | None = None) -> str:
    """Return the verdict on "in many tasks", which is more than half of `total` (by default, of those given).

    It does not hold where even the open and the missing ones could not save it.
    """
    total = len(verdicts) if total is None else total
    needed = total // 2 + 1
    if verdicts.count(HOLDS) >= needed:
        return HOLDS
    return FAILS if total - verdicts.count(FAILS) < needed else OPEN


def sentence(words: Sequence[str], closest: Sequence[str]) -> str:
    """Return differences with the pair that each is of in brackets, once where it is the same for all."""
    if len(set(closest)) == 1:
        return ", ".join(words) + (f" ({closest[0]})" if closest[0] else "")
    return ", ".join(f"{word} ({pair})" for word, pair in zip(words, closest, strict=True))


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it has to be."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _label(name: object) -> str:
    return LABELS.get(name, str(name))


def _place(name: str) -> int:
    return [*LABELS].index(name) if name in LABELS else len(LABELS)


def tally(decided: pd.DataFrame) -> pd.DataFrame:
    """Return how many claims of each group got each verdict, in the groups' order, the sum in the last row."""
    counts = pd.crosstab(decided["group"], decided["verdict"]).reindex(
        index=decided["group"].unique(), columns=[HOLDS, FAILS, OPEN], fill_value=0
    )
    counts["claims"] = counts.sum(axis=1)
    counts.loc["all"] = counts.sum()
    return counts.rename_axis(index=None, columns=None)


def summary(decided: pd.DataFrame) -> str:
    """Return the verdicts as one sentence."""
    counts = decided["verdict"].value_counts().reindex([HOLDS, FAILS, OPEN], fill_value=0)
    return (
        f"Of {count(len(decided), 'claim')}, {counts[HOLDS]} hold, {counts[FAILS]} do not, and {counts[OPEN]} "
        "cannot be decided on these data."
    )
