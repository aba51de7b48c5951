"""Dice of the tasks of Fig. 4c, and what their differences say.

One network (`mudiff.segment`), trained on real images, segments the test subjects with all four real contrasts
("complete") and with some of them replaced by synthetic ones (tasks A to F).
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from torch import nn

from mudiff import config, data, paths, segment, stats, tables, tasks
from mudiff.errors import MudiffError

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

COLUMNS = ["task", "method", "region", "subject", "dice"]
PAIRS = (("mudiff", "syndiff"), ("mudiff", REAL), ("syndiff", REAL))
"""What is compared: MU-Diff with the second best, and both with the real images."""

NAMES = {
    "whole": "Whole tumour",
    "necrotic": "Necrotic core",
    "oedema": "Oedema",
    "enhancing": "Enhancing tumour",
}
"""Region -> name in table and figure."""
LABELS = tasks.METHODS | {REAL: "complete"}
"""Method -> name in the table."""


# Dice


def folder(profile: str, target: str, method: str) -> Path:
    """Return the folder of a run's synthetic test slices."""
    return paths.synthetic(profile, config.settings(profile, segment.DATASET, target, method).run_name)


def real_slices(profile: str) -> data.Slices:
    """Return the real test slices.

    Raises
    ------
    MudiffError
        If no test subject has a tumour.
    """
    slices = data.open_slices(paths.prepared(profile, segment.DATASET), "test")
    if not any(slices.lesion(slices.subject(subject)).any() for subject in slices.subjects):
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


def evaluate(profile: str, network: nn.Module) -> pd.DataFrame:
    """Return Dice of every test subject in every task that can be evaluated.

    The values of a task are kept under ``paths.analysis(profile, "segmentation")`` and used again as long
    as network, data and syntheses are the same.

    Parameters
    ----------
    profile : str
        Whose test slices and syntheses.
    network : Module
        ``segment.train(profile)``.

    Returns
    -------
    DataFrame
        Columns task, method ("real" for "complete"), region (`segment.REGIONS`), subject, dice (over all
        slices of the subject; NaN where the subject has nothing of the region). Tasks in `gaps` have no
        rows.

    Raises
    ------
    MudiffError
        If no test subject has a tumour, or syntheses are of other data or weights than those at hand.
    """
    slices = real_slices(profile)
    missing, frames = gaps(profile), []
    for task, replaced in TASKS.items():
        for method in METHODS if replaced else (REAL,):
            if (task, method) not in missing:
                frames.append(_evaluate(profile, network, slices, task, method))
    return pd.concat(frames, ignore_index=True)[COLUMNS]


def _evaluate(profile: str, network: nn.Module, slices: data.Slices, task: str, method: str) -> pd.DataFrame:
    """Return the rows of one task and method: those kept, where they are of the same content, else new ones."""
    folders = {target: folder(profile, target, method) for target in TASKS[task]}
    records = {target: _record(profile, path, slices) for target, path in folders.items()}
    made_from = [segment.fingerprint(network), slices.info["data_hash"], records]
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    kept = segment.folder(profile) / f"dice_{task}_{method}.csv"
    frame = _read(kept, key)
    if frame is None:
        frame = segment.score(
            network,
            slices,
            lambda subject: {t: segment.synthetic(slices, path, subject) for t, path in folders.items()},
        )
        body = frame.to_csv(index=False, lineterminator="\n")
        paths.write_text(kept, f"# made from {key}\n{body}")
    return frame.assign(task=task, method=method)


def _read(path: Path, key: str) -> pd.DataFrame | None:
    head, _, body = path.read_text(encoding="utf-8").partition("\n") if path.is_file() else ("", "", "")
    if head != f"# made from {key}":
        return None
    kinds = {"subject": str, "region": str, "dice": float}  # a subject may be called "NA"
    return pd.read_csv(io.StringIO(body), dtype=kinds, keep_default_na=False, na_values={"dice": [""]})


def _record(profile: str, path: Path, slices: data.Slices) -> dict[str, str]:
    """Return what a run's syntheses were made from, if that is the data and the weights at hand."""
    record = paths.read_json(path / "synthetic.json")
    weights = paths.run(profile, path.name) / "weights.safetensors"
    if record.get("data") != slices.info["data_hash"]:
        unlike = "other data than is prepared now"
    elif weights.is_file() and record.get("weights") != hashlib.sha256(weights.read_bytes()).hexdigest():
        unlike = "other weights than its run has"
    else:
        return {name: record.get(name) for name in ("run", "weights", "data", "split", "seed")}
    raise MudiffError(f"{path}: made from {unlike}; make it again with {command(profile)}.")


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
                compared = stats.paired(pairs[:, 0], pairs[:, 1])
                row = {"region": region, "task": task, "first": first, "second": second, "n": len(pairs)}
                rows.append(row | {name: compared[name] for name in ("difference", "low", "high", "p")})
    columns = ["region", "task", "first", "second", "n", "difference", "low", "high", "p"]
    result = pd.DataFrame(rows, columns=columns)
    corrected = result.groupby(["region", "first", "second"], sort=False).p.transform(stats.holm)
    return result.assign(p_holm=corrected.astype(float))


def verdict(frame: pd.DataFrame) -> str:
    """Return, as Markdown, what `differences` says of each of `PAIRS` (whole tumour)."""
    found, lines = differences(frame), []
    total = len(TASKS) - 1
    for first, second in PAIRS:
        part = found[(found["first"] == first) & (found.second == second)]
        above, below = int((part.low > 0).sum()), int((part.high < 0).sum())
        limits = dict.fromkeys(f"{value:+.3f}" for value in (part.difference.min(), part.difference.max()))
        mean = " to ".join(limits) if len(part) else "none"
        lines.append(
            f"* {LABELS[first]} against {LABELS[second]}: "
            f"higher Dice in {int((part.difference > 0).sum())} of {total} tasks, lower in "
            f"{int((part.difference < 0).sum())}; the 95 % interval excludes 0 for {above} and {below} of them. "
            f"Mean differences: {mean.replace('-', '−')}."
            + (f" {total - len(part)} could not be compared." if len(part) < total else "")
        )
    return "\n".join(lines)
