"""Manifests: which subject belongs to which split (section "Datasets")."""

import csv
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mudiff import paths
from mudiff.data import datasets, files
from mudiff.errors import MudiffError

SPLITS = ("train", "val", "test")


def read_manifest(dataset: str, path: Path | None = None) -> pd.DataFrame:
    """Read which subject belongs to which split.

    Parameters
    ----------
    dataset : str
        Name of the dataset.
    path : Path, optional
        CSV with columns subject, split (train, val, test or excluded) and, if wanted, reason; default
        the published split.

    Returns
    -------
    pd.DataFrame
        Columns subject, split, reason, all text, in the order of the file.

    Raises
    ------
    MudiffError
        If there is no (published) manifest, or one of its lines is not as described.
    """
    datasets.dataset(dataset)
    if path is None:
        path = paths.manifests() / f"{dataset}.csv"
        if not path.is_file():
            raise MudiffError(
                f"dataset {dataset!r} has no published split: pass --manifest FILE (columns subject, split); "
                f"`mudiff verify --dataset {dataset} --data-root DIR --write-manifest FILE` drafts one."
            )
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except FileNotFoundError:
        raise MudiffError(f"{path}: manifest not found; check --manifest.") from None
    except (OSError, ValueError, csv.Error) as error:
        raise MudiffError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8 text.") from None
    lines = [(number, row) for number, row in lines if any(row)]
    header = [column.lower() for column in lines[0][1]] if lines else []
    if not {"subject", "split"} <= set(header):
        raise MudiffError(f"{path}: has columns {', '.join(header) or 'none'}; expected subject, split.")
    rows = [_read_line(path, number, header, row) for number, row in lines[1:]]
    _check_subjects(path, [number for number, _ in lines[1:]], rows)
    return pd.DataFrame(rows, columns=["subject", "split", "reason"])


def _read_line(path: Path, number: int, header: list[str], row: list[str]) -> tuple[str, str, str]:
    """Return subject, split and reason of one line."""
    if len(row) != len(header):
        raise MudiffError(f"{path}, line {number}: has {len(row)} fields; expected {len(header)}.")
    values = dict(zip(header, row, strict=True))
    subject, split = values["subject"], values["split"]
    # The id becomes a file name: it must not lead anywhere else.
    if not subject or subject.startswith(".") or set(subject) & set("/\\:\0"):
        raise MudiffError(f"{path}, line {number}: {subject!r} is no subject id; expected a plain name.")
    if split not in (*SPLITS, "excluded"):
        raise MudiffError(
            f"{path}, line {number}: split {split!r} is unknown; choose one of train, val, test, excluded."
        )
    return subject, split, values.get("reason", "")


def _check_subjects(path: Path, numbers: list[int], rows: list[tuple[str, str, str]]) -> None:
    """Check that no subject is there twice, under whatever prefix, and that some are used."""
    first: dict[str, int] = {}
    for number, (subject, _, _) in zip(numbers, rows, strict=True):
        before = first.setdefault(files.match_id(subject), number)
        if before != number:
            raise MudiffError(
                f"{path}, line {number}: {subject} is already on line {before}; keep one of them."
            )
    if not {split for _, split, _ in rows} & set(SPLITS):
        raise MudiffError(f"{path}: lists no subject for train, val or test; add some.")


def assign(found: Iterable[str], manifest: pd.DataFrame) -> tuple[dict[str, str], list[str], list[str]]:
    """Match the subjects of a folder with those of a manifest.

    Parameters
    ----------
    found : iterable of str
        Subject ids of the folder.
    manifest : pd.DataFrame
        As `read_manifest` returns it.

    Returns
    -------
    splits : dict of str to str
        Subject of the folder -> train, val or test; sorted, excluded subjects left out.
    missing : list of str
        Subjects of the manifest that the folder lacks.
    unlisted : list of str
        Subjects of the folder that the manifest lacks.

    Raises
    ------
    MudiffError
        If two subjects of the folder are the same one from two releases.
    """
    by_id: dict[str, str] = {}
    for subject in sorted(found):
        if subject != by_id.setdefault(files.match_id(subject), subject):
            other = by_id[files.match_id(subject)]
            raise MudiffError(f"{other} and {subject} are one subject from two releases; keep one of them.")
    listed = {
        files.match_id(s): split for s, split in zip(manifest["subject"], manifest["split"], strict=True)
    }
    splits = {subject: listed[key] for key, subject in by_id.items() if listed.get(key) in SPLITS}
    wanted = manifest[manifest["split"] != "excluded"]["subject"]
    missing = [subject for subject in wanted if files.match_id(subject) not in by_id]
    return splits, missing, [subject for key, subject in by_id.items() if key not in listed]
