"""From a volume to square axial slices, and back (section "Datasets")."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel import orientations
from nibabel.affines import voxel_sizes
from skimage.transform import resize

from mudiff.data import datasets
from mudiff.errors import MudiffError

SLICE_ORDER = "LPS"  # columns run to the patient's left, rows to posterior, slices to superior


def normalise(data: np.ndarray, method: str, source: str | Path = "volume") -> np.ndarray:
    """Map the intensities of one volume to [0, 1], float32, background exactly 0 (register B-4).

    Negative values count as 0. ``percentile`` (released code): clip to the 1st and 99th percentile of the voxels
    above 0, then min-max; ``minmax`` (text of the paper): min-max alone. A `source` without two values above 0 is an
    error.
    """
    data = np.asarray(data, np.float32)
    low, high = window(data, method, source)
    unit = (data - np.float32(low)) / np.float32(high - low)
    return np.clip(unit, 0, 1, out=unit)


def window(data: np.ndarray, method: str, source: str | Path = "volume") -> tuple[float, float]:
    """Return the intensities that `normalise` maps to 0 and 1."""
    datasets.known("normalisation", method, ("percentile", "minmax"))
    positive = data[data > 0].astype(np.float64)
    if not positive.size:
        raise MudiffError(f"{source}: no voxel is above 0; replace the file or exclude the subject.")
    minmax = max(data.min(), 0), data.max()
    low, high = np.percentile(positive, (1, 99)) if method == "percentile" else minmax
    if not high > low:
        raise MudiffError(f"{source}: all voxels above 0 are {high:g}; replace the file or exclude the subject.")
    return low, high


@dataclass(frozen=True)
class Geometry:
    """How slices lie in their volume: its shape (X, Y, Z) and affine, first slice and the one after the last."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    kept: tuple[int, int]

    def spacing(self, size: int) -> tuple[float, float, float]:
        """Return mm between slices, rows and columns of slices that were resized to `size` pixels."""
        columns, rows, between = sides(self.affine)
        order = np.argsort(orientations.io_orientation(self.affine)[:, 0])
        scale = max(np.array(self.shape)[order][:2]) / size
        return between, rows * scale, columns * scale


def middle(total: int, wanted: int) -> slice:
    """Return the middle `wanted` of `total` places, first at ``(total - wanted) // 2``; all where fewer."""
    start = max(0, (total - wanted) // 2)
    return slice(start, min(total, start + wanted))


def sides(affine: np.ndarray) -> np.ndarray:
    """Return a voxel's sides in mm: within the axial slices along columns and rows, and between slices."""
    order = np.argsort(orientations.io_orientation(affine)[:, 0])
    return voxel_sizes(affine)[order]


def used(data: np.ndarray, affine: np.ndarray, slices: int | None) -> np.ndarray:
    """Return the middle axial slices (Z, rows, columns), as many as `slices` are at 1 mm; all where it is None."""
    oriented = _oriented(data, affine)
    return oriented[kept_slices(len(oriented), affine, slices)]


def kept_slices(total: int, affine: np.ndarray, slices: int | None) -> slice:
    """Return which of `total` axial slices are kept: the middle ones, as many as `slices` are at 1 mm, or all."""
    return middle(total, total if slices is None else max(1, round(slices / sides(affine)[2])))


def to_slices(
    data: np.ndarray, affine: np.ndarray, size: int | None = None, order: int = 1, wanted: int | None = None
) -> tuple[np.ndarray, Geometry]:
    """Cut a volume into square axial slices that look the same whatever the storage order.

    Zeros pad the slices of `data` (X, Y, Z) to squares, which are resized to `size` pixels (default: the longer
    native side), by `order` 1 for intensities, 0 (nearest voxel) for masks. Only the middle slices are kept, as many
    as `wanted` are at 1 mm (default: all). Returned are slices (Z, S, S) in `SLICE_ORDER`, float32 (order 0: the type
    of `data`), and what `from_slices` needs.
    """
    oriented = _oriented(data, affine)  # (Z, rows, columns)
    kept = kept_slices(len(oriented), affine, wanted)
    rows, columns = oriented.shape[1:]
    side = max(rows, columns)
    square = np.zeros((kept.stop - kept.start, side, side), data.dtype)
    square[:, middle(side, rows), middle(side, columns)] = oriented[kept]
    return _resized(square, size or side, order), Geometry(data.shape, affine, (kept.start, kept.stop))


def from_slices(slices: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Put the slices (Z, S, S) that `to_slices` kept back into the native grid (X, Y, Z); the others are 0."""
    data = np.zeros(geometry.shape, np.float32)
    oriented = _oriented(data, geometry.affine)  # a view: what is written there is in `data`
    rows, columns = oriented.shape[1:]
    side = max(rows, columns)
    square = _resized(slices, side, order=1)
    oriented[slice(*geometry.kept)] = square[:, middle(side, rows), middle(side, columns)]
    return data


def _oriented(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return a view (Z, rows, columns) of a volume in `SLICE_ORDER`; oblique affines take the closest axes."""
    wanted = orientations.axcodes2ornt(SLICE_ORDER)
    change = orientations.ornt_transform(orientations.io_orientation(affine), wanted)
    return orientations.apply_orientation(data, change).transpose(2, 1, 0)


def _resized(stack: np.ndarray, size: int, order: int) -> np.ndarray:
    """Return squares (Z, size, size); computed in float64, so that what is stored does not hang on rounding."""
    options = {"order": order, "anti_aliasing": order > 0 and size < stack.shape[1], "preserve_range": True}
    result = np.empty((len(stack), size, size), stack.dtype if order == 0 else np.float32)
    for number, image in enumerate(stack):
        result[number] = resize(image.astype(np.float64), (size, size), **options)
    return result
