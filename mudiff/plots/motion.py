"""Fig. 4a and 4b: syntheses with and without motion in FLAIR, and what the motion costs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff.data import datasets, motion
from mudiff.evaluation import metrics, scores
from mudiff.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec


def fig4a(shown: Mapping[float, Mapping[str, np.ndarray]], truth: np.ndarray, brain: np.ndarray) -> "Figure":
    """Draw Fig. 4a: above the errors without motion, below what motion changes in FLAIR and in the errors.

    `shown` maps strengths, 0 and others, to ``flair`` and each method, slices (S, S) in [0, 1]; so is `truth`, the
    true T1CE. Differences are shown where `brain` (S, S) is.
    """
    clean, *moved = (images for _, images in sorted(shown.items()))
    methods = [name for name in clean if name != "flair"]
    errors = [np.abs(clean[m] - truth) for m in methods]
    changes = [np.abs(images[m] - truth) - e for images in moved for m, e in zip(methods, errors, strict=True)]
    with style.style():
        figure = style.new_figure(2.3 * (1 + len(methods)) + 0.3, 1.36 * len(shown) + 1.15)
        heights = [1, 0.06] + ([1] * len(moved) + [0.06] if moved else [])  # low rows hold bars of colours
        grid = figure.add_gridspec(len(heights), 2 + 2 * len(methods), height_ratios=heights)
        rows = [row for row, height in enumerate(heights) if height == 1]
        axes = np.array([[figure.add_subplot(grid[row, k]) for k in range(grid.ncols)] for row in rows])
        for line, (strength, images) in zip(axes, sorted(shown.items()), strict=True):
            line[0].set_ylabel(f"{motion.name(strength) if strength else 'no'} motion")
            for axis, (name, image) in zip(line[::2], images.items(), strict=True):
                style.show(axis, image, "flair" if name == "flair" else "t1ce", "top" if name == "flair" else "")
                if name != "flair":
                    psnr = metrics.masked_protocol(truth, image, brain)["psnr"]
                    axis.set_xlabel(f"{psnr:.2f} dB", fontsize=7, labelpad=2)
        style.show(axes[0, 1], truth, "t1ce")
        _titles(axes[0], methods, "true T1CE", "error")
        _maps(axes[0, 3::2], errors, brain, grid[1, 3:], "absolute error")
        if moved:
            _titles(axes[1], methods, "change of FLAIR", "change of error")
            flair = [images["flair"] - clean["flair"] for images in moved]
            _maps(axes[1:, 1], flair, brain, grid[-1, :2], "FLAIR − FLAIR without motion")
            _maps(axes[1:, 3::2], changes, brain, grid[-1, 3:], "error − error without motion")
        for axis in axes.flat:
            style.crop(axis, style.square(brain))
    return figure


def _titles(line: np.ndarray, methods: Sequence[str], second: str, last: str) -> None:
    heads = ["FLAIR", second, *(head for m in methods for head in (datasets.METHODS[m], last))]
    for axis, head in zip(line, heads, strict=True):
        axis.set_title(head, fontsize=8)


def _maps(axes: np.ndarray, maps: Sequence[np.ndarray], brain: np.ndarray, place: "SubplotSpec", label: str) -> None:
    """Draw errors or differences up to the 99th percentile, and at `place` a bar of colours, open at its ends."""
    signed, top = label != "absolute error", float(np.percentile(np.abs(maps)[:, brain], 99))
    for axis, image in zip(axes.flat, maps, strict=True):
        colours, low = ("RdBu_r", -top) if signed else ("viridis", 0)
        drawn = axis.imshow(np.where(brain, image, np.nan), cmap=colours, vmin=low, vmax=top)
        style.bare(axis)
    figure = axes.flat[0].figure
    options = {"orientation": "horizontal", "label": label, "extend": "both" if signed else "max"}
    figure.colorbar(drawn, cax=figure.add_subplot(place), **options)


def fig4b(loss: pd.DataFrame, means: pd.DataFrame, limits: Mapping[str, float]) -> "Figure":
    """Draw Fig. 4b: what motion costs each subject, the mean with its 95 % interval, and up to where a score is kept.

    `loss` has index region, metric, subject, and columns method, strength; positive is worse with motion. `means` has
    index region, metric, method, strength, and columns difference, low, high. `limits` (metric -> loss) are dotted.
    """
    regions, methods = list(loss.index.unique("region")), style.ordered(loss.columns.unique("method"))
    at = {s: motion.scale(s) for s in (0, *loss.columns.unique("strength"))}
    with style.style():
        figure = style.new_figure(7.2, 2.0 * len(regions) + 0.4)
        axes = figure.subplots(len(regions), len(limits), squeeze=False, sharex=True, sharey="col")
        for axis, (region, metric) in zip(axes.flat, [(r, m) for r in regions for m in limits], strict=True):
            for number, method in enumerate(methods):
                colour = style.METHOD_COLOURS[method]
                lines = loss.loc[region, metric][method].T
                x = lines.index.map(at) + 0.25 * (number - (len(methods) - 1) / 2)
                dashes = "-" if method == "mudiff" else (0, (3, 1.5))  # two methods may both be blue
                axis.plot([0, *x], np.vstack([0 * lines.iloc[:1], lines]), color=colour, lw=0.7, alpha=0.5, ls=dashes)
                rows = means.loc[region, metric, method]
                reach = np.nan_to_num(np.abs(rows[["low", "high"]].T - rows.difference).to_numpy(float))
                marks = {"marker": "osD^vPX*"[number], "ms": 4.5, "lw": 1.6, "capsize": 2.5, "color": colour}
                axis.errorbar(x, rows.difference, reach, label=datasets.METHODS[method], ls=dashes, **marks)
            axis.axhline(0, color="0.4", lw=0.8, zorder=0)
            axis.axhline(limits[metric], color="0.4", lw=0.8, ls=":", zorder=0)
            axis.set_ylabel(f"{'rise' if metric == 'mae' else 'loss'} of {style.AXES[metric]}")
        for line, region in zip(axes, regions, strict=True):
            line[0].set_title(scores.REGIONS[region].capitalize(), loc="left", weight="bold")
        for axis in axes[-1]:
            axis.set_xticks(list(at.values()), [f"{x:g}" for x in at.values()])
            axis.set_xlabel("motion in FLAIR (° and mm)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
    return figure
