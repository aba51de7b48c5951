"""Motion artefacts in a raw volume (section "Validation on robustness to motion artefacts").

The paper gives no parameters, only a reference to a simulation of motion. Here TorchIO's `Motion` is applied
(after Shaw et al., "MRI k-space motion artefact augmentation", MIDL 2019): the head moves a few times during
the scan, and each stretch of the k-space is filled from the head's place at that time. The image is the real part
of the inverse transform, so each line of the k-space is averaged with the conjugate of its mirror image; a scanner
would show the magnitude.
"""

import dataclasses
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from mudiff.data import prepare, volumes
from mudiff.data.dataset import Preparation
from mudiff.errors import MudiffError

SCALE = (0.0, 2.0, 5.0, 10.0)
"""At strength 0, 1, 2 and 3: largest rotation in degrees and largest shift in mm, about and along each axis."""

NAMES = {0: "none", 1: "mild", 2: "moderate", 3: "severe"}
"""Strength -> its name; 10 degrees and 10 mm are the defaults of TorchIO's `RandomMotion`."""

MOVEMENTS = 4
"""Movements in one scan, at all strengths."""

JITTER = 0.3
"""How far a movement lies from its regular time, as a part of the time between two; TorchIO's value."""

SEED = 2024
"""Seed of the movements."""

INTERPOLATION = "bspline"
"""Of turned and shifted heads: cubic B-splines. Linear ones blur every moved stretch, a loss that is not motion."""

_ORDER = "PSL"
"""Array axes for TorchIO, whose time runs along the last one: left-right, the usual phase encoding of axial scans."""

_AXES = ("x", "y", "z")


@dataclass(frozen=True)
class Movement:
    """How one subject moved in one scan.

    Attributes
    ----------
    subject : str
        Who.
    strength : float
        From 0 (none) to 3 (severe).
    times : array (n,)
        When, rising, as parts of the scan between 0 and 1. They part it into n + 1 stretches.
    degrees : array (n, 3)
        Rotations about the axes x (to the left), y (to posterior) and z (to superior) through the middle of
        the volume, against the place of the head in mid-scan, when the centre of the k-space is acquired.
    translation : array (n, 3)
        Shifts along these axes in mm, against the same place.

    Notes
    -----
    Which stretch has which pose says `stretches`. As in TorchIO, a pose maps places of the moved image to places
    of the unmoved head: the moved image has at r (mm from the middle) what the head has at R r + t, with
    R = Rz Rx Ry and the shift t. The head itself goes the inverse way, from p to R⁻¹ (p - t).
    """

    subject: str
    strength: float
    times: np.ndarray
    degrees: np.ndarray
    translation: np.ndarray


def scale(strength: float) -> float:
    """Return the largest rotation in degrees, which is also the largest shift in mm, of a strength.

    Between whole strengths it runs in straight lines.

    Raises
    ------
    MudiffError
        If the strength is not a number from 0 to 3.
    """
    highest = len(SCALE) - 1
    if isinstance(strength, str) or not 0 <= strength <= highest:  # NaN fails too
        raise MudiffError(
            f"strength {strength!r} of motion: expected a number from 0 (none) to {highest} (severe)."
        )
    return float(np.interp(strength, range(len(SCALE)), SCALE))


def name(strength: float) -> str:
    """Return "mild" and so on, or the number where it has no name."""
    return NAMES.get(strength, f"{strength:g}")


def draw(subject: str, strength: float, seed: int = SEED) -> Movement:
    """Draw how a subject moves: rotations and shifts uniform within ± `scale`.

    Times and directions depend on subject and seed alone, and the strength scales them. So strengths
    of one subject differ in nothing but the size of the movements.

    Parameters
    ----------
    subject : str
        Its id.
    strength : float
        From 0 to 3, see `scale`.
    seed : int
        Of all subjects.

    Raises
    ------
    MudiffError
        If the strength is out of range.
    """
    size = scale(strength)
    rng = np.random.default_rng([seed, zlib.crc32(subject.encode())])
    step = 1 / (MOVEMENTS + 1)
    times = step * (np.arange(1, MOVEMENTS + 1) + rng.uniform(-JITTER, JITTER, MOVEMENTS))
    degrees, translation = rng.uniform(-1, 1, (2, MOVEMENTS, 3))
    return Movement(subject, float(strength), times, size * degrees, size * translation)


def stretches(movement: Movement) -> list[tuple[float, float, np.ndarray, np.ndarray]]:
    """Return what the k-space is put together from, in the order of the scan.

    TorchIO's rule (``Motion.sort_spectra``): the unmoved head has the stretch in which the middle of the scan
    lies, or the last one where all movements come before. The pose whose turn that would be has the first stretch.

    Parameters
    ----------
    movement : Movement
        With n times.

    Returns
    -------
    list of (float, float, array (3,), array (3,))
        For each of n + 1 stretches: begin and end as parts of the scan, degrees and translation (mm).
    """
    middle = int(np.searchsorted(movement.times, 0.5, side="right"))
    poses = [np.insert(values, 0, 0, axis=0) for values in (movement.degrees, movement.translation)]
    for values in poses:  # (n + 1, 3)
        values[[0, middle]] = values[[middle, 0]]
    edges = [0.0, *map(float, movement.times), 1.0]
    return list(zip(edges[:-1], edges[1:], *poses, strict=True))


def move(volume: np.ndarray, affine: np.ndarray, movement: Movement) -> np.ndarray:
    """Return a volume as it looks if the head moves during the scan.

    In this order: bring the axes into the same order whatever that of the file, so that the phase encoding
    is left-right; let TorchIO turn and shift the volume about its middle and put the k-space together, its
    centre from the head where it was; axes back; voxels that were background become 0 again, as where the brain is
    extracted after the scan. The image is real-valued and may have values below 0, as the preparation expects
    them (it sets them to 0). No global random state is touched.

    Parameters
    ----------
    volume : array (X, Y, Z)
        Intensities of any scale, background 0.
    affine : array (4, 4)
        Voxel indices to millimetres (RAS), as nibabel has it; decides directions and voxel sides.
    movement : Movement
        From `draw`.

    Returns
    -------
    array (X, Y, Z)
        float32; at strength 0 an exact copy of `volume`, of its own type.

    Raises
    ------
    MudiffError
        If the volume is not three-dimensional.
    """
    if np.ndim(volume) != 3:
        raise MudiffError(
            f"motion: expected a volume (X, Y, Z), not {np.ndim(volume)} axes; pass all slices."
        )
    if movement.strength == 0:
        return np.array(volume)
    found = nibabel.orientations.io_orientation(affine)
    wanted = nibabel.orientations.axcodes2ornt(_ORDER)
    there = nibabel.orientations.ornt_transform(found, wanted)
    back = nibabel.orientations.ornt_transform(wanted, found)
    ordered = nibabel.orientations.apply_orientation(np.asarray(volume, np.float32), there)  # (P, S, L)
    sides = nibabel.affines.voxel_sizes(affine)[np.argsort(there[:, 0])]
    moved = _torchio(np.ascontiguousarray(ordered), sides, movement)
    return np.where(
        np.asarray(volume) <= 0, np.float32(0), nibabel.orientations.apply_orientation(moved, back)
    )


def _torchio(ordered: np.ndarray, sides: np.ndarray, movement: Movement) -> np.ndarray:
    """Apply TorchIO's `Motion` to a volume (P, S, L) with voxels of `sides` mm."""
    import torch
    import torchio

    # TorchIO turns about the origin of the affine, which lies anywhere: here it is the middle of the volume.
    affine = np.eye(4)
    affine[:3, :3] = np.array([(0, 0, -1), (-1, 0, 0), (0, 1, 0)]) * sides  # columns P, S, L in RAS
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(ordered.shape) - 1) / 2)
    transform = torchio.Motion(
        degrees=movement.degrees,
        translation=movement.translation,
        times=movement.times,
        image_interpolation=INTERPOLATION,
    )
    with torch.random.fork_rng(devices=[]):  # each transform of TorchIO draws from torch's global generator
        image = transform(torchio.ScalarImage(tensor=torch.from_numpy(ordered)[None], affine=affine))
    return image.numpy()[0]


def move_stack(stack: np.ndarray, movement: Movement, sides: tuple[float, float, float]) -> np.ndarray:
    """Return slices as they look if the head moves during the scan.

    A stand-in where the raw volume is not at hand: motion is applied after normalisation and resizing instead
    of before them.

    Parameters
    ----------
    stack : array (Z, S, S)
        Neighbouring slices in [0, 1], in the order of ``volumes.to_slices``, background 0. With a few slices
        alone, what turns into them from beyond their edge is missing.
    movement : Movement
        From `draw`.
    sides : (float, float, float)
        Millimetres between slices, rows and columns.

    Returns
    -------
    array (Z, S, S)
        float32 in [0, 1].
    """
    affine = np.eye(4)
    affine[:3, :3] = np.array([(0, 0, -1), (0, -1, 0), (1, 0, 0)]) * sides  # columns S, P, L in RAS
    return np.clip(move(stack, affine, movement), 0, 1).astype(np.float32)


def moved_slices(preparation: Preparation, path: Path, movement: Movement) -> np.ndarray:
    """Read a raw volume, move it and prepare it as clean data are.

    Parameters
    ----------
    preparation : Preparation
        The settings of the clean data.
    path : Path
        NIfTI file of one contrast.
    movement : Movement
        From `draw`.

    Returns
    -------
    array (n, S, S)
        uint16, as ``data.subject_slices`` has them; at strength 0 equal to the prepared slices.
    """
    volume = volumes.load_volume(path)
    moved = dataclasses.replace(volume, data=move(volume.data, volume.affine, movement))
    return prepare.contrast_slices(preparation, moved)[0]


def table(movements: Iterable[Movement]) -> pd.DataFrame:
    """Return where the heads were when: one row per stretch of a scan, enough to make the same artefacts again.

    Returns
    -------
    DataFrame
        Columns strength, subject, stretch (from 1), begin, end (parts of the scan), degrees_x, degrees_y, degrees_z,
        translation_x, translation_y, translation_z (mm). All six are 0 in mid-scan. They map the moved image to the
        unmoved head, so the head itself moves the inverse way, see `Movement`.
    """
    parameters = [f"{what}_{axis}" for what in ("degrees", "translation") for axis in _AXES]
    rows = [
        (m.strength, m.subject, number, begin, end, *degrees, *translation)
        for m in movements
        for number, (begin, end, degrees, translation) in enumerate(stretches(m), start=1)
    ]
    return pd.DataFrame(rows, columns=["strength", "subject", "stretch", "begin", "end", *parameters])
