"""Dice of the tasks of Fig. 4c, and what their differences say.

One network (`analyses.segment`), trained on real images, segments the test subjects with all four real contrasts
("complete") and with some of them replaced by synthetic ones (tasks A to F).
"""

import functools
import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from mudiff import paths
from mudiff.analyses import segment
from mudiff.data import datasets, prepare
from mudiff.errors import MudiffError
from mudiff.evaluation import old_scores as scores
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation import old_tables as tables
from mudiff.training import profiles

TASKS: Mapping[str, tuple[str, ...]] = {
    "complete": (),
    "A": ("t1ce",),
    "B": ("flair",),
    "C": ("t2",),
    "D": ("t1",),
    "E": ("t1ce", "flair"),
    "F": ("t1ce", "flair", "t2", "t1"),
}
"""Task -> contrasts that are replaced. The paper's text has "complete" and six tasks A to F but does not say which
contrasts they replace; this is our reading. F is all four, as the text says of one of them."""

METHODS = ("mudiff", "syndiff", tables.FLOOR)
"""Whose syntheses are tried: the paper's two, and our floor."""

REAL = "real"
"""Stands for the method in the rows of "complete"."""

COLUMNS = ["task", "method", "region", "subject", "dice", "invented"]
PAIRS = (("mudiff", "syndiff"), ("mudiff", REAL), ("syndiff", REAL))
"""What is compared: MU-Diff with the second best, and both with the real images."""

NAMES = {
    "whole": "Whole tumour",
    "necrotic": "Necrotic core",
    "oedema": "Oedema",
    "enhancing": "Enhancing tumour",
}
"""Region -> name in table and figure."""
LABELS = datasets.METHODS | {REAL: "complete"}
"""Method -> name in the table."""


# Dice


def folder(profile: str, target: str, method: str) -> Path:
    """Return the folder of a run's synthetic test slices."""
    return paths.synthetic(profile, profiles.settings(profile, segment.DATASET, target, method).run_name)


def real_slices(profile: str) -> prepare.Slices:
    """Return the real test slices.

    Raises
    ------
    MudiffError
        If no test subject has a tumour, or a mask has labels that ``segment.truth`` refuses.
    """
    slices = prepare.open_slices(paths.prepared(profile, segment.DATASET), "test")
    with_tumour = [subject for subject in slices.subjects if segment.truth(slices, subject).any()]
    if not with_tumour:
        raise MudiffError(
            f"{paths.prepared(profile, segment.DATASET)}: no test subject has a tumour, so Dice is undefined; "
            "add test subjects with masks to the manifest and prepare again."
        )
    return slices


def gaps(profile: str) -> dict[tuple[str, str], list[str]]:
    """Return (task, method) -> runs without synthetic test slices, for the tasks that cannot be evaluated."""
    missing = {
        (task, method): [
            path.name
            for path in (folder(profile, target, method) for target in replaced)
            if not (path / "synthetic.json").is_file()
        ]
        for task, replaced in TASKS.items()
        for method in METHODS
    }
    return {key: runs for key, runs in missing.items() if runs}


def evaluate(profile: str, network: nn.Module, chosen: Sequence[str] = tuple(TASKS)) -> pd.DataFrame:
    """Return Dice of every test subject in every task that can be evaluated.

    The values of a task are kept under ``paths.analysis(profile, "segmentation")`` and used again as long
    as network, data, syntheses and the code that decides are the same.

    Parameters
    ----------
    profile : str
        Whose test slices and syntheses.
    network : Module
        ``segment.train(profile)``.
    chosen : sequence of str
        Which of `TASKS`.

    Returns
    -------
    DataFrame
        Columns task, method ("real" for "complete"), region (`segment.REGIONS`), subject, dice (over all
        prepared slices of the subject; NaN where the subject has nothing of the region), invented (voxels
        that were predicted there; missing where the subject has the region). Tasks in `gaps` have no rows.

    Raises
    ------
    MudiffError
        If no test subject has a tumour, or syntheses are of other data or weights than those at hand.
    """
    slices = real_slices(profile)
    missing, frames = gaps(profile), []

    @functools.cache  # a contrast is replaced in several tasks
    def made_from(path: Path) -> dict[str, Any]:
        """Return what the syntheses in a folder depend on."""
        run = paths.run(profile, path.name)
        return scores.contents(path, scores.check_record(path, run, slices.info["data_hash"], profile))

    for task in chosen:
        for method in METHODS if TASKS[task] else (REAL,):
            if (task, method) not in missing:
                folders = {target: folder(profile, target, method) for target in TASKS[task]}
                records = {target: made_from(path) for target, path in folders.items()}
                kept = segment.folder(profile) / f"dice_{task}_{method}.csv"
                frame = _evaluate(network, slices, folders, records, kept)
                frames.append(frame.assign(task=task, method=method))
    return pd.concat(frames, ignore_index=True)[COLUMNS]


def _evaluate(
    network: nn.Module,
    slices: prepare.Slices,
    folders: Mapping[str, Path],
    records: Mapping[str, Mapping[str, Any]],
    kept: Path,
) -> pd.DataFrame:
    """Return the rows of one task and method: those kept, where they are of the same content, else new ones."""
    made_from = [segment.fingerprint(network), slices.info["data_hash"], records, _code()]
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    frame = _read(kept, key)
    if frame is None:
        frame = segment.score(
            network,
            slices,
            lambda subject: {t: segment.synthetic(slices, path, subject) for t, path in folders.items()},
        )
        body = frame.to_csv(index=False, lineterminator="\n")
        paths.write_text(kept, f"# made from {key}\n{body}")
    return frame


@functools.cache
def _code() -> list[str]:
    return scores.code(
        ("analyses/segment/network", "analyses/segmentation/scores", "synthesis/sample", "data/dataset"),
        ("monai", "numpy", "torch"),
    )


def _read(path: Path, key: str) -> pd.DataFrame | None:
    head, _, body = path.read_text(encoding="utf-8").partition("\n") if path.is_file() else ("", "", "")
    if head != f"# made from {key}":
        return None
    kinds = {"subject": str, "region": str, "dice": float, "invented": "Int64"}
    empty = {"dice": [""], "invented": [""]}  # and nothing else: a subject may be called "NA"
    return pd.read_csv(
        io.StringIO(body), dtype=kinds, keep_default_na=False, na_values=empty, float_precision="round_trip"
    )


def command(profile: str) -> str:
    """Return the command that makes what is missing."""
    return f"`snakemake --config profile={profile}`"


# What it says


def differences(frame: pd.DataFrame, regions: Sequence[str] = ("whole",)) -> pd.DataFrame:
    """Compare `PAIRS` subject by subject in every task.

    Parameters
    ----------
    frame : DataFrame
        From `evaluate`.
    regions : sequence of str
        Which of `segment.REGIONS`.

    Returns
    -------
    DataFrame
        region, task, first, second, n (subjects), difference (mean of first - second; positive means that
        the first is better), its 95 % interval low to high, p of the paired t-test, and p_holm, corrected
        for the tasks of a region and pair. No rows for tasks of which one side is missing.
    """
    rows = []
    for region in regions:
        values = frame[frame.region == region].pivot(
            index="subject", columns=["task", "method"], values="dice"
        )
        for first, second in PAIRS:
            for task in [task for task, replaced in TASKS.items() if replaced]:
                sides = [(("complete", REAL) if name == REAL else (task, name)) for name in (first, second)]
                if not all(side in values for side in sides):
                    continue
                pairs = values[sides].dropna().to_numpy(float)
                compared = statistics.paired(pairs[:, 0], pairs[:, 1])
                row = {"region": region, "task": task, "first": first, "second": second, "n": len(pairs)}
                rows.append(row | {name: compared[name] for name in ("difference", "low", "high", "p")})
    columns = ["region", "task", "first", "second", "n", "difference", "low", "high", "p"]
    result = pd.DataFrame(rows, columns=columns)
    corrected = result.groupby(["region", "first", "second"], sort=False).p.transform(statistics.holm)
    return result.assign(p_holm=corrected.astype(float))


def inventions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what was predicted of regions that a subject does not have, and that Dice says nothing of.

    Parameters
    ----------
    frame : DataFrame
        From `evaluate`.

    Returns
    -------
    DataFrame
        region, task, method, without (subjects that have nothing of the region), subjects (in how many of
        them it was predicted all the same), voxels (of the prepared slices, summed over subjects). No rows
        for regions that all subjects have.
    """
    rows = []
    order = {name: list(dict.fromkeys(frame[name])) for name in ("region", "task", "method")}
    cells = dict(iter(frame.dropna(subset="invented").groupby(list(order)).invented))
    for key in itertools.product(*order.values()):
        if key in cells:
            rows.append((*key, len(cells[key]), int((cells[key] > 0).sum()), int(cells[key].sum())))
    return pd.DataFrame(rows, columns=[*order, "without", "subjects", "voxels"])


def verdict(frame: pd.DataFrame) -> str:
    """Return, as Markdown, what `differences` says of each of `PAIRS` (whole tumour)."""
    found, lines = differences(frame), []
    total = len(TASKS) - 1
    for first, second in PAIRS:
        part = found[(found["first"] == first) & (found.second == second)]
        above, below = int((part.low > 0).sum()), int((part.high < 0).sum())
        sure = part[part.p_holm < 0.05].difference
        limits = dict.fromkeys(f"{value:+.3f}" for value in (part.difference.min(), part.difference.max()))
        mean = " to ".join(limits) if len(part) else "none"
        lines.append(
            f"* {LABELS[first]} against {LABELS[second]}: "
            f"higher Dice in {int((part.difference > 0).sum())} of {total} tasks, lower in "
            f"{int((part.difference < 0).sum())}; the 95 % interval excludes 0 for {above} and {below} of them; "
            f"corrected (Holm, p < 0.05), {int((sure > 0).sum())} and "
            f"{int((sure < 0).sum())} remain. "
            f"Mean differences: {mean.replace('-', '−')}."
            + (f" {total - len(part)} could not be compared." if len(part) < total else "")
        )
    return "\n".join(lines)
