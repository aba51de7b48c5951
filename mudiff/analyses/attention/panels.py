"""Fig. 5a and 5b, drawn from one test slice and from the measurements."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mudiff.analyses.attention import words
from mudiff.analyses.attention.measurements import KINDS, Measurements
from mudiff.analyses.attention.observation import Observation, observe, variants_of
from mudiff.analyses.attention.regions import ZONES, reach, zones
from mudiff.data import datasets
from mudiff.data.dataset import Slices
from mudiff.errors import MudiffError
from mudiff.evaluation import old_tables as tables
from mudiff.methods.base import Method
from mudiff.model.critic import attentive_mask
from mudiff.model.diffusion import slice_seed
from mudiff.plots import old_style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

LEVELS = 12
"""Steps of colour in a mask, and of grey beneath it: the eye tells few more apart, and files stay small."""

_GREY, _NOTE = "0.35", 7


def example(slices: Slices, subject: str | None = None) -> int:
    """Return the index of a subject's (by default the first's) slice with the largest lesion, or its middle one."""
    own = slices.subject(subject or slices.subjects[0])
    area = (slices.lesion(own) > 0).sum(axis=(1, 2))
    return int(own[area.argmax() if area.any() else len(own) // 2])


def look(method: Method, slices: Slices, index: int, seed: int = 0) -> list[Observation]:
    """Return all steps of one slice, with the noise that it had in `measure`."""
    row = slices.index.iloc[index]
    read = lambda name: torch.from_numpy(slices.images([index], name)).to(method.device)  # noqa: E731
    conditions = torch.stack([read(name) for name in method.settings.conditions], dim=1)
    seeds = torch.tensor([slice_seed(seed, "attention", row["subject"], row["slice"])])
    return list(observe(method, read(method.settings.target)[:, None], conditions, seeds))


def overlay(
    axis: "Axes", image: np.ndarray, mask: np.ndarray, limits: tuple[float, float], opacity: float = 0.6
) -> "AxesImage":
    """Show a mask (S, S), yellow high and blue low, over an image (S, S) in [0, 1]; nothing where it is NaN."""
    from matplotlib import colormaps

    axis.imshow(np.round(image * LEVELS) / LEVELS, cmap="gray", vmin=0, vmax=1)
    colours = colormaps["viridis"].resampled(LEVELS)
    shown = axis.imshow(mask, cmap=colours, vmin=limits[0], vmax=limits[1], alpha=opacity)
    style.bare(axis)
    return shown


def outline(axis: "Axes", lesion: np.ndarray) -> None:
    """Draw the lesion's rim, if there is one."""
    if lesion.any():
        axis.contour(lesion, levels=[0.5], colors=style.COLOURS[3], linewidths=0.9)


def fig5a(
    method: Method,
    slices: Slices,
    m: Measurements,
    profile: str,
    index: int | None = None,
    t: int = 0,
) -> "Figure":
    """Draw Fig. 5a: what the contrast-aware adapter takes from each condition, and how much of it in the lesion.

    Parameters
    ----------
    method, slices, m
        From `open_run`, the test slices, and `measured`.
    profile : str
        For the caption.
    index : int, optional
        Which slice; by default `example`.
    t : int
        The step, 0 is the last.

    Raises
    ------
    MudiffError
        If t is no step of the run.
    """
    index = example(slices) if index is None else index
    maps = _relative_maps(method, slices, index, t)
    conditions = method.settings.conditions
    lesion = slices.lesion([index])[0] > 0
    rows = [kind for kind in KINDS if any(a is not None for a in maps[kind])]
    with style.style():
        figure = style.new_figure(1.5 * len(conditions) + 3.2, 1.5 * len(rows) + 0.3)
        left, right = figure.subfigures(1, 2, width_ratios=(1.5 * len(conditions) + 0.6, 2.6))
        axes = left.subplots(len(rows), len(conditions), squeeze=False)
        for row, kind in zip(axes, rows, strict=True):
            _row_of_maps(row, maps[kind], lesion, kind)
        for axis, name in zip(axes[0], conditions, strict=True):
            axis.set_title(datasets.LABELS[name])
        _ratios(right.subplots(), m, t, rows)
        place = slices.index.iloc[index]
        style.add_caption(
            figure,
            f"Features of the contrast-aware adapter for {datasets.LABELS[method.settings.target]}, step t = {t} of "
            f"{m.logits.shape[1]} (0 is the last; x_t is the noised truth, as in training). Left: subject "
            f"{place['subject']}, slice {place['slice']}, lesion outlined. Adapted feature: mean magnitude over the "
            "channels of f_y (Eq. 13); fused pair: of tau's output for the pair that begins with the condition "
            "(Eq. 17). Each map is divided by its mean in the brain outside the lesion. Right: lesion over "
            f"elsewhere, a dot per subject and the geometric mean (bar), {len(m.logits)} slices of "
            f"{len(m.subjects)} test subjects. Data: {tables.data_words(profile)}; profile {profile}.",
        )
    return figure


def _relative_maps(method: Method, slices: Slices, index: int, t: int) -> dict[str, list[np.ndarray | None]]:
    """Return kind -> one map per condition, divided by its mean elsewhere in the brain; NaN outside the brain."""
    if not 0 <= t < method.schedule.steps:
        raise MudiffError(f"Fig. 5a: t = {t}: the run has the steps 0 to {method.schedule.steps - 1}.")
    seen = look(method, slices, index)[t]
    first = {i: seen.fused[k] for k, (i, _) in enumerate(method.f2.contrast_adapter.pairs)}
    names = method.settings.conditions
    found = {
        "image": [(slices.images([index], name)[0] + 1) / 2 for name in names],
        "adapted": [a[0].cpu().numpy() for a in seen.adapted],
        "fused": [first[i][0].cpu().numpy() if i in first else None for i in range(len(names))],
    }
    brain = slices.brain([index])
    elsewhere = zones(slices.lesion([index]), brain)[0, ZONES.index("elsewhere")]
    scale = lambda a: np.where(brain[0], a / a[elsewhere].mean(), np.nan)  # noqa: E731
    return {k: [None if a is None else scale(a) for a in group] for k, group in found.items()}


def _row_of_maps(
    axes: Sequence["Axes"], maps: Sequence[np.ndarray | None], lesion: np.ndarray, kind: str
) -> None:
    """Draw one kind of map for all conditions, on one scale."""
    high = float(np.nanpercentile(np.stack([a for a in maps if a is not None]), 99.5))
    shown = None
    for axis, values in zip(axes, maps, strict=True):
        style.bare(axis)
        axis.set_facecolor("k")
        if values is None:
            axis.text(
                0.5, 0.5, "begins\nno pair", transform=axis.transAxes, color="w", ha="center", va="center"
            )
            axis.set_aspect("equal")
            continue
        shown = axis.imshow(values, cmap="gray" if kind == "image" else "viridis", vmin=0, vmax=high)
        outline(axis, lesion)
    axes[0].set_ylabel(words.MAPS[kind])
    bar = axes[0].figure.colorbar(shown, ax=list(axes), shrink=0.85, pad=0.01, aspect=15)
    bar.set_label("relative to brain", fontsize=_NOTE)
    bar.ax.tick_params(labelsize=_NOTE)


def _ratios(axis: "Axes", m: Measurements, t: int, kinds: Sequence[str]) -> None:
    """Draw lesion over elsewhere per condition and kind: subjects as dots, the geometric mean as a bar."""
    from matplotlib.ticker import NullFormatter

    means = m.map_means()
    wide = means[means.t == t].pivot_table(
        index=["map", "condition", "subject"], columns="zone", values="mean"
    )
    if "lesion" not in wide:
        _note(axis, "no lesion in the test set:\nno ratio")
        return
    ratio = (wide["lesion"] / wide["elsewhere"]).dropna()
    for k, kind in enumerate(kinds):
        for x, condition in enumerate(m.conditions):
            if (kind, condition) not in ratio.index.droplevel("subject"):
                continue
            values = ratio[kind, condition].to_numpy()
            place, colour = x + 0.24 * (k - 1), (_GREY, style.COLOURS[0], style.COLOURS[1])[k]
            axis.plot(
                place + np.linspace(-0.05, 0.05, len(values)), values, "o", ms=2.5, color=colour, alpha=0.7
            )
            middle = np.exp(np.log(values).mean())
            label = words.MAPS[kind] if x == 0 else None
            axis.plot([place - 0.1, place + 0.1], [middle] * 2, color=colour, lw=2.2, label=label)
    axis.axhline(1, color="0.7", lw=0.8, zorder=0)
    axis.set(xticks=range(len(m.conditions)), xticklabels=[datasets.LABELS[c] for c in m.conditions],
             ylabel="lesion / elsewhere", yscale="log")  # fmt: skip
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    ticks = [
        v for v in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10) if ratio.min() / 1.4 < v < ratio.max() * 1.4
    ]
    axis.set_yticks(ticks)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=1, fontsize=_NOTE)


def _note(axis: "Axes", text: str) -> None:
    style.bare(axis)
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=_GREY)


def fig5b(
    method: Method, slices: Slices, m: Measurements, profile: str, index: int | None = None
) -> "Figure":
    """Draw Fig. 5b: the attentive masks of both networks at each step, and where in the brain they are high.

    Parameters
    ----------
    method, slices, m
        From `open_run`, the test slices, and `measured`.
    profile : str
        For the caption.
    index : int, optional
        Which slice; by default `example`.
    """
    index = example(slices) if index is None else index
    steps = look(method, slices, index)
    if len(steps) > 4:  # more rows than fit
        steps = [steps[k] for k in np.linspace(0, len(steps) - 1, 4).round().astype(int)]
    columns = 2 * len(m.variants)
    with style.style():
        figure = style.new_figure(max(0.95 * columns + 1.9, 5.6), 0.95 * len(steps) + 2.2)
        upper, lower = figure.subfigures(2, 1, height_ratios=(0.95 * len(steps) + 0.2, 1.9))
        _masks(upper, method, slices, index, steps)
        zone_axis, draw_axis = lower.subplots(1, 2, width_ratios=(1.25, 1))
        _zone_dots(zone_axis, m)
        _draws(draw_axis, m)
        place = slices.index.iloc[index]
        style.add_caption(
            figure,
            f"Attentive masks (Eq. 28) for {datasets.LABELS[method.settings.target]} over each network's prediction, "
            f"in the brain; t = 0 is the last step, lesion outlined ({place['subject']}, slice {place['slice']}). "
            f"Channel mean: Eq. 28 as printed. {_convolution_words(method)}A mask pixel is {int(m.native)} image "
            f"pixels wide, the boundary {2 * reach(slices.image_size)}. Lower left: zone minus elsewhere in the "
            "brain, a dot per subject (mean over steps). Lower right: convolutions drawn anew (mean over subjects, "
            f"networks, steps). {len(m.logits)} slices of {len(m.subjects)} test subjects. Data: "
            f"{tables.data_words(profile)}; profile {profile}.",
        )
    return figure


def _convolution_words(method: Method) -> str:
    if method.attention is None:
        return ""
    trained = (
        "trained with the networks" if method.settings.mask == "trained" else "drawn at random, never trained"
    )
    return f"Convolution: the run's own, {trained} (register C-1). "


def _masks(
    figure: "SubFigure", method: Method, slices: Slices, index: int, steps: Sequence[Observation]
) -> None:
    """Draw a row per step: the masks of each network over its prediction, in the brain."""
    lesion, brain, size = slices.lesion([index])[0] > 0, slices.brain([index])[0], slices.image_size
    axes = figure.subplots(len(steps), 2 * len(variants_of(method)), squeeze=False)
    shown = {}
    for k, (name, layer) in enumerate(variants_of(method).items()):
        masks = [
            [attentive_mask(f, size, layer)[0, 0].detach().cpu().numpy() for f in s.middles] for s in steps
        ]
        inside = np.array(masks)[..., brain]
        for row, step in enumerate(steps):
            for j in (0, 1):
                axis = axes[row, j * len(variants_of(method)) + k]
                image = ((step.predictions[j][0, 0] + 1) / 2).clamp(0, 1).cpu().numpy()
                mask = np.where(brain, masks[row][j], np.nan)
                shown[name] = overlay(axis, image, mask, (float(inside.min()), float(inside.max())))
                outline(axis, lesion)
                _crop(axis, brain)
                if row == 0:
                    axis.set_title(f"$M_{j + 1}$, {words.VARIANTS[name]}", fontsize=8)
    for axis, step in zip(axes[:, 0], steps, strict=True):
        axis.set_ylabel(f"t = {step.t}")
    for name, picture in shown.items():
        bar = figure.colorbar(picture, ax=axes, shrink=0.7, pad=0.01, aspect=30)
        bar.set_label(f"M, {words.VARIANTS[name]}", fontsize=_NOTE)
        bar.ax.tick_params(labelsize=_NOTE)


def _crop(axis: "Axes", brain: np.ndarray) -> None:
    """Show the square around the brain."""
    rows, columns = np.nonzero(brain if brain.any() else np.ones_like(brain))
    half = max(np.ptp(rows), np.ptp(columns)) / 2 + 1.5
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    axis.set(xlim=(middle[1] - half, middle[1] + half), ylim=(middle[0] + half, middle[0] - half))
    axis.set_facecolor("k")


def _zone_dots(axis: "Axes", m: Measurements) -> None:
    """Draw lesion and boundary minus elsewhere: a dot per subject, for each variant and network."""
    means = m.zone_means().groupby(["variant", "network", "subject", "zone"])["mean"].mean().unstack("zone")
    if "lesion" not in means:
        _note(axis, "no lesion in the test set:\nno statistics of zones")
        return
    ticks = {}
    for x, (variant, j) in enumerate((v, j) for v in m.variants for j in (1, 2)):
        ticks[x] = "\n".join([f"$M_{j}$", *words.VARIANTS[variant].split()])
        for zone, shift, colour in (
            ("lesion", -0.16, style.COLOURS[3]),
            ("boundary", 0.16, style.COLOURS[0]),
        ):
            values = (means.loc[variant, j][zone] - means.loc[variant, j]["elsewhere"]).dropna().to_numpy()
            spots = x + shift + np.linspace(-0.07, 0.07, len(values))
            axis.plot(spots, values, "o", ms=3, color=colour, alpha=0.7)
            label = zone if x == 0 else None
            axis.plot(
                [x + shift - 0.13, x + shift + 0.13], [values.mean()] * 2, color=colour, lw=2, label=label
            )
    axis.axhline(0, color="0.7", lw=0.8, zorder=0)
    axis.set(xticks=list(ticks), ylabel="M, zone − elsewhere")
    axis.set_xticklabels(ticks.values(), fontsize=6.3)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=_NOTE)


def _draws(axis: "Axes", m: Measurements) -> None:
    """Draw the distribution over untrained convolutions, and where the run's own masks lie in it."""
    change = m.drawn()
    if not change.shape[1]:
        _note(axis, "no lesion in the test set")
        return
    axis.hist(change.mean(axis=1), 25, color="0.75")
    own = m.zone_means().groupby(["variant", "subject", "zone"])["mean"].mean().unstack("zone")
    # Per subject first: the bars have the subjects with both zones alone, and so must the lines.
    own = (own["lesion"] - own["elsewhere"]).dropna().groupby("variant").mean()
    for name, colour in zip(m.variants, (style.COLOURS[2], style.COLOURS[4]), strict=False):
        axis.axvline(own[name], color=colour, lw=1.8, label=words.VARIANTS[name])
    axis.axvline(0, color="0.3", lw=0.8)
    axis.set(xlabel="M, lesion − elsewhere", ylabel=f"draws (of {len(change)})")
    axis.locator_params(axis="x", nbins=5)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=_NOTE)
