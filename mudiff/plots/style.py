"""Drawing: one style, one palette, one grey window per contrast; arrays and frames in, figures out."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff.data import datasets
from mudiff.evaluation.scores import Example

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOWS = {"t1": (0.0, 1.0), "t1ce": (0.0, 0.9), "t2": (0.0, 1.0), "flair": (0.0, 1.0), "dwi": (0.0, 1.0)}
"""Contrast -> the normalised intensities shown as black and white, the same for every method."""

COLOURS = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#949494", "#56b4e9", "#ece133", "#fbafe4",
)  # fmt: skip
"""Seaborn's "colorblind" palette."""

METHOD_COLOURS = dict(zip(datasets.METHODS, [COLOURS[k] for k in (1, 2, 3, 4, 5, 7, 0, 6)], strict=True))
"""Method -> its colour in every figure: MU-Diff is blue, the floor grey."""

AXES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "mae": "MAE (fraction of range)"}
"""Metric -> label of its axis, with the unit."""

MARK = "#ffb000"
"""Colour of lesion boxes and outlines on grey images."""

ORIENTATION = "R, L: the patient's right and left."
"""Sentence for the captions of figures with `show`."""


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the style of all artefacts, whatever the caller's own settings are."""
    import matplotlib as mpl

    settings = {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so the same everywhere
        "font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "legend.frameon": False,
        "figure.dpi": 100, "svg.hashsalt": "mudiff", "image.interpolation": "nearest",
    }  # fmt: skip
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of `width` x `height` inches that lays itself out."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(width, height), layout="constrained")
    pyplot.close(figure)  # a notebook shows it only where it is published
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04, wspace=0.0, hspace=0.0)
    return figure


def caption(figure: "Figure", text: str, about: str) -> None:
    """Give a figure its caption, and write the sentence on the data, `tables.about`, small under the picture."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.18)
    figure.supxlabel(about, x=0.01, ha="left", fontsize=6.5, color="0.35")
    figure.set_label(f"{text} {about}")


def ordered(methods: Iterable[str]) -> list[str]:
    """Return methods, each once, in the order of `datasets.METHODS`."""
    return sorted(set(methods), key=list(datasets.METHODS).index)


def show(axis: "Axes", image: np.ndarray, contrast: str, sides: str = "") -> None:
    """Show a slice (H, W) in [0, 1] in radiological orientation (patient's right on the left), in its window.

    Rows run from anterior to posterior. `sides` marks the patient's right and left: at "top", "bottom" or nowhere.
    """
    low, high = WINDOWS[contrast]
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, origin="upper", aspect="equal")
    bare(axis)
    axis.set_facecolor("k")
    for x, letter, align in ((0.03, "R", "left"), (0.97, "L", "right")) if sides else ():
        axis.text(x, {"top": 0.97, "bottom": 0.03}[sides], letter, transform=axis.transAxes, color="w",
                  fontsize=7, va=sides, ha=align)  # fmt: skip


def bare(axis: "Axes") -> None:
    """Remove ticks and frame, keep title and labels."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


Square = tuple[float, float, float]  # row and column of the centre, and half of the side, in pixels


def square(mask: np.ndarray, margin: float = 1.08) -> Square:
    """Return the square around a mask (H, W), `margin` times its larger side; around all where it is empty."""
    rows, columns = np.nonzero(mask if mask.any() else np.ones_like(mask))
    half = margin / 2 * max(np.ptp(rows), np.ptp(columns)) + 0.5
    return (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2, half


def crop(axis: "Axes", where: Square) -> None:
    """Show only this square of an image, see `square`."""
    row, column, half = where
    axis.set(xlim=(column - half, column + half), ylim=(row + half, row - half))


def comparison(examples: Sequence[Example], names: Mapping[str, str]) -> "Figure":
    """Draw test slices (rows) beside their syntheses (columns), lesions enlarged; a row names its missing methods.

    `names` maps methods or variants to titles, in the order of the columns; those without a synthesis are left out.
    """
    methods = [m for m in names if any(m in example.synthetic for example in examples)]
    lesions = any(example.lesion.any() for example in examples)
    side = min(1.7, 10 / (1 + len(methods)))  # inches of an image
    with style():
        figure = new_figure(side * (1 + len(methods)) + 0.35, (side + 0.24 + 0.12 * lesions) * len(examples) + 0.25)
        axes = figure.subplots(len(examples), 1 + len(methods), squeeze=False)
        for row, example in zip(axes, examples, strict=True):
            _panel(row[0], example, example.truth, sides=True)
            row[0].set_ylabel(example.label)
            for axis, method in zip(row[1:], methods, strict=True):
                if method not in example.synthetic:
                    bare(axis)
                    axis.text(0.5, 0.5, "not trained", transform=axis.transAxes, ha="center", color="0.45")
                    continue
                _panel(axis, example, example.synthetic[method])
                brain, lesion = ("–" if np.isnan(s) else f"{s:.3f}" for s in example.ssim[method])
                axis.set_xlabel(f"SSIM$_B$ {brain}" + f"\nSSIM$_T$ {lesion}" * lesions, fontsize=7, labelpad=2)
        for axis, title in zip(axes[0], ["Ground truth", *(names[m] for m in methods)], strict=True):
            axis.set_title(title, fontsize=8.5)
    return figure


def _panel(axis: "Axes", example: Example, image: np.ndarray, sides: bool = False) -> None:
    """Show one image of an example, cropped to the head, with the middle of its lesion enlarged."""
    head = square(example.brain)
    zoom = _zoom(example.lesion, head)
    # The inset lies in the corner across from the lesion, where it hides least of it.
    lower, right = (zoom[0] < head[0], zoom[1] < head[1]) if zoom else (False, False)
    show(axis, image, example.target, ("top" if lower else "bottom") if sides else "")
    crop(axis, head)
    if zoom:
        from matplotlib.patches import Rectangle

        inset = axis.inset_axes([0.6 if right else 0.0, 0.0 if lower else 0.6, 0.4, 0.4])
        show(inset, image, example.target)
        crop(inset, zoom)
        inset.spines[:].set(visible=True, color=MARK, linewidth=1.0)
        row, column, half = zoom
        axis.add_patch(Rectangle((column - half, row - half), 2 * half, 2 * half, fill=False, ec=MARK, lw=0.8))


def _zoom(lesion: np.ndarray, head: Square) -> Square | None:
    """Return the square that is enlarged: around the core of the largest lesion, else around all of it."""
    from scipy import ndimage

    if not lesion.any():
        return None
    core = np.isin(lesion, (1, 4))  # of a tumour; what is around it is oedema, label 2
    area = core if core.any() else lesion > 0
    labels, _ = ndimage.label(area)
    row, column, half = square(labels == np.bincount(labels[labels > 0]).argmax(), 1.3)
    # At least 1.4 times enlarged: of a large lesion the middle is shown.
    return row, column, float(np.clip(half, 0.16 * head[2], 0.28 * head[2]))


def boxes(frame: pd.DataFrame, metrics: Mapping[str, str]) -> "Figure":
    """Draw box plots of scores: a panel per metric (column -> label with unit), groups along x, a colour per method.

    Points beyond the whiskers (1.5 interquartile ranges) would set the scale: not drawn, nor are infinite scores.
    """
    import seaborn

    frame = frame.replace([np.inf, -np.inf], np.nan)
    methods, groups = ordered(frame.method), list(dict.fromkeys(frame.group))
    with style():
        figure = new_figure(max(4.5, 0.17 * len(methods) * len(groups) + 1.2), 1.9 * len(metrics) + 0.4)
        axes = figure.subplots(len(metrics), 1, squeeze=False, sharex=True).ravel()
        for axis, (metric, label) in zip(axes, metrics.items(), strict=True):
            seaborn.boxplot(
                frame, x="group", y=metric, hue="method", order=groups, hue_order=methods, palette=METHOD_COLOURS,
                ax=axis, width=0.85, gap=0.1, linewidth=0.8, showfliers=False, saturation=1, legend=axis is axes[0],
            )  # fmt: skip
            axis.set(xlabel="", ylabel=label)
            axis.grid(axis="y", lw=0.4, color="0.85")
            axis.set_axisbelow(True)
        handles, names = axes[0].get_legend_handles_labels()
        axes[0].get_legend().remove()
        figure.legend(
            handles, [datasets.METHODS[m] for m in names], loc="outside upper center", ncols=min(len(names), 4)
        )
    return figure


def dots(axis: "Axes", values: Mapping[str, Sequence[float]], colours: Mapping[str, str] | None = None) -> None:
    """Draw one row per key: a small mark for each subject, a large one for their mean; missing values left out."""
    for y, (name, row) in enumerate(values.items()):
        found = np.asarray(row, float)
        found = found[np.isfinite(found)]
        colour = (colours or {}).get(name, COLOURS[0])
        axis.plot(found, np.full(len(found), y), "|", color=colour, ms=7, alpha=0.8)
        if len(found):
            axis.plot(found.mean(), y, "o", color=colour, mec="0.15", ms=5)
    axis.set(ylim=(len(values) - 0.5, -0.5), yticks=range(len(values)), yticklabels=list(values))
    axis.grid(axis="y", lw=0.4, color="0.85")


def intervals(axis: "Axes", rows: pd.DataFrame, shift: float = 0.0, **marks: object) -> None:
    """Draw a row per line of `rows` (difference, low, high; index: height), `shift` lower, and a line at zero."""
    reach = np.abs(rows[["low", "high"]].to_numpy(float).T - rows.difference.to_numpy(float))
    marks = {"fmt": "o", "ms": 4, "lw": 1.1, "color": COLOURS[0]} | marks  # of matplotlib's errorbar
    axis.errorbar(rows.difference, rows.index + shift, xerr=np.nan_to_num(reach), **marks)
    axis.axvline(0, color="0.4", lw=0.8, zorder=0)
    axis.grid(axis="x", lw=0.4, color="0.88")
    axis.set_axisbelow(True)
