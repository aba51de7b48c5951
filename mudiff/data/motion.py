"""Motion artefacts in a raw volume (section "Validation on robustness to motion artefacts").

The paper gives no parameters. Here TorchIO's `Motion` is applied (Shaw et al., "MRI k-space motion artefact
augmentation", MIDL 2019): the head moves a few times in a scan, and each segment of the k-space is acquired from its
pose at that time. The image is the real part of the inverse transform; a scanner would show the magnitude.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import nibabel
import numpy as np
import pandas as pd
from nibabel import orientations

from mudiff.errors import MudiffError

STRENGTHS = {0: ("none", 0.0), 1: ("mild", 2.0), 2: ("moderate", 5.0), 3: ("severe", 10.0)}
"""Strength -> name, and largest rotation in degrees and shift in mm; 10 is TorchIO's default for both."""

MOVEMENTS = 4  # in one scan, at all strengths
JITTER = 0.3  # of the time between two movements: how far one lies from its regular time; TorchIO's value
SEED = 2024
INTERPOLATION = "bspline"  # linear interpolation blurs every moved segment, a loss that is not motion


@dataclass(frozen=True)
class Movement:
    """How one subject moved in one scan.

    As in TorchIO, the moved image has at r (mm from the middle of the volume) what the unmoved head has at R r + t,
    with R = Rz Rx Ry and the shift t: the head goes the inverse way. Axes: x to the left, y to posterior, z up.
    """

    subject: str
    strength: float  # from 0 (none) to 3 (severe)
    times: np.ndarray  # (n,) rising, as parts of the scan; they part it into n + 1 segments
    degrees: np.ndarray  # (n, 3) rotations about x, y and z against the pose in mid-scan
    translation: np.ndarray  # (n, 3) shifts along them in mm


def scale(strength: float) -> float:
    """Return the largest rotation in degrees, and shift in mm, of a strength from 0 to 3, linear between."""
    highest = max(STRENGTHS)
    if isinstance(strength, str) or not 0 <= strength <= highest:  # NaN fails too
        raise MudiffError(f"strength {strength!r} of motion: expected a number from 0 (none) to {highest} (severe).")
    return float(np.interp(strength, list(STRENGTHS), [size for _, size in STRENGTHS.values()]))


def name(strength: float) -> str:
    """Return "mild" and so on, or the number where it has no name."""
    return STRENGTHS[strength][0] if strength in STRENGTHS else f"{strength:g}"


def draw(subject: str, strength: float, seed: int = SEED) -> Movement:
    """Draw how a subject moves: uniform within ± `scale`; strengths differ in the size of the movements only."""
    size = scale(strength)
    rng = np.random.default_rng([seed, zlib.crc32(subject.encode())])
    step = 1 / (MOVEMENTS + 1)
    times = step * (np.arange(1, MOVEMENTS + 1) + rng.uniform(-JITTER, JITTER, MOVEMENTS))
    degrees, translation = rng.uniform(-1, 1, (2, MOVEMENTS, 3))
    return Movement(subject, float(strength), times, size * degrees, size * translation)


def move(volume: np.ndarray, affine: np.ndarray, movement: Movement) -> np.ndarray:
    """Return a volume (X, Y, Z) as it looks if the head moves during the scan: float32, at strength 0 an exact copy.

    The phase encoding is left-right, whatever the order of the axes behind `affine` (4, 4; to mm, RAS). Background
    (0) becomes 0 again, as where the brain is extracted after the scan; elsewhere values may be below 0.
    """
    if np.ndim(volume) != 3:
        raise MudiffError(f"motion: expected a volume (X, Y, Z), not {np.ndim(volume)} axes; pass all slices.")
    if movement.strength == 0:
        return np.array(volume)
    import torch
    import torchio

    found = orientations.io_orientation(affine)
    wanted = orientations.axcodes2ornt("PSL")  # TorchIO's time runs along the last axis
    there, back = orientations.ornt_transform(found, wanted), orientations.ornt_transform(wanted, found)
    ordered = orientations.apply_orientation(np.asarray(volume, np.float32), there)  # (P, S, L)
    sides = nibabel.affines.voxel_sizes(affine)[np.argsort(there[:, 0])]
    # TorchIO turns about the origin of the affine, which lies anywhere: here it is the middle of the volume.
    axes = np.array([(0, 0, -1), (-1, 0, 0), (0, 1, 0)]) * sides  # columns P, S, L in RAS
    affine = nibabel.affines.from_matvec(axes, -axes @ ((np.array(ordered.shape) - 1) / 2))
    transform = torchio.Motion(movement.degrees, movement.translation, movement.times, INTERPOLATION)
    with torch.random.fork_rng(devices=[]):  # each transform of TorchIO draws from torch's global generator
        tensor = torch.from_numpy(np.ascontiguousarray(ordered))[None]
        moved = transform(torchio.ScalarImage(tensor=tensor, affine=affine)).numpy()[0]
    return np.where(np.asarray(volume) <= 0, np.float32(0), orientations.apply_orientation(moved, back))


def move_stack(stack: np.ndarray, movement: Movement, sides: tuple[float, float, float]) -> np.ndarray:
    """Return prepared slices (Z, S, S) in [0, 1] after motion, float32; `sides` in mm, along these axes."""
    # A stand-in where the raw volume is not at hand: what turns into the stack from beyond its edge is missing.
    axes = np.array([(0, 0, -1), (0, -1, 0), (1, 0, 0)]) * sides  # columns S, P, L in RAS
    affine = nibabel.affines.from_matvec(axes)
    return np.clip(move(stack, affine, movement), 0, 1).astype(np.float32)


def table(movements: Iterable[Movement]) -> pd.DataFrame:
    """Return one row per segment of each scan, enough to generate the same artefacts again.

    Columns strength, subject, segment (from 1), begin, end (parts of the scan), and the six of the pose as `Movement`
    has it. The segment that contains mid-scan is acquired at rest (``Motion.sort_spectra`` of TorchIO), and the pose
    it would have had goes to the first segment.
    """
    parameters = [f"{what}_{axis}" for what in ("degrees", "translation") for axis in "xyz"]
    rows: list[tuple] = []
    for m in movements:
        poses = np.insert(np.hstack([m.degrees, m.translation]), 0, 0, axis=0)  # (n + 1, 6)
        middle, edges = np.searchsorted(m.times, 0.5, side="right"), [0.0, *map(float, m.times), 1.0]
        poses[[0, middle]] = poses[[middle, 0]]
        rows += [(m.strength, m.subject, n + 1, edges[n], edges[n + 1], *pose) for n, pose in enumerate(poses)]
    return pd.DataFrame(rows, columns=["strength", "subject", "segment", "begin", "end", *parameters])
