"""Which file is which contrast of which subject: the folder layouts of the four datasets."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mudiff.data import datasets
from mudiff.errors import MudiffError

_NIFTI = r"\.nii(?:\.gz)?$"
_LAYOUTS = {  # matched against absolute paths, whatever the case of the letters
    # BraTS: <subject>/<subject>_t1.nii.gz, anywhere below the root; from 2023 on <subject>-t1n.nii.gz
    "brats": rf"/(?P<subject>[^/]+?)[_-](?P<contrast>t1ce|t1c|t1n|t1|t2w|t2f|t2|flair|seg){_NIFTI}",
    # ISLES 2015 SISS: <subject>/VSD.Brain.XX.O.MR_T1.<id>/*.nii, lesions in <subject>/VSD.*OT.<id>/*.nii
    "isles": rf"/(?P<subject>[^/]+)/VSD\.[^/]*(?:MR_|[._])(?P<contrast>T1|T2|FLAIR|DWI|OT)\.[^/]*/[^/]+{_NIFTI}",
    # BIDS, with or without sessions
    "healthy": r"/(?P<subject>sub-[^/]+)/(?:(?P<session>ses-[^/]+)/)?anat/"
    rf"[^/]+_(?P<contrast>T1w|T2w|FLAIR){_NIFTI}",
    # Public MS set: patient07/T1POST_*.nii.gz
    "open_ms": rf"/(?P<subject>[^/]+)/(?P<contrast>T1POST|T1|T2|FLAIR|GOLD_STANDARD)_[^/]*{_NIFTI}",
}
_EXPECTED = {
    "brats": "<subject>/<subject>_t1.nii.gz and so on",
    "isles": "<subject>/VSD.Brain.XX.O.MR_T1.<id>/*.nii and so on",
    "healthy": "sub-<subject>/anat/*_T1w.nii.gz and so on",
    "open_ms": "patient<number>/T1_*.nii.gz and so on",
}
_CONTRASTS = {
    **{name: name for name in datasets.LABELS},
    **{"t1n": "t1", "t1w": "t1", "t1c": "t1ce", "t1post": "t1ce", "t2w": "t2", "t2f": "flair"},
    **dict.fromkeys(("seg", "ot", "gold_standard"), "mask"),
}
_SKIPPED = ("derivatives", "sourcedata")  # of BIDS: other versions of the same images
_PREFIX = re.compile(r"^(?:brats(?:17|18|19|20(?!21)|2021))_", re.IGNORECASE)

Files = dict[str, Path]
"""The files of one subject: contrast, or ``mask``, -> file."""


def match_id(subject: str) -> str:
    """Return the part of a subject id that all releases share: no ``Brats18_``, ``BraTS19_`` and so on."""
    return _PREFIX.sub("", subject)


def patient(subject: str) -> str:
    """Return the person behind a subject id: time points and sessions of one person belong together."""
    timepoint = re.fullmatch(r"(BraTS-[A-Za-z]+-\d+)-\d+", subject)
    return timepoint.group(1) if timepoint else match_id(subject).split("_ses-")[0]


def scan(dataset: str, root: Path) -> tuple[dict[str, Files], dict[str, str]]:
    """Find every subject's files below a folder, and what is wrong with them.

    Parameters
    ----------
    dataset : str
        Name of the dataset, which decides the layout.
    root : Path
        The data folder. Hidden files and links to folders are passed over.

    Returns
    -------
    found : dict of str to dict of str to Path
        Subject -> contrast (or ``mask``) -> file, sorted; subjects with a problem are not in it.
    problems : dict of str to str
        Subject, or entry of the folder -> what is wrong: two files that claim one contrast, links that
        leave the folder.

    Raises
    ------
    MudiffError
        If the folder is missing or holds no file of this layout.
    """
    datasets.dataset(dataset)
    root = Path(root)
    if not root.is_dir():
        raise MudiffError(f"{root}: data folder not found; pass the folder of the subjects (--data-root).")
    found: dict[str, Files] = {}
    problems: dict[str, str] = {}
    for path, leaves in _walk(root.resolve()):
        named = _name(dataset, path)
        if leaves and (named or path.is_dir()):
            name = named[0] if named else path.name
            problems[name] = f"{path}: is a link that leaves the data folder; put the data itself there."
        elif named and path.is_file():
            _claim(found.setdefault(named[0], {}), problems, *named, path)
    if not found and not problems:
        raise MudiffError(f"{root}: no {dataset} files found; expected {_EXPECTED[dataset]}.")
    clean = {
        subject: dict(sorted(found[subject].items())) for subject in sorted(found.keys() - problems.keys())
    }
    return clean, problems


def find_subjects(dataset: str, root: Path) -> dict[str, Files]:
    """Return every subject's files below a folder: subject -> contrast (or ``mask``) -> file, sorted.

    Raises
    ------
    MudiffError
        If the folder is missing or holds no file of this layout, if two files claim one contrast of a
        subject, or if a link leaves the folder.
    """
    found, problems = scan(dataset, root)
    for problem in problems.values():
        raise MudiffError(problem)
    return found


def find_contrasts(folder: Path) -> Files:
    """Return the files of one subject's folder, in any of the four layouts: contrast or ``mask`` -> file.

    Links to files are followed wherever they lead, since the folder was named by hand.

    Raises
    ------
    MudiffError
        If the folder is missing, holds no contrast, or two files claim one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MudiffError(f"{folder}: subject folder not found; pass the folder that holds its contrasts.")
    files: Files = {}
    problems: dict[str, str] = {}
    for path, _ in _walk(folder.resolve()):
        named = next(filter(None, (_name(dataset, path) for dataset in _LAYOUTS)), None)
        if named and path.is_file():
            _claim(files, problems, str(folder), named[1], path)
    for problem in problems.values():
        raise MudiffError(problem)
    if not files.keys() - {"mask"}:
        raise MudiffError(f"{folder}: no contrast found; expected {' or '.join(_EXPECTED.values())}.")
    return dict(sorted(files.items()))


def _walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield files below `root` and links to folders, with whether a link leads out of `root`."""
    for folder, folders, files in os.walk(root):  # does not follow links to folders
        links = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n.lower() not in _SKIPPED)
        for name in sorted(links + files):
            path = Path(folder, name)
            if not name.startswith("."):
                yield path, path.is_symlink() and not path.resolve().is_relative_to(root)


def _name(dataset: str, path: Path) -> tuple[str, str] | None:
    """Return subject and contrast (or ``mask``) of a file, None if the layout does not know it."""
    match = re.search(_LAYOUTS[dataset], path.as_posix(), re.IGNORECASE)
    if not match:
        return None
    session = match.groupdict().get("session")
    subject = f"{match['subject']}_{session}" if session else match["subject"]
    return subject, _CONTRASTS[match["contrast"].lower()]


def _claim(files: Files, problems: dict[str, str], subject: str, contrast: str, path: Path) -> None:
    """Enter one file; the second file for a contrast is a problem."""
    if contrast in files:
        problems[subject] = (
            f"{subject}: {files[contrast]} and {path} both claim {contrast}; keep one of them."
        )
    else:
        files[contrast] = path
