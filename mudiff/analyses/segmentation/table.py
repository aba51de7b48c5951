"""The table of Fig. 4c."""

import math
from pathlib import Path

import pandas as pd

from mudiff.analyses import segment
from mudiff.analyses.segmentation.scores import (
    COLUMNS,
    LABELS,
    METHODS,
    NAMES,
    PAIRS,
    REAL,
    TASKS,
    command,
    differences,
    gaps,
)
from mudiff.data import datasets
from mudiff.evaluation import old_tables as tables


def caption(frame: pd.DataFrame, profile: str) -> str:
    """Return the table's caption: what, data, subjects, how to read it, and what is missing and why."""
    whole = frame[(frame.task == "complete") & (frame.region == "whole")]
    return " ".join(
        filter(
            None,
            (
                "Dice of a segmentation network, trained on real images, when contrasts are replaced (×) by "
                "synthetic ones, over all prepared slices of a subject. Data: "
                f"{tables.data_words(profile)}; test subjects: {len(whole)}. "
                f"Profile {profile}. "
                "Mean ± standard deviation over the subjects that have the region (n). Bold: the better of MU-Diff "
                "and SynDiff. Which contrasts tasks A to F replace is our reading; the paper's text does not say it. "
                "Differences: paired over subjects, with 95 % interval.",
                "One subject has neither deviation nor interval." if len(whole) == 1 else "",
                _missing_words(profile),
            ),
        )
    )


def _missing_words(profile: str) -> str:
    missing = gaps(profile)
    runs = sorted({run for names in missing.values() for run in names})
    if not runs:
        return ""
    where = sorted({f"{task} {LABELS[method]}" for task, method in missing})
    return (
        f"NA ({', '.join(where)}): no synthetic test slices of {', '.join(runs)}; make them with "
        f"{command(profile)}."
    )


def _blocks(frame: pd.DataFrame) -> list[tuple[list[str], list[list[str]]]]:
    """Return headings and rows of texts: a block of Dice per region, and one of differences."""
    contrasts = datasets.dataset(segment.DATASET).contrasts
    methods = (REAL, *METHODS)
    blocks = []
    for region in segment.REGIONS:
        part = frame[frame.region == region].groupby(["task", "method"]).dice
        cells = {key: group.dropna() for key, group in part}
        n = max(map(len, cells.values()))
        heads = [
            f"{NAMES[region]} (n = {n})",
            *map(datasets.LABELS.get, contrasts),
            *map(LABELS.get, methods),
        ]
        rows = []
        for task, replaced in TASKS.items():
            means = {m: cells[task, m].mean() for m in METHODS[:2] if (task, m) in cells}
            best = [m for m in means if len(set(means.values())) == 2 and means[m] == max(means.values())]
            texts = ["" if (m == REAL) == bool(replaced) else _cell(cells.get((task, m))) for m in methods]
            texts = [f"**{t}**" if m in best else t for m, t in zip(methods, texts, strict=True)]
            rows.append([task, *("×" if c in replaced else "✓" for c in contrasts), *texts])
        blocks.append((heads, rows))
    return [*blocks, _differences_block(frame)]


def _cell(values: pd.Series | None) -> str:
    if values is None or values.empty:
        return "NA"
    return f"{values.mean():.3f} ± " + ("NA" if len(values) < 2 else f"{values.std():.3f}")


def _differences_block(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    found = {(row.task, row.first, row.second): row for row in differences(frame).itertuples()}
    heads = [NAMES["whole"], *(f"{LABELS[first]} − {LABELS[second]}" for first, second in PAIRS)]
    rows = []
    for task in [task for task, replaced in TASKS.items() if replaced]:
        rows.append([task, *(_difference(found.get((task, *pair))) for pair in PAIRS)])
    return heads, rows


def _difference(row: object | None) -> str:
    if row is None or math.isnan(row.difference):
        return "NA"
    limits = "" if math.isnan(row.low) else f" ({row.low:+.3f} to {row.high:+.3f})"
    return f"{row.difference:+.3f}{limits}".replace("-", "−")


def markdown(frame: pd.DataFrame, text: str) -> str:
    """Return the table as Markdown: one block per region, one of differences, `text` as its caption."""
    return tables.blocks_markdown(_blocks(frame), text)


def latex(frame: pd.DataFrame, text: str) -> str:
    """Return the table as LaTeX (packages amssymb, booktabs and graphicx), a tabular per block of `markdown`."""
    return tables.blocks_latex(_blocks(frame), text, align="c")


def write(frame: pd.DataFrame, path: Path | str, text: str) -> None:
    """Write the table as ``.csv`` (tidy: `COLUMNS`), ``.md`` and ``.tex`` with the caption `text`."""
    tables.write_files(frame[COLUMNS], path, markdown(frame, text), latex(frame, text))
