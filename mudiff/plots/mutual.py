"""Fig. 2c, and the colours of errors."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff.evaluation import tables
from mudiff.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

DIFFERENCE = 0.3  # of intensities, at which the colours of an error map end

FEATURES = {
    "f_i": "$f_{y_i}$ (Eq. 13)", "f_j": "$f_{y_{i+1}}$ (Eq. 13)",
    "f_ij": "$f_{(y_i,y_{i+1})}$ (Eq. 15)", "f_w": "$f^w$ (Eq. 17)",
}  # fmt: skip
GATES = {"z_a": "$z^a$ (Eq. 14)", "z_b": "$z^b$ (Eq. 16)"}
_LOSSES = {  # title -> the loss of a critic that guesses (1/3: one true image, two false), and log column -> label
    "Supervised (Eq. 22)": (None, {"supervised_1": "$L_s^1$", "supervised_2": "$L_s^2$"}),
    "Adversarial (Eq. 26)": (math.log(3), {"adversarial_1": "$L_c^1$", "adversarial_2": "$L_c^2$"}),
    "Mask (Eq. 29)": (None, {"mask": "$L_m$"}),
    "Critic (Eq. 27)": (math.log(3) + 2 * math.log(1.5), {"critic": "$L_{adv}$"}),
}


def fig2c(
    tau: Mapping[tuple[str, str], Mapping[str, np.ndarray]], log: pd.DataFrame,
    steps: Sequence[Mapping[str, np.ndarray]], truth: np.ndarray, brain: np.ndarray,
    target: str, shown: str, profile: str,
) -> "Figure":  # fmt: skip
    """Draw Fig. 2c: tau step by step, each loss term over training, and the averaged predictions of the T steps.

    `tau` is a pair of names -> maps (S, S) of `FEATURES` and `GATES`, means over the channels; `steps` have, from the
    first to the last, ``t`` (of the code), ``x_t`` and ``mean`` (of both predictions), in [0, 1] as `truth` is.
    """
    with style.style():
        heights = [1.05 * len(tau) + 0.5, 1.75, 2.9]
        figure = style.new_figure(7.2, sum(heights))
        upper, middle, lower = figure.subfigures(3, 1, height_ratios=heights)
        parts = {"Contrast-aware adapter, last step": upper, "Losses": middle, "Sampling": lower}
        for letter, (title, part) in zip("abc", parts.items(), strict=True):
            part.suptitle(f"{letter}  {title}", x=0.005, ha="left", fontsize=9, weight="bold")
        _draw_tau(upper, tau, brain)
        _draw_losses(middle, log)
        _steps(lower, steps, truth, brain, target)
        text = (
            f"{shown}. a: tau of $\\mathcal{{F}}_2$ at the last step for every pair of conditions, means over the "
            "channels, in the brain; all features have one scale around 0. b: each loss term over the training; "
            "dashed: a critic that guesses. c: what enters each step; below, the average of both predictions: its "
            "error at the first step, then its change from step to step; MAE: its mean absolute error in the brain. "
            f"Steps as the paper counts them. {style.ORIENTATION}"
        )
        style.caption(figure, text, tables.about(profile))
    return figure


def _draw_tau(figure: "SubFigure", tau: Mapping, brain: np.ndarray) -> None:
    axes = figure.subplots(len(tau), len(FEATURES) + len(GATES), squeeze=False)
    top = np.percentile(np.abs([maps[key][brain] for maps in tau.values() for key in FEATURES]), 99)
    limits = dict.fromkeys(FEATURES, (-top, top)) | dict.fromkeys(GATES, (0, 1))
    for row, (pair, maps) in zip(axes, tau.items(), strict=True):
        row[0].set_ylabel("i: {}\ni + 1: {}".format(*pair))
        for axis, key in zip(row, limits, strict=True):
            colours, (low, high) = "PuOr_r" if key in FEATURES else "cividis", limits[key]
            axis.imshow(np.where(brain, maps[key], np.nan), cmap=colours, vmin=low, vmax=high)
            style.bare(axis)
            style.crop(axis, style.square(brain))
    for axis, title in zip(axes[0], (FEATURES | GATES).values(), strict=True):
        axis.set_title(title, fontsize=8)
    bars = (("feature", "both"), ("gate (1: open)", "neither"))
    for group, (label, extend) in zip(np.split(axes, [len(FEATURES)], axis=1), bars, strict=True):
        options = {"shrink": 0.7, "pad": 0.02, "aspect": 24, "label": label, "extend": extend}
        figure.colorbar(group[0, 0].images[0], ax=list(group.ravel()), **options)


def _draw_losses(figure: "SubFigure", log: pd.DataFrame) -> None:
    axes = figure.subplots(1, len(_LOSSES))
    for axis, (title, (guess, terms)) in zip(axes, _LOSSES.items(), strict=True):
        shown = [name for name in terms if f"loss/{name}" in log]
        for name, colour, line in zip(shown, (style.COLOURS[0], "k"), ("-", ":"), strict=False):
            curve = log.dropna(subset=[f"loss/{name}"])
            axis.plot(curve.epoch, curve[f"loss/{name}"], line, color=colour, lw=1.2, label=terms[name])
        axis.set(xlabel="epoch", ylim=(0, 1.1 * max(axis.get_ylim()[1], guess or 0)))
        axis.set_title(title, fontsize=8)
        if guess:
            axis.axhline(guess, ls="--", lw=0.8, color="0.5", zorder=0, label="guessing")
        axis.locator_params(nbins=4)
        if shown:
            axis.legend(fontsize=7, handlelength=1.6, loc="center right" if guess is None else "lower right")
        else:
            axis.text(0.5, 0.4, "not in the log", transform=axis.transAxes, ha="center", color="0.45")
    axes[0].set_ylabel("loss")


def _steps(figure: "SubFigure", steps: Sequence, truth: np.ndarray, brain: np.ndarray, target: str) -> None:
    axes = figure.subplots(2, len(steps) + 1, squeeze=False)
    means = [step["mean"] for step in steps]
    changes = [after - before for before, after in pairwise(means)]
    reach = float(np.percentile(np.abs(changes)[:, brain], 99)) if changes else DIFFERENCE
    shown = [(means[0] - truth, DIFFERENCE), *((change, reach) for change in changes)]
    for column, step, (image, limit) in zip(axes.T, steps, shown, strict=False):
        t = step["t"] + 1
        column[0].imshow(step["x_t"], cmap="gray", vmin=-0.5, vmax=1.5)  # wider than an image: noise goes beyond
        style.bare(column[0])
        column[0].set_title(f"$x_{{{t}}}$", fontsize=8)
        draw_error(column[1], image, limit)
        column[1].set_title(f"t = {t}, MAE {np.abs((step['mean'] - truth)[brain]).mean():.3f}", fontsize=7)
    style.show(axes[0, -1], truth, target, "bottom")
    axes[0, -1].set_title("truth", fontsize=8)
    style.show(axes[1, -1], means[-1], target)
    axes[1, -1].set_title("$(x^{p_1}+x^{p_2})/2$, t = 1", fontsize=7)
    for axis in axes.ravel():
        style.crop(axis, style.square(brain))
    for group, label in ((axes[:, :1], "average − truth"), (axes[:, 1:-1], "average − average one step before")):
        if group.size:
            options = {"location": "bottom", "pad": 0.03, "extend": "both", "label": label}
            options |= {"aspect": 12} if label == "average − truth" else {"aspect": 24, "shrink": 0.6}
            bar = figure.colorbar(group[1, 0].images[0], ax=list(group.ravel()), **options)
            bar.ax.locator_params(nbins=4)


def draw_error(axis: "Axes", error: np.ndarray, limit: float = DIFFERENCE) -> "AxesImage":
    """Show a difference of intensities (S, S), with colours that end at `limit`."""
    style.bare(axis)
    return axis.imshow(error, cmap="RdBu_r", vmin=-limit, vmax=limit)
