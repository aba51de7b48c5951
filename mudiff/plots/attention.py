"""The attentive masks, and what is drawn of lesions."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff.data import datasets
from mudiff.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

VARIANTS = {"channel_mean": "channel mean", "convolution": "convolution"}  # of the mask -> in figures


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


def contribution(frame: pd.DataFrame) -> "Figure":
    """Draw `Explorer.contribution`: a bar per condition and region, the mean over the draws, with their range."""
    import seaborn

    value = "lost" if frame.lost.notna().any() else "change"
    words = {"lost": "PSNR lost without it (dB)", "change": "mean |change| without it (part of the range)"}
    with style.style():
        figure = style.new_figure(4.6, 2.4)
        colours = [style.COLOURS[k] for k in (0, 3)][: frame.region.nunique()]
        data = frame.assign(condition=frame.condition.map(datasets.LABELS))
        options = {"errorbar": ("pi", 100), "capsize": 0.2, "palette": colours, "ax": figure.subplots()}
        seaborn.barplot(data, x="condition", y=value, hue="region", **options).set(xlabel="", ylabel=words[value])
    figure.set_label(
        f"Each condition left out in turn: mean and range over {frame.draw.nunique()} draws of the noise."
    )
    return figure
