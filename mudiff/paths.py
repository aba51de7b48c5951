"""Where things live: the project's folders, manifests, and files written in one move."""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mudiff.errors import MudiffError


def root() -> Path:
    """Return the project's folder: ``MUDIFF_ROOT``, else the nearest parent that holds notebooks/."""
    if os.environ.get("MUDIFF_ROOT"):
        return Path(os.environ["MUDIFF_ROOT"]).resolve()
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "notebooks").is_dir() and (folder / "data_manifests").is_dir():
                return folder
    return Path.cwd()  # an installed package without a checkout works in the current folder


def results(profile: str) -> Path:
    """Return ``results/<profile>``: phantoms, prepared data, runs, executed notebooks, report."""
    return root() / "results" / profile


def _part(part: str) -> Callable[[str, str], Path]:
    return lambda profile, name: results(profile) / part / name


# Folders of a profile and, in this order, of
phantoms = _part("phantoms")  # a dataset: its generated cohort
prepared = _part("prepared")  # a dataset: the slice cache
run = _part("runs")  # a run, by its name
synthetic = _part("synthetic")  # a run: its synthetic test slices
unseen = _part("unseen")  # a test cohort that no training of the profile saw: its slices and syntheses
analysis = _part("analyses")  # an analysis: what took long to compute


def figures(profile: str) -> Path:
    """Return ``results/<profile>/figures``, where interactive runs of the notebooks draw."""
    return results(profile) / "figures"


def manifests() -> Path:
    """Return the folder of the published splits and reference values."""
    package = Path(__file__).resolve().parent
    places = (root(), package.parent, package)  # the project, the checkout of the code, an installed wheel
    return next((p / "data_manifests" for p in places if (p / "data_manifests").is_dir()), places[0])


@contextlib.contextmanager
def clear_os_errors(path: Path, full_disk_only: bool = False) -> Iterator[None]:
    """Turn a full disk or a place that cannot be written, met while `path` is written, into a `MudiffError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full_disk_only and not full:
            raise
        why = f"cannot be written ({error.strerror or error}); choose a folder that you may write to"
        raise MudiffError(f"{path}: {'the disk is full; free some space' if full else why}.") from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name on success and vanishes on failure.

    Whatever stood at `path` stays whole until the new file is complete and on disk. Its folder is made. A full
    disk or a folder that cannot be written is a `MudiffError`; other errors of the block pass unchanged.
    """
    path = Path(path)
    # The temporary name keeps the suffixes: nibabel and numpy choose the format by them.
    temporary = path.with_name(f".tmp-{secrets.token_hex(6)}{''.join(path.suffixes[-2:])}")
    try:
        with clear_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)  # with the permissions that the umask leaves
        with clear_os_errors(path, full_disk_only=True):
            yield temporary
        with clear_os_errors(path):
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one move."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` in one move."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that mudiff wrote; a MudiffError says if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MudiffError(f"{path}: file not found; run the step that writes it first.") from None
    except (ValueError, OSError) as error:
        raise MudiffError(f"{path}: cannot be read as JSON ({error}); delete it and make it again.") from None


def read_tensors(path: Path | str, what: str, advice: str) -> Any:
    """Read what `torch.save` wrote; if it is missing, damaged or would run code, the error ends with `advice`."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that hold something else
        reason = "file not found" if isinstance(error, FileNotFoundError) else str(error).partition("\n")[0]
        raise MudiffError(f"{path}: no {what} ({reason or type(error).__name__}); {advice}.") from None
