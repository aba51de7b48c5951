"""Figs. 5a and 5b: the features that tau mixes, and the attentive masks."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from mudiff.data import datasets
from mudiff.evaluation import tables
from mudiff.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

VARIANTS = {"channel_mean": "channel mean", "convolution": "convolution"}  # of the mask -> in figures
MAPS = {"image": "image", "adapted": "adapted feature", "fused": "fused pair"}  # kind of a map -> in figures
_COLOURS = dict(zip(MAPS, ("0.35", style.COLOURS[0], style.COLOURS[1]), strict=True))


def limits(masks: np.ndarray) -> tuple[float, float]:
    """Return the range of colours for masks: around 0.5, the same up and down, at least 0.45 to 0.55."""
    reach = max(0.05, float(np.abs(masks - 0.5).max())) if np.size(masks) else 0.05
    return 0.5 - reach, 0.5 + reach


def mask(axis: "Axes", values: np.ndarray, brain: np.ndarray, scale: tuple[float, float]) -> "AxesImage":
    """Show a mask (S, S) in the brain, on a given scale, with the range that it has written below."""
    shown = axis.imshow(np.where(brain, values, np.nan), cmap="viridis", vmin=scale[0], vmax=scale[1])
    style.bare(axis)
    if brain.any():
        axis.set_xlabel(f"{values[brain].min():.3f} to {values[brain].max():.3f}", fontsize=7, labelpad=2)
    return shown


def outline(axis: "Axes", region: np.ndarray) -> None:
    """Draw the rim of a region, if there is one."""
    if region.any() and not region.all():
        axis.contour(region, levels=[0.5], colors=style.MARK, linewidths=0.9)


def fig5a(
    maps: Mapping[str, Mapping[str, np.ndarray]], lesion: np.ndarray, brain: np.ndarray,
    ratios: pd.Series, shown: str, profile: str,
) -> "Figure":  # fmt: skip
    """Draw Fig. 5a: what the contrast-aware adapter takes from each condition, and how much of it in the lesion.

    `maps` is kind -> condition -> map (S, S) of the slice that `shown` names, images in [0, 1]; `ratios` lesion over
    elsewhere, by name (kind), of (condition) and subject.
    """
    conditions = list(maps["image"])
    with style.style():
        figure = style.new_figure(1.3 * len(conditions) + 3.3, 1.3 * len(maps) + 0.3)
        left, right = figure.subfigures(1, 2, width_ratios=(1.3 * len(conditions) + 0.7, 2.6))
        axes = left.subplots(len(maps), len(conditions), squeeze=False)
        # The brain's rim would set the scale.
        middle = ndimage.binary_erosion(brain & ~lesion, iterations=2) | (brain & lesion)
        inside = [values[middle] for kind in maps if kind != "image" for values in maps[kind].values()]
        high = float(np.percentile(inside, 99)) if middle.any() else 1.0
        for row, (kind, group) in zip(axes, maps.items(), strict=True):
            row[0].set_ylabel(MAPS[kind])
            _maps(row, group, high if kind != "image" else None, lesion, brain)
        options = {"shrink": 0.6, "pad": 0.01, "extend": "max", "label": "feature (1: outside the lesion)"}
        left.colorbar(axes[-1, 0].images[0], ax=list(axes[1:].ravel()), **options)
        for axis, name in zip(axes[0], conditions, strict=True):
            axis.set_title(datasets.LABELS[name])
        _ratios(right.subplots(), ratios, conditions)
        text = (
            f"Features of the contrast-aware adapter. Left: {shown}, lesion outlined. Adapted feature: mean "
            "magnitude over the channels of $f_y$ (Eq. 13); fused pair: of tau's output for the pair that begins "
            "with the condition (Eq. 17); each divided by its mean in the brain outside the lesion. Right: lesion "
            "over elsewhere, a small mark per test subject and the geometric mean; the image is the control."
        )
        style.caption(figure, text, tables.about(profile))
    return figure


def _maps(row: Sequence["Axes"], group: Mapping, high: float | None, lesion: np.ndarray, brain: np.ndarray) -> None:
    """Draw one kind of map for all conditions: features from 0 to `high`, images (None) each in its window."""
    for axis, (condition, values) in zip(row, group.items(), strict=False):
        if high is None:
            style.show(axis, values, condition, "bottom" if axis is row[0] else "")
        else:
            axis.imshow(np.where(brain, values, np.nan), cmap="viridis", vmin=0, vmax=high)
            style.bare(axis)
        outline(axis, lesion)
        style.crop(axis, style.square(brain))
    for axis in row[len(group) :]:
        style.bare(axis)
        axis.text(0.5, 0.5, "begins\nno pair", transform=axis.transAxes, ha="center", va="center")


def _ratios(axis: "Axes", ratios: pd.Series, conditions: Sequence[str]) -> None:
    """Draw lesion over elsewhere: a group per condition, a row per kind."""
    values, colours = {}, {}
    for condition, (kind, title) in product(conditions, MAPS.items()):
        found = ratios[[key[:2] == (kind, condition) for key in ratios.index]].dropna()
        if len(found):
            name = f"{datasets.LABELS[condition]}, {title}"
            values[name], colours[name] = np.log(found.to_numpy()), _COLOURS[kind]
    _dots(axis, values, colours, "lesion / elsewhere")  # of logarithms: their mean is the geometric one
    low, high = np.exp(axis.get_xlim())
    ticks = [tick for tick in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10) if values and low <= tick <= high]
    axis.set_xticks(np.log(ticks), ticks)


def _dots(axis: "Axes", values: Mapping, colours: Mapping[str, str], label: str) -> None:
    if not values:
        style.bare(axis)
        axis.text(0.5, 0.5, "no lesion in the test set", transform=axis.transAxes, ha="center")
        return
    style.dots(axis, values, colours)
    axis.axvline(0, color="0.7", lw=0.8, zorder=0)
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel(label)


def fig5b(
    masks: Mapping[int, Mapping[tuple[int, str], np.ndarray]], images: Mapping[int, np.ndarray],
    lesion: np.ndarray, brain: np.ndarray, changes: pd.DataFrame, target: str, shown: str, profile: str,
) -> "Figure":  # fmt: skip
    """Draw Fig. 5b: the attentive masks of both networks, and where in the brain they are high.

    `masks` is step -> network and variant -> mask (S, S) of the slice that `shown` names, `images` step -> x^{p2} in
    [0, 1]; `changes` lesion and boundary minus elsewhere, by name (variant or draw), of (network) and subject.
    """
    columns = 1 + len(next(iter(masks.values())))
    with style.style():
        figure = style.new_figure(max(1.25 * columns + 0.95, 6.4), 1.45 * len(masks) + 2.2)
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.45 * len(masks) + 0.2, 2.0))
        axes = upper.subplots(len(masks), columns, squeeze=False)
        scale = limits(np.array([m[brain] for group in masks.values() for m in group.values()]))
        for row, (t, group) in zip(axes, masks.items(), strict=True):
            row[0].set_ylabel(f"t = {t}")
            style.show(row[0], images[t], target, "top" if row is axes[0] else "")
            for axis, values in zip(row[1:], group.values(), strict=True):
                picture = mask(axis, values, brain, scale)
            for axis in row:
                outline(axis, lesion)
                style.crop(axis, style.square(brain))
        axes[0, 0].set_title("$x^{p_2}$")
        for axis, (network, variant) in zip(axes[0, 1:], group, strict=True):
            axis.set_title(f"$M_{network}$, {VARIANTS[variant]}", fontsize=8)
        upper.colorbar(picture, ax=list(axes[:, 1:].ravel()), shrink=0.7, pad=0.01, label="M")
        zone_axis, draw_axis = lower.subplots(1, 2, width_ratios=(1.25, 1))
        _zones(zone_axis, changes)
        _draws(draw_axis, changes)
        text = (
            f"Attentive masks (Eq. 28) in the brain: {shown}, lesion outlined; below each the range of its values. t "
            "= 0 is the last step. Channel mean: Eq. 28 as printed; convolution: the run's own (register C-1). "
            "Lower left: zone minus elsewhere, a small mark per test subject and the mean. Lower right: "
            "convolutions drawn anew, mean over subjects, networks and steps; lines: the run's own masks."
        )
        style.caption(figure, text, tables.about(profile))
    return figure


def _zones(axis: "Axes", changes: pd.DataFrame) -> None:
    rows, colours = {}, {}
    for (network, variant), part in changes.groupby(["of", "name"]):
        for zone, colour in (("lesion", style.COLOURS[3]), ("boundary", style.COLOURS[0])):
            if variant in VARIANTS and part[zone].notna().any():
                name = f"$M_{network}$, {VARIANTS[variant]}: {zone}"
                rows[name], colours[name] = part[zone], colour
    _dots(axis, rows, colours, "M, zone − elsewhere")


def _draws(axis: "Axes", changes: pd.DataFrame) -> None:
    """Draw the distribution over untrained convolutions, and where the run's own masks lie in it."""
    means = changes["lesion"].groupby("name", sort=False).mean().dropna()
    if means.empty:
        style.bare(axis)
        return
    drawn = means[~means.index.isin(list(VARIANTS))]
    axis.hist(drawn, 15, color="0.75")
    for name, colour in zip(VARIANTS, (style.COLOURS[2], style.COLOURS[4]), strict=True):
        if name in means:
            axis.axvline(means[name], color=colour, lw=1.8, label=VARIANTS[name])
    axis.axvline(0, color="0.3", lw=0.8)
    axis.set(xlabel="M, lesion − elsewhere", ylabel=f"draws (of {len(drawn)})")
    axis.locator_params(axis="x", nbins=5)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=7)
