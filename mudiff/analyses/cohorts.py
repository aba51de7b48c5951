"""Test cohorts: the one that belongs to a training, and one that no training saw."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.data import datasets, files, prepare
from mudiff.errors import MudiffError
from mudiff.evaluation import old_scores as scores
from mudiff.evaluation import old_tables as tables
from mudiff.phantoms import cohort as phantom
from mudiff.training import profiles


@dataclass(frozen=True)
class Extent:
    """How much of an unseen cohort is synthesised: subjects, and targets (empty: all)."""

    subjects: int
    targets: tuple[str, ...] = ()


EXTENTS = {
    "smoke": Extent(2),
    "demo": Extent(4, ("t1ce",)),  # the hardest target: each one takes a minute
    "paper": Extent(20),  # as many as the paper takes from BraTS 2021
}
SEED, SCANNER = 2021, 1
"""Seed and scanner of the unseen phantoms; the training cohorts have those of `phantom.write_cohort`."""

Chosen = Mapping[str, Sequence[str]]
"""Target -> methods."""


@dataclass(frozen=True)
class Cohort:
    """Test subjects and their syntheses by the runs of a profile.

    Attributes
    ----------
    profile, dataset : str
        Whose runs; the dataset that they were trained on.
    prepared, synthetic : Path
        Folder of the slices, and the one that holds a folder of syntheses per run.
    words : str
        What the subjects are, for captions.
    phantoms : bool
        Whether they are phantoms of the unseen scanner.
    notes : tuple of str
        What was odd about them when they were prepared, but no error.
    """

    profile: str
    dataset: str
    prepared: Path
    synthetic: Path
    words: str
    phantoms: bool = False
    notes: tuple[str, ...] = ()

    def folder(self, target: str, method: str) -> Path:
        """Return the folder of the syntheses of one run."""
        return self.synthetic / profiles.settings(self.profile, self.dataset, target, method).run_name

    def slices(self) -> prepare.Slices:
        """Return the slices of the test subjects."""
        return prepare.open_slices(self.prepared, "test")


def known(profile: str, dataset: str) -> Cohort:
    """Return the test subjects of the data that the runs were trained on."""
    prepared, synthetic = paths.prepared(profile, dataset), paths.results(profile) / "synthetic"
    return Cohort(profile, dataset, prepared, synthetic, "test subjects of that cohort")


# The unseen cohort


def can_be_made(profile: str, dataset: str, data_root: Path | str | None = None) -> bool:
    """Tell whether there is an unseen cohort: a folder is given, or the profile works on phantoms."""
    return data_root is not None or dataset in profiles.profile(profile).phantoms


def unseen(
    profile: str,
    dataset: str,
    data_root: Path | str | None = None,
    manifest: Path | str | None = None,
    subjects: int | None = None,
    workers: int = 1,
) -> Cohort:
    """Prepare a cohort that no training of the profile saw, the same way as the training data.

    Parameters
    ----------
    profile, dataset : str
        Whose runs are to be tried.
    data_root : Path or str, optional
        Folder of the subjects; without one, phantoms of another seed and scanner are made.
    manifest : Path or str, optional
        CSV with columns subject, split, where every split is "test" (or "excluded"). Without one, subjects
        are drawn from those of `data_root` and listed in ``manifest.csv`` of the cohort's folder.
    subjects : int, optional
        How many, where `manifest` does not say it; by default those of `EXTENTS`.
    workers : int, optional
        Processes.

    Raises
    ------
    MudiffError
        If there are no such subjects, one of them is not usable, or one was trained on.
    """
    if not can_be_made(profile, dataset, data_root):
        raise MudiffError(
            f"profile {profile!r} works on real data: pass data_root, the unseen subjects' folder."
        )
    folder = paths.unseen(profile, dataset)
    count = EXTENTS[profile].subjects if subjects is None else subjects
    if count < 1:
        raise MudiffError(f"subjects = {count}: expected 1 or more.")
    if data_root is None:
        root, counts = folder / "phantoms", (0, 0, count)
        manifest = phantom.write_cohort(
            dataset, root, counts, seed=SEED, workers=workers, scanner=SCANNER, progress=False
        )
    else:
        root = Path(data_root)
        manifest = manifest or _draft(known(profile, dataset), root, folder / "manifest.csv", count)
    listed = prepare.read_manifest(dataset, Path(manifest))
    for row in listed[listed["split"].isin(("train", "val"))].itertuples():
        raise MudiffError(
            f"{manifest}: {row.subject} is in split {row.split!r}; an unseen cohort is 'test' as a whole, "
            "subjects to leave out are 'excluded'."
        )
    report = prepare.prepare(
        profiles.preparation(profile, dataset), root, listed, folder / "prepared", workers, progress=False
    )
    report.check()
    names = [] if data_root is None else list(report.subjects)  # phantoms of all cohorts are called alike
    _check_apart(known(profile, dataset), folder / "prepared", names)
    what = (
        f"subjects of {root.name}"
        if data_root is not None
        else "generated phantoms of another scanner, no patients"
    )
    return Cohort(
        profile,
        dataset,
        prepared=folder / "prepared",
        synthetic=folder / "synthetic",
        words=f"{len(report.subjects)} {what}",
        phantoms=data_root is None,
        notes=tuple(report.warnings),
    )


def _trained(cohort: Cohort) -> dict[str, Any]:
    """Return the records of the training and validation subjects; none where the folder is not there."""
    file = cohort.prepared / "prepared.json"
    records = paths.read_json(file)["subjects"] if file.is_file() else {}
    return {subject: record for subject, record in records.items() if record["split"] != "test"}


def _draft(cohort: Cohort, root: Path, file: Path, count: int) -> Path:
    """Write a manifest of `count` subjects of a folder, drawn from those that were not trained on."""
    found = files.find_subjects(cohort.dataset, root, problems={})
    taken = {files.match_id(subject) for subject in _trained(cohort)}
    free = [subject for subject in found if files.match_id(subject) not in taken]
    if not free:
        raise MudiffError(f"{root}: every subject was trained on; pass the folder of other subjects.")
    drawn = sorted(np.random.default_rng(SEED).permutation(free)[:count])
    paths.write_text(file, "\n".join(["subject,split", *(f"{subject},test" for subject in drawn)]) + "\n")
    return file


def _check_apart(cohort: Cohort, prepared: Path, names: Iterable[str]) -> None:
    """Check that no prepared subject was trained on: not by its files' contents, nor by any of `names`."""
    trained = _trained(cohort)
    ids = {files.match_id(subject) for subject in trained}
    contents = {digest for record in trained.values() for digest in _contents(record)}
    records = paths.read_json(prepared / "prepared.json")["subjects"]
    same = {name for name in names if files.match_id(name) in ids}
    same |= {subject for subject, record in records.items() if contents & _contents(record)}
    if same:
        raise MudiffError(
            f"{', '.join(sorted(same))}: in the training or validation data of profile {cohort.profile!r}; an "
            "unseen cohort shares no subject with them, so leave these out by a manifest."
        )


def _contents(record: Mapping[str, Any]) -> set[str]:
    return {source["sha256"] for name, source in record["sources"].items() if name != "mask"}


# Which runs


def trained(
    profile: str, dataset: str, targets: Sequence[str] | None = None, methods: Sequence[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return target -> methods of the profile whose runs and synthetic test slices are there.

    Parameters
    ----------
    profile, dataset : str
        Names.
    targets, methods : sequence of str, optional
        Which of them; by default all.

    Raises
    ------
    MudiffError
        If a name is unknown or nothing is left.
    """
    from mudiff.training import runs

    targets = [targets] if isinstance(targets, str) else targets
    targets = None if targets is None else [datasets.contrast(target) for target in targets]
    methods = None if methods is None else [datasets.method(method) for method in methods]
    cohort, chosen = known(profile, dataset), {}
    for (name, target), every in profiles.profile(profile).runs.items():
        if name != dataset or (targets is not None and target not in targets):
            continue
        folders = {m: cohort.folder(target, m) for m in every if methods is None or m in methods}
        there = tuple(
            method
            for method, folder in folders.items()
            if runs.is_complete(paths.run(profile, folder.name)) and (folder / "synthetic.json").is_file()
        )
        chosen |= {target: there} if there else {}
    if not chosen:
        raise MudiffError(
            f"{paths.results(profile)}: no such run on {dataset} has synthetic test slices; make them with "
            f"`snakemake --config profile={profile}`."
        )
    return chosen


def affordable(
    profile: str, dataset: str, targets: Sequence[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return those of `trained` that the profile's `EXTENTS` name for an unseen cohort; all, if that is none.

    Parameters
    ----------
    profile, dataset : str
        Names.
    targets : sequence of str, optional
        Which contrasts, whatever `EXTENTS` names.
    """
    every = trained(profile, dataset, targets)
    few = {} if targets else {t: methods for t, methods in every.items() if t in EXTENTS[profile].targets}
    return few or every


# Scores


@dataclass(frozen=True)
class Stack:
    """The slices of one test subject: images in [0, 1] and the mask of the brain, (Z, S, S) each."""

    subject: str
    real: np.ndarray
    synthetic: np.ndarray
    brain: np.ndarray


def stacks(cohort: Cohort, target: str, method: str) -> Iterator[Stack]:
    """Yield the true and the synthetic slices of each test subject, one subject at a time."""
    from mudiff.synthesis import sample

    slices = cohort.slices()
    for subject in slices.subjects:
        indices = slices.subject(subject)
        yield Stack(
            subject,
            real=(slices.images(indices, target) + 1) / 2,  # [-1, 1] -> [0, 1]
            synthetic=sample.read_synthetic(cohort.folder(target, method), subject),
            brain=slices.brain(indices),
        )


def score(cohort: Cohort, chosen: Chosen) -> pd.DataFrame:
    """Score a cohort's syntheses, in the columns of ``tables.score_runs``, all regions in one frame.

    Parameters
    ----------
    cohort : Cohort
        Known or unseen; the scores of a known one are kept beside its slices.
    chosen : mapping of str to sequence of str
        Target -> methods, such as `trained` returns it.
    """
    own = cohort.prepared == paths.prepared(cohort.profile, cohort.dataset)
    frames = [
        tables.score_runs(cohort.profile, region, runs=[(cohort.dataset, target)], methods=[method])
        if own
        else _score_run(cohort, target, method, region)
        for region in tables.REGIONS
        if region == "brain" or datasets.dataset(cohort.dataset).lesions
        for target, methods in chosen.items()
        for method in methods
    ]
    return pd.concat(frames, ignore_index=True)


def _score_run(cohort: Cohort, target: str, method: str, region: str) -> pd.DataFrame:
    """Return the scores of an unseen cohort, which are computed each time."""
    folder = cohort.folder(target, method)
    dilate = region == "lesion" and datasets.dataset(cohort.dataset).dilate
    run = {"dataset": cohort.dataset, "target": target, "method": method, "region": region}
    return scores.score_slices(cohort.slices(), folder, target, region, dilate).assign(**run, run=folder.name)
