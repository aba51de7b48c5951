"""The slices of one subject in memory: prepared already, or straight from a folder of NIfTI files."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from mudiff.data import datasets, files, slices, volumes
from mudiff.data.dataset import UINT16_MAX, Preparation, Slices, open_slices, read_info
from mudiff.data.masks import convention
from mudiff.data.prepare import subject_slices
from mudiff.data.slices import Geometry
from mudiff.errors import MudiffError


@dataclass(frozen=True, eq=False)
class Subject:
    """The slices of one subject, Z of them, inferior first, and how they lie in its volumes."""

    name: str
    source: str  # its name, or the folder of its files
    images: dict[str, np.ndarray]  # contrast -> float32 (Z, S, S) in [0, 1], background 0
    brain: np.ndarray  # bool (Z, S, S)
    labels: np.ndarray  # uint8 (Z, S, S), 0 outside lesions
    geometry: Geometry
    doubts: list[str]  # what is odd about its files

    def example(self) -> int:
        """Return the slice that is shown first: the largest lesion, else the middle."""
        areas = np.count_nonzero(self.labels, axis=(1, 2))
        return int(areas.argmax() if areas.any() else len(areas) // 2)

    def save(self, path: Path, place: int, image: np.ndarray) -> None:
        """Write an image (S, S) of one slice as float32 NIfTI on the subject's own grid, 0 in all other slices."""
        first, header = self.geometry.kept[0] + place, nibabel.Nifti1Header()
        header.set_data_shape(self.geometry.shape)
        header.set_xyzt_units("mm")
        alone = replace(self.geometry, kept=(first, first + 1))
        native = slices.from_slices(image[None].astype(np.float32), alone)
        volumes.save_volume(path, native, volumes.Volume(native, self.geometry.affine, header, path))


def from_prepared(prepared: Slices, name: str) -> Subject:
    """Return a subject of prepared slices."""
    indices, record = prepared.subject(name), prepared.info["subjects"][name]
    images = {contrast: (prepared.images(indices, contrast) + 1) / 2 for contrast in prepared.contrasts}
    return Subject(
        name, name, images, prepared.brain(indices), prepared.lesion(indices), _geometry(record), record["notes"]
    )


def from_files(folder: Path, preparation: Preparation, needed: Collection[str], all_needed: bool = True) -> Subject:
    """Prepare a subject from its NIfTI files, as `mudiff prepare` does, in memory.

    Of the contrasts that are `needed`, all or at least one must be there; others and a lesion mask may be missing.
    """
    name, found = folder.name, files.find_contrasts(folder)
    contrasts = [contrast for contrast in datasets.dataset(preparation.dataset).contrasts if contrast in found]
    missing = [contrast for contrast in needed if contrast not in found]
    if missing and (all_needed or len(missing) == len(needed)):
        wanted, left = ", ".join(datasets.LABELS[c] for c in missing), files.left_out(found, *missing)
        raise MudiffError(f"{folder}: has no {wanted}, which is needed{left}; give a folder that has.")
    stacks, masks, record = subject_slices(preparation, name, found, contrasts)
    images = dict(zip(contrasts, (stacks.astype(np.float32) / UINT16_MAX).swapaxes(0, 1), strict=True))
    labels = masks[:, 1]
    if convention(preparation.dataset, {name: record["labels"]}) == "2024":
        labels = np.where(labels == 4, 0, labels)
    return Subject(name, str(folder), images, masks[:, 0] > 0, labels, _geometry(record), record["notes"])


def _geometry(record: dict[str, Any]) -> Geometry:
    kept = record["first_slice"], record["first_slice"] + record["slices"]
    return Geometry(tuple(record["shape"]), np.array(record["affine"]), kept)


def beside(run: Path, preparation: Preparation) -> Slices | None:
    """Open the test slices, prepared in this way, of the results that a run is of; None without them."""
    for path in sorted((run.parent.parent / "prepared").glob(f"{preparation.dataset}*/prepared.json")):
        if read_info(path.parent)["fingerprint"] == preparation.fingerprint():
            return open_slices(path.parent, "test")
    return None
