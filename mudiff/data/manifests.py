"""Manifests: which subject belongs to which split (section "Datasets")."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.data import datasets, files
from mudiff.errors import MudiffError

SPLITS = ("train", "val", "test")


def read_manifest(dataset: str, path: Path | None = None) -> pd.DataFrame:
    """Read a CSV with columns subject, split (train, val, test or excluded) and, if wanted, reason.

    By default it is the published split. Returned are the three columns, all text, in the order of the file.
    """
    datasets.dataset(dataset)
    if path is None and not (path := paths.manifests() / f"{dataset}.csv").is_file():
        raise MudiffError(
            f"dataset {dataset!r} has no published split: pass --manifest FILE (columns subject, split); "
            f"`mudiff verify --dataset {dataset} --data-root DIR --write-manifest FILE` drafts one."
        )
    try:
        lines = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise MudiffError(f"{path}: manifest not found; check --manifest.") from None
    except (OSError, ValueError) as error:  # of pandas and of UTF-8, too
        raise MudiffError(f"{path}: no readable CSV ({' '.join(str(error).split())}); save it as UTF-8.") from None
    lines = lines.fillna("").apply(lambda column: column.str.strip())  # short lines end in NaN
    table = lines[1:].set_axis(lines.iloc[0].str.lower().tolist(), axis=1)
    if not {"subject", "split"} <= set(table.columns):
        raise MudiffError(f"{path}: has columns {', '.join(table.columns)}; expected subject, split.")
    table = table.reindex(columns=["subject", "split", "reason"], fill_value="")
    table = table[(table != "").any(axis=1)].reset_index(drop=True)
    for subject, split in zip(table["subject"], table["split"], strict=True):
        # The id becomes a file name: it must not lead anywhere else.
        if not subject or subject.startswith(".") or set(subject) & set("/\\:\0"):
            raise MudiffError(f"{path}: {subject!r} is no subject id; expected a plain name.")
        if split not in (*SPLITS, "excluded"):
            raise MudiffError(f"{path}: split {split!r} of {subject} is unknown; choose train, val, test, excluded.")
    ids = table["subject"].map(files.match_id)
    if ids.duplicated().any():
        same = table.loc[ids == ids[ids.duplicated()].iloc[0], "subject"]
        raise MudiffError(f"{path}: {' and '.join(same)} are one subject; keep one of them.")
    if not table["split"].isin(SPLITS).any():
        raise MudiffError(f"{path}: lists no subject for train, val or test; add some.")
    return table


def assign(found: Iterable[str], manifest: pd.DataFrame) -> tuple[dict[str, str], list[str], list[str]]:
    """Match the subjects of a folder with those of a manifest, whatever prefix their release gave them.

    Returned are subject -> train, val or test (excluded ones left out), what the folder lacks, and what the manifest.
    """
    by_id: dict[str, str] = {}
    for subject in sorted(found):
        if subject != (other := by_id.setdefault(files.match_id(subject), subject)):
            raise MudiffError(f"{other} and {subject} are one subject from two releases; keep one of them.")
    listed = dict(zip(manifest["subject"].map(files.match_id), manifest["split"], strict=True))
    splits = {subject: listed[key] for key, subject in by_id.items() if listed.get(key) in SPLITS}
    wanted = manifest.loc[manifest["split"] != "excluded", "subject"]
    missing = [subject for subject in wanted if files.match_id(subject) not in by_id]
    return splits, missing, [subject for key, subject in by_id.items() if key not in listed]


def draft_manifest(dataset: str, root: Path, path: Path, seed: int = 1024) -> pd.DataFrame:
    """Write a manifest with a seeded random split of the people of a data folder, 50/20/15 (healthy) or 70/20/10."""
    if Path(path).exists():
        raise MudiffError(f"{path}: exists already; delete it or choose another name for the draft.")
    subjects = list(files.find_subjects(dataset, root))
    people = sorted({files.patient(subject) for subject in subjects})
    fractions = np.array((50, 20, 15)) / 85 if dataset == "healthy" else np.array((0.7, 0.2, 0.1))
    _, val, test = np.maximum(np.rint(fractions * len(people)).astype(int), len(people) >= 3)  # 1 or more of three
    shuffled = np.random.default_rng(seed).permutation(people)
    groups = np.split(shuffled, [len(people) - val - test, len(people) - test])
    splits = {str(person): split for split, group in zip(SPLITS, groups, strict=True) for person in group}
    table = pd.DataFrame({"subject": subjects, "split": [splits[files.patient(s)] for s in subjects]})
    paths.write_text(path, table.to_csv(index=False, lineterminator="\n"))
    return table
