"""Memory-mapped access to prepared slices."""

import dataclasses
import errno
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.data import datasets
from mudiff.data.manifests import SPLITS
from mudiff.errors import MudiffError
from mudiff.settings import Preparation

WHITE = 65535
"""The stored value of intensity 1; background is 0."""


class Slices:
    """The slices of one split, memory-mapped: opening and indexing reads nothing but what is asked for.

    Attributes
    ----------
    index : pd.DataFrame
        One row per slice: subject, and slice, its number in the volume counted from inferior.
    subjects : list of str
        Subjects in the order of `index`.
    contrasts : tuple of str
        Contrasts of the dataset.
    image_size : int
        Pixels of the square slices.
    info : dict
        Content of ``prepared.json``: settings, fingerprint, data_hash, subjects.
    """

    def __init__(self, folder: Path, split: str, index: pd.DataFrame, info: dict[str, Any]):
        self.index = index
        self.info = info
        self._rows: dict[str, np.ndarray] = index.groupby("subject", sort=False).indices
        self.subjects = index["subject"].unique().tolist()
        self.contrasts = datasets.dataset(info["settings"]["dataset"]).contrasts
        self.image_size: int = info["settings"]["image_size"]
        self._folder = folder / split
        self._subject = index["subject"].to_numpy(object)
        self._row = index.groupby("subject", sort=False).cumcount().to_numpy()
        # A map keeps its file open: two splits at once stay below the 256 files that macOS allows.
        # (A bound method there would keep this object, and so the files, until the garbage collector runs.)
        self._open = functools.lru_cache(maxsize=100)(functools.partial(_map, self._folder))

    def __len__(self) -> int:
        return len(self.index)

    def images(self, indices: Sequence[int] | np.ndarray, contrast: str) -> np.ndarray:
        """Return slices of one contrast, float32 (B, S, S) in [-1, 1], background exactly -1."""
        if contrast not in self.contrasts:
            raise MudiffError(f"contrast {contrast!r} is unknown: choose one of {', '.join(self.contrasts)}.")
        images = self._gather(".npy", indices, self.contrasts.index(contrast)).astype(np.float32)  # (B, S, S)
        images /= WHITE
        images *= 2
        images -= 1
        return images

    def brain(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return brain masks, bool (B, S, S)."""
        return self._gather(".masks.npy", indices, 0).astype(bool)

    def lesion(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return lesion labels, uint8 (B, S, S), 0 outside lesions."""
        return self._gather(".masks.npy", indices, 1)

    def subject(self, name: str) -> np.ndarray:
        """Return the indices of one subject's slices, inferior to superior."""
        if name not in self._rows:
            raise MudiffError(f"subject {name!r} is not in {self._folder}; choose one of its subjects.")
        return self._rows[name].copy()

    def example(self, subject: str) -> int:
        """Return the index of the slice of a subject that is shown: with the largest lesion, else the middle one."""
        indices = self.subject(subject)
        area = (self.lesion(indices) > 0).sum(axis=(1, 2))
        return int(indices[area.argmax() if area.any() else len(indices) // 2])

    def _gather(self, suffix: str, indices: Sequence[int] | np.ndarray, channel: int) -> np.ndarray:
        places = np.asarray(indices, dtype=np.intp).reshape(-1)
        if not len(places):
            return np.zeros((0, self.image_size, self.image_size), np.uint8)
        return np.stack([self._open(self._subject[i] + suffix)[self._row[i], channel] for i in places])


def _map(folder: Path, name: str) -> np.ndarray:
    path = folder / name
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):  # nothing is wrong with the file
            remedy = "close other programs or allow more open files (`ulimit -n`)"
        else:
            remedy = "delete it and run `mudiff prepare`"
        raise MudiffError(f"{path}: cannot be read ({error}); {remedy}.") from None


def check(folder: Path, preparation: Preparation) -> str:
    """Check that a folder holds slices of these settings and return their data hash.

    Raises
    ------
    MudiffError
        If nothing is prepared there, or with other settings.
    """
    info = _info(Path(folder))
    if info["fingerprint"] != preparation.fingerprint():
        wanted = dataclasses.asdict(preparation)
        unlike = [f"{k} {info['settings'].get(k)!r}, not {v!r}" for k, v in wanted.items()
                  if info["settings"].get(k) != v]  # fmt: skip
        raise MudiffError(
            f"{folder}: prepared with {', '.join(unlike) or 'another version of the recipe'}; "
            "run `mudiff prepare` with the settings of this run."
        )
    return info["data_hash"]


def _info(folder: Path) -> dict[str, Any]:
    if not (folder / "prepared.json").is_file():
        raise MudiffError(
            f"{folder}: holds no prepared slices; run `mudiff prepare` first, or `mudiff train` with --data-root."
        )
    return paths.read_json(folder / "prepared.json")


def open_slices(folder: Path, split: str) -> Slices:
    """Open the prepared slices of a split.

    Parameters
    ----------
    folder : Path
        What `prepare` wrote.
    split : str
        train, val or test.

    Raises
    ------
    MudiffError
        If nothing is prepared there, or the split has no slices.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise MudiffError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}.")
    info = _info(folder)
    table = pd.read_csv(folder / "slices.csv", dtype={"split": str, "subject": str}, keep_default_na=False)
    index = table.loc[table["split"] == split, ["subject", "slice"]].reset_index(drop=True)
    if index.empty:
        raise MudiffError(f"{folder}: has no slices of split {split!r}; add subjects of it to the manifest.")
    return Slices(folder, split, index, info)
