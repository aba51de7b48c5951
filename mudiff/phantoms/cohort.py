"""The embedded default: phantom cohorts in the folder layouts of the real datasets.

Anatomy (`phantoms.anatomy`) comes from the ICBM 2009 tissue maps, contrast (`mudiff.phantoms.signals`) from the
signal equations; here they meet in a scanner with coils and noise, and are written as NIfTI.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from mudiff import paths
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.phantoms import anatomy, atlas, signals

CAPTION = "Phantom data made from the ICBM 2009 tissue maps; not patients."
"""What every figure and table made from the phantoms says."""

RECIPE_VERSION = 3
"""Raised by every change that alters voxels, so that old phantoms are made anew."""

SPLITS = ("train", "val", "test")
_SUBJECTS = {"brats": "PhantomBraTS_{:03d}", "isles": "{}", "healthy": "sub-{:02d}"}
_BIDS = {"t1": "T1w", "t2": "T2w", "flair": "FLAIR"}
_ISLES = {"t1": "MR_T1", "t2": "MR_T2", "flair": "MR_Flair", "dwi": "MR_DWI"}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the voxels of a cohort."""

    dataset: str
    seed: int = 2024
    spacing: float = 2.0  # mm
    scanner: int = 0  # row of signals.SCANNERS

    @property
    def fingerprint(self) -> str:
        """Short hash, written into the header of each file."""
        text = json.dumps([RECIPE_VERSION, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def generator(self, number: int, purpose: str) -> np.random.Generator:
        """Return a subject's random numbers for one purpose, independent of all others."""
        return np.random.default_rng([self.seed, zlib.crc32(f"{self.dataset} {number} {purpose}".encode())])


def write_cohort(
    dataset: str,
    folder: Path | str,
    counts: tuple[int, int, int],
    seed: int = 2024,
    spacing: float = 2.0,
    workers: int = 2,
    progress: bool = True,
    scanner: int = 0,
) -> Path:
    """Write a phantom cohort and its manifest.

    A subject depends on the recipe and its number alone, not on counts, workers or order. Subjects of
    the same recipe that are already complete are kept.

    Parameters
    ----------
    dataset : str
        "brats", "isles" or "healthy": contrasts, lesions and folder layout.
    folder : Path or str
        Where the subjects' folders go.
    counts : tuple of int
        Subjects for training, validation and test, in this order.
    seed : int
        Seed of the cohort, 0 or more.
    spacing : float
        Edge of the voxels in mm, 1 to 8.
    workers : int
        Processes.
    progress : bool
        Whether to show a progress bar (on a terminal only).
    scanner : int
        0, or 1 for a scanner with other settings that sees the same brains.

    Returns
    -------
    Path
        ``folder/manifest.csv`` with columns subject and split.

    Raises
    ------
    MudiffError
        If there is no such phantom, a number is out of range, or the folder cannot be written.
    """
    _check(dataset, counts, seed, spacing, workers, scanner)
    folder, recipe = Path(folder), Recipe(dataset, int(seed), float(spacing), int(scanner))
    splits = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    numbers = range(1, len(splits) + 1)
    missing = [n for n in numbers if not _complete(recipe, folder, n)]
    work = functools.partial(write_subject, recipe, folder)
    show = functools.partial(
        tqdm, total=len(missing), desc=f"{dataset} phantoms", disable=None if progress else True
    )
    if min(workers, len(missing)) <= 1:
        for number in show(missing):
            work(number)
    else:
        context = multiprocessing.get_context("spawn")  # forking a process with threads can deadlock
        with concurrent.futures.ProcessPoolExecutor(min(workers, len(missing)), context) as pool:
            list(show(pool.map(work, missing)))
    rows = [f"{subject_id(dataset, n)},{split}" for n, split in zip(numbers, splits, strict=True)]
    manifest = folder / "manifest.csv"
    paths.write_text(manifest, "\n".join(["subject,split", *rows]) + "\n")
    return manifest


def _check(
    dataset: str, counts: tuple[int, int, int], seed: int, spacing: float, workers: int, scanner: int
) -> None:
    if dataset not in _SUBJECTS:
        raise MudiffError(f"phantom dataset {dataset!r} is unknown: choose one of {', '.join(_SUBJECTS)}.")
    if len(counts) != 3 or min(counts) < 0 or sum(counts) == 0:
        raise MudiffError(f"phantom counts {counts}: give three numbers, for training, validation and test.")
    if seed < 0:
        raise MudiffError(f"phantom seed {seed}: must be 0 or more.")
    if not 1 <= spacing <= 8:
        raise MudiffError(f"phantom spacing {spacing}: choose voxels of 1 to 8 mm.")
    if workers < 1:
        raise MudiffError(f"workers {workers}: must be 1 or more.")
    if scanner not in range(len(signals.SCANNERS)):
        raise MudiffError(f"phantom scanner {scanner}: choose one of 0 to {len(signals.SCANNERS) - 1}.")


def subject_id(dataset: str, number: int) -> str:
    """Return the name of a cohort's subject; `number` counts from 1."""
    return _SUBJECTS[dataset].format(number)


def subject_files(dataset: str, folder: Path, number: int) -> dict[str, Path]:
    """Return contrast (and "mask", where there are lesions) -> file of one subject."""
    name = subject_id(dataset, number)
    if dataset == "brats":
        suffixes = {c: c for c in datasets.dataset(dataset).contrasts} | {"mask": "seg"}
        return {c: folder / name / f"{name}_{suffix}.nii.gz" for c, suffix in suffixes.items()}
    if dataset == "healthy":
        return {c: folder / name / "anat" / f"{name}_{suffix}.nii.gz" for c, suffix in _BIDS.items()}
    series = {
        c: f"VSD.Brain.XX.O.{suffix}.{70000 + 10 * number + k}"
        for k, (c, suffix) in enumerate(_ISLES.items())
    }
    series["mask"] = f"VSD.Brain_3more.XX.XX.OT.{70000 + 10 * number + len(series)}"
    return {c: folder / name / s / f"{s}.nii" for c, s in series.items()}


def _complete(recipe: Recipe, folder: Path, number: int) -> bool:
    """Whether all files of a subject are there and of this recipe."""
    try:
        for file in subject_files(recipe.dataset, folder, number).values():
            if recipe.fingerprint not in str(nibabel.load(file).header["descrip"]):
                return False
    except (OSError, nibabel.filebasedimages.ImageFileError):
        return False
    return True


def write_subject(recipe: Recipe, folder: Path, number: int) -> None:
    """Make one subject and write its NIfTI files (int16, background 0)."""
    volumes = make_subject(recipe, number)
    affine = atlas.Grid(recipe.spacing).affine
    for name, file in subject_files(recipe.dataset, folder, number).items():
        image = nibabel.Nifti1Image(volumes[name], affine)
        image.header["descrip"] = f"{datasets.PHANTOM_MARK} {recipe.fingerprint}"
        image.header.set_xyzt_units("mm")
        if recipe.dataset == "healthy":  # BIDS files mostly lie right, anterior, superior
            image = nibabel.as_closest_canonical(image)
        with paths.atomic_write(file) as temporary:
            nibabel.save(image, temporary)


def make_subject(recipe: Recipe, number: int) -> dict[str, np.ndarray]:
    """Make one subject.

    Parameters
    ----------
    recipe : Recipe
        The cohort.
    number : int
        Which subject, from 1.

    Returns
    -------
    dict of str to numpy.ndarray
        Contrast -> (X, Y, Z) int16 with axes left, posterior, superior: 1 or more in the brain, 0 outside;
        "mask" -> lesion labels (int16).
    """
    grid = atlas.Grid(recipe.spacing)
    body = draw_body(recipe, number)
    rng = recipe.generator(number, f"scanner {recipe.scanner}")
    tissues = _personal_tissues(recipe.generator(number, "tissues"), body)
    volumes = {
        contrast: _scan(contrast, settings, body, tissues, grid, rng)
        for contrast, settings in signals.draw_settings(recipe.dataset, rng, recipe.scanner).items()
    }
    return volumes | {"mask": body.labels.astype(np.int16)}


def draw_body(recipe: Recipe, number: int) -> anatomy.Anatomy:
    """Return the tissues and lesions behind a subject, as they were before any scanner saw them."""
    grid = atlas.Grid(recipe.spacing)
    return anatomy.draw_anatomy(recipe.dataset, number, grid, recipe.generator(number, "anatomy"))


def _personal_tissues(rng: np.random.Generator, body: anatomy.Anatomy) -> dict[str, signals.Tissue]:
    """Return a subject's own tissues: a few per cent off the mean, and varying from voxel to voxel."""
    spread = {"t1": 0.04, "t2": 0.05, "t2star": 0.05, "pd": 0.02, "adc": 0.05, "uptake": 0.1}
    tissues = {}
    for name, tissue in signals.TISSUES.items():
        inside = body.fractions[name] > 0
        values = {}
        for prop, size in spread.items():
            size = 0.15 if (name, prop) == ("stroke", "t2") else size  # old and fresh strokes
            factor = np.float32(np.exp(size * rng.standard_normal()))
            own = body.variation[prop][inside]
            # Water is water: CSF does not vary from place to place.
            values[prop] = getattr(tissue, prop) * (1.0 if name == "csf" else factor * own)
        tissues[name] = dataclasses.replace(tissue, **values)
    return tissues


def _scan(
    contrast: str,
    settings: dict[str, float],
    body: anatomy.Anatomy,
    tissues: dict[str, signals.Tissue],
    grid: atlas.Grid,
    rng: np.random.Generator,
) -> np.ndarray:
    """Measure one contrast: signals of the tissues in each voxel, slices, coil, noise, int16 scale."""
    measured = np.zeros(int(body.brain.sum()), np.float32)
    for name, tissue in tissues.items():
        inside = body.fractions[name] > 0
        measured[inside] += body.fractions[name][inside] * signals.measure(contrast, tissue, settings)
    volume = np.zeros(grid.shape, np.float32)
    volume[body.brain] = measured * body.coverage
    # A thick slice blurs along its normal: full width at half maximum of the profile is the thickness.
    volume = ndimage.gaussian_filter1d(volume, settings["thickness"] / 2.355 / grid.spacing, axis=2)
    coil = np.exp(settings["coil"] * grid.field(rng, 70.0))
    level = float(volume[body.brain].mean())
    noise = level / settings["snr"]
    gain = rng.uniform(150, 600) / level
    clean = volume * coil
    # Magnitude of a complex signal with Gaussian noise in both channels (Rice).
    real = clean + noise * rng.standard_normal(grid.shape, dtype=np.float32)
    imaginary = noise * rng.standard_normal(grid.shape, dtype=np.float32)
    scaled = np.round(gain * np.hypot(real, imaginary))
    return np.where(body.brain, np.clip(scaled, 1, 32767), 0).astype(np.int16)
