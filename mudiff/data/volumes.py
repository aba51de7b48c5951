"""NIfTI volumes: read, checked, on one grid, written."""

import gzip
import math
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel import imageglobals
from scipy import ndimage

from mudiff import __version__, storage
from mudiff.errors import MudiffError

imageglobals.logger.disabled = True  # what it repairs in a header is no second line of an error
nibabel.Nifti1Header.quaternion_threshold = 1e-5  # a unit quaternion that rounding made longer is one

_REMEDY = "copy or download the file again"
_REPLACE = "replace the file or exclude the subject"
_POINTERS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file; fetch it with `git lfs pull`",
    b"/annex/objects/": "is a pointer of git-annex, not the file; fetch it with `datalad get` or `git annex get`",
    b"<html": "is a web page, not an image; download the file again, signed in where that is needed",
}
_TINY = 1e-5
"""Part of a volume's range by which a voxel may differ from the background and still belong to it."""


@dataclass(frozen=True)
class Volume:
    """One NIfTI file in memory."""

    data: np.ndarray  # voxels (X, Y, Z) in the order of the file, float32 (a mask: uint8)
    affine: np.ndarray  # voxel indices to millimetres, (4, 4)
    header: Any
    path: Path
    rings: bool = False  # whether values below the background tell of an interpolation by splines


def load_volume(path: Path) -> Volume:
    """Read one contrast, background 0 (see `without_background`); it must be finite, with a voxel above 0."""
    volume = read(path)
    lowest, highest = volume.data.min(), volume.data.max()
    if not np.isfinite([lowest, highest]).all():  # NaN and infinity both reach one of them
        count = np.count_nonzero(~np.isfinite(volume.data))
        raise MudiffError(f"{path}: {count} voxels are NaN or infinite; {_REPLACE}.")
    if highest > lowest:
        data, rings = without_background(volume.data)
        volume = replace(volume, data=data, rings=rings)
    if highest == lowest or volume.data.max() <= 0:
        raise MudiffError(f"{path}: holds no image, its voxels are from {lowest:g} to {highest + 0:g}; {_REPLACE}.")
    return volume


def without_background(data: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return a volume (X, Y, Z) with its background at 0, and whether it rings.

    The background is what most of the border has, to `_TINY` of the range, else 0. It may lie below the tissue
    (scaled to [-1, 1], z-scored) or amid its values (z-scored within the brain), which then move above 0. Where
    splines rang about 0, what reaches the border stays background up to a height that all but 1 % of the values
    below 0 keep to. Other volumes come back as they are.
    """
    border = np.concatenate([np.take(data, [0, -1], axis).ravel() for axis in range(3)])
    span = float(data.max()) - float(data.min())
    usual = np.median(border)
    if abs(usual) > _TINY * span and np.mean(np.abs(border - usual) <= _TINY * span) >= 0.5:
        data = data - usual
    outside = np.abs(data) <= _TINY * span
    tissue = max(np.count_nonzero(~outside), 1)
    below = data[(data < 0) & ~outside]
    # Below the background lie under 1 % of acquired volumes, 10 % of what splines shifted by half a voxel, and
    # about half of a z-scored brain, most of it farther below.
    rings = len(below) > 0.05 * tissue
    if data.max() > 0 and np.count_nonzero(below < -0.01 * span) > 0.2 * tissue:
        outside, rings = _reaching_border(outside), False
        data = data - data.min() + np.float32(1e-3 * span)
    elif rings:
        outside |= _reaching_border(data <= np.percentile(-below, 99))
    return (np.where(outside, 0, data) if np.count_nonzero(data[outside]) > 0.01 * tissue else data), rings


def _reaching_border(places: np.ndarray) -> np.ndarray:
    """Return the parts of a mask (X, Y, Z) that hang together with the border."""
    parts, _ = ndimage.label(places)
    return np.isin(parts, [k for axis in range(3) for k in np.unique(np.take(parts, [0, -1], axis)) if k])


def save_volume(path: Path, data: np.ndarray, like: Volume) -> None:
    """Write `data` (X, Y, Z) as float32 with the shape, affine and header geometry of `like`, in one move."""
    if not str(path).endswith((".nii", ".nii.gz")):
        raise MudiffError(f"{path}: volumes are written as .nii or .nii.gz; choose such a name.")
    header = like.header.copy()
    shape = header.get_data_shape()  # has the fourth axis that reading dropped
    header.set_data_dtype(np.float32)
    header["cal_min"] = header["cal_max"] = 0  # display range of the input: what it says is wrong for the output
    header.set_intent("none")
    header["aux_file"], header["descrip"] = b"", f"synthetic, mudiff {__version__}".encode()
    header.extensions.clear()
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    with storage.atomic_write(Path(path)) as temporary:
        nibabel.save(kind(data.astype(np.float32).reshape(shape), like.affine, header), temporary)


def read(path: Path) -> Volume:
    """Read voxels (X, Y, Z; a fourth axis of length one is dropped), by content; checks all but the values."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise MudiffError(f"{path}: is a link to a file that is not here; {_REMEDY} (`datalad get`).")
    with storage.reading(path, "NIfTI that can be read to its end", _REMEDY):
        image = _image(path)
        data = image.get_fdata(dtype=np.float32, caching="unchanged")
        affine = image.affine
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    placed = np.isfinite(affine).all() and abs(affine).max() < 1e6 and sides.min() > 1e-6
    placed = placed and abs(np.linalg.det(affine[:3, :3] / sides)) >= 1e-3
    if not placed or np.isnan(nibabel.io_orientation(affine)).any():
        raise MudiffError(f"{path}: its affine gives the voxels no position; repair the header.")
    return Volume(data.reshape(data.shape[:3], order="A"), affine, image.header, path)


def _image(path: Path) -> nibabel.Nifti1Pair:
    """Open a file, or a pair of .hdr and .img, by its content: names may say another compression."""
    header = voxels = _content(path)
    if pair := path.name.lower().endswith(".hdr"):
        names = (path.name[:-3] + suffix for suffix in ("img", "IMG", "img.gz"))
        voxels = _content(next(filter(Path.is_file, map(path.with_name, names)), path.with_suffix(".img")))
    for mark, says in _POINTERS.items():
        if mark in header[:400].lower():
            raise MudiffError(f"{path}: {says}.")
    kinds = (nibabel.Nifti1Pair, nibabel.Nifti2Pair) if pair else (nibabel.Nifti1Image, nibabel.Nifti2Image)
    kind = next((kind for kind in kinds if kind.header_class.may_contain_header(header)), None)
    if kind is None:
        raise ValueError("no NIfTI header; convert other formats")
    image = kind.from_file_map(kind.make_file_map({"header": BytesIO(header), "image": BytesIO(voxels)}))
    if image.get_data_dtype().kind not in "iuf":
        raise MudiffError(f"{path}: voxels are {image.get_data_dtype()}, not numbers; convert the file.")
    if len(image.shape) < 3 or 0 in image.shape or set(image.shape[3:]) - {1}:
        axes = "x".join(map(str, image.shape))
        raise MudiffError(f"{path}: has {len(image.shape)} axes ({axes}); expected one 3-D volume.")
    wanted = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    if wanted > len(voxels):
        raise ValueError(f"{wanted} bytes are announced, {len(voxels)} are there")
    return image


def _content(path: Path) -> bytes:
    """Return a file's bytes, unpacked to the very end, where gzip keeps its checksum."""
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


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
