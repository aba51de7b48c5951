"""What is missing, odd or unreadable in a data folder."""

from pathlib import Path

import pandas as pd

from mudiff.data import datasets, files, volumes
from mudiff.data.manifests import assign
from mudiff.data.prepare import each_subject
from mudiff.data.slices import normalise
from mudiff.errors import MudiffError

Finding = tuple[str, str, str]
"""Subject, contrast (``mask`` for the lesion mask, empty for the whole subject), and what is wrong."""


def verify(
    dataset: str, root: Path, manifest: pd.DataFrame | None = None, workers: int = 2, progress: bool = True
) -> list[Finding]:
    """Check every subject that the manifest (if any) does not exclude, and the folder against it; sorted."""
    problems: dict[str, str] = {}
    found = files.find_subjects(dataset, root, problems)
    findings = [(subject, "", problem) for subject, problem in problems.items()]
    if manifest is not None:
        splits, missing, unlisted = assign(found.keys() | problems.keys(), manifest)
        findings += [(subject, "", "is in the manifest but not in the data folder.") for subject in missing]
        findings += [(subject, "", "is in the data folder but not in the manifest.") for subject in unlisted]
        found = {s: contrasts for s, contrasts in found.items() if s in splits or s in unlisted}
    jobs = [(dataset, *subject) for subject in found.items()]
    for _, result in each_subject(check_subject, jobs, workers, "verify", progress):
        findings += result
    return sorted(findings)


def check_subject(dataset: str, subject: str, found: files.Files) -> list[Finding]:
    """Return what is missing, odd or unreadable in one subject: files, grids, voxels, mask labels."""
    chosen = datasets.dataset(dataset)
    wrong: list[tuple[str, str]] = []
    loaded = {}
    for name in (*chosen.contrasts, *(("mask",) if chosen.lesions else ())):
        try:
            if name not in found:
                wrong.append((name, "is missing."))
            elif name == "mask":
                loaded[name] = volumes.read(found[name])
                changed = loaded[name].data != volumes.labels(loaded[name])
                if changed.any():
                    first = f"(for example {loaded[name].data[changed][0]:g})"
                    kept = "fractions are rounded, negative values become 0, values above 255 become 1"
                    odd = f"{changed.sum()} voxels are no labels from 0 to 255 {first}; {kept}."
                    wrong.append((name, f"{found[name]}: {odd}"))
            else:
                loaded[name] = volumes.load_volume(found[name])
                normalise(loaded[name].data, "percentile", found[name])
        except MudiffError as error:
            wrong.append((name, str(error)))
    first, *others = volumes.grids(loaded) if loaded else [[]]
    for name in (name for group in others for name in group):
        mine, theirs = (volumes.describe_grid(loaded[n]) for n in (name, first[0]))
        wrong.append((name, f"is not on the grid of {', '.join(first)}: {mine}; they have {theirs}."))
    return [(subject, name, problem) for name, problem in wrong]
