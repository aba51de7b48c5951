"""The embedded default: phantom cohorts in the folder layouts of the real datasets.

Anatomy (`phantoms.anatomy`) comes from the ICBM 2009 tissue maps, contrast (`phantoms.signals`) from the signal
equations; here they meet in a scanner with coils and noise, and are written as NIfTI.
"""

import dataclasses
import hashlib
import json
import zlib
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from joblib import Parallel, delayed
from scipy import ndimage
from tqdm import tqdm

from mudiff import paths
from mudiff.data import datasets
from mudiff.data.manifests import SPLITS
from mudiff.errors import MudiffError
from mudiff.phantoms import anatomy, signals

RECIPE_VERSION = 3
"""Raised by every change that alters voxels, so that old phantoms are generated anew."""

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
    counts: tuple[int, int, int],  # subjects for training, validation and test
    seed: int = 2024,
    spacing: float = 2.0,  # mm, 1 to 8
    workers: int = 2,
    progress: bool = True,  # on a terminal only
    scanner: int = 0,  # 1: other settings that see the same brains
) -> Path:
    """Write the cohort of "brats", "isles" or "healthy" and return ``manifest.csv`` (subject, split) in `folder`.

    A subject depends on the recipe and its number alone. Subjects of the same recipe that are complete are kept.

    Raises
    ------
    MudiffError
        If there is no such phantom, the folder cannot be written, or a worker was killed.
    """
    if dataset not in _SUBJECTS:
        raise MudiffError(f"phantom dataset {dataset!r} is unknown: choose one of {', '.join(_SUBJECTS)}.")
    if len(counts) != 3 or min(counts) < 0 or sum(counts) == 0:
        raise MudiffError(f"phantom counts {counts}: give three numbers, for training, validation and test.")
    folder, recipe = Path(folder), Recipe(dataset, int(seed), float(spacing), int(scanner))
    splits = np.repeat(SPLITS, counts)
    missing = [n for n in range(1, len(splits) + 1) if not _complete(recipe, folder, n)]
    jobs = (delayed(write_subject)(recipe, folder, n) for n in missing)
    done = Parallel(min(workers, len(missing)) or 1, return_as="generator_unordered")(jobs)
    try:
        for _ in tqdm(done, f"{dataset} phantoms", len(missing), disable=None if progress else True):
            pass
    except BrokenProcessPool as error:
        raise MudiffError(
            f"{folder}: a process that generated phantoms was killed, as for want of memory: use fewer workers."
        ) from error
    manifest = folder / "manifest.csv"
    rows = [f"{subject_id(dataset, n)},{split}\n" for n, split in enumerate(splits, start=1)]
    paths.write_text(manifest, "".join(["subject,split\n", *rows]))
    return manifest


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
    """Generate one subject and write its NIfTI files (int16, background 0)."""
    volumes = make_subject(recipe, number)
    affine = anatomy.Grid(recipe.spacing).affine
    for name, file in subject_files(recipe.dataset, folder, number).items():
        image = nibabel.Nifti1Image(volumes[name], affine)
        image.header["descrip"] = f"{datasets.PHANTOM_MARK} {recipe.fingerprint}"
        image.header.set_xyzt_units("mm")
        if recipe.dataset == "healthy":  # BIDS files mostly lie right, anterior, superior
            image = nibabel.as_closest_canonical(image)
        with paths.atomic_write(file) as temporary:
            nibabel.save(image, temporary)


def make_subject(recipe: Recipe, number: int) -> dict[str, np.ndarray]:
    """Generate subject `number`, counted from 1.

    Returns
    -------
    dict of str to numpy.ndarray
        Contrast -> (X, Y, Z) int16 with axes left, posterior, superior: 1 or more in the brain, 0 outside;
        "mask" -> lesion labels (int16).
    """
    grid = anatomy.Grid(recipe.spacing)
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
    grid = anatomy.Grid(recipe.spacing)
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
    grid: anatomy.Grid,
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
