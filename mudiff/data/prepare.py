"""From NIfTI to memory-mapped slices (section "Datasets")."""

import contextlib
import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.data import datasets, resizing, volumes
from mudiff.data import files as layouts
from mudiff.data.dataset import WHITE, Slices, check, open_slices
from mudiff.data.manifests import SPLITS, assign, read_manifest
from mudiff.data.masks import brain_mask
from mudiff.data.parallel import each_subject
from mudiff.errors import MudiffError
from mudiff.settings import Preparation

__all__ = [
    "SPLITS", "Report", "Slices", "check", "contrast_slices", "open_slices", "prepare", "read_manifest",
    "subject_slices",
]  # fmt: skip


@dataclass
class Report:
    """What a preparation did.

    Attributes
    ----------
    folder : Path
        The prepared folder.
    subjects : dict of str to str
        Prepared subject -> split.
    failed : dict of str to str
        Subject -> what is wrong with it.
    warnings : list of str
        What is odd but no error.
    data_hash : str
        Hash of the settings, the splits and the contents of all source files.
    """

    folder: Path
    subjects: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    data_hash: str = ""

    def check(self) -> None:
        """Raise one MudiffError that names the subjects that failed, if any did."""
        if self.failed:
            reasons = " ".join(list(self.failed.values())[:3])
            rest = f" (the rest: {self.folder / 'prepared.json'})" if len(self.failed) > 3 else ""
            total = len(self.failed) + len(self.subjects)
            raise MudiffError(
                f"{len(self.failed)} of {total} subjects could not be prepared: {reasons}{rest}"
            )


def prepare(
    preparation: Preparation,
    data_root: Path,
    manifest: pd.DataFrame,
    folder: Path,
    workers: int = 2,
    progress: bool = True,
) -> Report:
    """Prepare the slices of a dataset; finished subjects are kept when it is run again.

    Per subject it writes ``<split>/<subject>.npy``, uint16 (n, C, S, S), contrasts in the order of
    `tasks.Dataset.contrasts`, 0 to 65535 for intensities 0 to 1; ``<split>/<subject>.masks.npy``, uint8
    (n, 2, S, S), brain (0 or 1) and lesion label; ``<split>/<subject>.json``, where they come from. Last
    ``slices.csv`` and ``prepared.json``. A folder that other settings, splits or source files made is
    moved aside.

    Parameters
    ----------
    preparation : Preparation
        The settings.
    data_root : Path
        The folder of the NIfTI files.
    manifest : pd.DataFrame
        As `read_manifest` returns it.
    folder : Path
        Where the slices go.
    workers : int, optional
        Processes; each holds one subject in memory.
    progress : bool, optional
        Whether to show a progress bar on a terminal.

    Returns
    -------
    Report
        One bad subject does not stop the others: `Report.check` raises at the end.

    Raises
    ------
    MudiffError
        If no subject of the manifest, or none of its training subjects, is in the data folder.
    """
    found, problems = layouts.scan(preparation.dataset, data_root)
    splits, missing, unlisted = assign(found.keys() | problems.keys(), manifest)
    if not splits or ("train" in set(manifest["split"]) and "train" not in splits.values()):
        raise MudiffError(
            f"{data_root}: holds none of the {'training ' if splits else ''}subjects of the manifest; check "
            "--data-root, or pass a --manifest of your own (`mudiff verify --write-manifest FILE` drafts one)."
        )
    report = Report(Path(folder), failed={s: problems[s] for s in splits if s in problems})
    report.warnings = _notices(missing, unlisted)

    sources = {subject: _needed(preparation.dataset, found.get(subject, {})) for subject in splits}
    _sweep(report.folder)
    records = _finished(report.folder, preparation.fingerprint(), splits, sources)
    jobs = [
        (preparation, subject, splits[subject], sources[subject], report.folder)
        for subject in splits
        if subject not in records and subject not in problems
    ]
    for (_, subject, *_), result in each_subject(_prepare_subject, jobs, workers, "prepare", progress):
        if isinstance(result, MudiffError):
            report.failed[subject] = str(result)
        else:
            records[subject] = result
    _write_index(report, preparation, dict(sorted(records.items())))
    return report


def _notices(missing: list[str], unlisted: list[str]) -> list[str]:
    texts = []
    if missing:
        texts.append(f"{len(missing)} subjects of the manifest are not in the data folder: {_few(missing)}")
    if unlisted:
        texts.append(f"{len(unlisted)} subjects of the data folder are not in the manifest: {_few(unlisted)}")
    return texts


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _needed(dataset: str, files: layouts.Files) -> layouts.Files:
    chosen = datasets.dataset(dataset)
    names = (*chosen.contrasts, *(("mask",) if chosen.lesions else ()))
    return {name: files[name] for name in names if name in files}


def _prepare_subject(
    preparation: Preparation, subject: str, split: str, files: layouts.Files, folder: Path
) -> dict[str, Any]:
    """Prepare one subject; its JSON file is written last and marks it as finished."""
    images, masks, record = subject_slices(preparation, subject, files)
    record |= {"subject": subject, "split": split, "fingerprint": preparation.fingerprint()}
    record["sources"] = {name: _source(path) for name, path in files.items()}
    for suffix, array in ((".npy", images), (".masks.npy", masks)):
        with paths.atomic_write(folder / split / f"{subject}{suffix}") as temporary:
            np.save(temporary, array, allow_pickle=False)
    paths.write_json(folder / split / f"{subject}.json", record)
    return record


def subject_slices(
    preparation: Preparation, subject: str, files: layouts.Files
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Prepare the slices of one subject.

    In this order: check that all contrasts are there and on one grid; negative values to 0, normalise each
    volume; choose the middle axial slices; pad to squares and resize; brain mask of the resized slices.

    Returns
    -------
    images : np.ndarray
        uint16 (n, C, S, S).
    masks : np.ndarray
        uint8 (n, 2, S, S): brain (0 or 1), lesion label (0 where there is no mask).
    record : dict
        Native shape, number of the first slice, number of slices, and notes on what is odd.

    Raises
    ------
    MudiffError
        If a contrast is missing or a file is not usable.
    """
    dataset = datasets.dataset(preparation.dataset)
    absent = [name for name in dataset.contrasts if name not in files]
    if absent:
        raise MudiffError(f"{subject}: has no {', '.join(absent)}; add the files or exclude the subject.")
    loaded = {name: volumes.load_volume(files[name]) for name in dataset.contrasts}
    if "mask" in files:
        loaded["mask"] = volumes.load_mask(files["mask"])
    volumes.check_grid(loaded, subject)

    stack = []
    for name in dataset.contrasts:
        slices, geometry = contrast_slices(preparation, loaded[name])
        stack.append(slices)
    images = np.stack(stack, axis=1)  # (n, C, S, S)
    masks = np.zeros((len(images), 2, *images.shape[2:]), np.uint8)
    masks[:, 0] = brain_mask(images.swapaxes(0, 1))
    if "mask" in loaded:
        mask = loaded["mask"]
        masks[:, 1], _ = volumes.to_slices(
            mask.data, mask.affine, preparation.image_size, order=0, wanted=preparation.slices
        )
    record = {"shape": list(geometry.shape), "first_slice": geometry.kept[0], "slices": len(images)}
    record["notes"] = _notes(preparation, loaded, masks)
    return images, masks, record


def contrast_slices(preparation: Preparation, volume: volumes.Volume) -> tuple[np.ndarray, volumes.Geometry]:
    """Normalise one volume and cut it into slices, uint16 (n, S, S), 0 to `WHITE` for intensities 0 to 1."""
    size = preparation.image_size
    limits = volumes.limits(volume.data, preparation.normalisation, volume.path)
    kept, geometry = volumes.cut(volume.data, volume.affine, size, preparation.slices)
    slices = resizing.to_square(volumes.rescale(kept, *limits), size, order=1)
    slices *= WHITE
    return np.rint(slices, out=slices).astype(np.uint16), geometry


def _notes(preparation: Preparation, loaded: dict[str, volumes.Volume], masks: np.ndarray) -> list[str]:
    """Return what is odd about a subject, but no error."""
    notes = []
    if len(masks) < preparation.slices:
        notes.append(f"has {len(masks)} axial slices instead of {preparation.slices}; all are used")
    affine = next(iter(loaded.values())).affine
    sides = dict(zip(nibabel.aff2axcodes(affine), nibabel.affines.voxel_sizes(affine), strict=True))
    across, along = (next(sides[code] for code in pair if code in sides) for pair in ("LR", "AP"))
    if not np.isclose(across, along, rtol=0.02):
        notes.append(f"has voxels of {across:.3g} x {along:.3g} mm in the slices; resample to 1 mm first")
    if datasets.dataset(preparation.dataset).lesions:
        if "mask" not in loaded:
            notes.append("has no lesion mask; counted as free of lesions")
        elif not masks[:, 1].any():
            notes.append("has no lesion in the slices used")
    return notes


def _source(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    status = path.stat()
    return {"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}


def _unchanged(source: dict[str, Any], path: Path) -> bool:
    """Tell whether a file is still the one that was prepared; a copy with another date is."""
    status = path.stat()
    if status.st_size != source["size"]:
        return False
    return status.st_mtime_ns == source["mtime_ns"] or _source(path)["sha256"] == source["sha256"]


def _finished(
    folder: Path, fingerprint: str, splits: dict[str, str], sources: dict[str, layouts.Files]
) -> dict[str, dict[str, Any]]:
    """Return the records of finished subjects; move the folder aside if one is not from this recipe.

    Names that begin with a dot are what a killed process was writing.
    """
    records = {}
    for file in sorted(path for split in SPLITS for path in folder.glob(f"{split}/[!.]*.json")):
        record = paths.read_json(file)
        subject = record["subject"]
        files = sources.get(subject, {})
        if (
            record["fingerprint"] != fingerprint
            or splits.get(subject) != record["split"]
            or record["sources"].keys() != files.keys()
            or not all(_unchanged(record["sources"][name], path) for name, path in files.items())
        ):
            _move_aside(folder)
            return {}
        if all(file.with_suffix(suffix).is_file() for suffix in (".npy", ".masks.npy")):
            records[subject] = record
    return records


def _sweep(folder: Path) -> None:
    """Delete what killed processes left half-written; files of the last hour may be another process's work."""
    for leftover in folder.glob("**/.tmp-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()


def _move_aside(folder: Path) -> None:
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(target)


def _write_index(report: Report, preparation: Preparation, records: dict[str, dict[str, Any]]) -> None:
    """Write slices.csv and prepared.json, which make the folder readable, and complete the report."""
    report.subjects = {subject: record["split"] for subject, record in records.items()}
    report.failed = dict(sorted(report.failed.items()))
    report.warnings += [f"{subject}: {note}" for subject, r in records.items() for note in r["notes"]]
    contents = {
        s: {name: source["sha256"] for name, source in r["sources"].items()} for s, r in records.items()
    }
    identity = [preparation.fingerprint(), report.subjects, contents]  # no paths and no dates
    report.data_hash = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    rows = [
        (split, subject, record["first_slice"] + number)
        for split in SPLITS
        for subject, record in records.items()
        if record["split"] == split
        for number in range(record["slices"])
    ]
    index = pd.DataFrame(rows, columns=["split", "subject", "slice"])
    paths.write_text(report.folder / "slices.csv", index.to_csv(index=False, lineterminator="\n"))
    summary = {
        "settings": dataclasses.asdict(preparation),
        "fingerprint": preparation.fingerprint(),
        "data_hash": report.data_hash,
        "subjects": records,
        "failed": report.failed,
        "warnings": report.warnings,
    }
    paths.write_json(report.folder / "prepared.json", summary)
