"""A subject to explore: its slices, prepared already or straight from a folder of NIfTI files."""

from dataclasses import dataclass
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
    source: str  # how `find` finds it again
    images: dict[str, np.ndarray]  # contrast -> float32 (Z, S, S) in [0, 1], background 0
    brain: np.ndarray  # bool (Z, S, S)
    labels: np.ndarray  # uint8 (Z, S, S), 0 outside lesions
    geometry: Geometry
    doubts: list[str]  # what is odd about its files

    def example(self) -> int:
        """Return the slice that is shown first: the largest lesion, else the middle."""
        areas = np.count_nonzero(self.labels, axis=(1, 2))
        return int(areas.argmax() if areas.any() else len(areas) // 2)


def find(run: Path, settings: Settings, source: Path | str | None = None) -> Subject:
    """Return a subject for a run: from a folder of NIfTI files, or of its prepared test slices, by default the first.

    Files are prepared as by `mudiff prepare`; the target, a lesion mask and, of a run of target "any", all contrasts
    but one may be missing.
    """
    folder = Path(source).expanduser().absolute() if source else None
    if folder is None or not folder.is_dir():
        slices = test_slices(run, settings)
        name = str(source or slices.subjects[0])
        indices = slices.subject(name)
        images = {contrast: (slices.images(indices, contrast) + 1) / 2 for contrast in slices.contrasts}
        labels, brain, record = slices.lesion(indices), slices.brain(indices), slices.info["subjects"][name]
    else:
        name, found = folder.name, files.find_contrasts(folder)
        contrasts = [contrast for contrast in datasets.dataset(settings.dataset).contrasts if contrast in found]
        missing = [contrast for contrast in settings.conditions if contrast not in found]
        if missing and (not settings.targets or not contrasts):
            wanted, left = ", ".join(datasets.LABELS[c] for c in missing), files.left_out(found, *missing)
            raise MudiffError(f"{folder}: has no {wanted}, which this run needs{left}; give a folder that has.")
        stacks, masks, record = subject_slices(settings.preparation(), name, found, contrasts)
        images = dict(zip(contrasts, (stacks.astype(np.float32) / dataset.UINT16_MAX).swapaxes(0, 1), strict=True))
        brain, labels = masks[:, 0] > 0, masks[:, 1]
        if convention(settings.dataset, {name: record["labels"]}) == "2024":
            labels = np.where(labels == 4, 0, labels)
    kept = record["first_slice"], record["first_slice"] + len(brain)
    geometry = Geometry(tuple(record["shape"]), np.array(record["affine"]), kept)
    source = name if folder is None or not folder.is_dir() else str(folder)
    return Subject(name, source, images, brain, labels, geometry, record["notes"])


def test_slices(run: Path, settings: Settings) -> dataset.Slices:
    """Open the prepared test slices beside a run, of the settings that it was trained with."""
    for path in sorted((run.parent.parent / "prepared").glob(f"{settings.dataset}*/prepared.json")):
        if dataset.read_info(path.parent)["fingerprint"] == settings.preparation().fingerprint():
            return dataset.open_slices(path.parent, "test")
    raise MudiffError(f"{run}: no slices are prepared for it; give a folder of NIfTI files, or run `mudiff prepare`.")
