"""Lines of images in one pair of axes: a pair for each would take a second to draw, too long after a change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from skimage.measure import find_contours

from mudiff.plots import style

SIDE, LENGTH = 1.26, 9.9  # inches of a tile, and how many of them a line takes
GAP, BAR, TITLE = 0.05, 0.32, 0.2  # parts of a tile: between two, for a scale beside the last of it, above and below


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


def compose(
    lines: Sequence[Sequence[Tile]], head: np.ndarray, rims: dict[str, np.ndarray], given: Figure | None = None
) -> tuple[Figure, Layout]:
    """Draw lines of tiles, cropped to the `head`, with the rims of regions: colour -> bool (S, S).

    A figure that is `given` keeps its size and loses what is on it; else one of the size of its content is made.
    """
    row, column, half = style.square(head)
    side = min(int(np.ceil(2 * half)), len(head))
    row, column = (int(np.clip(round(x - half + 0.5), 0, len(head) - side)) for x in (row, column))
    window = slice(row, row + side), slice(column, column + side)
    figure = given or Figure(dpi=88)
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
            if tile.colours != "gray" and (
                after is None or after.colours != tile.colours or after.scale != tile.scale
            ):
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
    for x, letter, align in ((0.03, "R", "left"), (0.97, "L", "right")):
        axis.text(corners[0][0] + x, corners[0][1] + 0.03, letter, color="w", fontsize=7, ha=align, va="top")
    axis.set(xlim=(0, LENGTH if given else right), ylim=(top + GAP, 0), anchor="NW")
    axis.axis("off")
    if given is None:
        figure.set_size_inches(SIDE * right, SIDE * (top + GAP))
    return figure, Layout(row, column, side, corners)
