"""The attentive masks, and what is drawn of lesions."""

from typing import TYPE_CHECKING

import numpy as np

from mudiff.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
