"""Drawing: one style, one palette, one grey window per contrast; arrays and frames in, figures out.

Matplotlib is imported where it is used. No function here reads a file.
"""

import contextlib
import io
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mudiff import paths
from mudiff.data import datasets
from mudiff.training import profiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOWS = {"t1": (0.0, 1.0), "t1ce": (0.0, 0.9), "t2": (0.0, 1.0), "flair": (0.0, 1.0), "dwi": (0.0, 1.0)}
"""Contrast -> the normalised intensities shown as black and white, the same for every method."""

COLOURS = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#949494", "#56b4e9", "#ece133", "#fbafe4",
)  # fmt: skip
"""Seaborn's "colorblind" palette."""

_OF_METHODS = (1, 2, 3, 4, 5, 7, 0, 6, 8)  # for the order of `tasks.METHODS`: MU-Diff is blue, the floor grey

AXES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "mae": "MAE (fraction of range)"}
"""Metric -> label of its axis, with the unit."""

MARK = "#ffb000"
"""Colour of lesion boxes on grey images."""

ORIENTATION = "R, L: the patient's right and left."
"""Sentence for the captions of figures with `show`."""
MAX_PNG = 200_000
"""Size of a PNG in bytes that is kept to as long as its letters stay legible."""


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the style of all artefacts, whatever the caller's own settings are."""
    import matplotlib as mpl

    settings = {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so the same everywhere
        "font.size": 8,
        "axes.titlesize": 9,
        "axes.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "legend.frameon": False,
        "figure.dpi": 100,
        "svg.hashsalt": "mudiff",
        "image.interpolation": "nearest",
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of `width` x `height` inches that lays itself out."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(width, height), layout="constrained")
    pyplot.close(figure)  # nobody else has to, and a notebook shows it only where it is the cell's value
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04, wspace=0.0, hspace=0.0)
    return figure


def add_caption(figure: "Figure", text: str) -> None:
    """Write a caption under a figure, in small type; `caption` returns it."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(text, int(width * 20.5))
    figure.set_size_inches(width, height + 0.13 * len(lines) + 0.05)
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.5, color="0.25", linespacing=1.3)
    figure.set_label(text)


def caption(figure: "Figure") -> str:
    """Return the caption of a figure."""
    return figure.get_label()


def save(figure: "Figure", path: Path | str) -> list[Path]:
    """Write a figure as PNG (about `MAX_PNG` bytes at most) and SVG, the same bytes on every run.

    Parameters
    ----------
    figure : Figure
        From any function here or in `mudiff.plots.figures`.
    path : Path or str
        The files' path without suffix.

    Returns
    -------
    list of Path
        The files.
    """
    files = [Path(f"{path}.png"), Path(f"{path}.svg")]
    picture = _png(figure)
    with paths.atomic_write(files[0]) as temporary:
        temporary.write_bytes(picture)
    with style(), paths.atomic_write(files[1]) as temporary:
        metadata = {"Date": None, "Creator": None, "Description": caption(figure)}
        figure.savefig(temporary, format="svg", metadata=metadata)
    return files


def _png(figure: "Figure") -> bytes:
    """Render at 150 dots per inch; where that is too large with 256 and with 64 colours, with down to 90."""
    dpi = 150.0
    while True:
        raw = io.BytesIO()
        with style():
            figure.savefig(raw, format="png", dpi=dpi, metadata={"Software": None})
        tried = [raw.getvalue()]
        tried += [_packed(raw, count) for count in (256, 64) if len(tried[0]) > MAX_PNG]
        fitting = [picture for picture in tried if len(picture) <= MAX_PNG]
        if fitting or dpi <= 90:
            return (fitting or tried[-1:])[0]
        dpi = max(
            90.0, 0.95 * dpi * (MAX_PNG / len(tried[-1])) ** 0.5
        )  # the size goes with the number of dots


def _packed(picture: io.BytesIO, colours: int) -> bytes:
    from PIL import Image

    packed = io.BytesIO()
    image = Image.open(picture).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    image.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def ordered(methods: Iterable[str]) -> list[str]:
    """Return methods and variants, each once, in the order of `tasks.RUN_LABELS`."""
    return sorted(set(methods), key=list(profiles.RUN_LABELS).index)


def colours(methods: Sequence[str]) -> dict[str, str]:
    """Return the colour of each method or variant of MU-Diff; each has the same one in every figure."""
    of = {m: COLOURS[i] for m, i in zip(datasets.METHODS, _OF_METHODS, strict=False)}
    of |= {f"mudiff_{v}": colour for v, colour in zip(profiles.ABLATION_LABELS, COLOURS, strict=True)}
    return {m: of[m] for m in methods}


def show(axis: "Axes", image: np.ndarray, contrast: str, sides: str = "") -> None:
    """Show one slice in radiological orientation (patient's right on the left) in its contrast's window.

    Parameters
    ----------
    axis : Axes
        Where.
    image : array (H, W)
        In [0, 1]; rows anterior to posterior, columns patient right to left.
    contrast : str
        Decides the window.
    sides : str
        Where to mark the patient's right and left: "top", "bottom" or nowhere.
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


@dataclass(frozen=True)
class Example:
    """One row of a comparison: a test slice, its syntheses and their scores.

    Attributes
    ----------
    label : str
        What stands left of the row.
    target : str
        The contrast.
    truth : array (S, S)
        Ground truth in [0, 1].
    synthetic : dict of str to array (S, S)
        Method -> synthesis in [0, 1]; without the methods that were not trained for the task.
    brain, lesion : array of bool (S, S)
        Masks; the lesion may be empty.
    ssim : dict of str to (float, float)
        Method -> SSIM in the brain and in the lesion, NaN where there is none.
    """

    label: str
    target: str
    truth: np.ndarray
    synthetic: Mapping[str, np.ndarray]
    brain: np.ndarray
    lesion: np.ndarray
    ssim: Mapping[str, tuple[float, float]]


def comparison(examples: Sequence[Example], text: str) -> "Figure":
    """Draw test slices (rows) beside their syntheses by each method (columns), lesions enlarged.

    A method that was not trained for a row's task has an empty panel there that says so.

    Parameters
    ----------
    examples : sequence of Example
        At least one.
    text : str
        The caption.
    """
    methods = ordered(method for example in examples for method in example.synthetic)
    lesions = any(example.lesion.any() for example in examples)
    side = min(1.7, 10 / (1 + len(methods)))  # inches of an image
    with style():
        figure = new_figure(
            side * (1 + len(methods)) + 0.35, (side + 0.24 + 0.12 * lesions) * len(examples) + 0.25
        )
        axes = figure.subplots(len(examples), 1 + len(methods), squeeze=False)
        for row, example in zip(axes, examples, strict=True):
            _panel(row[0], example, example.truth, sides=True)
            row[0].set_ylabel(example.label)
            for axis, method in zip(row[1:], methods, strict=True):
                if method not in example.synthetic:
                    bare(axis)
                    axis.text(0.5, 0.5, "not trained", transform=axis.transAxes, ha="center", va="center",
                              color="0.45")  # fmt: skip
                    continue
                _panel(axis, example, example.synthetic[method])
                brain, lesion = (("–" if np.isnan(s) else f"{s:.3f}") for s in example.ssim[method])
                words = f"SSIM$_B$ {brain}" + (f"\nSSIM$_T$ {lesion}" if lesions else "")
                axis.set_xlabel(words, fontsize=7, labelpad=2)
        names = ["Ground truth", *map(profiles.RUN_LABELS.get, methods)]
        for axis, name in zip(axes[0], names, strict=True):
            axis.set_title(name, fontsize=8.5)
        add_caption(figure, text)
    return figure


def _panel(axis: "Axes", example: Example, image: np.ndarray, sides: bool = False) -> None:
    """Show one image of an example, cropped to the head, with its lesion enlarged."""
    view, zoom, corner = _views(example.brain, example.lesion)
    free = "bottom" if "upper" in corner else "top"  # where the inset is not
    show(axis, image, example.target, free if sides else "")
    axis.set(xlim=view[1], ylim=view[0][::-1])
    if zoom:
        _inset(axis, image, example.target, zoom, corner)


Range = tuple[float, float]


def _views(
    brain: np.ndarray, lesion: np.ndarray
) -> tuple[tuple[Range, Range], tuple[Range, Range] | None, str]:
    """Return the square shown of the slice, the square enlarged (None without lesion) and the inset's corner."""
    from scipy import ndimage

    rows, columns = np.nonzero(brain if brain.any() else np.ones_like(brain))
    middle = ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2)
    half = 0.54 * max(np.ptp(rows), np.ptp(columns)) + 0.5
    view = tuple((m - half, m + half) for m in middle)
    if not lesion.any():
        return view, None, ""
    labels, count = ndimage.label(lesion)
    if count > 1:  # of several lesions the largest: between them there is nothing to see
        lesion = labels == np.bincount(labels[labels > 0]).argmax()
    rows, columns = np.nonzero(lesion)
    centre = ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2)
    # At least 1.4 times enlarged: of a large lesion the middle is shown.
    reach = np.clip(0.6 * max(np.ptp(rows), np.ptp(columns)) + 1.5, 0.16 * half, 0.28 * half)
    zoom = tuple((c - reach, c + reach) for c in centre)
    # The corner across from the lesion hides least of it.
    corner = ("lower" if centre[0] < middle[0] else "upper") + (
        " right" if centre[1] < middle[1] else " left"
    )
    return view, zoom, corner


def _inset(axis: "Axes", image: np.ndarray, contrast: str, zoom: tuple[Range, Range], corner: str) -> None:
    from matplotlib.patches import Rectangle

    size = 0.4
    x = 1 - size if "right" in corner else 0.0
    y = 0.0 if "lower" in corner else 1 - size
    inset = axis.inset_axes([x, y, size, size])
    show(inset, image, contrast)
    inset.set(xlim=zoom[1], ylim=zoom[0][::-1])
    inset.spines[:].set(visible=True, color=MARK, linewidth=1.0)
    (top, bottom), (left, right) = zoom
    axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=MARK, lw=0.8))
