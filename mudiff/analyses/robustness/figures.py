"""Fig. 4a and 4b: syntheses with and without motion, and their scores against its strength."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.analyses.robustness.losses import REGIONS
from mudiff.analyses.robustness.study import CONTRAST, TARGET, Study
from mudiff.data import datasets, motion
from mudiff.evaluation import metrics
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation import old_tables as tables
from mudiff.plots import old_style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_MAP = "viridis"
_FEWEST = 3  # subjects for an interval: that of two reaches over every panel
_MARKERS = "osD^vP"


@dataclass(frozen=True)
class _Row:
    """One strength of Fig. 4a, all arrays (S, S) in [0, 1]: the FLAIR, and what each method makes of it."""

    strength: float
    condition: np.ndarray
    synthetic: Mapping[str, np.ndarray]


def fig4a(found: Study, subject: str | None = None) -> "Figure":
    """Draw Fig. 4a: FLAIR, syntheses and their errors (columns) without and with motion (rows).

    Of the subject the slice with the largest lesion is shown, or the middle one where there is no lesion.

    Parameters
    ----------
    found : Study
        From ``study``, after ``synthesise``.
    subject : str, optional
        Which; by default the first test subject.
    """
    from mudiff.synthesis import sample

    slices = found.slices()
    subject = slices.subjects[0] if subject is None else subject
    indices = slices.subject(subject)
    area = (slices.lesion(indices) > 0).sum(axis=(1, 2))
    place = int(area.argmax()) if area.any() else len(indices) // 2
    here = indices[place : place + 1]
    truth, clean = ((slices.images(here, c)[0] + 1) / 2 for c in (TARGET, CONTRAST))  # [-1, 1] -> [0, 1]
    rows = []
    for strength in (0, *found.strengths):
        folders = {m: found.folder(m, strength) for m in found.methods}
        made = {m: sample.read_synthetic(folder, subject)[place] for m, folder in folders.items()}
        moved = sample.read_synthetic(found.folder(CONTRAST, strength), subject)[place] if strength else clean
        rows.append(_Row(strength, moved, made))
    number = int(slices.index["slice"].to_numpy()[here[0]])
    text = (
        f"T1CE synthesis of test subject {subject}, slice {number}, with FLAIR as it is and with motion in it; T1 "
        "and T2 are clean throughout. Error: absolute difference to the true T1CE in the brain. Below: PSNR of the "
        "brain in this slice, protocol masked. Rotations about and shifts along each axis are drawn up to: "
        f"{_scales(found.strengths)}. {style.ORIENTATION} {_about(found.profile)}"
    )
    return _pictures(rows, truth, slices.brain(here)[0], text)


def _scales(strengths: tuple[float, ...]) -> str:
    return "; ".join(f"{motion.name(s)} {motion.scale(s):g}° and {motion.scale(s):g} mm" for s in strengths)


def _about(profile: str) -> str:
    return f"Data: {tables.data_words(profile)}; profile {profile}."


def _pictures(rows: list[_Row], truth: np.ndarray, brain: np.ndarray, text: str) -> "Figure":
    methods = list(rows[0].synthetic)
    clean = rows[0].condition
    maps = [np.abs(image - truth)[brain] for row in rows for image in row.synthetic.values()]
    maps += [np.abs(row.condition - clean)[brain] for row in rows]
    top = max(0.1, float(np.ceil(10 * np.percentile(np.concatenate(maps), 99)) / 10))  # of the colours
    with style.style():
        side = 1.45  # inches of an image
        columns = 2 + 2 * len(methods)
        figure = style.new_figure(side * columns + 0.9, (side + 0.2) * len(rows) + 0.2)
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for axis, row in zip(axes, rows, strict=True):
            axis[0].set_ylabel(f"{'no' if row.strength == 0 else motion.name(row.strength)} motion")
            style.show(axis[0], row.condition, CONTRAST, "top" if row.strength == 0 else "")
            if row.strength == 0:
                style.show(axis[1], truth, TARGET)
            else:
                _error(axis[1], np.abs(row.condition - clean), brain, top)
            for place, (_, image) in enumerate(row.synthetic.items()):
                style.show(axis[2 + 2 * place], image, TARGET)
                score = metrics.masked_protocol(truth, image, brain)["psnr"]
                axis[2 + 2 * place].set_xlabel(f"{score:.1f} dB", fontsize=7, labelpad=2)
                image_map = _error(axis[3 + 2 * place], np.abs(image - truth), brain, top)
        titles = [datasets.LABELS[CONTRAST], f"true {datasets.LABELS[TARGET]}"]
        for method in methods:
            titles += [datasets.METHODS[method], "error"]
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title, fontsize=8.5)
        if len(rows) > 1:
            axes[1, 1].set_title(f"change of {datasets.LABELS[CONTRAST]}", fontsize=8.5)
        for axis in axes.flat:
            _crop(axis, brain)
        bar = figure.colorbar(image_map, ax=axes, shrink=0.5, aspect=30, pad=0.01)
        bar.set_label("absolute difference (fraction of range)")
        style.add_caption(figure, text)
    return figure


def _error(axis: "Axes", difference: np.ndarray, brain: np.ndarray, top: float) -> "AxesImage":
    image = axis.imshow(np.where(brain, difference, 0), cmap=_MAP, vmin=0, vmax=top)
    style.bare(axis)
    return image


def _crop(axis: "Axes", brain: np.ndarray) -> None:
    """Show the brain and a little around it, as a square."""
    rows, columns = np.nonzero(brain if brain.any() else np.ones_like(brain))
    half = 0.54 * max(np.ptp(rows), np.ptp(columns)) + 0.5
    y, x = ((places.min() + places.max()) / 2 for places in (rows, columns))
    axis.set(xlim=(x - half, x + half), ylim=(y + half, y - half))


def fig4b(frame: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 4b: scores against the strength of the motion, each subject and the mean of each method.

    Parameters
    ----------
    frame : DataFrame
        From ``score``.
    profile : str
        Name of the profile.
    """
    regions = list(frame.region.unique())
    colours = style.colours(list(frame.method.unique()))
    strengths = sorted(frame.strength.unique())
    with style.style():
        figure = style.new_figure(8.6, 2.2 * len(regions) + 0.4)
        axes = figure.subplots(len(regions), len(style.AXES), squeeze=False, sharex=True)
        for region, line in zip(regions, axes, strict=True):
            part = frame[frame.region == region]
            for axis, (metric, label) in zip(line, style.AXES.items(), strict=True):
                _curves(axis, part, metric, colours)
                axis.set_ylabel(label)
            line[0].set_title(REGIONS[region], loc="left", weight="bold")
        for axis in axes[-1]:
            axis.set_xticks(strengths, [f"{motion.name(s)}\n{motion.scale(s):g}" for s in strengths])
            axis.set_xlabel("motion in FLAIR (up to, ° and mm)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
        style.add_caption(figure, _words(frame, profile))
    return figure


def _words(frame: pd.DataFrame, profile: str) -> str:
    count = frame.subject.nunique()
    text = (
        f"T1CE synthesis against motion in FLAIR, protocol masked, {count} test subject{'s' * (count > 1)}. "
    )
    if count >= _FEWEST:
        text += (
            "Thin lines: subjects. Large points: means with 95 % intervals over the subjects, which may reach beyond "
            "the panel. They contain the differences between subjects, so they can overlap even where every "
            "subject loses. "
        )
    else:
        text += (
            f"Thin lines: subjects. Large points: means; no intervals, since there are fewer than {_FEWEST}. "
        )
    if "lesion" not in set(frame.region):
        text += "The test subjects have no lesions. "
    return text + _about(profile)


def _curves(axis: "Axes", part: pd.DataFrame, metric: str, colours: Mapping[str, str]) -> None:
    """Draw the lines of the subjects and the means of the methods, side by side."""
    finite = part[np.isfinite(part[metric])]
    for number, (method, colour) in enumerate(colours.items()):
        offset = 0.08 * (number - (len(colours) - 1) / 2)
        wide = finite[finite.method == method].pivot(index="strength", columns="subject", values=metric)
        axis.plot(wide.index + offset, wide, color=colour, lw=0.6, alpha=0.45)
        axis.plot(wide.index + offset, wide, ".", color=colour, ms=2.5, alpha=0.45)
        means = wide.mean(axis=1)
        errors = [_half(values.dropna().to_numpy()) for _, values in wide.iterrows()]
        axis.errorbar(
            wide.index + offset, means, errors, color=colour, lw=1.6, marker=_MARKERS[number % len(_MARKERS)], ms=4.5,
            capsize=2.5, elinewidth=1.1, label=datasets.METHODS[method],
        )  # fmt: skip
    if len(finite):
        low, high = finite[metric].min(), finite[metric].max()
        margin = 0.12 * (high - low) or 0.05 * abs(high) or 0.1
        axis.set_ylim(low - margin, high + margin)
    axis.grid(axis="y", lw=0.4, color="0.85")
    axis.set_axisbelow(True)


def _half(values: np.ndarray) -> float:
    """Return half the width of the 95 % interval of a mean, NaN with fewer than `_FEWEST` values."""
    if len(values) < _FEWEST:
        return math.nan
    return statistics.paired(values, np.zeros(len(values)))["high"] - float(values.mean())


def write(found: Study, frame: pd.DataFrame, folder: Path) -> dict[str, "Figure"]:
    """Draw and write Fig. 4a with the parameters of the motion, and Fig. 4b with the scores.

    Parameters
    ----------
    found : Study
        From ``study``.
    frame : DataFrame
        From ``score``.
    folder : Path
        Where ``fig4a`` and ``fig4b`` go: PNG, SVG and CSV.

    Returns
    -------
    dict of str to Figure
        Name -> figure.
    """
    figures = {"fig4a": fig4a(found), "fig4b": fig4b(frame, found.profile)}
    for (name, figure), values in zip(figures.items(), (found.parameters(), frame), strict=True):
        style.save(figure, Path(folder) / name)
        paths.write_text(Path(folder) / f"{name}.csv", values.to_csv(index=False, lineterminator="\n"))
    return figures
