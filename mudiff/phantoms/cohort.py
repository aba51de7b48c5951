"""Phantom cohorts: `anatomy` and `signals` meet in a scanner with coils and noise, written like the real datasets."""

import dataclasses
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from mudiff import cache, storage
from mudiff.data import datasets
from mudiff.data.manifests import SPLITS
from mudiff.errors import MudiffError
from mudiff.phantoms import anatomy, signals

RECIPE_VERSION = 3  # raised by every change that alters voxels, so that old phantoms are generated anew
_LAYOUTS = {  # subject, file in its folder, and there the names of its contrasts, in order, and of the mask
    "brats": ("PhantomBraTS_{:03d}", "{0}_{1}.nii.gz", ("t1", "t1ce", "t2", "flair", "seg")),
    "isles": ("{}", "VSD.{1}.{2}/VSD.{1}.{2}.nii", (
        *(f"Brain.XX.O.MR_{name}" for name in ("T1", "T2", "Flair", "DWI")), "Brain_3more.XX.XX.OT",
    )),
    "healthy": ("sub-{:02d}", "anat/{0}_{1}.nii.gz", ("T1w", "T2w", "FLAIR")),
}  # fmt: skip


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
        return cache.digest(RECIPE_VERSION, dataclasses.asdict(self))[:12]

    def generator(self, number: int, purpose: str) -> np.random.Generator:
        """Return a subject's random numbers for one purpose, independent of all others."""
        return np.random.default_rng([self.seed, zlib.crc32(f"{self.dataset} {number} {purpose}".encode())])


def write_cohort(
    dataset: str, folder: Path | str, counts: tuple[int, int, int], seed: int = 2024, spacing: float = 2.0,
    workers: int = 2, progress: bool = True, scanner: int = 0,
) -> Path:  # fmt: skip
    """Write the cohort of "brats", "isles" or "healthy" and return ``manifest.csv`` (subject, split) in `folder`.

    `counts` are the subjects for training, validation and test, `spacing` is in mm (1 to 8), `scanner` 1 sees the
    same brains with other settings. Complete subjects of the same recipe are kept.
    """
    from mudiff.data.prepare import each_subject  # slow to import; the Snakefile wants `Recipe` alone

    datasets.known("phantom dataset", dataset, _LAYOUTS)
    if len(counts) != 3 or min(counts) < 0 or sum(counts) == 0:
        raise MudiffError(f"phantom counts {counts}: give three numbers, for training, validation and test.")
    folder, recipe = Path(folder), Recipe(dataset, int(seed), float(spacing), int(scanner))
    splits = np.repeat(SPLITS, counts)
    jobs = [(recipe, folder, n) for n in range(1, len(splits) + 1) if not _complete(recipe, folder, n)]
    for _, error in each_subject(write_subject, jobs, workers, f"{dataset} phantoms", progress):
        if error:
            raise error
    rows = [f"{_LAYOUTS[dataset][0].format(n)},{split}\n" for n, split in enumerate(splits, start=1)]
    storage.write_text(folder / "manifest.csv", "".join(["subject,split\n", *rows]))
    return folder / "manifest.csv"


def subject_files(dataset: str, folder: Path, number: int) -> dict[str, Path]:
    """Return contrast (and "mask", where there are lesions) -> file of subject `number`, counted from 1."""
    subject, pattern, names = _LAYOUTS[dataset]
    own, series = folder / subject.format(number), 70000 + 10 * number
    contents = zip((*datasets.dataset(dataset).contrasts, "mask"), names, strict=False)  # not all have a mask
    return {c: own / pattern.format(own.name, name, series + k) for k, (c, name) in enumerate(contents)}


def _complete(recipe: Recipe, folder: Path, number: int) -> bool:
    """Whether all files of a subject are there and of this recipe."""
    files = subject_files(recipe.dataset, folder, number).values()
    try:
        return all(recipe.fingerprint in str(nibabel.load(file).header["descrip"]) for file in files)
    except (OSError, nibabel.filebasedimages.ImageFileError):
        return False


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
        with storage.atomic_write(file) as temporary:
            nibabel.save(image, temporary)


@threadpool_limits.wrap(limits=1, user_api="blas")  # sums of several threads differ in the last bit, and so voxels
def make_subject(recipe: Recipe, number: int) -> dict[str, np.ndarray]:
    """Return contrast -> (X, Y, Z) int16 (axes L, P, S; 1 or more in the brain), "mask" -> labels."""
    grid = anatomy.Grid(recipe.spacing)
    body = anatomy.draw_anatomy(recipe.dataset, number, grid, recipe.generator(number, "anatomy"))
    rng = recipe.generator(number, f"scanner {recipe.scanner}")
    tissues = _personal_tissues(recipe.generator(number, "tissues"), body)
    volumes = {"mask": body.labels.astype(np.int16)}
    for contrast, settings in signals.draw_settings(recipe.dataset, rng, recipe.scanner).items():
        measured = np.zeros(int(body.brain.sum()), np.float32)
        for name, tissue in tissues.items():
            inside = body.fractions[name] > 0
            measured[inside] += body.fractions[name][inside] * signals.measure(tissue, settings)
        volume = np.zeros(grid.shape, np.float32)
        volume[body.brain] = measured * body.coverage
        # A thick slice blurs along its normal: full width at half maximum of the profile is the thickness.
        volume = ndimage.gaussian_filter1d(volume, settings["thickness"] / 2.355 / grid.spacing, axis=2)
        coil = np.exp(settings["coil"] * grid.field(rng, 70.0))
        level = float(volume[body.brain].mean())
        noise, gain = level / settings["snr"], rng.uniform(150, 600) / level
        # Magnitude of a complex signal with Gaussian noise in both channels (Rice).
        real = volume * coil + noise * rng.standard_normal(grid.shape, dtype=np.float32)
        imaginary = noise * rng.standard_normal(grid.shape, dtype=np.float32)
        scaled = np.clip(np.round(gain * np.hypot(real, imaginary)), 1, 32767)
        volumes[contrast] = np.where(body.brain, scaled, 0).astype(np.int16)
    return volumes


def _personal_tissues(rng: np.random.Generator, body: anatomy.Anatomy) -> dict[str, signals.Tissue]:
    """Return a subject's own tissues: a few per cent off the mean, and varying from voxel to voxel."""
    spread = {"t1": 0.04, "t2": 0.05, "t2star": 0.05, "pd": 0.02, "adc": 0.05, "uptake": 0.1}
    tissues = {}
    for name, tissue in signals.TISSUES.items():
        inside = body.fractions[name] > 0
        values = {}
        for prop, size in spread.items():
            size = 0.15 if (name, prop) == ("stroke", "t2") else size  # old and fresh strokes
            factor = np.float32(np.exp(size * rng.standard_normal())) * body.variation[prop][inside]
            values[prop] = getattr(tissue, prop) * (1.0 if name == "csf" else factor)  # water is water
        tissues[name] = dataclasses.replace(tissue, **values)
    return tissues
