"""Which file is which contrast of which subject, in the layouts of the four datasets."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from mudiff.data import datasets
from mudiff.errors import MudiffError

_NIFTI = r"\.(?:nii(?:\.gz)?|hdr)$"  # the .img beside a .hdr is no file of its own
_LAYOUTS = {  # what is expected, and patterns of absolute paths, whatever the case of the letters
    "healthy": ("sub-<subject>/anat/*_T1w.nii.gz and so on",  # BIDS, with or without sessions
                r"/(?P<subject>sub-[^/]+)(?=(?:.*[/_](?P<session>ses-[^/_]+))?)/(?:ses-[^/]+/)?anat/"
                rf"(?:(?P=subject)_|(?!sub-))(?:[^/]+_)?(?P<contrast>T1w|T2w|FLAIR){_NIFTI}"),
    "brats": ("<subject>/<subject>_t1.nii.gz, from 2023 on <subject>-t1n.nii.gz, and so on",
              r"/(?P<subject>BraTS\d+_\w*\d)/(?:(?P=subject)_[^/]+/)?"  # numbered files of Kaggle, and a mask of 2020
              rf"(?:\d+_(?:brain|final)_|[^/]+_(?=segm\.))(?P<contrast>t1ce|t1|t2|flair|segm?){_NIFTI}",
              rf"/(?P<subject>[^/]+?)[_-](?P<contrast>t1ce|t1c|t1n|t1|t2w|t2f|t2|flair|seg){_NIFTI}"),
    "isles": ("<subject>/VSD.Brain.XX.O.MR_T1.<id>/*.nii and so on",
              r"/(?P<subject>[^/]+)/VSD\.[^/]*(?:MR_|[._])(?P<contrast>T1|T2|FLAIR|DWI|OT)\.[^/]*/"
              rf"[^/]+{_NIFTI}"),
    "open_ms": ("patient<number>/T1_*.nii.gz and so on",
                rf"/(?P<subject>[^/]+)/(?P<contrast>T1POST|T1|T2|FLAIR|GOLD_STANDARD)_[^/]*{_NIFTI}"),
}  # fmt: skip
_CONTRASTS = {
    **{name: name for name in datasets.LABELS},
    **{"t1n": "t1", "t1w": "t1", "t1c": "t1ce", "t1post": "t1ce", "t2w": "t2", "t2f": "flair"},
    **dict.fromkeys(("seg", "segm", "ot", "gold_standard"), "mask"),
}
Files = dict[str, Path]  # of one subject: contrast, or ``mask``, -> file


def match_id(subject: str) -> str:
    """Return the part of a subject id that all releases share: no ``Brats18_``, ``BraTS19_`` and so on; in NFC."""
    return re.sub(r"^brats(?:17|18|19|20|2021)_", "", unicodedata.normalize("NFC", subject), flags=re.IGNORECASE)


def patient(subject: str, sure: bool = False) -> str:
    """Return the person behind a subject id: time points and sessions of one person belong together.

    ``_1``, ``_2`` after a number, or where BraTS to 2020 has them, may be time points: not where `sure` is wanted.
    """
    person = re.sub(r"^(BraTS(?:-[A-Za-z]+)+-\d+)-\d+$", r"\1", match_id(subject).split("_ses-")[0])
    visit = re.fullmatch(r"(?:.*\d\d|brats(?:17|18|19|20)_[^_]+_[^_]+)_\d", subject, re.IGNORECASE)
    return person[:-2] if visit and not sure else person


def find_subjects(dataset: str, root: Path, problems: dict[str, str] | None = None) -> dict[str, Files]:
    """Return every subject's files below a folder: subject -> contrast (or ``mask``) -> file, sorted.

    Links are followed, hidden files passed over. Two files that claim one contrast, or files in two spaces, are an
    error, or, where `problems` is given, are entered there (subject -> what is wrong) and the subject is left out.
    """
    datasets.dataset(dataset)
    if not Path(root).is_dir():
        raise MudiffError(f"{root}: data folder not found; pass the folder of the subjects (--data-root).")
    found = _collect((dataset,), root, problems)
    if not found and not problems:
        raise MudiffError(f"{root}: no {dataset} files found; expected {_LAYOUTS[dataset][0]}.")
    return dict(sorted(found.items()))


def find_contrasts(folder: Path) -> Files:
    """Return the files of one subject's folder, in any of the four layouts: contrast or ``mask`` -> file.

    Files of two subjects, or of two sessions of one, are an error.
    """
    if not Path(folder).is_dir():
        raise MudiffError(f"{folder}: subject folder not found; pass the folder that holds its contrasts.")
    found = _collect(_LAYOUTS, folder)
    if len(found) > 1:
        names = " and ".join(sorted(found)[:3])
        raise MudiffError(f"{folder}: holds files of {names}; pass the folder of one subject and session.")
    contrasts = next(iter(found.values()), {})
    if not contrasts.keys() - {"mask"}:
        expected = " or ".join(words for words, *_ in _LAYOUTS.values())
        raise MudiffError(f"{folder}: no contrast found; expected {expected}.")
    return contrasts


def left_out(found: Files, *missing: str) -> str:
    """Name files among those of a subject that look like missing contrasts but are none: ``; left out: ...``.

    Where the ``mask`` is missing, any volume that is no contrast may be it.
    """
    words = "|".join(word for word, contrast in _CONTRASTS.items() if contrast in missing)
    name = rf"(?:.*[^a-z0-9])?(?:{words})(?![a-z0-9])"
    places = {file for path in found.values() for file in path.parent.iterdir()}
    if "mask" in missing:
        folder = os.path.commonpath([path.parent for path in found.values()])
        name, places = "", {*_walk(Path(folder))} - {*found.values()}
    looks = re.compile(rf"^(?!.*_synthetic){name}.*{_NIFTI}", re.IGNORECASE)
    subjects = {claim[0] for path in found.values() if (claim := _claim(_LAYOUTS, path))}
    names = []
    for beside in sorted(places):
        if looks.search(beside.name):
            subject, taken, variant = _claim(_LAYOUTS, beside) or (None, "", "its name fits no layout")
            names += [f"{beside.name} ({variant or taken})"] * (subject in {None, *subjects})
    return f"; left out: {', '.join(names[:3])}" if names else ""


def _collect(layouts: Iterable[str], folder: Path, problems: dict[str, str] | None = None) -> dict[str, Files]:
    """Return subject -> contrast -> file; what is wrong with a subject is entered as a problem, or raised."""
    claims: dict[str, list[tuple[Path, str, str]]] = {}
    for path in _walk(folder):
        if claim := _claim(layouts, path):
            claims.setdefault(claim[0], []).append((path, *claim[1:]))
    found: dict[str, Files] = {}
    for subject, own in claims.items():
        problem, files = "", {}
        variants = sorted({variant for _, contrast, variant in own if contrast})  # as acquired is the first: empty
        if not variants:
            problem = f"{own[0][0]} is no contrast by itself ({own[0][2]}); add the others."
        elif variants[0] and len(variants) > 1:
            problem = f"has files of {' and of '.join(variants)}; keep those of one."
        for path, contrast, _ in (claim for claim in own if claim[1] and claim[2] == variants[0]):
            first = files.setdefault(contrast, path)
            if os.path.realpath(first) != os.path.realpath(path):
                problem = f"{first} and {path} both claim {contrast}; keep one of them."
        if not problem:
            found[subject] = dict(sorted(files.items()))
        elif problems is None:
            raise MudiffError(f"{subject}: {problem}")
        else:
            problems[subject] = f"{subject}: {problem}"
    return found


def _claim(layouts: Iterable[str], path: Path) -> tuple[str, str, str] | None:
    """Return subject, contrast and variant (BIDS: space and processing) of a file; None where it is of no layout.

    The contrast of a phase, of an inversion or of a part of the head is empty, the variant then says why. A link to a
    file that is not there is taken, reading says so; a link to itself is not.
    """
    matches = (re.search(p, path.as_posix(), re.IGNORECASE) for name in layouts for p in _LAYOUTS[name][1:])
    match = next(filter(None, matches), None)
    if match is None or path.is_dir() or Path(os.path.realpath(path)).is_symlink():
        return None
    parts, contrast = match.groupdict(), _CONTRASTS[match["contrast"].lower()]
    subject = unicodedata.normalize("NFC", "_".join(filter(None, (parts["subject"], parts.get("session")))))
    other = "inv|hemi|chunk|part(?!-mag)" + "|ce" * (contrast != "t1")
    if entities := re.findall(rf"_((?:{other})-[^_.]+)", path.name):
        return subject, "", " ".join(entities)
    variant = re.findall(r"_((?:space|res|label|desc)-[^_.]+)", path.name)
    return subject, "t1ce" if "_ce-" in path.name else contrast, " ".join(variant)


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
