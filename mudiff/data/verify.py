"""What is missing, odd or unreadable in a data folder, and a first manifest for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.data import datasets, volumes
from mudiff.data import files as layouts
from mudiff.data.manifests import assign
from mudiff.data.parallel import each_subject
from mudiff.errors import MudiffError

FRACTIONS = {"healthy": (50 / 85, 20 / 85, 15 / 85)}
"""Parts for training, validation and test per dataset (section "Datasets")."""
DEFAULT_FRACTIONS = (0.7, 0.2, 0.1)


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is missing, odd or unreadable.

    Attributes
    ----------
    subject, contrast : str
        Where; contrast is ``mask`` for the lesion mask and empty for the whole subject.
    problem : str
        What, and the remedy.
    """

    subject: str
    contrast: str
    problem: str

    def __str__(self) -> str:
        return "  ".join(filter(None, (self.subject, self.contrast, self.problem)))


def verify(
    dataset: str, root: Path, manifest: pd.DataFrame | None = None, workers: int = 2, progress: bool = True
) -> list[Finding]:
    """Check every subject of a data folder, and the folder against its manifest.

    Parameters
    ----------
    dataset : str
        Name of the dataset.
    root : Path
        The data folder.
    manifest : pd.DataFrame, optional
        As `data.read_manifest` returns it; its excluded subjects are passed over. Without it only the
        files are checked.
    workers : int, optional
        Processes; each holds one subject in memory.
    progress : bool, optional
        Whether to show a progress bar on a terminal.

    Returns
    -------
    list of Finding
        Sorted by subject; empty if all is in order.

    Raises
    ------
    MudiffError
        If the folder is missing or holds no file of this dataset.
    """
    found, problems = layouts.scan(dataset, root)
    findings = [Finding(subject, "", problem) for subject, problem in problems.items()]
    if manifest is not None:
        splits, missing, unlisted = assign(found.keys() | problems.keys(), manifest)
        findings += [Finding(s, "", "is in the manifest but not in the data folder.") for s in missing]
        findings += [Finding(s, "", "is in the data folder but not in the manifest.") for s in unlisted]
        found = {s: files for s, files in found.items() if s in splits or s in unlisted}
    jobs = [(dataset, subject, files) for subject, files in found.items()]
    for (_, subject, _), result in each_subject(check_subject, jobs, workers, "verify", progress):
        findings += [Finding(subject, "", str(result))] if isinstance(result, MudiffError) else result
    return sorted(findings)


def check_subject(dataset: str, subject: str, files: layouts.Files) -> list[Finding]:
    """Return what is missing, odd or unreadable in one subject: files, grids, voxels, mask labels."""
    chosen = datasets.dataset(dataset)
    expected = (*chosen.contrasts, *(("mask",) if chosen.lesions else ()))
    findings, loaded = [], {}
    for name in expected:
        if name not in files:
            findings.append(Finding(subject, name, "is missing."))
            continue
        try:
            if name == "mask":
                loaded[name] = volumes.load_mask(files[name])
            else:
                loaded[name] = volumes.load_volume(files[name])
                volumes.limits(loaded[name].data, "percentile", files[name])
        except MudiffError as error:
            findings.append(Finding(subject, name, str(error)))
    if "mask" in loaded:
        odd = _odd_labels(loaded["mask"])
        findings += [Finding(subject, "mask", odd)] if odd else []
    first, *others = volumes.grids(loaded) if loaded else [[]]
    for name in (name for group in others for name in group):
        mine, theirs = (volumes.describe_grid(loaded[n]) for n in (name, first[0]))
        findings.append(
            Finding(subject, name, f"is not on the grid of {', '.join(first)}: {mine}; they have {theirs}.")
        )
    return findings


def _odd_labels(mask: volumes.Volume) -> str:
    """Return what preparation would change in a mask, empty if nothing."""
    raw = volumes.read(mask.path).data
    if np.array_equal(raw, mask.data):
        return ""
    changed = raw[raw != mask.data]
    return (
        f"{mask.path}: {changed.size} voxels are no labels from 0 to 255 (for example {changed[0]:g}); "
        "fractions are rounded, negative values become 0, values above 255 become 1."
    )


def draft_manifest(dataset: str, root: Path, path: Path, seed: int = 1024) -> pd.DataFrame:
    """Write a manifest with a random split of the subjects of a data folder.

    All time points and sessions of one person go into one split; every split gets at least one person
    where there are three.

    Parameters
    ----------
    dataset : str
        Name of the dataset; healthy is split 50/20/15 in proportion, all others 70/20/10.
    root : Path
        The data folder.
    path : Path
        The CSV to write; never overwritten.
    seed : int, optional
        Seed of the split.

    Returns
    -------
    pd.DataFrame
        Columns subject, split.

    Raises
    ------
    MudiffError
        If the file exists, or the folder holds no usable subject.
    """
    path = Path(path)
    if path.exists():
        raise MudiffError(
            f"{path}: exists already; delete it or choose another name for the drafted manifest."
        )
    subjects = layouts.find_subjects(dataset, root)
    people = sorted({layouts.patient(subject) for subject in subjects})
    parts = np.array(FRACTIONS.get(dataset, DEFAULT_FRACTIONS))
    counts = np.rint(parts * len(people)).astype(int)
    counts[1:] = np.maximum(counts[1:], len(people) >= 3)
    bounds = np.cumsum([len(people) - counts[1] - counts[2], counts[1]])
    shuffled = np.random.default_rng(seed).permutation(people)
    groups = zip(("train", "val", "test"), np.split(shuffled, bounds), strict=True)
    splits = {str(person): split for split, group in groups for person in group}
    table = pd.DataFrame({"subject": list(subjects), "split": [splits[layouts.patient(s)] for s in subjects]})
    paths.write_text(path, table.to_csv(index=False, lineterminator="\n"))
    return table
