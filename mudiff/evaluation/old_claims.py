"""What the paper claims of its methods' scores, beside what the scores at hand say; the rule is `verdicts`'s."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from mudiff.data import datasets
from mudiff.evaluation import old_tables as tables
from mudiff.evaluation import verdicts
from mudiff.evaluation.verdicts import (
    COLUMNS,
    FAILS,
    HOLDS,
    LABELS,
    METRICS,
    NO_SCORES,
    OPEN,
    Decided,
    Row,
    contest,
)

__all__ = ["FAILS", "HOLDS", "OPEN", "decide"]

_DRAWS = 500  # of the bootstrap
_SCORES = ("psnr", "ssim", "mae")
_BOXES = {"brats": "Supplementary Data 5", "isles": "Supplementary Data 6"}
_FLOOR = "Linear fit (the floor is ours, not the paper's)"

Statistic = Callable[[np.ndarray], np.ndarray]  # of the columns of a matrix


def decide(brain: pd.DataFrame, lesion: pd.DataFrame) -> pd.DataFrame:
    """Compare the paper's claims on Tables 1 and 2, Fig. 3 and Supplementary Data 4 to 6 with the scores.

    Parameters
    ----------
    brain, lesion : DataFrame
        Scores of the whole brain and of the lesions, as `mudiff.evaluation.old_tables.score_runs` returns them.

    Returns
    -------
    DataFrame
        Columns group, claim, where (the paper makes it), ours, tolerance, verdict ("holds", "does not hold",
        "cannot be decided"), one row per claim and task.
    """
    boxes = [*_boxes(lesion)]
    rows = [
        *_best(brain, "whole brain"),
        *_families(brain),
        *_hardest(brain),
        *_best(lesion, "lesions"),
        *boxes,
        *_many(boxes),
        *_floor(brain, "whole brain"),
        *_floor(lesion, "lesions"),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _best(scores: pd.DataFrame, region: str) -> Iterator[Row]:
    for dataset, task, part in _tasks(scores):
        claim = f"MU-Diff beats all six baselines in all three metrics: {region}, {task}"
        group = "Lesions" if region == "lesions" else "Whole brain" if dataset in _BOXES else "Healthy brains"
        where = _table(dataset, region)
        if dataset not in _BOXES:
            where += ' (the paper: "comparably better results"; all of them in every metric is our stricter reading)'
        yield group, claim, where, *contest(part, ["mudiff"], datasets.BASELINES)


def _families(brain: pd.DataFrame) -> Iterator[Row]:
    claims = {
        "Diffusion with a critic (SynDiff, MU-Diff) beats Pix2Pix and pGAN": ["pix2pix", "pgan"],
        "DDPM is worse than SynDiff and MU-Diff": ["ddpm"],
    }
    for claim, worse in claims.items():
        for dataset, task, part in _tasks(brain):
            if dataset == "brats" and part["psnr"].columns.isin(worse).any():
                decided = contest(part, ["syndiff", "mudiff"], worse)
                yield "Whole brain", f"{claim}: {task}", "Results, whole brain; Fig. 3a", *decided


def _hardest(brain: pd.DataFrame) -> Iterator[Row]:
    own = _subjects(brain[(brain["dataset"] == "brats") & (brain["method"] == "mudiff")], "target")
    others = [target for target in datasets.dataset("brats").targets if target != "t1ce"]
    if "t1ce" in own["psnr"]:
        claim = "T1CE is the hardest BraTS target: the lowest PSNR of MU-Diff in the whole brain"
        where = "Results, whole brain (in the paper's own values FLAIR is lower)"
        yield "Whole brain", claim, where, *contest({"psnr": own["psnr"]}, others, ["t1ce"])


def _floor(scores: pd.DataFrame, region: str) -> Iterator[Row]:
    for dataset, task, part in _tasks(scores):
        where = f"{_table(dataset, region)}; the linear floor is ours"
        claim = f"MU-Diff beats a linear fit: {region}, {task}"
        yield _FLOOR, claim, where, *contest(part, ["mudiff"], [tables.FLOOR])


def _table(dataset: str, region: str) -> str:
    if dataset not in _BOXES:
        return "Supplementary Data 4b"
    return "Table 1" if region == "whole brain" else "Table 2"


def _tasks(scores: pd.DataFrame) -> Iterator[tuple[str, str, verdicts.Scores]]:
    """Yield dataset, the task in words, and its scores per subject and method, for each task."""
    for (dataset, target), part in scores.groupby(["dataset", "target"], sort=False):
        yield (
            dataset,
            f"{datasets.LABELS[target]} on {datasets.dataset(dataset).label}",
            _subjects(part, "method"),
        )


def _subjects(part: pd.DataFrame, columns: str) -> dict[str, pd.DataFrame]:
    """Return for each metric the subjects' scores under protocol ``masked``, as subject x `columns`."""
    chosen = part[(part["protocol"] == "masked") & (part["unit"] == "subject")]
    return verdicts.wide(chosen, columns, _SCORES)


def _boxes(lesion: pd.DataFrame) -> Iterator[Row]:
    """Yield the claims on the box plots: MU-Diff has the highest median and the narrowest box."""
    chosen = lesion[(lesion["protocol"] == "masked") & (lesion["unit"] == "slice")]
    claims = {
        "MU-Diff has a higher median in lesions than every baseline": ("median", _median, 1),
        "MU-Diff has a narrower interquartile range in lesions than every baseline": ("range", _range, -1),
    }
    for claim, how in claims.items():
        for (dataset, target), part in chosen.groupby(["dataset", "target"], sort=False):
            task = f"{datasets.LABELS[target]} on {datasets.dataset(dataset).label}"
            yield "Lesions", f"{claim}: {task}", _BOXES[dataset], *_spread(part, *how)


def _many(boxes: Sequence[Row]) -> Iterator[Row]:
    """Yield the paper's own claim on the ranges, which is of "many tasks" only."""
    found = [row[-1] for row in boxes if "interquartile range" in row[1]]
    total = sum(len(datasets.dataset(name).targets) for name in _BOXES)
    if found:
        ours = f"{found.count(HOLDS)} of {total} tasks hold, {found.count(FAILS)} do not"
        claim = "MU-Diff has the narrowest interquartile range in lesions in many tasks"
        tolerance = f"many: more than half of the {total} tasks"
        where = "Results, lesions; Supplementary Data 5 and 6"
        yield "Lesions", claim, where, ours, tolerance, verdicts.most(found, total)


def _median(values: np.ndarray) -> np.ndarray:
    return np.median(values, axis=0)


def _range(values: np.ndarray) -> np.ndarray:
    return np.subtract(*np.percentile(values, (75, 25), axis=0))


def _spread(part: pd.DataFrame, noun: str, statistic: Statistic, sense: int) -> Decided:
    """Compare a statistic of MU-Diff's slices with the best baseline's, in PSNR and in SSIM."""
    trained = [name for name in datasets.BASELINES if name in set(part["method"])]
    if not trained or "mudiff" not in set(part["method"]):
        return NO_SCORES
    words, signs, closest = [], [], []
    for metric in ("psnr", "ssim"):
        name, _, shape = METRICS[metric]
        table = part.set_index(["subject", "slice", "method"])[metric].unstack()
        table = table[["mudiff", *trained]].replace([np.inf, -np.inf], np.nan).dropna()
        if table.empty:
            return NO_SCORES
        values = sense * statistic(table.to_numpy())
        best = 1 + int(values[1:].argmax())
        pair = table.to_numpy()[:, [0, best]]
        difference = np.subtract(*statistic(pair))
        words.append(f"{noun} of {name} {shape.format(difference)}")
        closest.append(f"against {LABELS[trained[best - 1]]}")
        error = _standard_error(pair, table.index.get_level_values("subject").to_numpy(), statistic)
        signs.append(sense * difference / error if error > 0 else 0.0)
    subjects = table.index.get_level_values("subject").nunique()
    number = f"{verdicts.count(len(table), 'slice')} of {verdicts.count(subjects, 'subject')}"
    only = ["mudiff", *trained] if len(trained) < len(datasets.BASELINES) else []
    ours = f"{verdicts.sentence(words, closest)}; n = {number}"
    ours, tolerance, verdict = verdicts.judge(ours, signs, subjects, len(trained), only)
    return ours, f"{tolerance} (bootstrap over subjects)", verdict


def _standard_error(pair: np.ndarray, subjects: np.ndarray, statistic: Statistic) -> float:
    """Return the bootstrap standard error of a difference; whole subjects are drawn, since slices depend."""
    rows = [np.flatnonzero(subjects == name) for name in np.unique(subjects)]
    rng = np.random.default_rng(0)
    draws = [
        np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for _ in range(_DRAWS)
    ]
    return float(np.std([np.subtract(*statistic(pair[draw])) for draw in draws], ddof=1))
