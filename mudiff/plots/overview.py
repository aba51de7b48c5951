"""Fig. 1a: the cohorts and their tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from mudiff.data import datasets
from mudiff.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def fig1a(counts: pd.DataFrame, tasks: Sequence[tuple[str, str]]) -> "Figure":
    """Draw subjects per split (`counts`, a row per dataset) as bars beside the contrasts of (dataset, target)."""
    tasks = [task for name in counts.index for task in tasks if task[0] == name]
    contrasts = [c for c in datasets.LABELS if any(c in datasets.dataset(d).contrasts for d in counts.index)]
    with style.style():
        figure = style.new_figure(7.0, 0.26 * len(tasks) + 0.6)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1), sharey=True)
        middles = {}
        for name in counts.index:
            rows = [y for y, task in enumerate(tasks) if task[0] == name]
            middle = middles[datasets.dataset(name).label] = sum(rows) / len(rows)
            _bar(left, middle, counts.loc[name], len(rows))
            for axis in (left, right):
                axis.axhline(rows[-1] + 0.5, color="0.85", lw=0.8)
        left.set(xlabel="subjects", ylim=(len(tasks) - 0.5, -0.5))
        left.set_yticks(list(middles.values()), list(middles), fontsize=9, weight="bold")
        left.tick_params(axis="y", length=0)
        handles, labels = left.get_legend_handles_labels()
        left.legend(handles[:3], labels[:3], loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
        for y, (name, target) in enumerate(tasks):
            right.text(-0.7, y, datasets.LABELS[target], ha="right", va="center")
            for x, contrast in enumerate(contrasts):
                mark, colour = _mark(name, target, contrast)
                right.text(x, y, mark, color=colour, ha="center", va="center", fontsize=11)
        right.set_xlim(-1.6, len(contrasts) - 0.4)
        right.set_xticks(range(len(contrasts)), [datasets.LABELS[c] for c in contrasts])
        right.tick_params(length=0, labeltop=True, labelbottom=False, labelleft=False)
        right.spines[:].set_visible(False)
    return figure


def _bar(axis: "Axes", y: float, counts: pd.Series, height: int) -> None:
    start = 0
    for (split, label), colour in zip(_SPLITS.items(), style.COLOURS, strict=False):
        axis.barh(y, counts[split], min(0.9, 0.6 * height), left=start, color=colour, label=label)
        start += counts[split]
    axis.text(start, y, "  " + " / ".join(str(counts[split]) for split in _SPLITS), va="center")
    axis.margins(x=0.35)


def _mark(name: str, target: str, contrast: str) -> tuple[str, str]:
    if contrast == target:
        return "✗", style.COLOURS[3]
    known = contrast in datasets.dataset(name).conditions(target)
    return ("✓", style.COLOURS[2]) if known else ("–", "0.7")
