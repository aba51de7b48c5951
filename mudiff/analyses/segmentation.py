"""Are synthetic contrasts as good as real ones to a segmentation network? Fig. 4c and 4d.

One network, trained on real images, segments the test subjects with all four real contrasts ("complete") and with
some of them replaced by synthetic ones (tasks A to F; section "Validation on lesion segmentation accuracy").
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from mudiff import paths
from mudiff.analyses import unet
from mudiff.cache import kept
from mudiff.data import dataset, datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import scores, statistics, tables
from mudiff.synthesis import sample
from mudiff.training import profiles

TASKS: Mapping[str, tuple[str, ...]] = {
    "complete": (), "A": ("t1ce",), "B": ("flair",), "C": ("t2",), "D": ("t1",), "E": ("t1ce", "flair"),
    "F": ("t1ce", "flair", "t2", "t1"),
}  # fmt: skip
"""Task -> contrasts that are replaced. The paper's text has "complete" and six tasks A to F but does not say which
contrasts they replace; this is our reading. F is all four, as the text says of one of them."""

METHODS = ("mudiff", "syndiff", tables.FLOOR)
"""Whose syntheses are tried: the paper's two, and our floor."""

REAL = "real"
"""Stands for the method in the rows of "complete"."""

PAIRS = (("mudiff", "syndiff"), ("mudiff", REAL), ("syndiff", REAL))
"""What is compared: MU-Diff with the second best, and both with the real images."""


def evaluate(profile: str, network: nn.Module, chosen: Sequence[str] = tuple(TASKS)) -> pd.DataFrame:
    """Return Dice of all test subjects for the tasks; what is there is kept.

    Parameters
    ----------
    profile, network
        Whose test slices and syntheses; ``unet.train(profile)``.
    chosen : sequence of str
        Which of `TASKS`.

    Returns
    -------
    DataFrame
        Columns task, method ("real" for "complete"), region, subject, dice (over all prepared slices of the subject)
        and invented, see `unet.dice`.

    Raises
    ------
    MudiffError
        If no test subject has a tumour, or syntheses are missing or of other data or weights than those at hand.
    """
    slices = test_slices(profile)
    weights = [value.cpu().numpy().tobytes() for value in network.state_dict().values()]
    inputs = [hashlib.sha256(b"".join(weights)).hexdigest(), slices.info["data_hash"]]
    frames = []
    for task in chosen:
        for method in METHODS if TASKS[task] else (REAL,):
            folders = {target: synthetic(profile, target, method) for target in TASKS[task]}
            records = [
                scores.check_record(made, paths.run(profile, made.name), slices.info["data_hash"], profile)
                for made in folders.values()
            ]
            path = unet.folder(profile) / f"dice_{task}_{method}.csv"
            made_from = [(record["weights"], record.get("seed")) for record in records]
            frame = kept(path, partial(unet.score, network, slices, folders), *inputs, made_from)
            frames.append(frame.assign(task=task, method=method))
    return pd.concat(frames, ignore_index=True)[["task", "method", "region", "subject", "dice", "invented"]]


def test_slices(profile: str) -> dataset.Slices:
    """Return the real test slices, of which some show a tumour."""
    slices = dataset.open_slices(paths.prepared(profile, unet.DATASET), "test")
    if not unet.ill(slices).any():
        raise MudiffError(
            "segmentation: no test subject has a tumour, so Dice is undefined; add some with masks."
        )
    return slices


def synthetic(profile: str, target: str, method: str) -> Path:
    """Return the folder of a run's synthetic test slices."""
    return paths.synthetic(profile, profiles.settings(profile, unet.DATASET, target, method).run_name)


def differences(frame: pd.DataFrame, regions: Sequence[str] = ("whole",)) -> pd.DataFrame:
    """Compare `PAIRS` subject by subject in every task.

    Parameters
    ----------
    frame : DataFrame
        From `evaluate`.
    regions : sequence of str
        Which of `unet.REGIONS`.

    Returns
    -------
    DataFrame
        region, task, first, second, n (subjects), difference (mean of first - second), its 95 % interval low to high,
        p of the paired t-test, and p_holm, corrected for the tasks of a region and pair.
    """
    rows = []
    for region in regions:
        wide = frame[frame.region == region].pivot(index="subject", columns=["task", "method"], values="dice")
        for first, second in PAIRS:
            for task in list(TASKS)[1:]:
                sides = [("complete", REAL) if name == REAL else (task, name) for name in (first, second)]
                found = statistics.paired(*wide[sides].dropna().to_numpy(float).T)
                numbers = {name: found[name] for name in ("n", "difference", "low", "high", "p")}
                rows.append({"region": region, "task": task, "first": first, "second": second} | numbers)
    result = pd.DataFrame(rows)
    return result.assign(p_holm=result.groupby(["region", "first", "second"]).p.transform(statistics.holm))


def table(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return Fig. 4c as one shows it: for each region tasks x methods, and the `differences` of the whole tumour."""
    contrasts, labels = datasets.dataset(unet.DATASET).contrasts, datasets.METHODS | {REAL: "complete"}
    blocks = {}
    for region, part in frame.groupby("region", sort=False):
        cells = {key: group.dropna() for key, group in part.groupby(["task", "method"]).dice}
        means = {key: values.mean() for key, values in cells.items()}
        rows = {}
        for task, replaced in TASKS.items():
            marks = ["×" if contrast in replaced else "✓" for contrast in contrasts]
            texts = {
                method: _cell(cells[task, method]) if (task, method) in cells else "" for method in labels
            }
            first, second = (means.get((task, method), math.nan) for method in METHODS[:2])
            if first != second and replaced:
                better = METHODS[int(second > first)]
                texts[better] = f"**{texts[better]}**"
            rows[task] = [*marks, *(texts[method] for method in (REAL, *METHODS))]
        heads = [*map(datasets.LABELS.get, contrasts), *(labels[method] for method in (REAL, *METHODS))]
        title = f"{unet.REGIONS[region]} (n = {max(map(len, cells.values()))})"
        blocks[title] = pd.DataFrame.from_dict(rows, orient="index", columns=heads)
    found = differences(frame)
    found["text"] = [_difference(row) for row in found.itertuples()]
    pairs = {
        f"{labels[a]} − {labels[b]}": found[(found["first"] == a) & (found.second == b)] for a, b in PAIRS
    }
    return blocks | {
        unet.REGIONS["whole"]: pd.DataFrame({k: v.set_index("task").text for k, v in pairs.items()})
    }


def _cell(values: pd.Series) -> str:
    return f"{tables.number(values.mean(), 3)} ± {tables.number(values.std(), 3)}" if len(values) else "NA"


def _difference(row: object) -> str:
    difference, low, high = (
        tables.number(value, 3, sign=True) for value in (row.difference, row.low, row.high)
    )
    return difference if math.isnan(row.low) else f"{difference} ({low} to {high})"


class Outlines(NamedTuple):
    """What Fig. 4d shows: one slice, and (task, method) -> classes (S, S) and Dice of the whole tumour in it."""

    subject: str
    number: int
    flair: np.ndarray  # (S, S) in [0, 1]
    brain: np.ndarray  # (S, S) bool
    true: np.ndarray  # (S, S) classes
    found: Mapping[tuple[str, str], tuple[np.ndarray, float]]


def outlines(profile: str, network: nn.Module) -> Outlines:
    """Segment the test slice with the largest tumour: complete, and each task with MU-Diff's and SynDiff's images."""
    slices = test_slices(profile)
    index = max(map(slices.example, slices.subjects), key=lambda i: (slices.lesion([i]) > 0).sum())
    subject, number = slices.index.iloc[index]
    place = np.flatnonzero(slices.subject(subject) == index)
    true = unet.truth(slices, subject)[place]
    found = {}
    for task, replaced in TASKS.items():
        for method in METHODS[:2] if replaced else (REAL,):
            given = {
                t: sample.read_synthetic(synthetic(profile, t, method), subject)[place] for t in replaced
            }
            mask = unet.predict(network, unet.images(slices, np.array([index]), given))
            found[task, method] = mask[0], unet.dice(mask, true).dice[0]
    flair = (slices.images([index], "flair")[0] + 1) / 2
    return Outlines(subject, int(number), flair, slices.brain([index])[0], true[0], found)
