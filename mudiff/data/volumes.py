"""NIfTI volumes: read, checked, on one grid, written."""

import gzip
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from mudiff import paths
from mudiff.errors import MudiffError

_UNREADABLE = (
    *(OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError),
    *(nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError),
)
_REMEDY = "copy or download the file again"
_REPLACE = "replace the file or exclude the subject"


@dataclass(frozen=True)
class Volume:
    """One NIfTI file in memory."""

    data: np.ndarray  # voxels (X, Y, Z) in the order of the file, float32 (a mask: uint8)
    affine: np.ndarray  # voxel indices to millimetres, (4, 4)
    header: Any
    path: Path


def load_volume(path: Path) -> Volume:
    """Read one contrast (``.nii`` or ``.nii.gz``), background 0; it must be finite, with a voxel above 0."""
    volume = read(path)
    lowest, highest = volume.data.min(), volume.data.max()
    if not np.isfinite([lowest, highest]).all():  # NaN and infinity both reach one of them
        count = np.count_nonzero(~np.isfinite(volume.data))
        raise MudiffError(f"{path}: {count} voxels are NaN or infinite; {_REPLACE}.")
    if highest <= max(lowest, 0):
        raise MudiffError(f"{path}: holds no image, its voxels are from {lowest:g} to {highest + 0:g}; {_REPLACE}.")
    # A negative value that more voxels have than 0 is the background of what was z-scored or scaled to [-1, 1].
    if lowest < 0 and np.count_nonzero(volume.data == lowest) > np.count_nonzero(volume.data == 0):
        volume = replace(volume, data=volume.data - lowest)
    return volume


def load_mask(path: Path) -> Volume:
    """Read a lesion mask as uint8, see `labels`; zeros alone (no lesion) are valid."""
    volume = read(path)
    return replace(volume, data=labels(volume))


def labels(volume: Volume) -> np.ndarray:
    """Return a mask's labels as uint8: rounded, below 0 -> 0, above 255 -> 1, so that lesion stays ``data > 0``."""
    if not np.isfinite(volume.data).all():
        raise MudiffError(f"{volume.path}: the mask has NaN or infinite voxels; repair or remove it.")
    rounded = np.rint(volume.data)
    return np.select([rounded < 0, rounded > 255], [0, 1], rounded).astype(np.uint8)


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
    """Read voxels (X, Y, Z; a fourth axis of length one is dropped); checks all but the values."""
    path = Path(path)
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


def grids(volumes: dict[str, Volume]) -> list[list[str]]:
    """Return the names of the volumes, grouped by voxel grid, the grid of most volumes first."""
    groups: list[list[str]] = []
    for name, volume in volumes.items():
        if (group := next((g for g in groups if _same_grid(volume, volumes[g[0]])), None)) is None:
            groups.append(group := [])
        group.append(name)
    return sorted(groups, key=len, reverse=True)


def check_grid(volumes: dict[str, Volume], subject: str) -> None:
    """Check that all volumes of a subject share one voxel grid; resampling is the user's step."""
    if len(groups := grids(volumes)) > 1:
        named = "; ".join(f"{', '.join(group)}: {describe_grid(volumes[group[0]])}" for group in groups)
        raise MudiffError(f"{subject}: volumes are not on one grid ({named}); resample them to one first.")


def describe_grid(volume: Volume) -> str:
    """Return shape, voxel sides in millimetres and origin of a grid as one short text."""
    sides = "x".join(f"{side:.3g}" for side in nibabel.affines.voxel_sizes(volume.affine))
    origin = ", ".join(f"{value:.4g}" for value in volume.affine[:3, 3] + 0.0)  # no minus zero
    shape, axes = "x".join(map(str, volume.data.shape)), "".join(nibabel.aff2axcodes(volume.affine))
    return f"{shape} voxels of {sides} mm, axes {axes}, origin ({origin})"


def _same_grid(one: Volume, other: Volume) -> bool:
    """Whether no corner lies farther apart than a tenth of the smallest voxel side."""
    if one.data.shape != other.data.shape:
        return False
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(one.data.shape) - 1)  # (8, 3) voxel indices
    mine, theirs = (nibabel.affines.apply_affine(volume.affine, corners) for volume in (one, other))
    distances = np.linalg.norm(mine - theirs, axis=1)
    return bool(distances.max() <= 0.1 * nibabel.affines.voxel_sizes(one.affine).min())
