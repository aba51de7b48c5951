"""Pictures of cohorts, subjects and training that notebooks show."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff.data import datasets as tasks
from mudiff.plots import old_style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def cohorts(counts: pd.DataFrame, text: str) -> "Figure":
    """Draw subjects per split as bars beside the contrasts of each task.

    Parameters
    ----------
    counts : DataFrame
        One row per dataset name, columns train, val and test.
    text : str
        The caption.
    """
    datasets = [tasks.dataset(name) for name in counts.index]
    rows = [(dataset, target) for dataset in datasets for target in dataset.targets]
    contrasts = [c for c in tasks.LABELS if any(c in dataset.contrasts for dataset in datasets)]
    with style.style():
        figure = style.new_figure(7.2, 0.26 * len(rows) + 0.8)
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1), sharey=True)
        first = 0
        for dataset in datasets:
            middle = first + (len(dataset.targets) - 1) / 2
            _bar(left, middle, counts.loc[dataset.name], legend=first == 0)
            left.text(-0.03, middle, dataset.label, transform=left.get_yaxis_transform(), ha="right", va="center",
                      fontsize=9, weight="bold")  # fmt: skip
            first += len(dataset.targets)
            if first < len(rows):
                right.axhline(first - 0.5, color="0.7", lw=0.8)
        left.set(xlabel="subjects", ylim=(len(rows) - 0.5, -0.5), yticks=[])
        left.spines["left"].set_visible(False)
        left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
        for y, (dataset, target) in enumerate(rows):
            for x, contrast in enumerate(contrasts):
                mark, colour = _mark(dataset, target, contrast)
                right.text(x, y, mark, color=colour, ha="center", va="center", fontsize=11)
            right.text(-0.9, y, f"{tasks.LABELS[target]} task", ha="right", va="center")
        right.set(xlim=(-0.6, len(contrasts) - 0.4), xticks=range(len(contrasts)))
        right.set_xticklabels([tasks.LABELS[c] for c in contrasts])
        right.tick_params(length=0, labeltop=True, labelbottom=False)
        right.spines[:].set_visible(False)
        style.add_caption(figure, text)
    return figure


def _bar(axis: "Axes", y: float, counts: pd.Series, legend: bool) -> None:
    start = 0
    names = {"train": "training", "val": "validation", "test": "test"}
    for (split, name), colour in zip(names.items(), style.COLOURS, strict=False):
        count = int(counts[split])
        axis.barh(y, count, 0.9, left=start, color=colour, label=name if legend else None)
        start += count
    axis.text(start, y, "  " + " / ".join(str(int(counts[split])) for split in names), va="center")
    axis.margins(x=0.3)


def _mark(dataset: tasks.Dataset, target: str, contrast: str) -> tuple[str, str]:
    if contrast == target:
        return "✗", style.COLOURS[3]
    return ("✓", style.COLOURS[2]) if contrast in dataset.conditions(target) else ("–", "0.7")


def montage(contrasts: Mapping[str, np.ndarray], text: str, lesion: np.ndarray | None = None) -> "Figure":
    """Draw slices of one subject: contrasts as columns, slices as rows, the lesion's outline on request.

    Parameters
    ----------
    contrasts : mapping of str to array (Z, S, S)
        Contrast -> slices in [0, 1].
    text : str
        The caption.
    lesion : array (Z, S, S), optional
        Labels, above 0 inside.
    """
    count = len(next(iter(contrasts.values())))
    with style.style():
        figure = style.new_figure(1.7 * len(contrasts), 1.7 * count + 0.25)
        axes = figure.subplots(count, len(contrasts), squeeze=False)
        for column, (name, stack) in zip(axes.T, contrasts.items(), strict=True):
            column[0].set_title(tasks.LABELS[name])
            for z, axis in enumerate(column):
                style.show(axis, stack[z], name, "top" if axis is axes[0, 0] else "")
                if lesion is not None and (lesion[z] > 0).any():
                    axis.contour(lesion[z] > 0, levels=[0.5], colors=style.MARK, linewidths=0.8)
        style.add_caption(figure, f"{text} {style.ORIENTATION}")
    return figure


def normalisation_steps(
    raw: np.ndarray,
    steps: Mapping[str, np.ndarray],
    pictures: Mapping[str, np.ndarray],
    contrast: str,
    text: str,
) -> "Figure":
    """Draw histograms of a volume along the normalisation, and slices of its result.

    Parameters
    ----------
    raw : array
        Intensities as stored; voxels of exactly 0 are left out of all histograms.
    steps : mapping of str to array
        Name of a step -> its intensities, in order.
    pictures : mapping of str to array (H, W)
        Title -> slice in [0, 1].
    contrast : str
        Decides the grey window.
    text : str
        The caption.
    """
    histograms = {"raw": raw, **steps}
    width = max(len(histograms), len(pictures))
    with style.style():
        figure = style.new_figure(2.0 * width, 4.0)
        upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.2))
        axes = upper.subplots(1, len(histograms))
        for axis, (name, values) in zip(np.atleast_1d(axes), histograms.items(), strict=True):
            axis.hist(values[values != 0].ravel(), 80, color=style.COLOURS[0])
            axis.set(title=name, xlabel="intensity", yticks=[])
            axis.locator_params(axis="x", nbins=4)
        for axis, (name, image) in zip(
            np.atleast_1d(lower.subplots(1, len(pictures))), pictures.items(), strict=True
        ):
            style.show(axis, image, contrast)
            axis.set_title(name)
        style.add_caption(figure, text)
    return figure


def loss_curves(logs: Mapping[str, pd.DataFrame], text: str) -> "Figure":
    """Draw validation PSNR of all methods over the epochs, and the training losses of each in its own panel.

    Parameters
    ----------
    logs : mapping of str to DataFrame
        Method -> lines of ``log.jsonl``: epoch, ``loss/...``, and ``validation/psnr`` (NaN on other lines).
    text : str
        The caption.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    losses = {
        m: [c for c in log if c.startswith("loss/") and log[c].notna().any()] for m, log in logs.items()
    }
    shown = [method for method in logs if losses[method]]
    columns = min(3, 1 + len(shown))
    rows = -(-(1 + len(shown)) // columns)
    with style.style():
        figure = style.new_figure(3.2 * columns, 2.2 * rows)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for method, colour in style.colours(list(logs)).items():
            curve = logs[method].dropna(subset=["validation/psnr"])
            axes[0].plot(
                curve.epoch, curve["validation/psnr"], "o-", color=colour, ms=3, label=tasks.label(method)
            )
        axes[0].set(title="Validation", xlabel="epoch", ylabel="PSNR, masked (dB)")
        for axis, method in zip(axes[1:], shown, strict=False):
            for name, colour in zip(losses[method], style.COLOURS, strict=False):
                axis.plot(
                    "epoch",
                    name,
                    data=logs[method].dropna(subset=[name]),
                    color=colour,
                    lw=1.2,
                    label=name[5:],
                )
            axis.set(title=tasks.label(method), xlabel="epoch", ylabel="loss", yscale="log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(NullLocator())
        for axis in axes[: 1 + len(shown)]:
            axis.legend(fontsize=7, handlelength=1.2, loc="center left", bbox_to_anchor=(1, 0.5))
        for axis in axes[1 + len(shown) :]:
            axis.remove()
        style.add_caption(figure, text)
    return figure


def boxes(scores: pd.DataFrame, groups: pd.Series, metrics: Mapping[str, str], text: str) -> "Figure":
    """Draw box plots of scores: one panel per metric, groups along x, one colour per method.

    Boxes are the quartiles, whiskers reach 1.5 interquartile ranges, points are beyond. Undefined and
    infinite scores are left out. A group has the boxes of the methods that it has, around its name.

    Parameters
    ----------
    scores : DataFrame
        One row per slice or subject: method and a column per metric.
    groups : Series of str
        For each row the group along x.
    metrics : mapping of str to str
        Column -> label of the axis with its unit.
    text : str
        The caption.
    """
    import seaborn
    from matplotlib.patches import Patch

    frame = scores.replace([np.inf, -np.inf], np.nan).assign(group=groups)
    places, middles = _places(frame)
    frame = frame.assign(place=[places[key] for key in zip(frame.group, frame.method, strict=True)])
    palette = style.colours(style.ordered(frame.method))
    width = 0.2 * (max(places.values()) + 1) + 0.8
    columns = len(metrics) if width * len(metrics) < 9 else 1  # side by side where there is room
    rows = len(metrics) // columns
    with style.style():
        figure = style.new_figure(max(4.5, width * columns), 2.2 * rows + 0.4)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axis, (metric, label) in zip(axes, metrics.items(), strict=True):
            seaborn.boxplot(
                frame, x="place", y=metric, hue="method", hue_order=list(palette), palette=palette, ax=axis,
                native_scale=True, dodge=False, width=0.85, linewidth=0.8, fliersize=1.5, saturation=1, legend=False,
            )  # fmt: skip
            axis.set(xlabel="", ylabel=label, xticks=list(middles.values()), xticklabels=list(middles))
            axis.grid(axis="y", lw=0.4, color="0.85")
            axis.set_axisbelow(True)
        handles = [
            Patch(fc=colour, ec="0.15", lw=0.8, label=tasks.METHODS[m]) for m, colour in palette.items()
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4))
        style.add_caption(figure, text)
    return figure


def _places(frame: pd.DataFrame) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """Return where the box of each (group, method) stands, and the middle of each group."""
    places, middles, x = {}, {}, 0.0
    for group, part in frame.groupby("group", sort=False):
        methods = style.ordered(part.method)
        places |= {(group, method): x + i for i, method in enumerate(methods)}
        middles[group] = x + (len(methods) - 1) / 2
        x += len(methods) + 1.5
    return places, middles
