"""A subject to explore: its slices, prepared already or straight from a folder of NIfTI files."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mudiff.data import dataset, datasets, files
from mudiff.data.masks import convention
from mudiff.data.prepare import subject_slices
from mudiff.data.slices import Geometry
from mudiff.errors import MudiffError
from mudiff.settings import Settings


@dataclass(frozen=True, eq=False)
class Subject:
    """The slices of one subject, Z of them, inferior first, and how they lie in its volumes."""

    name: str
    images: dict[str, np.ndarray]  # contrast -> float32 (Z, S, S) in [0, 1], background 0
    brain: np.ndarray  # bool (Z, S, S)
    labels: np.ndarray  # uint8 (Z, S, S), 0 outside lesions
    geometry: Geometry
    doubts: list[str] = field(default_factory=list)  # what is odd about its files

    def example(self) -> int:
        """Return the slice that is shown first: the largest lesion, else the middle."""
        areas = np.count_nonzero(self.labels, axis=(1, 2))
        return int(areas.argmax() if areas.any() else len(areas) // 2)


def test_slices(run: Path, settings: Settings) -> dataset.Slices:
    """Open the prepared test slices beside a run, of the settings that it was trained with."""
    preparation = settings.preparation()
    folders = sorted((run.parent.parent / "prepared").glob(f"{settings.dataset}*/prepared.json"))
    for folder in (path.parent for path in folders):
        if dataset.read_info(folder)["fingerprint"] == preparation.fingerprint():
            return dataset.open_slices(folder, "test")
    raise MudiffError(f"{run}: no slices are prepared for it; give a folder of NIfTI files, or run `mudiff prepare`.")


def prepared(slices: dataset.Slices, name: str) -> Subject:
    """Return a subject of prepared slices."""
    indices, record = slices.subject(name), slices.info["subjects"][name]
    images = {contrast: (slices.images(indices, contrast) + 1) / 2 for contrast in slices.contrasts}
    kept = record["first_slice"], record["first_slice"] + len(indices)
    geometry = Geometry(tuple(record["shape"]), np.array(record["affine"]), kept)
    return Subject(name, images, slices.brain(indices), slices.lesion(indices), geometry, record["notes"])


def from_files(folder: Path, settings: Settings) -> Subject:
    """Prepare a subject from its files, as `mudiff prepare` does, but for contrasts that the run can do without.

    The target and a lesion mask may be missing. Files that are missing, unreadable or on several grids are errors.
    """
    found = files.find_contrasts(folder)
    contrasts = [name for name in datasets.dataset(settings.dataset).contrasts if name in found]
    missing = [name for name in settings.conditions if name not in contrasts]
    if missing and (not settings.targets or not contrasts):
        wanted, left = ", ".join(datasets.LABELS[name] for name in missing), files.left_out(found, *missing)
        raise MudiffError(f"{folder}: has no {wanted}, which this run needs{left}; give a folder that has.")
    images, masks, record = subject_slices(settings.preparation(), folder.name, found, contrasts)
    labels, first = masks[:, 1], record["first_slice"]
    if convention(settings.dataset, {folder.name: record["labels"]}) == "2024":
        labels = np.where(labels == 4, 0, labels)
    unit = dict(zip(contrasts, (images.astype(np.float32) / dataset.UINT16_MAX).swapaxes(0, 1), strict=True))
    geometry = Geometry(tuple(record["shape"]), np.array(record["affine"]), (first, first + len(images)))
    return Subject(folder.name, unit, masks[:, 0] > 0, labels, geometry, record["notes"])
