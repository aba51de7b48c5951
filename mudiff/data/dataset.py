"""Memory-mapped access to prepared slices."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mudiff import cache, storage
from mudiff.data import datasets
from mudiff.data.manifests import SPLITS
from mudiff.errors import MudiffError

UINT16_MAX = 65535
"""The stored value of intensity 1; background is 0."""

_RECIPE = 6  # raised by every change that alters slices
Indices = Sequence[int] | np.ndarray
_COUNT = range(10**5)
RECORD = {
    "subject": str, "split": str, "fingerprint": str, "sources": {str: {"sha256": str}}, "first_slice": _COUNT,
    "slices": _COUNT, "notes": [str], "phantom": bool, "shape": [int], "affine": [[float]],
}  # fmt: skip
"""What the JSON file of a prepared subject must hold, see `storage.check_form`."""
_INFO = {
    "settings": {"dataset": str, "image_size": _COUNT}, "fingerprint": str, "data_hash": str, "failed": {str: str},
    "subjects": {str: RECORD}, "warnings": [str],
}  # fmt: skip


@dataclass(frozen=True)
class Preparation:
    """How NIfTI volumes become slices (section "Datasets"); all that decides what a slice cache holds."""

    dataset: str
    image_size: int = 256  # pixels of the square slices
    slices: int = 80  # middle axial slices per subject, where they are 1 mm apart
    normalisation: str = "percentile"  # B-4: "percentile" (1-99 % clip, code) or "minmax" (text)

    def fingerprint(self) -> str:
        """Return the key of the slice cache that these settings make."""
        return cache.digest(_RECIPE, dataclasses.asdict(self))[:12]


class Slices:
    """The slices of one split, memory-mapped: opening and indexing reads nothing but what is asked for."""

    def __init__(self, folder: Path, split: str, index: pd.DataFrame, info: dict[str, Any]):
        self.index = index  # a row per slice: subject, and slice, its number in the volume from inferior
        self.info = info  # content of ``prepared.json``
        groups = index.groupby("subject", sort=False)
        self._rows: dict[str, np.ndarray] = groups.indices
        self._subject, self._row = index["subject"].to_numpy(object), groups.cumcount().to_numpy()
        self.subjects = list(self._rows)
        self.contrasts = datasets.dataset(info["settings"]["dataset"]).contrasts
        self.image_size: int = info["settings"]["image_size"]
        self._folder = folder / split

    def __len__(self) -> int:
        return len(self.index)

    def images(self, indices: Indices, contrast: str) -> np.ndarray:
        """Return slices of one contrast, float32 (B, S, S) in [-1, 1], background exactly -1."""
        channel = self.contrasts.index(datasets.known("contrast", contrast, self.contrasts))
        return self._gather(".npy", indices, channel).astype(np.float32) / np.float32(UINT16_MAX) * 2 - 1

    def brain(self, indices: Indices) -> np.ndarray:
        """Return brain masks, bool (B, S, S)."""
        return self._gather(".masks.npy", indices, 0).astype(bool)

    def lesion(self, indices: Indices) -> np.ndarray:
        """Return lesion labels, uint8 (B, S, S), 0 outside lesions (see `masks.CONVENTIONS`)."""
        labels = self._gather(".masks.npy", indices, 1)
        return np.where(labels == 4, 0, labels) if self.info.get("labels") == "2024" else labels

    def subject(self, name: str) -> np.ndarray:
        """Return the indices of one subject's slices, inferior to superior."""
        if name not in self._rows:
            raise MudiffError(f"subject {name!r} is not in {self._folder}; choose one of its subjects.")
        return self._rows[name].copy()

    def example(self, subject: str) -> int:
        """Return the index of the slice of a subject that is shown: the largest lesion, else the middle."""
        indices = self.subject(subject)
        areas = np.count_nonzero(self.lesion(indices), axis=(1, 2))
        return int(indices[areas.argmax() if areas.any() else len(indices) // 2])

    def _gather(self, suffix: str, indices: Indices, channel: int) -> np.ndarray:
        places = np.asarray(indices, dtype=np.intp).reshape(-1)
        if not len(places):
            return np.zeros((0, self.image_size, self.image_size), np.uint8)
        return np.stack([self._open(self._subject[i], suffix)[self._row[i], channel] for i in places])

    def _open(self, subject: str, suffix: str) -> np.ndarray:
        path, side = self._folder / (subject + suffix), self.image_size
        channels, kind = (len(self.contrasts), np.uint16) if suffix == ".npy" else (2, np.uint8)
        with storage.reading(path, "prepared slices", "delete it and run `mudiff prepare`"):
            array = _map(path, path.stat().st_mtime_ns)
            if array.dtype != kind or array.shape != (len(self._rows[subject]), channels, side, side):
                raise ValueError(f"an array of {array.dtype} {array.shape}")
        return array


@functools.lru_cache(maxsize=100)  # a map keeps its file open, and macOS allows 256
def _map(path: Path, changed: int) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def open_slices(folder: Path, split: str) -> Slices:
    """Open the prepared slices of a split (train, val or test), which must be complete and hold some."""
    folder = Path(folder)
    datasets.known("split", split, SPLITS)
    info = read_info(folder)
    with storage.reading(folder / "slices.csv", "index of slices", "run `mudiff prepare` again"):
        types = {"split": str, "subject": str, "slice": int}
        table = pd.read_csv(folder / "slices.csv", dtype=types, keep_default_na=False)
        prepared = {(record["split"], name): record["slices"] for name, record in info["subjects"].items()}
        if table.groupby(["split", "subject"]).size().to_dict() != prepared or (table["slice"] < 0).any():
            raise ValueError("not that of prepared.json")
    index = table.loc[table["split"] == split, ["subject", "slice"]].reset_index(drop=True)
    if index.empty:
        raise MudiffError(f"{folder}: has no slices of split {split!r}; add subjects of it to the manifest.")
    return Slices(folder, split, index, info)


def check(folder: Path, preparation: Preparation) -> str:
    """Check that a folder holds the slices of these settings, all of them, and return their data hash."""
    info = read_info(folder)
    if info["fingerprint"] != preparation.fingerprint():
        found, wanted = info["settings"], dataclasses.asdict(preparation).items()
        unlike = ", ".join(f"{k} {found.get(k)!r}, not {v!r}" for k, v in wanted if found.get(k) != v)
        why = unlike or "another version of the recipe"
        raise MudiffError(f"{folder}: prepared with {why}; run `mudiff prepare` with the settings of this run.")
    return info["data_hash"]


def read_info(folder: Path) -> dict[str, Any]:
    """Return the content of ``prepared.json``; a MudiffError if there is none, or subjects failed."""
    path = Path(folder) / "prepared.json"
    if not path.is_file():
        raise MudiffError(f"{folder}: no prepared slices; run `mudiff prepare`, or `mudiff train` with --data-root.")
    info = storage.read_json(path, _INFO)
    if failed := info["failed"]:
        total, rest = len(failed) + len(info["subjects"]), f" (the rest: {path})" if len(failed) > 3 else ""
        raise MudiffError(
            f"{folder}: {len(failed)} of {total} subjects could not be prepared; mend them, or exclude them in the "
            f"manifest, and prepare again: {' '.join(list(failed.values())[:3])}{rest}"
        )
    return info


def origin(folder: Path) -> str:
    """Return what was prepared: ``phantoms``, ``patients``, or ``unknown`` (nothing, both, or not recorded)."""
    record = Path(folder) / "prepared.json"
    phantoms = storage.read_json(record).get("phantoms") if record.is_file() else None
    return {True: "phantoms", False: "patients"}.get(phantoms, "unknown")
