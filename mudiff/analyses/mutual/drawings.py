"""The figures of the mutual learning: Figs. 2b, 2c, 5c and 5d, and the control of Fig. 2b."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mudiff.analyses.mutual.predictions import PREDICTIONS, collect, conditions_of, trace
from mudiff.analyses.mutual.similarity import diagonal, matrix
from mudiff.analyses.mutual.tau import tau_steps
from mudiff.analyses.mutual.trained import Trained
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import cka, metrics
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation import old_tables as tables
from mudiff.plots import old_style as plots
from mudiff.synthesis import sample
from mudiff.training import runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

ANNOTATED = 12
"""Layers of a heat map up to which its values can be read as numbers."""

DIFFERENCE = 0.3
"""Difference of intensities at which the colours of a difference map end."""

_F1, _F2 = PREDICTIONS["f1"], PREDICTIONS["f2"]
_TAU = {
    "f_i": "$f_{y_i}$ (Eq. 13)",
    "f_j": "$f_{y_{i+1}}$ (Eq. 13)",
    "z_a": "$z^a$ (Eq. 14)",
    "f_ij": "$f_{(y_i,y_{i+1})}$ (Eq. 15)",
    "z_b": "$z^b$ (Eq. 16)",
    "fused": "$f^w$ (Eq. 17)",
}
_LOSSES = {  # title -> column of the log -> label
    "Supervised (Eq. 22)": {"supervised_1": "$L_s^1$", "supervised_2": "$L_s^2$"},
    "Adversarial (Eq. 26)": {"adversarial_1": "$L_c^1$", "adversarial_2": "$L_c^2$"},
    "Mask (Eq. 29)": {"mask": "$L_m$"},
    "Critic (Eq. 27)": {"critic": "$L_{adv}$"},
}
_COLOURS = (plots.COLOURS[4], plots.COLOURS[2], plots.COLOURS[0])


def _about(profile: str) -> str:
    return f"Data: {tables.data_words(profile)}; profile {profile}."


# Fig. 2b


def fig2b(frame: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 2b: CKA between all layers of both encoders, and of both decoders.

    Parameters
    ----------
    frame : DataFrame
        From `mudiff.analyses.mutual.compare`, one step.
    profile : str
        Name of the profile.

    Raises
    ------
    MudiffError
        If there are no values.
    """
    if frame.empty:
        raise MudiffError("Fig. 2b: no CKA values of this step; choose one of the run's steps, 0 to T - 1.")
    parts = {part: matrix(frame, part) for part in ("encoder", "decoder")}
    side = max(2.6, 0.36 * min(ANNOTATED, max(map(len, parts.values()))))  # inches
    t, slices = frame[["t", "slices"]].iloc[0]
    with plots.style():
        figure = plots.new_figure(2 * side + 2.2, side + 1.2)
        axes = figure.subplots(1, 2)
        for axis, (part, values) in zip(axes, parts.items(), strict=True):
            image = axis.imshow(values, cmap="viridis", vmin=0, vmax=1)
            axis.set_xticks(range(values.shape[1]), values.columns, rotation=90)
            axis.set_yticks(range(len(values)), values.index)
            axis.tick_params(length=0, labelsize=7 if len(values) <= ANNOTATED else 5)
            axis.set(title=part.capitalize(), xlabel=f"layers of {_F2}", ylabel=f"layers of {_F1}")
            axis.spines[:].set_visible(False)
            if len(values) <= ANNOTATED:
                _write_values(axis, values.to_numpy())
        figure.colorbar(image, ax=axes, label="CKA", shrink=0.8, pad=0.01)
        note = _about(profile)
        plots.add_caption(
            figure,
            f"CKA between the layers of {_F1} and {_F2} (Eq. 19), encoders with the middle and decoders apart, in "
            "the order of the computation. enc a.b: block b of level a; down, up: the way to the next level; mid: "
            f"what lies between. Both networks have the same $x_t$, conditions, t and z; step t = {t} of the code, "
            f"{t + 1} of the paper. torch-cka, unbiased, {slices} test slices in minibatches of "
            f"{min(cka.BATCH, slices)}; values below 0 have the colour of 0. {note}",
        )
    return figure


def _write_values(axis: "Axes", values: np.ndarray) -> None:
    for (i, j), value in np.ndenumerate(values):
        colour = "w" if value < 0.6 else "k"  # viridis is dark below
        axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=5.5, color=colour)


def depth(frames: Mapping[str, pd.DataFrame], profile: str) -> "Figure":
    """Draw CKA of each layer with its counterpart along the network: a panel per title, a line per step.

    Parameters
    ----------
    frames : mapping of str to DataFrame
        Title -> from `mudiff.analyses.mutual.compare`, any steps.
    profile : str
        Name of the profile.
    """
    columns = min(2, len(frames))
    rows = -(-len(frames) // columns)
    with plots.style():
        figure = plots.new_figure(3.8 * columns, 2.3 * rows + 0.3)
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, (title, frame) in zip(axes.ravel(), frames.items(), strict=False):
            for t, line in diagonal(frame).groupby("t"):
                colour = plots.COLOURS[t % len(plots.COLOURS)]
                axis.plot(range(len(line)), line.cka, "o-", ms=3, lw=1.2, color=colour, label=f"t = {t}")
            names = line.f1.str.replace("f_c", "$f_c$").str.replace("x^p", "$x^p$")
            axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6.5 if len(names) < 25 else 4.5)
            for x in np.flatnonzero(line.part.to_numpy()[1:] != line.part.to_numpy()[:-1]) + 0.5:
                axis.axvline(x, color="0.8", lw=0.8, zorder=0)
            axis.set_title(title)
        for axis in axes[:, 0]:
            axis.set_ylabel("CKA of counterparts")
        lowest = min(diagonal(frame).cka.min() for frame in frames.values())
        axes[0, 0].set_ylim(min(0, lowest - 0.03), 1.03)
        axes[0, 0].legend(fontsize=7)
        plots.add_caption(
            figure,
            f"CKA of each layer of {_F1} with its counterpart in {_F2}, from the features $f_c$ that enter to the "
            f"prediction $x^p$; lines part encoder and decoder. {_about(profile)}",
        )
    return figure


# Fig. 2c


def fig2c(trained: Trained, subject: str | None = None) -> "Figure":
    """Draw Fig. 2c: tau step by step, each loss term over training, and the averaged predictions of the T steps.

    Parameters
    ----------
    trained : Trained
        The run.
    subject : str, optional
        A test subject, by default the first; its slice with the largest lesion is shown.

    Raises
    ------
    MudiffError
        If the run has no tau.
    """
    method, slices, target = trained.method, trained.slices, trained.method.settings.target
    here = example_slice(trained, subject or slices.subjects[0])
    steps = trace(method, slices, here)
    gates = tau_steps(method, conditions_of(method, slices, here), steps[-1]["x_p1"])
    log = pd.DataFrame(runs.read_log(trained.run))
    with plots.style():
        heights = [1.33 * len(gates) + 0.35, 2.0, 2.75]
        figure = plots.new_figure(9.0, sum(heights))
        upper, middle, lower = figure.subfigures(3, 1, height_ratios=heights)
        _draw_tau(upper, gates, [datasets.LABELS[c] for c in method.settings.conditions])
        _draw_losses(middle, log)
        truth = (slices.images(here, target)[0] + 1) / 2  # [-1, 1] -> [0, 1]
        _draw_steps(lower, steps, truth, target)
        row = slices.index.iloc[here[0]]
        plots.add_caption(
            figure,
            f"Subject {row.subject}, slice {row['slice']}, target {datasets.LABELS[target]}. Top: tau of {_F2} at "
            "at the last step for every pair of conditions, means over the channels; gates from 0 to 1, features "
            "from the least to the greatest value of each map. Middle: each loss term over the training (none for an "
            "imported run). Bottom: what enters each step and the average of both predictions, in the grey window of "
            f"the target; steps as the paper counts them. {plots.ORIENTATION} {_about(trained.profile)}",
        )
    return figure


def example_slice(trained: Trained, subject: str) -> np.ndarray:
    """Return the index of a subject's slice with the largest lesion, or of its middle one; as array of one."""
    indices = trained.slices.subject(subject)
    area = (trained.slices.lesion(indices) > 0).sum(axis=(1, 2))
    place = int(area.argmax()) if area.any() else len(indices) // 2
    return indices[place : place + 1]


def _draw_tau(figure: "SubFigure", gates: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    axes = figure.subplots(len(gates), len(_TAU), squeeze=False)
    for row, step in zip(axes, gates, strict=True):
        for axis, key in zip(row, _TAU, strict=True):
            limits = {"vmin": 0, "vmax": 1} if key.startswith("z") else {}
            image = axis.imshow(step[key][0].float().mean(0).cpu(), cmap="viridis", **limits)
            plots.bare(axis)
            if limits:
                gate = image
        i, j = (names[place] for place in step["pair"])
        row[0].set_ylabel(f"i: {i}\ni + 1: {j}")
    for axis, title in zip(axes[0], _TAU.values(), strict=True):
        axis.set_title(title)
    figure.colorbar(gate, ax=axes, shrink=0.6, pad=0.01, ticks=[0, 0.5, 1], label="gates")


def _draw_losses(figure: "SubFigure", log: pd.DataFrame) -> None:
    axes = figure.subplots(1, len(_LOSSES))
    for axis, (title, terms) in zip(axes, _LOSSES.items(), strict=True):
        shown = [name for name in terms if f"loss/{name}" in log]
        for name, colour, style in zip(shown, (plots.COLOURS[0], "k"), ("-", ":"), strict=False):
            curve = log.dropna(subset=[f"loss/{name}"])
            axis.plot(curve.epoch, curve[f"loss/{name}"], style, color=colour, lw=1.2, label=terms[name])
        axis.set(title=title, xlabel="epoch")
        axis.locator_params(nbins=4)
        if shown:
            axis.legend(fontsize=7, handlelength=1.6)
        else:
            axis.text(0.5, 0.5, "not in the log", transform=axis.transAxes, ha="center", color="0.45")
    axes[0].set_ylabel("loss")


def _draw_steps(figure: "SubFigure", steps: Sequence[dict[str, Any]], truth: np.ndarray, target: str) -> None:
    axes = figure.subplots(2, len(steps) + 1, squeeze=False)
    for column, step in zip(axes.T, steps, strict=False):
        t = step["t"] + 1
        mean = (step["x_p1"] + step["x_p2"]) / 2
        names = (f"$x_{{{t}}}$", f"$(x^{{p_1}}+x^{{p_2}})/2$, t = {t}")
        for axis, image, name in zip(column, (step["x_t"], mean), names, strict=True):
            plots.show(axis, (image[0, 0].float().cpu().numpy() + 1) / 2, target)
            axis.set_title(name)
    plots.show(axes[1, -1], truth, target, "top")
    axes[1, -1].set_title("truth")
    axes[0, -1].set_visible(False)


# Fig. 5c and 5d


def fig5c(trained: Trained, subjects: Sequence[str] | None = None) -> "Figure":
    """Draw Fig. 5c: the predictions of both networks and the mutual one beside the truth, with their errors.

    Parameters
    ----------
    trained : Trained
        The run.
    subjects : sequence of str, optional
        Test subjects, by default the first two (or the one there is).
    """
    folder, target = collect(trained), trained.method.settings.target
    rows = []  # label, image per column, range of rows and columns shown
    for subject in subjects or trained.slices.subjects[:2]:
        here = example_slice(trained, subject)
        place = int(here[0] - trained.slices.subject(subject)[0])
        truth = (trained.slices.images(here, target)[0] + 1) / 2  # [-1, 1] -> [0, 1]
        images = [truth, *(sample.read_synthetic(folder / name, subject)[place] for name in PREDICTIONS)]
        lesion = trained.slices.lesion(here)[0] > 0
        rows.append((f"{subject}\nslice {trained.slices.index['slice'].iloc[here[0]]}", images,
                     _frame(trained.slices.brain(here)[0], 0.52)))  # fmt: skip
        if lesion.any():
            rows.append(("lesion", images, _frame(lesion, 0.75)))
    titles = ["truth", "$x^{p_1}$", "$x^{p_2}$", "mutual"]
    with plots.style():
        figure = plots.new_figure(7.6, 1.1 * len(rows) + 0.25)
        axes = figure.subplots(len(rows), 7, squeeze=False)
        for row, (label, images, view) in zip(axes, rows, strict=True):
            for axis, image in zip(row, images, strict=False):
                plots.show(axis, image, target, "top" if axis is axes[0, 0] else "")
            for axis, image in zip(row[4:], images[1:], strict=True):
                errors = axis.imshow(image - images[0], cmap="RdBu_r", vmin=-DIFFERENCE, vmax=DIFFERENCE)
                plots.bare(axis)
            for axis in row:
                axis.set(xlim=view[1], ylim=view[0][::-1])
            row[0].set_ylabel(label, fontsize=6)
        for axis, title in zip(axes[0], [*titles, *(f"{name} − truth" for name in titles[1:])], strict=True):
            axis.set_title(title)
        figure.colorbar(errors, ax=axes[:, -1], shrink=0.7, pad=0.02, label="difference", extend="both")
        plots.add_caption(
            figure,
            f"Predictions of {_F1} and {_F2} at the last step (t = 1 of the paper) of one trajectory, their average, "
            f"the result (Eq. 31), and the truth: {datasets.LABELS[target]}, the test slice with the largest "
            "lesion (the middle one of subjects without), and the lesion enlarged. Differences of normalised "
            f"intensities. {plots.ORIENTATION} {_about(trained.profile)}",
        )
    return figure


def _frame(mask: np.ndarray, reach: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the square around a mask as ranges of rows and columns; `reach` in units of its longer side."""
    rows, columns = np.nonzero(mask if mask.any() else np.ones_like(mask))
    side = min(2 * reach * max(np.ptp(rows), np.ptp(columns)) + 3, *mask.shape)
    starts = [(x.min() + x.max() - side) / 2 for x in (rows, columns)]
    starts = [min(max(start, -0.5), n - 0.5 - side) for start, n in zip(starts, mask.shape, strict=True)]
    return tuple((start, start + side) for start in starts)


def fig5d(scores: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 5d: scores of both predictions and of the mutual one, subjects as lines, means with intervals.

    Parameters
    ----------
    scores : DataFrame
        From `mudiff.analyses.mutual.scores`.
    profile : str
        Name of the profile.
    """
    regions = [r for r, part in scores.groupby("region") if part.mae.notna().any()]
    with plots.style():
        figure = plots.new_figure(8.4, 2.5 * len(regions))
        axes = figure.subplots(len(regions), 3, squeeze=False)
        for row, region in zip(axes, regions, strict=True):
            for axis, metric in zip(row, metrics.METRICS, strict=True):
                wide = scores[scores.region == region].pivot(
                    index="subject", columns="prediction", values=metric
                )
                _draw_scores(axis, wide[list(PREDICTIONS)].dropna(), metric)
                axis.set_ylabel(f"{plots.AXES[metric]}, {region}")
        left = "" if "lesion" in regions else " No test subject has a lesion."
        n = scores.subject.nunique()
        plots.add_caption(
            figure,
            f"{_F1}, {_F2}: predictions of the last step; mutual: their average, the result. All three come from one "
            "trajectory, which both networks steered. Grey: a line per subject; points: means with 95 % intervals "
            f"(t, {n} subject{'s' * (n > 1)}{'' if n > 1 else ': no interval'}). Below: mutual minus each network, "
            f"paired, with 95 % interval. Protocol masked, scores per subject.{left} {_about(profile)}",
        )
    return figure


def _draw_scores(axis: "Axes", wide: pd.DataFrame, metric: str) -> None:
    from scipy import stats as distributions

    for values in wide.to_numpy():
        axis.plot(range(3), values, "-", color="0.75", lw=0.8, zorder=1)
    half = distributions.t.ppf(0.975, max(len(wide) - 1, 1)) * wide.std(ddof=1) / math.sqrt(max(len(wide), 1))
    for x, (name, colour) in enumerate(zip(PREDICTIONS, _COLOURS, strict=True)):
        axis.errorbar(x, wide[name].mean(), half[name], fmt="o", ms=5, capsize=3, color=colour, zorder=2)
    axis.set_xticks(range(3), PREDICTIONS.values())
    axis.set_xlim(-0.4, 2.4)
    places = {"psnr": 2, "ssim": 4, "mae": 4}[metric]
    lines = []
    for name in ("f1", "f2"):
        test = statistics.paired(wide["mutual"], wide[name])
        spread = (
            "" if math.isnan(test["low"]) else f" [{test['low']:+.{places}f}, {test['high']:+.{places}f}]"
        )
        lines.append(f"mutual - {PREDICTIONS[name]}: {test['difference']:+.{places}f}{spread}")
    axis.set_xlabel("\n".join(lines).replace("-", "−"), fontsize=7)
    axis.grid(axis="y", lw=0.4, color="0.85")
