"""What is missing, odd or unreadable in a data folder."""

from pathlib import Path

import pandas as pd

from mudiff import cache
from mudiff.data import datasets, files, volumes
from mudiff.data.doubts import copies, doubts
from mudiff.data.manifests import assign, leaks, nearest
from mudiff.data.masks import convention, found_labels, load_mask, missing_masks
from mudiff.data.prepare import each_subject
from mudiff.data.slices import normalise
from mudiff.errors import MudiffError

Finding = tuple[str, str, str]  # subject, contrast (or ``mask``; empty for the whole subject), and what is wrong


def verify(
    dataset: str, root: Path, manifest: pd.DataFrame | None = None, workers: int = 2, progress: bool = True,
    labels: str | None = None, allow_missing_masks: bool = False,
) -> list[Finding]:  # fmt: skip
    """Check every subject that the manifest (if any) does not exclude, and the folder against it; sorted.

    `labels`: see `masks.convention`.
    """
    convention(dataset, {}, labels)  # refuses a wrong choice at once
    problems: dict[str, str] = {}
    found = files.find_subjects(dataset, root, problems)
    findings: list[Finding] = []
    maskless = {} if allow_missing_masks else missing_masks(dataset, found)
    if manifest is not None:
        splits, missing, unlisted = assign(found.keys() | problems.keys(), manifest)
        near = {subject: nearest(subject, unlisted) for subject in missing}
        findings += [(s, "", f"is in the manifest but not in the data folder{near[s]}.") for s in missing]
        findings += [(subject, "", "is in the data folder but not in the manifest.") for subject in unlisted]
        findings += [(subject, "", wrong) for subject, wrong in leaks(splits).items()]
        found = {s: contrasts for s, contrasts in found.items() if s in splits or s in unlisted}
        problems = {s: problem for s, problem in problems.items() if s in splits or s in unlisted}
    findings += [(subject, "", problem) for subject, problem in problems.items()]
    findings += [(s, "mask", problem) for s, problem in maskless.items() if s in found]
    jobs, labelled = [(dataset, *subject) for subject in found.items()], {}
    for (_, subject, _), (wrong, own) in each_subject(check_subject, jobs, workers, "verify", progress):
        findings += wrong
        labelled[subject] = own
    try:
        convention(dataset, dict(sorted(labelled.items())), labels)
    except MudiffError as error:
        findings.append(("", "mask", str(error)))
    hashes = {s: {c: cache.file_hash(f) for c, f in own.items() if f.is_file()} for s, own in found.items()}
    findings += [
        (s, c, f"is the same file as that of {other}; exclude one of them.") for s, other, c in copies(hashes)
    ]
    return sorted(findings)


def check_subject(dataset: str, subject: str, found: files.Files) -> tuple[list[Finding], list[int]]:
    """Return what is missing, odd or unreadable in one subject: files, grids, voxels; and the labels of its mask."""
    chosen = datasets.dataset(dataset)
    wrong: list[tuple[str, str]] = []
    loaded, odd = {}, []
    for name in (*chosen.contrasts, "mask") if chosen.lesions and "mask" in found else chosen.contrasts:
        try:
            if name not in found:
                raise MudiffError(f"is missing{files.left_out(found, name)}.")
            if name != "mask":
                loaded[name] = volumes.load_volume(found[name])
                normalise(loaded[name].data, "percentile", found[name])
                continue
            loaded[name], odd = load_mask(found[name], loaded.values())
        except MudiffError as error:
            wrong.append((name, str(error)))
    images = {name: volume for name, volume in loaded.items() if name != "mask"}
    first, *others = volumes.grids(loaded) if loaded else [[]]
    for name in (name for group in others for name in group):
        mine, theirs = (volumes.describe_grid(loaded[n]) for n in (name, first[0]))
        wrong.append((name, f"is not on the grid of {', '.join(first)}: {mine}; they have {theirs}."))
    if not wrong:
        wrong += doubts(images, chosen.slices)
    wrong += [("mask", doubt) for doubt in odd]
    return [(subject, name, problem) for name, problem in wrong], found_labels(loaded.get("mask"))
