"""The explorer's picture: lines of tiles in one pair of axes, since a pair for each would take a second to draw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from skimage.measure import find_contours

from mudiff.data import datasets
from mudiff.explorer.state import LAYERS, REPLACEMENTS, Explorer, View
from mudiff.plots import style

ERROR, APART = 0.3, 0.2  # where the colours of differences and of spreads end, part of the intensity range
SIDE, LENGTH = 1.26, 9.9  # inches of a tile, and how many of them a line takes
GAP, BAR, TITLE = 0.05, 0.32, 0.2  # parts of a tile: between two, for a scale beside the last of it, above and below
SHORT = {
    "M1": "$M_1$", "M2": "$M_2$", "x_p1": "$x^{p_1}$", "x_p2": "$x^{p_2}$", "before": "before ρ", "after": "after ρ",
    "adapted": "into τ", "fused": "out of τ", "z_a": "$z_a$", "z_b": "$z_b$",
}  # fmt: skip
REGION = style.COLOURS[7]
OFF = dict(zip(REPLACEMENTS, ("left out, by the run of target any", "black", "its mean in the brain"), strict=True))


@dataclass(frozen=True)
class Tile:
    """An image (S, S) with its colours, in the brain alone where that is given; equal scales share a bar."""

    title: str
    image: np.ndarray
    colours: str = "gray"
    scale: tuple[float, float] = (0.0, 1.0)
    brain: np.ndarray | None = None
    note: str = ""  # below


@dataclass(frozen=True)
class Layout:
    """Which part of the slice the tiles show, and where they lie in the axes, each with sides of 1."""

    row: int
    column: int
    side: int  # in pixels of the slice
    corners: list[tuple[float, float]]  # left and upper edge

    def pixels(self, places: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
        """Return row and column in the slice of places (x, y) in the axes, all in the tile that the first is in."""
        (x, y), side = places[0], self.side
        left, top = min(self.corners, key=lambda c: np.hypot(x - c[0] - 0.5, y - c[1] - 0.5))
        found = ((self.row + (y - top) * side - 0.5, self.column + (x - left) * side - 0.5) for x, y in places)
        return tuple((round(float(row), 2), round(float(column), 2)) for row, column in found)


def compose(figure: Figure, lines: Sequence[Sequence[Tile]], head: np.ndarray, rims: dict[str, np.ndarray]) -> Layout:
    """Draw lines of tiles into a figure, cropped to the `head`, with the rims of regions: colour -> bool (S, S)."""
    row, column, half = style.square(head)
    side = min(int(np.ceil(2 * half)), len(head))
    row, column = (int(np.clip(round(x - half + 0.5), 0, len(head) - side)) for x in (row, column))
    window = slice(row, row + side), slice(column, column + side)
    figure.clear()
    axis, corners, top, right = figure.add_axes((0, 0, 1, 1)), [], 0.0, 0.0
    for line in lines:
        left, top, low = GAP, top + TITLE, TITLE * any(tile.note for tile in line)
        for tile, after in zip(line, [*line[1:], None], strict=True):
            if left + 1 > LENGTH:
                left, top = GAP, top + 1 + low + TITLE
            colours = colormaps[tile.colours](Normalize(*tile.scale)(tile.image[window]))
            if tile.brain is not None:
                colours[~tile.brain[window]] = (0.88, 0.88, 0.88, 1.0)
            axis.imshow(colours, extent=(left, left + 1, top + 1, top))
            axis.text(left + 0.5, top - 0.03, tile.title, ha="center", va="bottom")
            axis.text(left + 0.5, top + 1.03, tile.note, ha="center", va="top", fontsize=6.5, color="0.35")
            corners.append((left, top))
            left += 1 + GAP
            shared = after is not None and (after.colours, after.scale) == (tile.colours, tile.scale)
            if tile.colours != "gray" and not shared:
                bar = colormaps[tile.colours](np.linspace(1, 0, 64))[:, None]
                axis.imshow(bar, extent=(left, left + 0.06, top + 0.9, top + 0.1))
                for value, y in zip(tile.scale, (0.9, 0.1), strict=True):
                    axis.text(left + 0.08, top + y, f"{value:.3g}", va="center", fontsize=6.5)
                left += BAR
            right = max(right, left)
        top += 1 + low
    for colour, region in rims.items():
        found = find_contours(np.pad(region[window], 1).astype(float), 0.5)
        paths = [(path[:, ::-1] - 0.5) / side + corner for path in found for corner in corners]
        axis.add_collection(LineCollection(paths, colors=colour, linewidths=0.9))
    for x, letter in ((0.03, "R"), (0.97, "L")):
        where = {"ha": "left" if letter == "R" else "right", "va": "top"}
        axis.text(corners[0][0] + x, corners[0][1] + 0.03, letter, color="w", fontsize=7, **where)
    axis.set(xlim=(0, right), ylim=(top + GAP, 0))
    axis.axis("off")
    figure.set_size_inches(SIDE * right, SIDE * (top + GAP))
    return Layout(row, column, side, corners)


def draw(
    explorer: Explorer, view: View, figure: Figure | None = None, preview: bool = False
) -> tuple[Figure, Layout]:
    """Draw a view: its images, what is uncertain of them, and the chosen layer; lesion and region outlined."""
    with style.style():
        figure = figure or Figure()
        lines = [list(_images(explorer, view, preview)), list(_compared(explorer, view, preview))]
        lines += [list(_layer(explorer, view, row, preview)) for row in LAYERS[view.layer]]
        layout = compose(figure, list(filter(None, lines)), explorer.subject.brain.any(axis=0), _rims(explorer, view))
        figure.set_label(caption(explorer, view))
    return figure, layout


def _rims(explorer: Explorer, view: View) -> dict[str, np.ndarray]:
    """Return the lesion and, where it is another part than the brain, the region, by colour."""
    rims = {style.MARK: explorer.subject.labels[view.place] > 0}
    return rims if view.region == "brain" else rims | {REGION: explorer.region(view)}


def changes(view: View) -> str:
    """Return what a view changes, in words."""
    label = datasets.LABELS
    parts = [f"{label[name]} off" for name in view.off]
    for word in ("motion", "noise", "brightness"):
        parts += [f"{label[name]} with {word} {amount:g}" for name, amount in getattr(view.made_by(), word)]
    return ", ".join(parts) or "nothing changed"


def caption(explorer: Explorer, view: View) -> str:
    """Return which run, subject, slice and change a picture is of."""
    off = f" ({OFF[view.replacement]})" if view.off else ""
    return (
        f"{datasets.LABELS[view.target]} by {explorer.run.name} of subject {explorer.subject.name}, slice "
        f"{view.place + 1} of {len(explorer.subject.brain)}; {changes(view)}{off}; the same noise with and without "
        f"the change. Lesion and region ({view.region}) outlined. {style.ORIENTATION}"
    )


def _grey(title: str, image: np.ndarray, contrast: str, note: str = "") -> Tile:
    return Tile(title, image, scale=style.WINDOWS[contrast], note=note)


def _images(explorer: Explorer, view: View, preview: bool) -> Iterator[Tile]:
    """Yield conditions as the networks got them, truth, synthesis, its error, and where the networks disagree."""
    made, truth = explorer.synthesis(view, preview), explorer.truth(view)
    changed = {name for field in ("motion", "noise", "brightness") for name, _ in getattr(view.made_by(), field)}
    for name, image in made.conditions.items():
        how = " (off)" if name in view.off else " (changed)" if name in changed else ""
        yield _grey(datasets.LABELS[name] + how, image, name)
    if truth is not None:
        yield _grey(f"true {datasets.LABELS[view.target]}", truth, view.target)
    yield _grey(
        "one step alone" if preview else "synthesis", made.image, view.target, _decibel(explorer, view, made.image)
    )
    if truth is not None:
        yield Tile("error", made.image - truth, "RdBu_r", (-ERROR, ERROR))
    step = max((t for kind, _, t in made.layers if kind == "x_p2"), default=0) if preview else view.t
    if (apart := made.disagreement(step)) is not None:
        yield Tile(f"$|x^{{p_1}} - x^{{p_2}}|$, t = {step}", apart, "magma", (0, APART))


def _decibel(explorer: Explorer, view: View, image: np.ndarray) -> str:
    psnr = explorer.psnr(view, image, explorer.brain(view))
    return "" if np.isnan(psnr) else f"{psnr:.1f} dB"


def _compared(explorer: Explorer, view: View, preview: bool) -> Iterator[Tile]:
    """Yield, where something is changed, the unchanged synthesis and the difference; and the spread, if wanted."""
    if view.made_by() != view.unchanged().made_by():
        made, normal = explorer.synthesis(view, preview), explorer.normal(view, preview)
        by = " (run any)" if view.leaves_out else ""
        yield _grey(f"unchanged{by}", normal.image, view.target, _decibel(explorer, view, normal.image))
        yield Tile("changed − unchanged", made.image - normal.image, "RdBu_r", (-ERROR, ERROR))
    if view.samples > 1 and not preview:
        yield Tile(f"SD of {view.samples} samples", explorer.spread(view), "magma", (0, APART))


def _layer(explorer: Explorer, view: View, row: tuple[str, ...], preview: bool) -> Iterator[Tile]:
    """Yield the synthesis and its masks or predictions at all steps, or its maps or gates at one."""
    made, brain = explorer.synthesis(view, preview), explorer.brain(view)
    every = view.layer in ("masks", "predictions")
    last = max((t for *_, t in made.layers), default=0)
    step = last if preview else view.t
    found = {
        key: image for key, image in made.layers.items()
        if key[0] in row and (every or key[2] == step) and (key[0][0] != "M" or key[1] == view.variant)
    }  # fmt: skip
    if found and view.layer != "predictions":
        yield _grey("synthesis", made.image, view.target)
    for kind in row:
        for (_, name, t), image in ((key, image) for key, image in found.items() if key[0] == kind):
            title = ", ".join(filter(None, (SHORT[kind], "" if kind[0] == "M" else name, f"t = {t}" * every)))
            values = image[brain] if brain.any() else np.zeros(1)
            note = f"{values.min():.3g} to {values.max():.3g}"
            if view.layer == "predictions":
                yield _grey(title, image, view.target)
            else:
                own = (float(values.min()), float(values.max()) + 1e-12)
                yield Tile(
                    title,
                    image,
                    "viridis",
                    own if view.own_scale else explorer.scale(view, row, preview),
                    brain,
                    note,
                )


def contribution(frame: pd.DataFrame) -> Figure:
    """Draw `Explorer.contribution`: a bar per condition and region, the mean over the draws, with their range."""
    import seaborn

    with style.style():
        figure = style.new_figure(4.6, 2.4)
        axis, value = figure.subplots(), "lost" if frame.lost.notna().any() else "change"
        data = frame.assign(condition=frame.condition.map(datasets.LABELS))
        seaborn.barplot(data, x="condition", y=value, hue="region", errorbar=("pi", 100), capsize=0.2, ax=axis,
                        palette=[style.COLOURS[0], style.COLOURS[3]][: frame.region.nunique()])  # fmt: skip
        words = {"lost": "PSNR lost without it (dB)", "change": "mean |change| without it\n(part of the range)"}
        axis.set(xlabel="", ylabel=words[value])
        figure.set_label(
            f"Each condition left out in turn: mean and range over {frame.draw.nunique()} draws of the noise."
        )
    return figure
