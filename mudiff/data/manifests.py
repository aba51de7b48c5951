"""Manifests: which subject belongs to which split (section "Datasets")."""

import difflib
import io
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from mudiff import paths, storage
from mudiff.data import datasets, files
from mudiff.errors import MudiffError

SPLITS = ("train", "val", "test")
_WORDS = {**{split: split for split in (*SPLITS, "excluded")}, "training": "train", "testing": "test"}
_WORDS |= {"validation": "val", "valid": "val"}


def read_manifest(dataset: str, path: Path | None = None) -> pd.DataFrame:
    """Read a table with columns subject, split (train, val, test or excluded) and, if wanted, reason.

    By default it is the published split. Commas, semicolons or tabs separate columns, ``#`` begins a comment line,
    participant_id (BIDS) is subject. Returned are the three columns, all text, in the order of the file.
    """
    datasets.dataset(dataset)
    if path is None and not (path := paths.manifests() / f"{dataset}.csv").is_file():
        raise MudiffError(
            f"dataset {dataset!r} has no published split: pass --manifest FILE (columns subject, split); "
            f"`mudiff verify --dataset {dataset} --data-root DIR --write-manifest FILE` drafts one."
        )
    with storage.reading(path, "readable CSV", "check --manifest, and save the file as UTF-8"):
        table = _read_table(Path(path))
    if sorted(column for column in table.columns if column in ("subject", "split")) != ["split", "subject"]:
        raise MudiffError(f"{path}: has columns {', '.join(table.columns)}; expected subject, split, each once.")
    table = table.loc[:, ~table.columns.duplicated()].reindex(columns=["subject", "split", "reason"], fill_value="")
    table = table[(table != "").any(axis=1)].reset_index(drop=True)
    words = table["split"].str.lower()
    if {"val", "validation"} <= set(words):  # the challenge's own, perhaps
        raise MudiffError(f"{path}: has splits val and validation; write val for both, or exclude one.")
    table["split"] = words.map(_WORDS).fillna(table["split"])
    for subject, split in zip(table["subject"], table["split"], strict=True):
        # The id becomes a file name: it must not lead anywhere else.
        if not subject or subject.startswith(".") or set(subject) & set("/\\:\0"):
            raise MudiffError(f"{path}: {subject!r} is no subject id; expected a plain name.")
        if split not in (*SPLITS, "excluded"):
            raise MudiffError(f"{path}: split {split!r} of {subject} is unknown; choose train, val, test, excluded.")
    used = table.loc[table["split"] != "excluded", "subject"]
    for names, ids in ((table["subject"], table["subject"]), (used, used.map(files.match_id))):
        if ids.duplicated().any():
            same = names[ids == ids[ids.duplicated()].iloc[0]]
            raise MudiffError(f"{path}: {' and '.join(same)} are one subject; keep one of them.")
    if not table["split"].isin(SPLITS).any():
        raise MudiffError(f"{path}: lists no subject for train, val or test; add some.")
    return table


def _read_table(path: Path) -> pd.DataFrame:
    """Return a file's table as text; the separator is the mark that its first line has most of."""
    content = path.read_bytes()
    text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    text = re.sub(r'^(?:[ \t]*#|"?sep=).*$', "", text, flags=re.MULTILINE)  # blank lines are passed over, but counted
    separator = max(",;\t", key=text.strip().partition("\n")[0].count)
    table = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False)
    table = table.fillna("").apply(lambda column: column.str.strip())  # short lines end in NaN
    return table[1:].set_axis(table.iloc[0].str.lower().replace("participant_id", "subject").tolist(), axis=1)


def assign(found: Iterable[str], manifest: pd.DataFrame) -> tuple[dict[str, str], list[str], list[str]]:
    """Match the subjects of a folder with those of a manifest.

    Ids match as they are, or without the prefix of their release, or without ``sub-`` and zeros before a number, or
    all sessions of a listed person do. Returned are subject -> train, val or test (excluded ones left out), what the
    folder lacks, and what the manifest.
    """
    subjects, rows = sorted(found), dict(zip(manifest["subject"], manifest["split"], strict=True))
    matched: dict[str, str] = {}  # subject of the folder -> of the manifest
    alike = [(spelled, spelled) for spelled in (str, files.match_id, _plain)]
    for mine, theirs in (*alike, (lambda subject: _plain(files.patient(subject, sure=True)), _plain)):
        free = pd.Series({row: theirs(row) for row in rows if row not in matched.values()}, dtype=str)
        free = {key: row for row, key in free[~free.duplicated(keep=False)].items()}
        fitting = {s: free[mine(s)] for s in subjects if s not in matched and mine(s) in free}
        for row in fitting.values():
            same = [subject for subject in fitting if fitting[subject] == row]
            if len(same) > 1 and rows[row] != "excluded" and mine is theirs:
                raise MudiffError(f"{' and '.join(same)} are one subject ({row} of the manifest); keep one of them.")
        matched |= fitting
    splits = {subject: rows[matched[subject]] for subject in subjects if rows.get(matched.get(subject)) in SPLITS}
    missing = [row for row in rows if rows[row] != "excluded" and row not in matched.values()]
    return splits, missing, [subject for subject in subjects if subject not in matched]


def _plain(subject: str) -> str:
    """Return an id without ``sub-``, and a number without the zeros before it."""
    plain = files.match_id(subject).removeprefix("sub-")
    return plain.lstrip("0") if plain.isdecimal() else plain


def nearest(subject: str, others: Iterable[str]) -> str:
    """Return `` (did you mean ...?)`` with the most similar of the others, or nothing where none is."""
    near = difflib.get_close_matches(subject, list(others), 1)
    return f" (did you mean {near[0]}?)" if near else ""


def leaks(splits: dict[str, str], sure: bool = False) -> dict[str, str]:
    """Return subject -> what is wrong where one person is in two splits, by the ids (see `files.patient`)."""
    people: dict[str, dict[str, str]] = {}
    for subject, split in splits.items():
        people.setdefault(files.patient(subject, sure), {})[split] = subject
    wrong = {}
    for subject in splits:
        if len(own := people[files.patient(subject, sure)]) > 1:
            named = ", ".join(f"{other} in {split}" for split, other in own.items())
            wrong[subject] = f"one person by the ids is {named}; put them into one split of the manifest."
    return wrong


def draft_manifest(dataset: str, root: Path, path: Path, seed: int = 1024) -> pd.DataFrame:
    """Write a manifest with a seeded random split of the people of a data folder, 50/20/15 (healthy) or 70/20/10.

    A subject whose files contradict each other is excluded.
    """
    if Path(path).exists():
        raise MudiffError(f"{path}: exists already; delete it or choose another name for the draft.")
    reasons: dict[str, str] = {}
    subjects = list(files.find_subjects(dataset, root, reasons))
    ids = sorted(subjects, key=lambda subject: files.patient(subject, sure=True))
    people = list(dict.fromkeys(map(files.patient, ids)))
    fractions = np.array((50, 20, 15)) / 85 if dataset == "healthy" else np.array((0.7, 0.2, 0.1))
    _, val, test = np.maximum(np.rint(fractions * len(people)).astype(int), len(people) >= 3)  # 1 or more of three
    shuffled = np.random.default_rng(seed).permutation(people)
    groups = np.split(shuffled, [len(people) - val - test, len(people) - test])
    splits = {str(person): split for split, group in zip(SPLITS, groups, strict=True) for person in group}
    lines = [(s, splits[files.patient(s)], "") for s in subjects]
    lines += [(s, "excluded", reason) for s, reason in reasons.items()]
    table = pd.DataFrame(sorted(lines), columns=["subject", "split", "reason"])
    storage.write_text(path, table.to_csv(index=False, lineterminator="\n"))
    return table
