"""Trained runs on test subjects: on those of their own cohort, and on a cohort that no training saw."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mudiff import paths, storage
from mudiff.data import dataset as slice_cache
from mudiff.data import files, manifests, prepare
from mudiff.errors import MudiffError
from mudiff.phantoms import cohort as phantom
from mudiff.training import profiles

SUBJECTS = {"smoke": 2, "demo": 4}
"""Profile -> unseen subjects; of any other 20, as many as the paper takes from BraTS 2021."""

SEED, SCANNER = 2021, 1
"""Seed and scanner of the unseen phantoms; the training cohorts have those of `phantoms.cohort.write_cohort`."""


@dataclass(frozen=True)
class Cohort:
    """Test subjects and their syntheses by the runs of a profile."""

    profile: str
    dataset: str  # that the runs were trained on
    prepared: Path  # folder of the slices
    synthetic: Path  # holds a folder of syntheses per run
    words: str  # what the subjects are, for captions
    notes: tuple[str, ...] = ()  # what was odd about them when they were prepared, but no error

    def folder(self, target: str, method: str) -> Path:
        """Return the folder of the syntheses of one run."""
        return self.synthetic / profiles.settings(self.profile, self.dataset, target, method).run_name

    def slices(self) -> slice_cache.Slices:
        """Return the slices of the test subjects."""
        return slice_cache.open_slices(self.prepared, "test")


def known(profile: str, dataset: str) -> Cohort:
    """Return the test subjects of the data that the runs were trained on."""
    prepared, synthetic = paths.prepared(profile, dataset), paths.results(profile) / "synthetic"
    return Cohort(profile, dataset, prepared, synthetic, "test subjects of the training's cohort")


def unseen(
    profile: str, dataset: str, data_root: Path | str | None = None, manifest: Path | str | None = None,
    subjects: int | None = None,
) -> Cohort:  # fmt: skip
    """Prepare a cohort that no training of the profile saw, the same way as the training data.

    Without `data_root`, the folder of the subjects, phantoms of another seed and scanner are generated. `manifest` is
    a CSV with columns subject, split, where every split is "test" (or "excluded"); without one, `subjects` (else
    as many as in `SUBJECTS`) are drawn from the folder and listed in ``manifest.csv`` of the cohort's folder.
    """
    if data_root is None and dataset not in profiles.profile(profile).phantoms:
        raise MudiffError(f"profile {profile!r} works on real data: pass data_root, the unseen subjects' folder.")
    own, folder = known(profile, dataset), paths.unseen(profile, dataset)
    count = SUBJECTS.get(profile, 20) if subjects is None else subjects
    if count < 1:
        raise MudiffError(f"subjects = {count}: expected 1 or more.")
    root = folder / "phantoms" if data_root is None else Path(data_root)
    if data_root is None:
        options = {"seed": SEED, "scanner": SCANNER, "workers": 1, "progress": False}
        manifest = phantom.write_cohort(dataset, root, (0, 0, count), **options)
    manifest = Path(manifest or _draft(own, root, folder / "manifest.csv", count))
    listed = manifests.read_manifest(dataset, manifest)
    for row in listed[listed.split.isin(("train", "val"))].itertuples():
        raise MudiffError(
            f"{manifest}: {row.subject} is in split {row.split!r}; an unseen cohort is 'test' as a whole, "
            "subjects to leave out are 'excluded'."
        )
    how, prepared = profiles.preparation(profile, dataset), folder / "prepared"
    prepare.prepare(how, root, listed, prepared, workers=1, progress=False, allow_missing_masks=True)
    info = slice_cache.read_info(prepared)
    names = [] if data_root is None else list(info["subjects"])  # phantoms of all cohorts are called alike
    _check_apart(own, info["subjects"], names)
    what = "generated phantoms of another scanner, no patients" if data_root is None else f"subjects of {root.name}"
    words = f"{len(info['subjects'])} {what}"
    return Cohort(profile, dataset, prepared, folder / "synthetic", words, tuple(info["warnings"]))


def _trained(cohort: Cohort) -> dict[str, Any]:
    """Return the records of the training and validation subjects; none where the folder is not there."""
    file = cohort.prepared / "prepared.json"
    records = storage.read_json(file)["subjects"] if file.is_file() else {}
    return {subject: record for subject, record in records.items() if record["split"] != "test"}


def _draft(cohort: Cohort, root: Path, file: Path, count: int) -> Path:
    """Write a manifest of `count` subjects of a folder, drawn from those that were not trained on."""
    found = files.find_subjects(cohort.dataset, root, problems={})
    taken = {files.match_id(subject) for subject in _trained(cohort)}
    free = [subject for subject in found if files.match_id(subject) not in taken]
    if not free:
        raise MudiffError(f"{root}: every subject was trained on; pass the folder of other subjects.")
    drawn = sorted(np.random.default_rng(SEED).permutation(free)[:count])
    storage.write_text(file, "\n".join(["subject,split", *(f"{subject},test" for subject in drawn)]) + "\n")
    return file


def _check_apart(cohort: Cohort, records: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that no prepared subject was trained on: not by its files' contents, nor by any of `names`."""
    trained = _trained(cohort)
    ids = {files.match_id(subject) for subject in trained}
    contents = set().union(*map(_contents, trained.values()))
    same = {name for name in names if files.match_id(name) in ids}
    if same := same | {subject for subject, record in records.items() if contents & _contents(record)}:
        raise MudiffError(
            f"{', '.join(sorted(same))}: in the training or validation data of profile {cohort.profile!r}; an "
            "unseen cohort shares no subject with them, so leave these out by a manifest."
        )


def _contents(record: Mapping[str, Any]) -> set[str]:
    return {source["sha256"] for name, source in record["sources"].items() if name != "mask"}
