"""Files are read with one clear error and written in one move; a lock keeps a second process waiting."""

import contextlib
import errno
import functools
import itertools
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudiff.errors import MudiffError

if TYPE_CHECKING:
    from torch import Tensor

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.ENOLCK)
"""What exFAT and network shares answer to fsync and flock."""
_NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory", re.IGNORECASE)  # torch's RuntimeErrors


def explain(error: BaseException) -> str | None:
    """Return what to tell of an error of the system (memory, disk, permission), None of any other."""
    no_memory = isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
    if no_memory or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return "too little memory; close other programs, or take fewer workers, smaller batches or smaller images"
    if isinstance(error, OSError) and error.errno in _FULL:
        return "the disk is full, or what you may write on it (quota, `ulimit -f`); free some space"
    return error.strerror or str(error) if isinstance(error, OSError) else None


@contextlib.contextmanager
def clear_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a place that cannot be written, met while `path` is written, into a `MudiffError`."""
    try:
        yield
    except OSError as error:
        why = explain(error)
        other = f"cannot be written ({why}); choose a folder that you may write to"
        raise MudiffError(f"{path}: {why if error.errno in _FULL else other}.") from error


def _cause(error: BaseException) -> BaseException | None:
    """Return the full disk or the Ctrl-C that a library hid in an error of its own, if that is behind it."""
    link: BaseException | None = error
    while link is not None:  # torch
        if isinstance(link, KeyboardInterrupt) or getattr(link, "errno", None) in _FULL:
            return link
        link = link.__context__
    number = re.search(r"os error (\d+)", str(error))  # safetensors
    lost = re.fullmatch(r"\d+ requested and \d+ written", str(error))  # numpy
    code = int(number[1]) if number else errno.ENOSPC if lost else None
    return OSError(code, "") if code in _FULL else None


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
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)  # with the permissions that the umask leaves
            mode = temporary.stat().st_mode
        _clean(path.parent)
        try:
            yield temporary
        except Exception as error:
            if (cause := _cause(error)) is None:
                raise
            with clear_os_errors(path):
                raise cause from error
        with clear_os_errors(path):
            if temporary.stat().st_mode != mode:  # safetensors lets nobody else read
                with contextlib.suppress(OSError):
                    temporary.chmod(mode)
            with temporary.open("rb") as file:
                try:
                    os.fsync(file.fileno())
                except OSError as error:
                    if error.errno not in _UNSUPPORTED:
                        raise
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise now what `atomic_write` would raise after the work that makes the content of `path`."""
    with contextlib.suppress(InterruptedError), atomic_write(path):
        raise InterruptedError


@functools.cache  # once per process
def _clean(folder: Path) -> None:
    """Delete what killed processes were writing here; a file of the last day may belong to a living one."""
    for left in folder.glob(f".tmp-{'[0-9a-f]' * 12}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 86400:
                left.unlink()


def move_aside(folder: Path, what: str) -> None:
    """Rename a folder to ``<name>.old-1``, or the next number that is free, and say of `what` it is."""
    aside = next(a for n in itertools.count(1) if not (a := folder.with_name(f"{folder.name}.old-{n}")).exists())
    print(f"{folder}: holds {what}; moved to {aside.name}.", file=sys.stderr)
    with clear_os_errors(folder):
        folder.rename(aside)


def lock(path: Path, waiting: str) -> contextlib.AbstractContextManager:
    """Take the lock file `path`, and say `waiting` while another living process has it; return what gives it back."""
    from filelock import FileLock, Timeout

    with clear_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        own = FileLock(path, fallback_to_soft=False)
        try:
            return own.acquire(timeout=0)
        except Timeout:
            print(waiting, file=sys.stderr)
            return own.acquire()
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            print(f"warning: {path.parent}: a disk without locks; start nothing twice at a time.", file=sys.stderr)
            return contextlib.nullcontext()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one move."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` in one move."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def reading(path: Path | str, what: str, advice: str) -> Iterator[None]:
    """Turn what goes wrong while `path` is read, and its form checked, into one `MudiffError`: it is no `what`."""
    try:
        yield
    except MudiffError:
        raise
    except Exception as error:  # libraries raise many kinds for files that hold something else
        missing = isinstance(error, FileNotFoundError)
        if not missing and (why := explain(error)) and getattr(error, "errno", 0) is not None:
            raise MudiffError(f"{path}: cannot be read ({why}).") from None  # no fault of the file
        reason = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
        raise MudiffError(f"{path}: no {what} ({'file not found' if missing else reason}); {advice}.") from None


def check_form(value: Any, form: Any, name: str = "it") -> None:
    """Raise a ValueError where `value` is not of a form: type, range, {"key": form}, {str: form} or [form]."""
    kind = form if isinstance(form, type) else int if isinstance(form, range) else type(form)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} is {type(value).__name__}, not {kind.__name__}")
    if isinstance(form, range) and value not in form:
        raise ValueError(f"{name} is {value}, not from {form.start} to {form.stop - 1}")
    if isinstance(form, dict):
        for key, inner in (dict.fromkeys(value, form[str]) if str in form else form).items():
            if key not in value:
                raise ValueError(f"{name} has no {key!r}")
            check_form(value[key], inner, repr(key))
    elif isinstance(form, list):
        for item in value:
            check_form(item, form[0], f"an entry of {name}")


def read_json(path: Path, form: Any = dict) -> Any:
    """Read JSON that mudiff wrote, of a form (see `check_form`); a MudiffError if it is missing or damaged."""
    with reading(path, "valid JSON", "delete what is there and run the step that writes it"):
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        check_form(value, form)
    return value


def read_tensors(path: Path | str, what: str, advice: str, form: Any = dict) -> Any:
    """Read what safetensors or `torch.save` wrote, of a form; what is missing, damaged or would run code raises."""
    import torch
    from safetensors.torch import load_file

    with reading(path, what, advice):
        safe = Path(path).suffix == ".safetensors"
        value = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        check_form(value, form)
    return value


def check_weights(weights: dict[str, "Tensor"], source: Path | str, advice: str) -> dict[str, "Tensor"]:
    """Return `weights`; a MudiffError unless they are name -> plain tensor of finite numbers."""
    import torch

    for name, value in weights.items():
        plain = isinstance(name, str) and torch.is_tensor(value) and value.layout == torch.strided
        odd = not plain or value.is_complex() or value.is_meta or value.is_quantized
        if odd or not value.float().isfinite().all():
            raise MudiffError(f"{source}: {name} is no tensor of finite numbers (NaN or infinite?); {advice}.")
    return weights


def read_weights(path: Path | str, what: str, advice: str) -> dict[str, "Tensor"]:
    """Read weights, see `read_tensors` and `check_weights`."""
    return check_weights(read_tensors(path, what, advice), path, advice)
