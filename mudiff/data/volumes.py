"""NIfTI volumes: reading, one grid, normalisation, axial slices and back (section "Datasets")."""

import dataclasses
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from mudiff import paths
from mudiff.data import resizing
from mudiff.data.resizing import middle
from mudiff.errors import MudiffError

SLICE_ORDER = "LPS"
"""Axes behind slices (Z, S, S): columns run to the patient's left, rows to posterior, slices to superior."""

GRID_TOLERANCE = 0.1
"""Two grids are one if no corner lies farther apart than this part of the smallest voxel side."""

_UNREADABLE = (
    *(OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError),
    *(nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError),
)
_REMEDY = "copy or download the file again"
_REPLACE = "replace the file or exclude the subject"


@dataclass(frozen=True)
class Volume:
    """One NIfTI file in memory.

    Attributes
    ----------
    data : np.ndarray
        Voxels (X, Y, Z) in the order of the file: float32, or integers of up to 16 bits (a mask: uint8).
    affine : np.ndarray
        Voxel indices to millimetres, (4, 4).
    header : nibabel.Nifti1Header
        The header of the file.
    path : Path
        The file.
    """

    data: np.ndarray
    affine: np.ndarray
    header: Any
    path: Path


def load_volume(path: Path) -> Volume:
    """Read one contrast (``.nii`` or ``.nii.gz``), see `Volume`.

    A fourth axis of length one is dropped; negative values are kept (`normalise` sets them to 0).

    Raises
    ------
    MudiffError
        If the file is missing, truncated, not NIfTI, not three-dimensional, not finite, constant or
        without a voxel above 0.
    """
    volume = read(Path(path))
    lowest, highest = volume.data.min(), volume.data.max()
    if not np.isfinite([lowest, highest]).all():  # NaN and infinity both reach one of them
        count = np.count_nonzero(~np.isfinite(volume.data))
        raise MudiffError(f"{path}: {count} voxels are NaN or infinite; {_REPLACE}.")
    if lowest == highest:
        raise MudiffError(f"{path}: every voxel is {lowest:g}; {_REPLACE}.")
    if highest <= 0:
        raise MudiffError(f"{path}: no voxel is above 0; {_REPLACE}.")
    return volume


def load_mask(path: Path) -> Volume:
    """Read a lesion mask, whole or floating-point labels, as uint8; zeros alone (no lesion) are valid.

    Values are rounded to the nearest label and labels 1 to 255 are kept; labels below 0 become 0, labels
    above 255 become 1, so that "lesion" stays ``data > 0``. Probabilities are thus cut at 0.5.

    Raises
    ------
    MudiffError
        If the file is missing, truncated, not NIfTI, not three-dimensional or not finite.
    """
    volume = read(Path(path))
    labels = volume.data
    lowest, highest = labels.min(), labels.max()
    if not np.isfinite([lowest, highest]).all():
        raise MudiffError(f"{path}: the mask has NaN or infinite voxels; repair the file or remove it.")
    labels = np.rint(labels) if labels.dtype.kind == "f" else labels
    if lowest < 0 or highest > 255:
        labels = np.select([labels < 0, labels > 255], [0, 1], labels)
    return dataclasses.replace(volume, data=labels.astype(np.uint8))


def save_volume(path: Path, data: np.ndarray, like: Volume) -> None:
    """Write `data` (X, Y, Z) as float32 with the shape, affine and header geometry of `like`, in one move."""
    if not str(path).endswith((".nii", ".nii.gz")):
        raise MudiffError(f"{path}: volumes are written as .nii or .nii.gz; choose such a name.")
    header = like.header.copy()
    shape = header.get_data_shape()  # has the fourth axis that reading dropped
    header.set_data_dtype(np.float32)
    header["cal_min"] = header["cal_max"] = 0  # display range of the input, wrong for the output
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    with paths.atomic_write(Path(path)) as temporary:
        nibabel.save(kind(data.astype(np.float32).reshape(shape), like.affine, header), temporary)


def read(path: Path) -> Volume:
    """Read voxels (X, Y, Z), see `Volume`, and check the file and its header, but not the values."""
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Pair):
            raise MudiffError(f"{path}: is {type(image).__name__}, not NIfTI; convert it to .nii.gz.")
        if image.get_data_dtype().kind not in "iuf":
            raise MudiffError(f"{path}: voxels are {image.get_data_dtype()}, not numbers; convert the file.")
        shape = image.shape[:3] if set(image.shape[3:]) <= {1} else image.shape
        if len(shape) != 3 or 0 in shape:
            axes = "x".join(map(str, image.shape))
            raise MudiffError(f"{path}: has {len(image.shape)} axes ({axes}); expected one 3-D volume.")
        if path.name.endswith(".nii.gz"):  # to the very end, where gzip keeps its checksum
            image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
        if (image.dataobj.slope, image.dataobj.inter) == (1, 0):
            data = _exact(image.dataobj.get_unscaled())
        else:
            data = image.get_fdata(dtype=np.float32, caching="unchanged")
    except FileNotFoundError:
        raise MudiffError(f"{path}: file not found; {_REMEDY}.") from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise MudiffError(f"{path}: cannot be read as NIfTI to its end ({reason}); {_REMEDY}.") from None
    affine = image.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise MudiffError(f"{path}: its affine gives the voxels no position; repair the header.")
    return Volume(data.reshape(shape, order="A"), affine, image.header, path)


def _exact(data: np.ndarray) -> np.ndarray:
    """Return `data` as it is if they are integers that float32 holds exactly, else as float32."""
    native = data.astype(data.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind in "iu" and np.can_cast(native.dtype, np.float32):
        return native
    return native.astype(np.float32, copy=False)


def grids(volumes: dict[str, Volume]) -> list[list[str]]:
    """Return the names of the volumes, grouped by voxel grid, the grid of most volumes first."""
    groups: list[list[str]] = []
    for name, volume in volumes.items():
        for group in groups:
            if _same_grid(volume, volumes[group[0]]):
                group.append(name)
                break
        else:
            groups.append([name])
    return sorted(groups, key=len, reverse=True)


def check_grid(volumes: dict[str, Volume], subject: str) -> None:
    """Check that all volumes of a subject share one voxel grid; resampling is the user's step.

    Raises
    ------
    MudiffError
        If shapes or affines differ; the message names the contrasts and their grids.
    """
    groups = grids(volumes)
    if len(groups) > 1:
        named = "; ".join(f"{', '.join(group)}: {describe_grid(volumes[group[0]])}" for group in groups)
        raise MudiffError(f"{subject}: volumes are not on one grid ({named}); resample them to one first.")


def describe_grid(volume: Volume) -> str:
    """Return shape, voxel sides in millimetres and origin of a grid as one short text."""
    sides = "x".join(f"{side:.3g}" for side in nibabel.affines.voxel_sizes(volume.affine))
    origin = ", ".join(f"{value:.4g}" for value in volume.affine[:3, 3] + 0.0)  # no minus zero
    shape, axes = "x".join(map(str, volume.data.shape)), "".join(nibabel.aff2axcodes(volume.affine))
    return f"{shape} voxels of {sides} mm, axes {axes}, origin ({origin})"


def _same_grid(one: Volume, other: Volume) -> bool:
    if one.data.shape != other.data.shape:
        return False
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(one.data.shape) - 1)  # (8, 3) voxel indices
    places = [nibabel.affines.apply_affine(volume.affine, corners) for volume in (one, other)]
    distances = np.linalg.norm(places[0] - places[1], axis=1)
    return bool(distances.max() <= GRID_TOLERANCE * nibabel.affines.voxel_sizes(one.affine).min())


def normalise(data: np.ndarray, method: str, source: str | Path = "volume") -> np.ndarray:
    """Map the intensities of one volume to [0, 1], background exactly 0 (register B-4).

    In this order: negative values to 0; ``percentile``: clip to the 1st and 99th percentile of the voxels
    above 0, as the released code does (so the darkest hundredth of the tissue joins the background);
    min-max over the volume.

    Parameters
    ----------
    data : np.ndarray
        Voxels of any shape, finite.
    method : str
        ``percentile`` (released code) or ``minmax`` (text of the paper).
    source : str or Path, optional
        What the error message calls the volume.

    Returns
    -------
    np.ndarray
        float32 of the same shape.

    Raises
    ------
    MudiffError
        If no voxel is above 0, or (almost) all of those have one value.
    """
    return rescale(data, *limits(data, method, source))


def limits(data: np.ndarray, method: str, source: str | Path = "volume") -> tuple[float, float]:
    """Return the intensities that `normalise` maps to 0 and 1; parameters and errors are its."""
    if method not in ("percentile", "minmax"):
        raise MudiffError(f"normalisation {method!r} is unknown: choose one of percentile, minmax.")
    voxels = _exact(np.asarray(data)).ravel(order="K")  # in the order of memory: four times as fast
    positive = voxels[voxels > 0]
    if not positive.size:
        raise MudiffError(f"{source}: no voxel is above 0; {_REPLACE}.")
    minmax = max(voxels.min(), 0), voxels.max()
    low, high = np.percentile(positive, (1, 99)) if method == "percentile" else minmax
    if not high > low:
        raise MudiffError(f"{source}: its voxels above 0 all have the value {high:g}; {_REPLACE}.")
    return float(low), float(high)


def rescale(data: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map intensities from `low` (0 or more) to `high` linearly to [0, 1], float32; what is outside is clipped."""
    unit = np.subtract(data, np.float32(low), dtype=np.float32)
    unit /= np.float32(high - low)
    return np.clip(unit, 0, 1, out=unit)


@dataclass(frozen=True)
class Geometry:
    """How a native volume maps to slices, and back.

    Attributes
    ----------
    shape : tuple of int
        Native shape (X, Y, Z).
    orientation : tuple of (int, int)
        Per native axis its place in L, P, S order and its direction (1, or -1 for flipped).
    size : int
        Pixels of the square slices.
    kept : tuple of (int, int)
        First slice and the one after the last, counted from inferior.
    """

    shape: tuple[int, int, int]
    orientation: tuple[tuple[int, int], ...]
    size: int
    kept: tuple[int, int]

    @property
    def oriented(self) -> tuple[int, int, int]:
        """Numbers of slices, rows and columns before padding."""
        lengths = {place: length for (place, _), length in zip(self.orientation, self.shape, strict=True)}
        return lengths[2], lengths[1], lengths[0]


def _orientation(affine: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the axis order and flips that bring a volume to L, P, S; oblique affines take the closest."""
    found = nibabel.orientations.io_orientation(affine)
    wanted = nibabel.orientations.axcodes2ornt(SLICE_ORDER)
    return tuple((int(a), int(f)) for a, f in nibabel.orientations.ornt_transform(found, wanted))


def to_slices(
    data: np.ndarray, affine: np.ndarray, size: int, order: int = 1, wanted: int | None = None
) -> tuple[np.ndarray, Geometry]:
    """Cut a volume into square axial slices that look the same whatever the storage order.

    Axes are ordered by the affine, zeros pad each slice to a square (never a stretch), and the square is
    resized, smoothed first where it shrinks.

    Parameters
    ----------
    data : np.ndarray
        Voxels (X, Y, Z) in native order.
    affine : np.ndarray
        Their affine, (4, 4).
    size : int
        Pixels of the slices.
    order : int, optional
        1 for intensities, 0 (nearest voxel) for masks.
    wanted : int, optional
        How many middle slices to keep (fewer where there are fewer); default all.

    Returns
    -------
    slices : np.ndarray
        (Z, S, S), inferior to superior, rows anterior to posterior, columns patient's right to left;
        float32, or the type of `data` for order 0.
    geometry : Geometry
        What `from_slices` needs.
    """
    kept, geometry = cut(data, affine, size, wanted)
    return resizing.to_square(kept, size, order), geometry


def cut(
    data: np.ndarray, affine: np.ndarray, size: int, wanted: int | None = None
) -> tuple[np.ndarray, Geometry]:
    """Return the slices that `to_slices` keeps, a view (Z, rows, columns) that is neither padded nor resized."""
    orientation = _orientation(affine)
    oriented = nibabel.orientations.apply_orientation(data, orientation).transpose(2, 1, 0)
    kept = middle(len(oriented), len(oriented) if wanted is None else wanted)
    return oriented[kept], Geometry(tuple(data.shape), orientation, size, (kept.start, kept.stop))


def from_slices(slices: np.ndarray, geometry: Geometry, order: int = 1) -> np.ndarray:
    """Put slices back into the native grid; slices that were not kept are 0.

    Parameters
    ----------
    slices, geometry, order
        As returned by and passed to `to_slices`.

    Returns
    -------
    np.ndarray
        Voxels (X, Y, Z) in native order.

    Raises
    ------
    MudiffError
        If there are more or fewer slices than the geometry kept.
    """
    total, rows, columns = geometry.oriented
    if len(slices) != geometry.kept[1] - geometry.kept[0]:
        raise MudiffError(
            f"{len(slices)} slices do not fit slices {geometry.kept} of the volume; pass them all."
        )
    resized = resizing.from_square(slices, (rows, columns), order)
    oriented = np.zeros((total, rows, columns), resized.dtype)
    oriented[slice(*geometry.kept)] = resized
    lps = oriented.transpose(2, 1, 0)
    back = [axis for axis, _ in geometry.orientation]
    flips = tuple(axis for axis, (_, direction) in enumerate(geometry.orientation) if direction < 0)
    return np.ascontiguousarray(np.flip(lps.transpose(back), flips))
