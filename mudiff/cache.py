"""What took long to compute is kept, and used again as long as nothing that it depends on has changed."""

import contextlib
import hashlib
import inspect
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mudiff import storage
from mudiff.errors import MudiffError

RECIPE_VERSION = 6
"""Raised by every change that alters numbers (CHANGELOG.md says what it altered)."""

Kept = TypeVar("Kept", pd.DataFrame, dict[str, np.ndarray])


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*values: Any) -> str:
    """Return a short hash of plain values; what JSON does not know counts by its text."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def kept(path: Path, compute: Callable[[], Kept], *inputs: Any) -> Kept:
    """Return ``compute()``, kept at `path` while inputs, recipe and the module of `compute` stay the same.

    `path` ends in ``.csv`` for a DataFrame (its index is not kept), in ``.npz`` for a dict of arrays. The result must
    depend on `inputs` (plain values: hashes of weights and data, names, numbers) and on that module alone.
    """
    function = getattr(compute, "func", compute)  # of a functools.partial
    module = Path(inspect.getsourcefile(function))
    code = file_hash(module) if module.is_file() else inspect.getsource(function)  # the latter in a notebook
    key = digest(RECIPE_VERSION, code, *inputs)
    read, write = (_read_frame, _write_frame) if path.suffix == ".csv" else (_read_arrays, _write_arrays)
    with contextlib.suppress(Exception):  # damaged or missing: numpy and pandas raise many kinds
        return read(path, key)
    result = compute()  # each time, where nothing can be written
    with contextlib.suppress(MudiffError), storage.atomic_write(path) as temporary:
        write(temporary, result, key)
    return result


def _read_frame(path: Path, key: str) -> pd.DataFrame:
    head, _, body = path.read_text(encoding="utf-8").partition("\n")
    about = json.loads(head.removeprefix("# "))
    if about["key"] != key or about["rows"] != body.count("\n") - 1:
        raise ValueError
    # A subject may be called "007" or "NA": columns keep their types, and only empty cells are missing.
    options = {"keep_default_na": False, "na_values": [""], "float_precision": "round_trip"}
    return pd.read_csv(io.StringIO(body), dtype=about["types"], **options)


def _write_frame(path: Path, frame: pd.DataFrame, key: str) -> None:
    types = {name: "str" if kind == "object" else str(kind) for name, kind in frame.dtypes.items()}
    head = json.dumps({"key": key, "rows": len(frame), "types": types})
    path.write_text(f"# {head}\n{frame.to_csv(index=False, lineterminator=chr(10))}", encoding="utf-8")


def _read_arrays(path: Path, key: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        if str(file["key"]) != key:
            raise ValueError
        return {name: file[name] for name in file.files if name != "key"}


def _write_arrays(path: Path, arrays: dict[str, np.ndarray], key: str) -> None:
    np.savez(path, key=np.array(key), **arrays)
