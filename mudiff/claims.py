"""What the paper claims of its methods, beside what the scores at hand say.

Every verdict follows one rule. A claim on a difference holds where the 95 % interval (Student's t) of its mean
over the test subjects lies on the claimed side of zero in every metric, does not hold where it lies on the
other side in any, and cannot be decided otherwise. "All better than all" is decided by the closest pair of
each metric; since the closest of many is partly chance, the interval of a refutation is widened for the number
of pairs (Bonferroni). Where a method of the claim was not trained, the others can refute the claim, but it
cannot hold.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from mudiff import tables, tasks

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be decided"
NO_SCORES = "no scores", "", OPEN
COLUMNS = ["claim", "where", "ours", "tolerance", "verdict"]

_TAIL = 0.025  # on each side of a 95 % interval
_DRAWS = 500  # of the bootstrap
_METRICS = {"psnr": ("PSNR", 1, "{:+.2f} dB"), "ssim": ("SSIM", 1, "{:+.3f}"), "mae": ("MAE", -1, "{:+.4f}")}
_LABELS = tasks.METHODS | tasks.LABELS
_BOXES = {"brats": "Supplementary Data 5", "isles": "Supplementary Data 6"}

Row = tuple[str, str, str, str, str]
Statistic = Callable[[np.ndarray], np.ndarray]  # of the columns of a matrix
Scores = Mapping[str, pd.DataFrame]  # metric -> one row per subject, one column per method


def decide(brain: pd.DataFrame, lesion: pd.DataFrame) -> pd.DataFrame:
    """Compare the paper's claims with the scores at hand.

    Parameters
    ----------
    brain, lesion : DataFrame
        Scores of the whole brain and of the lesions, as `mudiff.tables.score_runs` returns them.

    Returns
    -------
    DataFrame
        Columns claim, where (the paper makes it), ours, tolerance, verdict ("holds", "does not hold",
        "cannot be decided"), one row per claim and task.
    """
    rows = [
        *_best(brain, "whole brain"),
        *_best(lesion, "lesions"),
        *_boxes(lesion),
        *_families(brain),
        *_hardest(brain),
        *_floor(brain, "whole brain"),
        *_floor(lesion, "lesions"),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _best(scores: pd.DataFrame, region: str) -> Iterator[Row]:
    for dataset, task, part in _tasks(scores):
        claim = f"MU-Diff beats all six baselines in all three metrics: {region}, {task}"
        yield claim, _table(dataset, region), *_contest(part, ["mudiff"], tasks.BASELINES)


def _families(brain: pd.DataFrame) -> Iterator[Row]:
    claims = {
        "Diffusion with a critic (SynDiff, MU-Diff) beats Pix2Pix and pGAN": ["pix2pix", "pgan"],
        "DDPM is worse than SynDiff and MU-Diff": ["ddpm"],
    }
    for claim, worse in claims.items():
        for dataset, task, part in _tasks(brain):
            if dataset == "brats" and part["psnr"].columns.isin(worse).any():
                decided = _contest(part, ["syndiff", "mudiff"], worse)
                yield f"{claim}: {task}", "Results, whole brain; Fig. 3a", *decided


def _hardest(brain: pd.DataFrame) -> Iterator[Row]:
    own = _subjects(brain[(brain["dataset"] == "brats") & (brain["method"] == "mudiff")], "target")
    others = [target for target in tasks.dataset("brats").targets if target != "t1ce"]
    if "t1ce" in own["psnr"]:
        claim = "T1CE is the hardest BraTS target: the lowest PSNR of MU-Diff in the whole brain"
        where = "Results, whole brain (in the paper's own values FLAIR is lower)"
        yield claim, where, *_contest({"psnr": own["psnr"]}, others, ["t1ce"])


def _floor(scores: pd.DataFrame, region: str) -> Iterator[Row]:
    for dataset, task, part in _tasks(scores):
        where = f"{_table(dataset, region)}; the linear floor is ours"
        claim = f"MU-Diff beats a linear fit: {region}, {task}"
        yield claim, where, *_contest(part, ["mudiff"], [tables.FLOOR])


def _table(dataset: str, region: str) -> str:
    if dataset not in _BOXES:
        return "Supplementary Data 4b"
    return "Table 1" if region == "whole brain" else "Table 2"


def _tasks(scores: pd.DataFrame) -> Iterator[tuple[str, str, Scores]]:
    """Yield dataset, the task in words, and its scores per subject and method, for each task."""
    for (dataset, target), part in scores.groupby(["dataset", "target"], sort=False):
        yield dataset, f"{tasks.LABELS[target]} on {tasks.dataset(dataset).label}", _subjects(part, "method")


def _subjects(part: pd.DataFrame, columns: str) -> dict[str, pd.DataFrame]:
    """Return for each metric the subjects' scores under protocol ``masked``, as subject x `columns`."""
    part = part[(part["protocol"] == "masked") & (part["unit"] == "subject")]
    return {m: part.pivot_table(index="subject", columns=columns, values=m, observed=True) for m in _METRICS}


def _contest(scores: Scores, better: Sequence[str], worse: Sequence[str]) -> tuple[str, str, str]:
    """Return the difference in words, the tolerance, and whether all of `better` beat all of `worse`.

    Each metric is decided by its closest pair: the worst of `better` against the best of `worse`.
    """
    there = scores["psnr"].columns
    above, below = ([name for name in group if name in there] for group in (better, worse))
    if not above or not below:
        return NO_SCORES
    words, signs, closest = [], [], []
    for metric, frame in scores.items():
        name, sense, shape = _METRICS[metric]
        means = sense * frame.mean()
        first, second = means[above].idxmin(), means[below].idxmax()
        difference = (frame[first] - frame[second]).dropna()
        words.append(f"{name} {shape.format(difference.mean())}")
        who = f"{_LABELS[first]} against" if len(better) > 1 else "against"
        closest.append(f"{who} {_LABELS[second]}" if len(better) + len(worse) > 2 else "")
        error = difference.std() / len(difference) ** 0.5
        signs.append(sense * difference.mean() / error if error > 0 else 0.0)
    ours = f"{_sentence(words, closest)}; n = {_count(len(difference), 'subject')}"
    partly = len(above) + len(below) < len(better) + len(worse)
    return _judge(ours, signs, len(difference), len(above) * len(below), [*above, *below] if partly else [])


def _sentence(words: Sequence[str], closest: Sequence[str]) -> str:
    """Return differences with the pair that each is of in brackets, once where it is the same for all."""
    if len(set(closest)) == 1:
        return ", ".join(words) + (f" ({closest[0]})" if closest[0] else "")
    return ", ".join(f"{word} ({pair})" for word, pair in zip(words, closest, strict=True))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _judge(
    ours: str, signs: Sequence[float], subjects: int, pairs: int, only: Sequence[str]
) -> tuple[str, str, str]:
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
        names = [_LABELS[name] for name in sorted(only, key=list(_LABELS).index)]
        ours = f"only {', '.join(names)} trained: {ours}"
    if subjects < 3:  # an interval of two subjects says nothing
        return ours, tolerance, OPEN
    if min(signs) < -t.isf(_TAIL / pairs, subjects - 1):
        return ours, tolerance, FAILS
    return ours, tolerance, HOLDS if min(signs) > t.isf(_TAIL, subjects - 1) and not only else OPEN


def _boxes(lesion: pd.DataFrame) -> Iterator[Row]:
    """Yield the claims on the box plots: MU-Diff has the highest median and the narrowest box."""
    chosen = lesion[(lesion["protocol"] == "masked") & (lesion["unit"] == "slice")]
    claims = {
        "MU-Diff has a higher median in lesions than every baseline": ("median", _median, 1),
        "MU-Diff has a narrower interquartile range in lesions than every baseline": ("range", _range, -1),
    }
    for claim, how in claims.items():
        for (dataset, target), part in chosen.groupby(["dataset", "target"], sort=False):
            task = f"{tasks.LABELS[target]} on {tasks.dataset(dataset).label}"
            yield f"{claim}: {task}", _BOXES[dataset], *_spread(part, *how)


def _median(values: np.ndarray) -> np.ndarray:
    return np.median(values, axis=0)


def _range(values: np.ndarray) -> np.ndarray:
    return np.subtract(*np.percentile(values, (75, 25), axis=0))


def _spread(part: pd.DataFrame, noun: str, statistic: Statistic, sense: int) -> tuple[str, str, str]:
    """Compare a statistic of MU-Diff's slices with the best baseline's, in PSNR and in SSIM; see `_contest`."""
    trained = [name for name in tasks.BASELINES if name in set(part["method"])]
    if not trained or "mudiff" not in set(part["method"]):
        return NO_SCORES
    words, signs, closest = [], [], []
    for metric in ("psnr", "ssim"):
        name, _, shape = _METRICS[metric]
        table = part.set_index(["subject", "slice", "method"])[metric].unstack()
        table = table[["mudiff", *trained]].replace([np.inf, -np.inf], np.nan).dropna()
        if table.empty:
            return NO_SCORES
        values = sense * statistic(table.to_numpy())
        best = 1 + int(values[1:].argmax())
        pair = table.to_numpy()[:, [0, best]]
        difference = np.subtract(*statistic(pair))
        words.append(f"{noun} of {name} {shape.format(difference)}")
        closest.append(f"against {_LABELS[trained[best - 1]]}")
        error = _standard_error(pair, table.index.get_level_values("subject").to_numpy(), statistic)
        signs.append(sense * difference / error if error > 0 else 0.0)
    subjects = table.index.get_level_values("subject").nunique()
    count = f"{_count(len(table), 'slice')} of {_count(subjects, 'subject')}"
    only = ["mudiff", *trained] if len(trained) < len(tasks.BASELINES) else []
    ours = f"{_sentence(words, closest)}; n = {count}"
    ours, tolerance, verdict = _judge(ours, signs, subjects, len(trained), only)
    return ours, f"{tolerance} (bootstrap over subjects)", verdict


def _standard_error(pair: np.ndarray, subjects: np.ndarray, statistic: Statistic) -> float:
    """Return the bootstrap standard error of a difference; whole subjects are drawn, since slices depend."""
    rows = [np.flatnonzero(subjects == name) for name in np.unique(subjects)]
    rng = np.random.default_rng(0)
    draws = [
        np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for _ in range(_DRAWS)
    ]
    return float(np.std([np.subtract(*statistic(pair[draw])) for draw in draws], ddof=1))
