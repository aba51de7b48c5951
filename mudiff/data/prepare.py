"""From NIfTI to the slice cache (section "Datasets")."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import nibabel
import numpy as np
import pandas as pd
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from mudiff import cache, paths
from mudiff.data import datasets, files, volumes
from mudiff.data.dataset import UINT16_MAX, Preparation, Slices, check, open_slices, read_info  # noqa: F401
from mudiff.data.manifests import SPLITS, assign, read_manifest  # noqa: F401
from mudiff.data.masks import brain_mask
from mudiff.data.slices import Geometry, normalise, to_slices
from mudiff.errors import MudiffError


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
        read_info(self.folder)


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
    `datasets.Dataset.contrasts`, 0 to 65535 for intensities 0 to 1; ``<split>/<subject>.masks.npy``, uint8
    (n, 2, S, S), brain (0 or 1) and lesion label; ``<split>/<subject>.json``, where they come from. Last
    ``slices.csv`` and ``prepared.json``. A subject whose split or source files changed is prepared again, one
    that is no longer listed is deleted; a folder of other settings is moved aside.

    Parameters
    ----------
    preparation : Preparation
        The settings.
    data_root : Path
        The folder of the NIfTI files.
    manifest : pd.DataFrame
        As `manifests.read_manifest` returns it.
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
    folder, problems = Path(folder), {}
    found = files.find_subjects(preparation.dataset, data_root, problems)
    splits, missing, unlisted = assign(found.keys() | problems.keys(), manifest)
    if not splits or ("train" in set(manifest["split"]) and "train" not in splits.values()):
        raise MudiffError(
            f"{data_root}: holds none of the {'training ' if splits else ''}subjects of the manifest; check "
            "--data-root, or pass a --manifest of your own (`mudiff verify --write-manifest FILE` drafts one)."
        )
    report = Report(folder, failed={s: problems[s] for s in splits if s in problems})
    for subjects, place, other in (
        (missing, "manifest", "data folder"),
        (unlisted, "data folder", "manifest"),
    ):
        if subjects:
            named = ", ".join(subjects[:5]) + (", ..." if len(subjects) > 5 else "")
            report.warnings.append(f"{len(subjects)} subjects of the {place} are not in the {other}: {named}")

    sources = {s: _needed(preparation.dataset, found[s]) for s in splits if s in found}
    records = _finished(preparation, folder, splits, sources)
    jobs = [
        (preparation, subject, splits[subject], sources[subject], folder)
        for subject in sources
        if subject not in records
    ]
    for (_, subject, *_), result in each_subject(_prepare_subject, jobs, workers, "prepare", progress):
        if isinstance(result, MudiffError):
            report.failed[subject] = str(result)
        else:
            records[subject] = result
    _write_index(report, preparation, dict(sorted(records.items())))
    return report


def each_subject(
    function: Callable[..., Any], jobs: Sequence[tuple], workers: int, label: str, progress: bool = True
) -> Iterator[tuple[tuple, Any]]:
    """Yield (job, ``function(*job)``) as jobs finish; a MudiffError is returned, not raised.

    Raises
    ------
    MudiffError
        If a process dies, most likely for want of memory.
    """
    run = joblib.Parallel(min(workers, len(jobs)) or 1, return_as="generator_unordered")
    try:
        results = run(joblib.delayed(_attempt)(function, job) for job in jobs)
        yield from tqdm(results, label, len(jobs), unit="subject", disable=None if progress else True)
    except TerminatedWorkerError:
        raise MudiffError(
            f"{label}: a process died, probably for want of memory; run it again with fewer workers "
            "(finished subjects are kept)."
        ) from None


def _attempt(function: Callable[..., Any], job: tuple) -> tuple[tuple, Any]:
    try:
        return job, function(*job)
    except MudiffError as error:
        return job, error


def _needed(dataset: str, found: files.Files) -> files.Files:
    chosen = datasets.dataset(dataset)
    names = (*chosen.contrasts, *(("mask",) if chosen.lesions else ()))
    return {name: found[name] for name in names if name in found}


def _prepare_subject(
    preparation: Preparation, subject: str, split: str, found: files.Files, folder: Path
) -> dict[str, Any]:
    """Prepare one subject; its JSON file is written last and marks it as finished."""
    images, masks, record = subject_slices(preparation, subject, found)
    record |= {"subject": subject, "split": split, "fingerprint": preparation.fingerprint()}
    record["sources"] = {
        name: {**_state(path), "sha256": cache.file_hash(path)} for name, path in found.items()
    }
    for suffix, array in ((".npy", images), (".masks.npy", masks)):
        with paths.atomic_write(folder / split / f"{subject}{suffix}") as temporary:
            np.save(temporary, array, allow_pickle=False)
    paths.write_json(folder / split / f"{subject}.json", record)
    return record


def _state(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def subject_slices(
    preparation: Preparation, subject: str, found: files.Files
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Prepare the slices of one subject.

    In this order: check that all contrasts are there and on one grid; normalise each volume; choose the
    middle axial slices; pad to squares and resize; brain mask of the resized slices.

    Returns
    -------
    images : np.ndarray
        uint16 (n, C, S, S).
    masks : np.ndarray
        uint8 (n, 2, S, S): brain (0 or 1), lesion label (0 where there is no mask).
    record : dict
        Native shape, number of the first slice, number of slices, notes on what is odd, and whether the
        headers say that it is a phantom.

    Raises
    ------
    MudiffError
        If a contrast is missing or a file is not usable.
    """
    names = datasets.dataset(preparation.dataset).contrasts
    if absent := [name for name in names if name not in found]:
        raise MudiffError(f"{subject}: has no {', '.join(absent)}; add the files or exclude the subject.")
    loaded = {name: volumes.load_volume(found[name]) for name in names}
    mask = volumes.load_mask(found["mask"]) if "mask" in found else None
    volumes.check_grid(loaded | ({"mask": mask} if mask else {}), subject)

    stacks, geometries = zip(*(contrast_slices(preparation, loaded[name]) for name in names), strict=True)
    images = np.stack(stacks, axis=1)  # (n, C, S, S)
    masks = np.zeros((len(images), 2, *images.shape[2:]), np.uint8)
    masks[:, 0] = brain_mask(images.swapaxes(0, 1))
    if mask:
        masks[:, 1], _ = to_slices(mask.data, mask.affine, preparation.image_size, 0, preparation.slices)
    descriptions = [volume.header["descrip"].item().decode(errors="replace") for volume in loaded.values()]
    record = {
        "shape": list(geometries[0].shape),
        "first_slice": geometries[0].kept[0],
        "slices": len(images),
        "notes": _notes(preparation, loaded[names[0]].affine, masks, mask is not None),
        "phantom": all(text.startswith(datasets.PHANTOM_MARK) for text in descriptions),
    }
    return images, masks, record


def contrast_slices(preparation: Preparation, volume: volumes.Volume) -> tuple[np.ndarray, Geometry]:
    """Normalise one volume and cut it into slices, uint16 (n, S, S), 0 to 65535 for intensities 0 to 1."""
    unit = normalise(volume.data, preparation.normalisation, volume.path)
    slices, geometry = to_slices(unit, volume.affine, preparation.image_size, wanted=preparation.slices)
    return np.rint(slices * UINT16_MAX).astype(np.uint16), geometry


def _notes(preparation: Preparation, affine: np.ndarray, masks: np.ndarray, has_mask: bool) -> list[str]:
    """Return what is odd about a subject, but no error."""
    notes = []
    if len(masks) < preparation.slices:
        notes.append(f"has {len(masks)} axial slices instead of {preparation.slices}; all are used")
    sides = dict(zip(nibabel.aff2axcodes(affine), nibabel.affines.voxel_sizes(affine), strict=True))
    across, along = (next(sides[code] for code in pair if code in sides) for pair in ("LR", "AP"))
    if not np.isclose(across, along, rtol=0.02):
        notes.append(f"has voxels of {across:.3g} x {along:.3g} mm in the slices; resample to 1 mm first")
    if datasets.dataset(preparation.dataset).lesions and not masks[:, 1].any():
        odd = (
            "has no lesion in the slices used"
            if has_mask
            else "has no lesion mask; counted as free of lesions"
        )
        notes.append(odd)
    return notes


def _finished(
    preparation: Preparation, folder: Path, splits: dict[str, str], sources: dict[str, files.Files]
) -> dict[str, dict[str, Any]]:
    """Return the records of the subjects that are prepared already, and take away all others.

    Names that begin with a dot are what a killed process was writing.
    """
    records = {}
    found = {p: paths.read_json(p) for split in SPLITS for p in sorted(folder.glob(f"{split}/[!.]*.json"))}
    if any(record["fingerprint"] != preparation.fingerprint() for record in found.values()):
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
            number += 1
        print(f"{folder}: holds slices of other settings; moved to {aside.name}.", file=sys.stderr)
        folder.rename(aside)
        return {}
    for path, record in found.items():
        subject, stored = record["subject"], (path.with_suffix(".npy"), path.with_suffix(".masks.npy"))
        before = {
            name: {k: v for k, v in source.items() if k != "sha256"}
            for name, source in record["sources"].items()
        }
        now = {name: _state(source) for name, source in sources.get(subject, {}).items()}
        if splits.get(subject) == record["split"] and before == now and all(map(Path.is_file, stored)):
            records[subject] = record
            continue
        (folder / "prepared.json").unlink(missing_ok=True)  # until it is complete again
        for old in (path, *stored):
            old.unlink(missing_ok=True)
    return records


def _write_index(report: Report, preparation: Preparation, records: dict[str, dict[str, Any]]) -> None:
    """Write slices.csv and prepared.json, which make the folder readable, and complete the report."""
    report.subjects = {subject: record["split"] for subject, record in records.items()}
    report.failed = dict(sorted(report.failed.items()))
    report.warnings += [f"{subject}: {note}" for subject, r in records.items() for note in r["notes"]]
    contents = {
        s: {name: source["sha256"] for name, source in r["sources"].items()} for s, r in records.items()
    }
    # No paths and no dates.
    report.data_hash = cache.digest(preparation.fingerprint(), report.subjects, contents)
    rows = [
        (split, subject, record["first_slice"] + number)
        for split in SPLITS
        for subject, record in records.items()
        if record["split"] == split
        for number in range(record["slices"])
    ]
    index = pd.DataFrame(rows, columns=["split", "subject", "slice"])
    paths.write_text(report.folder / "slices.csv", index.to_csv(index=False, lineterminator="\n"))
    origins = {record.get("phantom") for record in records.values()}
    summary = {
        "settings": dataclasses.asdict(preparation),
        "fingerprint": preparation.fingerprint(),
        "data_hash": report.data_hash,
        "phantoms": origins.pop() if len(origins) == 1 else None,  # None: both, or not recorded
        "subjects": records,
        "failed": report.failed,
        "warnings": report.warnings,
    }
    paths.write_json(report.folder / "prepared.json", summary)
