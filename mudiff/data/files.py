"""Which file is which contrast of which subject, in the layouts of the four datasets."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mudiff.data import datasets
from mudiff.errors import MudiffError

_NIFTI = r"\.nii(?:\.gz)?$"
_LAYOUTS = {  # what is expected, and a pattern of absolute paths, whatever the case of the letters
    "brats": ("<subject>/<subject>_t1.nii.gz, from 2023 on <subject>-t1n.nii.gz, and so on",
              rf"/(?P<subject>[^/]+?)[_-](?P<contrast>t1ce|t1c|t1n|t1|t2w|t2f|t2|flair|seg){_NIFTI}"),
    "isles": ("<subject>/VSD.Brain.XX.O.MR_T1.<id>/*.nii and so on",
              r"/(?P<subject>[^/]+)/VSD\.[^/]*(?:MR_|[._])(?P<contrast>T1|T2|FLAIR|DWI|OT)\.[^/]*/"
              rf"[^/]+{_NIFTI}"),
    "healthy": ("sub-<subject>/anat/*_T1w.nii.gz and so on",  # BIDS, with or without sessions
                r"/(?P<subject>sub-[^/]+)/(?:(?P<session>ses-[^/]+)/)?anat/"
                rf"[^/]+_(?P<contrast>T1w|T2w|FLAIR){_NIFTI}"),
    "open_ms": ("patient<number>/T1_*.nii.gz and so on",
                rf"/(?P<subject>[^/]+)/(?P<contrast>T1POST|T1|T2|FLAIR|GOLD_STANDARD)_[^/]*{_NIFTI}"),
}  # fmt: skip
_CONTRASTS = {
    **{name: name for name in datasets.LABELS},
    **{"t1n": "t1", "t1w": "t1", "t1c": "t1ce", "t1post": "t1ce", "t2w": "t2", "t2f": "flair"},
    **dict.fromkeys(("seg", "ot", "gold_standard"), "mask"),
}
Files = dict[str, Path]  # of one subject: contrast, or ``mask``, -> file


def match_id(subject: str) -> str:
    """Return the part of a subject id that all releases share: no ``Brats18_``, ``BraTS19_`` and so on."""
    return re.sub(r"^brats(?:17|18|19|20|2021)_", "", subject, flags=re.IGNORECASE)


def patient(subject: str) -> str:
    """Return the person behind a subject id: time points and sessions of one person belong together."""
    timepoint = re.fullmatch(r"(BraTS-[A-Za-z]+-\d+)-\d+", subject)
    return timepoint.group(1) if timepoint else match_id(subject).split("_ses-")[0]


def find_subjects(dataset: str, root: Path, problems: dict[str, str] | None = None) -> dict[str, Files]:
    """Return every subject's files below a folder: subject -> contrast (or ``mask``) -> file, sorted.

    Links are followed, hidden files passed over. Two files that claim one contrast are an error, or, where `problems`
    is given, are entered there (subject -> what is wrong) and the subject is left out.
    """
    datasets.dataset(dataset)
    if not Path(root).is_dir():
        raise MudiffError(f"{root}: data folder not found; pass the folder of the subjects (--data-root).")
    found = _collect((dataset,), root, problems)
    if not found:
        raise MudiffError(f"{root}: no {dataset} files found; expected {_LAYOUTS[dataset][0]}.")
    return {subject: found[subject] for subject in sorted(found.keys() - (problems or {}).keys())}


def find_contrasts(folder: Path) -> Files:
    """Return the files of one subject's folder, in any of the four layouts: contrast or ``mask`` -> file."""
    if not Path(folder).is_dir():
        raise MudiffError(f"{folder}: subject folder not found; pass the folder that holds its contrasts.")
    found = _collect(_LAYOUTS, folder, None, str(folder)).get(str(folder), {})
    if not found.keys() - {"mask"}:
        expected = " or ".join(words for words, _ in _LAYOUTS.values())
        raise MudiffError(f"{folder}: no contrast found; expected {expected}.")
    return found


def _collect(layouts: Iterable[str], folder: Path, wrong: dict[str, str] | None, only: str = "") -> dict[str, Files]:
    """Return subject -> contrast -> file; a second file for a contrast is entered as a problem, or raised."""
    found: dict[str, Files] = {}
    for path in _walk(folder):
        matches = (re.search(_LAYOUTS[name][1], path.as_posix(), re.IGNORECASE) for name in layouts)
        if (match := next(filter(None, matches), None)) and path.is_file():
            parts = match.groupdict()
            subject = only or "_".join(filter(None, (parts["subject"], parts.get("session"))))
            contrast = _CONTRASTS[parts["contrast"].lower()]
            first = found.setdefault(subject, {}).setdefault(contrast, path)
            if not first.samefile(path):
                problem = f"{subject}: {first} and {path} both claim {contrast}; keep one of them."
                if wrong is None:
                    raise MudiffError(problem)
                wrong[subject] = problem
    return {subject: dict(sorted(contrasts.items())) for subject, contrasts in found.items()}


def _walk(root: Path) -> Iterator[Path]:
    """Yield files in sorted order, following links but those that lead back to a folder above them."""
    for folder, folders, names in os.walk(Path(root).absolute(), followlinks=True):
        above = {parent.resolve() for parent in (Path(folder), *Path(folder).parents)}
        folders[:] = [
            name for name in sorted(folders)
            if not name.startswith(".") and name.lower() not in ("derivatives", "sourcedata")  # copies, in BIDS
            and Path(folder, name).resolve() not in above
        ]  # fmt: skip
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))
