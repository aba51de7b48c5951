"""Drawing: one style, one palette, one grey window per contrast; arrays and frames in, figures out."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
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
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#9c3b5e", "#949494", "#56b4e9", "#ece133", "#fbafe4",
)  # fmt: skip
"""Seaborn's "colorblind" palette, with wine for its brown, which colour-blind readers take for orange or green."""

METHOD_COLOURS = dict(zip(datasets.METHODS, [COLOURS[k] for k in (1, 2, 3, 4, 5, 7, 0, 6)], strict=True))
"""Method -> its colour in every figure: MU-Diff is blue, the floor grey."""

SHADES = ("#1b2a3a", "#6b7f93", "#c3ced8")
"""Dark, middle and light slate, for what is no method: splits, units, contrasts. They differ in grey as well."""

WIDTH = 7.2
"""Inches of a figure over both columns of a journal (183 mm), whose letters are printed in the size given here."""

AXES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "mae": "MAE (fraction of range)"}
"""Metric -> label of its axis, with the unit."""

MARK = COLOURS[8]
"""Colour of lesion boxes and outlines on grey images: yellow, which no method has."""

ORIENTATION = "R, L: the patient's right and left."
"""Sentence for the captions of figures with `show`."""

COMPARED = (
    "Yellow: the lesion or its core, enlarged below (outlined in the truth) or in a corner. Numbers: SSIM in brain "
    "and lesion, protocol masked; outside the brain nothing counts."
)
"""Sentences for the captions of a `comparison` with lesions."""


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the style of all artefacts, whatever the caller's own settings are."""
    import matplotlib as mpl

    settings = {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so the same everywhere
        "font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "legend.frameon": False,
        "figure.dpi": 100, "svg.hashsalt": "mudiff", "image.interpolation": "none",  # an SVG holds an image's pixels
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
    Lesions are enlarged below the images and outlined in the truth; more than four slices have them in a corner.
    """
    methods = [m for m in names if any(m in example.synthetic for example in examples)]
    lesions = any(example.lesion.any() for example in examples)
    panels = 2 if lesions and len(examples) <= 4 else 1  # above each other, of one image
    side = min(1.4, (WIDTH - 0.35) / (1 + len(methods)))  # inches of a panel
    width, height = side * (1 + len(methods)) + 0.35, (panels * side + 0.14 + 0.11 * lesions) * len(examples) + 0.2
    with style():
        figure = new_figure(width, height)
        axes = figure.subplots(panels * len(examples), 1 + len(methods), squeeze=False)
        for example, rows in zip(examples, axes.reshape(len(examples), panels, -1), strict=True):
            images = {"": example.truth, **example.synthetic}
            for column, method in enumerate(["", *methods]):
                _panels(rows[:, column], example, images.get(method), sides=not method)
                scores = [f"{s:.3f}".replace("nan", "–") for s in example.ssim.get(method, ())]
                scores = scores if method else ["SSIM, brain", "lesion"]
                rows[-1, column].set_xlabel("\n".join(scores[: 1 + lesions]), fontsize=6.5, labelpad=2)
            # The axis' own label makes room; the words may be longer than the panel and must not push the rows apart.
            rows[0, 0].set_ylabel("I\nI", fontsize=6.5, alpha=0)
            rows[0, 0].text(-0.06, 0.5, example.label, transform=rows[0, 0].transAxes, rotation=90, fontsize=6.5,
                            ha="right", va="center", multialignment="center", in_layout=False)  # fmt: skip
        for axis, title in zip(axes[0], ["Ground truth", *(names[m] for m in methods)], strict=True):
            axis.set_title(title.replace(": ", ":\n"), fontsize=8)
    return figure


def _panels(axes: Sequence["Axes"], example: Example, image: np.ndarray | None, sides: bool) -> None:
    """Show an image of an example, cropped to the head, and its lesion enlarged: on a second axis, or inside."""
    for axis in axes:
        bare(axis)
    if image is None:
        axes[0].text(0.5, 0.5, "not trained", transform=axes[0].transAxes, ha="center", color="0.45", fontsize=6.5)
        return
    head, core = square(example.brain), _core(example.lesion)
    zoom = _zoom(core, example.brain) if core.any() else None
    # An inset lies in the corner across from the lesion, where it hides least of it.
    inside = zoom is not None and len(axes) == 1
    lower, right = (zoom[0] < head[0], zoom[1] < head[1]) if inside else (False, False)
    show(axes[0], image, example.target, ("top" if lower else "bottom") if sides else "")
    crop(axes[0], head)
    if zoom:
        from matplotlib.patches import Rectangle

        inset = axes[0].inset_axes([0.62 * right, 0.62 * (not lower), 0.38, 0.38]) if inside else axes[1]
        show(inset, image, example.target)
        crop(inset, zoom)
        inset.spines[:].set(visible=True, color=MARK, linewidth=1.0)
        if image is example.truth and not inside:
            inset.contour(core, levels=[0.5], colors=MARK, linewidths=0.6)
        row, column, half = zoom
        box = Rectangle((column - half, row - half), 2 * half, 2 * half, fill=False, ec=MARK, lw=0.8)
        axes[0].add_patch(box)


def _core(lesion: np.ndarray) -> np.ndarray:
    """Return where the largest core is, without the oedema; the largest lesion where there is no core."""
    from scipy import ndimage

    core = np.isin(lesion, (1, 3, 4))  # of a tumour; what is around it is oedema, label 2
    labels, _ = ndimage.label(core if core.any() else lesion > 0, np.ones((3, 3)))
    return labels == np.append(0, np.bincount(labels.ravel())[1:]).argmax() if lesion.any() else lesion > 0


def _zoom(core: np.ndarray, brain: np.ndarray) -> Square:
    """Return the square that is enlarged: around the core, moved inwards at the edge of the brain."""
    from scipy import ndimage

    (row, column, half), head = square(core, 1.3), square(brain)[2]
    half = float(np.clip(half, 0.16 * head, 0.28 * head))  # of a large core the middle is shown
    slack = max(0.5, 0.6 * (half - square(core, 1.0)[2]))  # the core stays well inside
    y, x = np.indices(core.shape)
    merit = ndimage.uniform_filter(brain.astype(float), 2 * round(half) + 1, mode="constant")
    merit -= 0.2 * np.hypot(y - row, x - column) / half
    merit[np.maximum(abs(y - row), abs(x - column)) > slack] = -np.inf
    row, column = np.unravel_index(merit.argmax(), merit.shape)
    return float(row), float(column), half


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
