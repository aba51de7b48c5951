"""The figures of mutual learning: Figs. 2b, 2c, 5c and 5d."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff.data import datasets
from mudiff.evaluation import cka, statistics, tables
from mudiff.evaluation.scores import REGIONS
from mudiff.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

NAMES = {"f1": r"$\mathcal{F}_1$", "f2": r"$\mathcal{F}_2$", "mutual": "mutual"}  # prediction -> in figures
ANNOTATED = 12  # layers of a heat map up to which its values can be read as numbers
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


def matrix(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    """Return the CKA values of a part at one step: layers of F1 as rows, of F2 as columns, in their order."""
    chosen = frame[frame.part == part]
    return chosen.pivot(index="f1", columns="f2", values="cka").loc[chosen.f1.unique(), chosen.f2.unique()]


def fig2b(frame: pd.DataFrame, untrained: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 2b: CKA of both encoders and of both decoders at one step (`compare_steps`); below, counterparts."""
    parts = {part: matrix(frame, part) for part in ("encoder", "decoder")}
    t, slices = frame[["t", "slices"]].iloc[0]
    with style.style():
        figure = style.new_figure(7.2, 5.25)
        upper, lower = figure.subfigures(2, 1, height_ratios=(3.55, 1.7))
        axes = upper.subplots(1, 2)
        for axis, (part, values) in zip(axes, parts.items(), strict=True):
            image = _heat_map(axis, values)
            axis.set(title=part.capitalize(), xlabel=f"layers of {NAMES['f2']}", ylabel=f"layers of {NAMES['f1']}")
        upper.colorbar(image, ax=axes, label="CKA", shrink=0.8, pad=0.01)
        axis = lower.subplots()
        for name, values, mark in (("trained", frame, "o-"), ("untrained", untrained, "o:")):
            line, colour = values[values.f1 == values.f2], "0.5" if name == "untrained" else style.COLOURS[0]
            axis.plot(range(len(line)), line.cka, mark, ms=3, lw=1.2, label=name, color=colour)
        names = line.f1.replace({"f_c": "$f_c$", "x^p": "$x^p$"})
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7 if len(names) < 25 else 6)
        for x in np.flatnonzero(line.part.to_numpy()[1:] != line.part.to_numpy()[:-1]) + 0.5:
            axis.axvline(x, color="0.8", lw=0.8, zorder=0)
        axis.set(ylabel="CKA of counterparts", ylim=(min(0, axis.get_ylim()[0]), 1.03))
        axis.legend(ncols=2, loc="lower right")
        text = (
            f"CKA between the layers of {NAMES['f1']} and {NAMES['f2']} (Eq. 19): encoders with the middle, and "
            "decoders, in the order of the computation; boxes mark counterparts. enc a.b, dec a.b: block b of level "
            "a; down, up: the way to the next level; mid: what lies between. Below: counterparts from the features "
            "$f_c$ that enter to the prediction $x^p$, and the same before training. Both networks get the same "
            f"$x_t$, conditions, t and z; step t = {t} of the code, {t + 1} of the paper. torch-cka, unbiased, "
            f"{slices} test slices in minibatches of {min(cka.BATCH, slices)}; values below 0 have the colour of 0, "
            "and below 32 slices all are close to noise."
        )
        style.caption(figure, text, tables.about(profile))
    return figure


def _heat_map(axis: "Axes", values: pd.DataFrame) -> "AxesImage":
    from matplotlib.patches import Rectangle

    image = axis.imshow(values, cmap="viridis", vmin=0, vmax=1)
    readable = len(values) <= ANNOTATED
    axis.set_xticks(range(values.shape[1]), values.columns, rotation=90)
    axis.set_yticks(range(len(values)), values.index)
    axis.tick_params(length=0, labelsize=7 if readable else 6)
    axis.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(values) if readable else ():
        colour = "w" if value < 0.45 else "k"  # viridis is dark below
        axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    for (colour, width), k in product((("k", 2.0), ("w", 1.0)), range(len(values))):  # seen on light and dark
        axis.add_patch(Rectangle((k - 0.5, k - 0.5), 1, 1, fill=False, ec=colour, lw=width))
    return image


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
            f"{shown}. a: tau of {NAMES['f2']} at the last step for every pair of conditions, means over the "
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


def fig5c(rows: Sequence[tuple[str, Sequence[np.ndarray], style.Square]], target: str, profile: str) -> "Figure":
    """Draw Fig. 5c: the predictions of both networks and the mutual one beside the truth, with their errors.

    `rows` are a label; truth, x^{p1}, x^{p2} and mutual, (S, S) in [0, 1]; and what is shown of them.
    """
    titles = ["truth", "$x^{p_1}$", "$x^{p_2}$", "mutual"]
    titles += [f"{name} − truth" for name in titles[1:]]
    with style.style():
        figure = style.new_figure(7.2, 0.9 * len(rows) + 0.25)
        axes = figure.subplots(len(rows), 7, squeeze=False)
        for row, (label, images, view) in zip(axes, rows, strict=True):
            for axis, image in zip(row, images, strict=False):
                style.show(axis, image, target, "top" if axis is axes[0, 0] else "")
            for axis, image in zip(row[4:], images[1:], strict=True):
                errors = draw_error(axis, image - images[0])
            for axis in row:
                style.crop(axis, view)
            row[0].set_ylabel(label, fontsize=6)
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title, fontsize=8)
        figure.colorbar(errors, ax=list(axes[:, -1]), shrink=0.7, pad=0.03, label="difference", extend="both")
        text = (
            f"Predictions of {NAMES['f1']} and {NAMES['f2']} at the last step (t = 1 of the paper) of one "
            f"trajectory, their average, the result (Eq. 31), and the truth: {datasets.LABELS[target]}, the test "
            "slice with the largest lesion (the middle one of subjects without), and the lesion enlarged. "
            f"Differences of normalised intensities. {style.ORIENTATION}"
        )
        style.caption(figure, text, tables.about(profile))
    return figure


def fig5d(scores: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 5d: how much better the mutual prediction is than each network's, from `analyses.mutual.scores`."""
    regions = [region for region, part in scores.groupby("region") if part.mae.notna().any()]
    with style.style():
        figure = style.new_figure(7.2, 1.25 * len(regions))
        axes = figure.subplots(len(regions), 3, squeeze=False, sharey=True)
        for row, region in zip(axes, regions, strict=True):
            row[0].set_title(REGIONS[region].capitalize(), loc="left")
            wide = scores[scores.region == region].pivot(index="subject", columns="prediction")
            for axis, (metric, sign) in zip(row, statistics.SIGN.items(), strict=True):
                q = sign * wide[metric].dropna()
                found = {f"against {NAMES[name]}": q["mutual"] - q[name] for name in ("f1", "f2")}
                style.dots(axis, found)
                style.intervals(axis, pd.DataFrame([statistics.paired(values) for values in found.values()]))
                axis.tick_params(axis="y", length=0)
                axis.locator_params(axis="x", nbins=4)
        for axis, (metric, sign) in zip(axes[-1], statistics.SIGN.items(), strict=True):
            axis.set_xlabel(f"{'gain' if sign > 0 else 'fall'} of {style.AXES[metric]}")
        text = (
            "How much better the mutual prediction is than that of each network, per subject (small marks), mean and "
            f"95 % interval (paired t, {scores.subject.nunique()} test subjects; none for one subject): right of 0 "
            "the mutual one is better. All three come from one trajectory, which both networks steered. Protocol "
            f"masked.{'' if 'lesion' in regions else ' No test subject has a lesion.'}"
        )
        style.caption(figure, text, tables.about(profile))
    return figure
