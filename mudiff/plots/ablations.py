"""Fig. 5g and 5h: scores of the ablations; and the picture of several samples of one slice."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def components(frame: pd.DataFrame, names: Mapping[str, str]) -> "Figure":
    """Draw scores of variants: small marks are subjects, large ones means, and a line marks the mean of "full".

    Parameters
    ----------
    frame : DataFrame
        Columns variant, psnr, ssim, mae, one row per variant and subject.
    names : mapping of str to str
        Variant -> name of its row, from the top.
    """
    with style.style():
        figure = style.new_figure(7.6, 0.3 * len(names) + 0.6)
        axes = figure.subplots(1, len(style.AXES), sharey=True)
        for axis, (metric, label) in zip(axes, style.AXES.items(), strict=True):
            style.dots(axis, {name: frame.loc[frame.variant == v, metric] for v, name in names.items()})
            axis.axvline(frame.loc[frame.variant == "full", metric].mean(), color="0.7", lw=0.8, zorder=0)
            axis.set_xlabel(label)
        for axis in axes[1:]:
            axis.tick_params(axis="y", length=0)
    return figure


def spread(
    samples: np.ndarray,
    truth: np.ndarray,
    brain: np.ndarray,
    lesion: np.ndarray,
    target: str,
    classes: pd.DataFrame,
) -> "Figure":
    """Draw one slice: truth, a sample, mean, its error and the samples' deviation; and the calibration of all slices.

    Samples (N, S, S), truth, brain and lesion (S, S) are of the slice; `classes` from `ablations.calibration`.
    """
    mean, deviation = samples.mean(axis=0), samples.std(axis=0, ddof=1)
    with style.style():
        figure = style.new_figure(9.6, 2.2)
        axes = figure.subplots(1, 6, width_ratios=(1, 1, 1, 1, 1, 1.3))
        grey = {"truth": truth, "one sample": samples[0], "mean": mean}
        for axis, (name, image) in zip(axes[:3], grey.items(), strict=True):
            style.show(axis, image, target)
            axis.set_title(name)
        for axis, (name, image) in zip(
            axes[3:5], {"error of mean": np.abs(mean - truth), "SD": deviation}.items(), strict=True
        ):
            style.bare(axis)
            shown = axis.imshow(np.where(brain, image, np.nan), cmap="viridis", vmin=0)
            axis.set_title(name)
            figure.colorbar(shown, ax=axis, location="bottom", shrink=0.9, pad=0.02)
        for axis in axes[:5]:
            style.crop(axis, style.square(brain))
            if lesion.any():
                axis.contour(lesion, levels=[0.5], colors=style.MARK, linewidths=0.7)
        axes[5].plot(classes.sd, classes.error, "o-", color=style.COLOURS[0], ms=3, label="found")
        axes[5].plot(classes.sd, classes.expected, "--", color="0.4", lw=1, label="calibrated")
        axes[5].set(xlabel="SD of the samples", ylabel="error of their mean (RMS)", xlim=(0, None), ylim=(0, None))
        axes[5].legend()
    return figure
