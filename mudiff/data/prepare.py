"""From NIfTI to the slice cache (section "Datasets")."""

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from mudiff import cache, storage
from mudiff.data import datasets, files, volumes
from mudiff.data.dataset import RECORD, UINT16_MAX, Preparation
from mudiff.data.doubts import copies, doubts
from mudiff.data.manifests import SPLITS, assign, leaks, nearest
from mudiff.data.masks import brain_mask, convention, found_labels, load_mask, missing_masks
from mudiff.data.slices import Geometry, normalise, sides, to_slices
from mudiff.errors import MudiffError

Record = dict[str, Any]  # what the JSON file of a subject holds


def prepare(
    preparation: Preparation, data_root: Path, manifest: pd.DataFrame, folder: Path,
    workers: int = 2, progress: bool = True, labels: str | None = None, allow_missing_masks: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Prepare the slices of a dataset, and return the content of ``prepared.json``; what is prepared already is kept.

    Per subject it writes ``<split>/<subject>.npy``, ``<subject>.masks.npy`` (see `subject_slices`) and, with their
    sources, ``<subject>.json``. A subject whose split or files changed is prepared again, one no longer listed is
    deleted, a folder of other settings is moved aside. A bad subject, also one without
    its mask unless that is allowed, stops no other: `dataset.read_info` raises. `labels`: see `masks.convention`.
    """
    convention(preparation.dataset, {}, labels)  # refuses a wrong choice at once
    folder, problems = Path(folder), {}
    found = files.find_subjects(preparation.dataset, data_root, problems)
    splits, missing, unlisted = assign(found.keys() | problems.keys(), manifest)
    if not splits or ("train" in set(manifest["split"]) and "train" not in splits.values()):
        raise MudiffError(
            f"{data_root}: holds none of the {'training ' if splits else ''}subjects of the manifest; check "
            "--data-root, or pass a --manifest of your own (`mudiff verify --write-manifest FILE` drafts one)."
        )
    for wrong in leaks(splits, sure=True).values():
        raise MudiffError(f"{data_root}: {wrong}")
    chosen = datasets.dataset(preparation.dataset)
    if not allow_missing_masks:
        problems |= missing_masks(preparation.dataset, found)
    failed = {s: problem for s, problem in problems.items() if s in splits}
    used = {*chosen.contrasts, "mask"} if chosen.lesions else {*chosen.contrasts}
    ready = [s for s in splits if s in found and s not in failed]
    sources = {s: {c: file for c, file in found[s].items() if c in used} for s in ready}
    records = _finished(preparation, folder, splits, sources)
    jobs = [(preparation, s, splits[s], own, folder) for s, own in sources.items() if s not in records]
    for (_, subject, *_), result in each_subject(_prepare_subject, jobs, workers, "prepare", progress):
        if isinstance(result, MudiffError):
            failed[subject] = str(result)
        else:
            records[subject] = result
    missing = [subject + (nearest(subject, unlisted) if n < 5 else "") for n, subject in enumerate(missing)]
    places = {"manifest are not in the data folder": missing, "data folder are not in the manifest": unlisted}
    shown = {where: f"{', '.join(s[:5])}{' ...' * (len(s) > 5)}" for where, s in places.items() if s}
    warnings = [f"{len(places[where])} subjects of the {where}: {names}" for where, names in shown.items()]
    warnings += sorted(set(leaks(splits).values()))
    release = convention(preparation.dataset, {s: r.get("labels", []) for s, r in records.items()}, labels)
    return _write_index(preparation, folder, records, failed, warnings, release)


def each_subject(
    function: Callable[..., Any], jobs: Sequence[tuple], workers: int, label: str, progress: bool = True
) -> Iterator[tuple[tuple, Any]]:
    """Yield (job, ``function(*job)``) as jobs finish; a MudiffError of a job is yielded, not raised."""

    def attempt(job: tuple) -> tuple[tuple, Any]:
        try:
            return job, function(*job)
        except MudiffError as error:
            return job, error

    options = {"return_as": "generator_unordered", "initializer": _end_with, "initargs": (os.getpid(),)}
    run = joblib.Parallel(min(workers, len(jobs)) or 1, **options)
    try:
        results = run(joblib.delayed(attempt)(job) for job in jobs)
        yield from tqdm(results, label, len(jobs), unit="subject", disable=None if progress else True)
    except TerminatedWorkerError:
        advice = "run it again with fewer workers (finished subjects are kept)"
        raise MudiffError(f"{label}: a process died, probably for want of memory; {advice}.") from None


def _end_with(parent: int) -> None:
    """Let this process end a second after its parent at the latest, also where that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _prepare_subject(preparation: Preparation, subject: str, split: str, found: files.Files, folder: Path) -> Record:
    """Prepare one subject; its JSON file is written last and marks it as finished."""
    images, masks, record = subject_slices(preparation, subject, found)
    sources = {c: {**_state(path), "sha256": cache.file_hash(path)} for c, path in found.items()}
    record |= {"subject": subject, "split": split, "fingerprint": preparation.fingerprint(), "sources": sources}
    for suffix, array in ((".npy", images), (".masks.npy", masks)):
        with storage.atomic_write(folder / split / f"{subject}{suffix}") as temporary:
            np.save(temporary, array, allow_pickle=False)
    storage.write_json(folder / split / f"{subject}.json", record)
    return record


def _state(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def subject_slices(
    preparation: Preparation, subject: str, found: files.Files, contrasts: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray, Record]:
    """Prepare the slices of one subject: each volume normalised, cut, padded and resized, and the brain mask.

    Returned are images, uint16 (n, C, S, S), `contrasts` (default: all, in the dataset's order), 0 to 65535 for
    intensities 0 to 1; masks, uint8 (n, 2, S, S), brain (0 or 1) and lesion label (0 without a mask); and a record:
    shape and affine (native), first_slice, slices (their number), labels of the mask, notes on what is odd, and
    phantom (by the headers).
    """
    contrasts = contrasts or datasets.dataset(preparation.dataset).contrasts
    if absent := [name for name in contrasts if name not in found]:
        left = files.left_out(found, *absent)
        raise MudiffError(f"{subject}: has no {', '.join(absent)}{left}; add the files or exclude the subject.")
    loaded = {name: volumes.load_volume(found[name]) for name in contrasts}
    mask, odd = load_mask(found["mask"], loaded.values()) if "mask" in found else (None, [])
    volumes.check_grid(loaded | ({"mask": mask} if mask else {}), subject)

    stacks, geometries = zip(*(contrast_slices(preparation, v) for v in loaded.values()), strict=True)
    images = np.stack(stacks, axis=1)  # (n, C, S, S)
    masks = np.zeros((len(images), 2, *images.shape[2:]), np.uint8)
    masks[:, 0] = brain_mask(images.swapaxes(0, 1))
    if mask:
        masks[:, 1], _ = to_slices(mask.data, mask.affine, preparation.image_size, 0, preparation.slices)
    notes = [": ".join(filter(None, (datasets.LABELS.get(c), n))) for c, n in doubts(loaded, preparation.slices)]
    notes += [f"mask: {doubt}" for doubt in odd]
    if len(masks) < (wanted := round(preparation.slices / sides(loaded[contrasts[0]].affine)[2])):
        notes.append(f"has {len(masks)} axial slices instead of {wanted}; all are used")
    if datasets.dataset(preparation.dataset).lesions and not masks[:, 1].any():
        notes.append(f"has no lesion {'in the slices used' if mask else 'mask; counted as free of lesions'}")
    mark, first = datasets.PHANTOM_MARK.encode(), geometries[0]
    record = {
        "shape": list(first.shape), "affine": first.affine.tolist(), "first_slice": first.kept[0],
        "slices": len(images), "notes": notes, "labels": found_labels(mask),
        "phantom": all(bytes(v.header["descrip"]).startswith(mark) for v in loaded.values()),
    }  # fmt: skip
    return images, masks, record


def contrast_slices(preparation: Preparation, volume: volumes.Volume) -> tuple[np.ndarray, Geometry]:
    """Normalise one volume and cut it into slices, uint16 (n, S, S), 0 to 65535 for intensities 0 to 1."""
    unit = normalise(volume.data, preparation.normalisation, volume.path)
    slices, geometry = to_slices(unit, volume.affine, preparation.image_size, wanted=preparation.slices)
    return np.rint(slices * UINT16_MAX).astype(np.uint16), geometry


def _finished(
    preparation: Preparation, folder: Path, splits: dict[str, str], sources: dict[str, files.Files]
) -> dict[str, Record]:
    """Return the records of the subjects that are prepared already, and delete what is out of date."""
    kept = {}
    # Names that begin with a dot are what a killed process was writing.
    records = {p: storage.read_json(p, RECORD) for split in SPLITS for p in folder.glob(f"{split}/[!.]*.json")}
    if any(record["fingerprint"] != preparation.fingerprint() for record in records.values()):
        storage.move_aside(folder, "slices of other settings")
        return {}
    for path, record in records.items():
        subject, arrays = record["subject"], [path.with_suffix(suffix) for suffix in (".npy", ".masks.npy")]
        before = {c: {k: v for k, v in s.items() if k != "sha256"} for c, s in record["sources"].items()}
        now = {c: _state(source) for c, source in sources.get(subject, {}).items() if source.is_file()}
        if splits.get(subject) == record["split"] and before == now and all(file.is_file() for file in arrays):
            kept[subject] = record
            continue
        # Without prepared.json the folder is readable only once it is complete again.
        for old in (folder / "prepared.json", path, *arrays):
            old.unlink(missing_ok=True)
    return kept


def _write_index(
    preparation: Preparation, folder: Path, records: dict[str, Record], failed: dict[str, str], warnings: list[str],
    release: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Write slices.csv and prepared.json, which make the folder readable; return the latter's content."""
    records = dict(sorted(records.items()))
    subjects = {subject: record["split"] for subject, record in records.items()}
    contents = {s: {c: file["sha256"] for c, file in r["sources"].items()} for s, r in records.items()}
    for subject, other, contrast in copies(contents):
        says = f"{subject}: has the {datasets.LABELS[contrast]} file of {other}; exclude one of them."
        if subjects[subject] == subjects[other]:
            warnings.append(says)
        else:  # what is tested must not have been trained on
            failed[subject] = says
    failed, records = dict(sorted(failed.items())), {s: r for s, r in records.items() if s not in failed}
    ordered = sorted(records.items(), key=lambda item: SPLITS.index(item[1]["split"]))
    rows = [(r["split"], s, r["first_slice"] + number) for s, r in ordered for number in range(r["slices"])]
    index = pd.DataFrame(rows, columns=["split", "subject", "slice"])
    storage.write_text(folder / "slices.csv", index.to_csv(index=False, lineterminator="\n"))
    phantoms = {record.get("phantom") for record in records.values()}
    warnings = [*warnings, *(f"{s}: {note}" for s, record in records.items() for note in record["notes"])]
    identity = [preparation.fingerprint(), subjects, contents]  # no paths and no dates
    summary = {
        "settings": dataclasses.asdict(preparation), "fingerprint": preparation.fingerprint(),
        "phantoms": phantoms.pop() if len(phantoms) == 1 else None,  # None: both, or not recorded
        "data_hash": cache.digest(*identity, *([release] if release == "2024" else [])), "labels": release,
        "subjects": records, "failed": failed, "warnings": warnings,
    }  # fmt: skip
    storage.write_json(folder / "prepared.json", summary)
    return summary
