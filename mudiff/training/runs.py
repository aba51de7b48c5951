"""A run's folder: its settings, lock, log and checkpoints, each written so that a crash loses nothing.

``settings.json`` (settings, data and their fingerprint), ``log.jsonl``, ``weights.safetensors`` (the chosen
checkpoint), ``last.safetensors``, ``provenance.json`` (written last: its presence means that the run is
complete) and, while it is not, ``state.pt`` and ``best.safetensors``.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mudiff import __version__, paths
from mudiff.cache import RECIPE_VERSION
from mudiff.errors import MudiffError
from mudiff.methods.base import Method, build
from mudiff.settings import Settings
from mudiff.training.devices import default_device as default_device
from mudiff.training.memory import keep_freed_memory


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder alone; wait while another living process holds it."""
    with paths.clear_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, since a run of other settings is moved aside with all that is in it.
        lock = (folder.parent / f".{folder.name}.lock").open("w")
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process trains this run; waiting for it to end.", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _claimed(settings: Settings, data_hash: str) -> dict[str, Any]:
    return {"settings": settings.to_dict(), "data": data_hash, "recipe": RECIPE_VERSION}


def matches(folder: Path, settings: Settings, data_hash: str) -> bool:
    """Tell whether the folder belongs to these settings and data."""
    path = folder / "settings.json"
    return path.is_file() and paths.read_json(path) == json.loads(json.dumps(_claimed(settings, data_hash)))


def claim(folder: Path, settings: Settings, data_hash: str) -> None:
    """Make the folder belong to these settings and data; a run of others is moved aside, not deleted."""
    if matches(folder, settings, data_hash):
        return
    if folder.is_dir() and any(folder.iterdir()):  # other settings, or nobody knows which
        aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        print(f"{folder}: holds a run of other settings or data; moved to {aside.name}.", file=sys.stderr)
        with paths.clear_os_errors(folder):
            folder.rename(aside)
    paths.write_json(folder / "settings.json", _claimed(settings, data_hash))


def is_complete(folder: Path) -> bool:
    """Tell whether the run has ended."""
    return (folder / "provenance.json").is_file() and (folder / "weights.safetensors").is_file()


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write what a resumed run needs, in one move."""
    with paths.atomic_write(folder / "state.pt") as temporary, temporary.open("wb") as file:
        _torch_save(state, file, folder / "state.pt")


def _torch_save(state: dict[str, Any], file: Any, path: Path) -> None:
    try:
        torch.save(state, file)
        file.flush()
    except RuntimeError as error:  # torch hides the errno of a full disk
        raise OSError(28, f"{path}: {error}") from error


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return the resume state, or None where there is none.

    Raises
    ------
    MudiffError
        If the file is damaged.
    """
    path = folder / "state.pt"
    if not path.is_file():
        return None
    return paths.read_tensors(path, "resume state", "it is damaged: delete it to start this run anew")


def save_weights(path: Path, weights: dict[str, Tensor], settings: Settings) -> None:
    """Write weights in one move."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with paths.atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary)
        except OSError:
            raise
        except Exception as error:  # safetensors wraps the errno of a full disk in an error of its own
            if "No space left" in str(error):
                raise OSError(28, str(error)) from error
            raise


def load(folder: Path, device: torch.device | str = "cpu", precision: str | None = None) -> Method:
    """Rebuild a run's method with its chosen weights, ready to sample.

    Parameters
    ----------
    folder : Path
        A run's folder.
    device : torch.device or str
        Where to put it.
    precision : str, optional
        In which its networks compute, where not in that of the run's settings.

    Raises
    ------
    MudiffError
        If the folder holds no complete run, or weights of other settings.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    path = folder / "weights.safetensors"
    if not (folder / "settings.json").is_file() or not path.is_file():
        raise MudiffError(
            f"{folder}: no trained run here (settings.json and weights.safetensors expected); "
            "train it with `mudiff train` or import one with `mudiff import-released`."
        )
    settings = Settings.from_dict(paths.read_json(folder / "settings.json")["settings"])
    method = build(settings)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise MudiffError(f"{path}: cannot be read ({error}); train or import the run again.") from None
    expected = method.state_dict()
    needed = {name for name in expected if not name.startswith(method.training_only)}
    if not method.training_only:
        needed = set(expected)
    wrong = sorted(
        (needed - weights.keys())
        | (weights.keys() - expected.keys())
        | {n for n in weights.keys() & expected.keys() if weights[n].shape != expected[n].shape}
    )
    if wrong:
        raise MudiffError(
            f"{path}: weights of other settings than {folder / 'settings.json'} ({len(wrong)} tensors differ, "
            f"such as {wrong[0]}); train the run again."
        )
    method.load_state_dict(weights, strict=False)
    keep_freed_memory()
    if precision is not None:
        method.settings = settings.replace(precision=precision)
    return method.to(device).eval()


def append_log(folder: Path, line: dict[str, Any]) -> None:
    """Append one line to ``log.jsonl``."""
    path = folder / "log.jsonl"
    with paths.clear_os_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last line cut off by a crash is left out."""
    path = Path(folder) / "log.jsonl"
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def cut_log(folder: Path, step: int) -> None:
    """Drop the lines after `step`, which a resumed run writes again."""
    kept = [line for line in read_log(folder) if line["step"] <= step]
    paths.write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in kept))


def provenance(settings: Settings, data_hash: str, device: torch.device, seconds: float) -> dict[str, Any]:
    """Return what made a run: versions, data, seed, hardware, duration and peak memory."""
    packages = ("torch", "numpy", "scipy", "scikit-image", "nibabel", "safetensors", "monai")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    record = (
        {"vgg16_sha256": hashlib.sha256(Path(settings.vgg16).read_bytes()).hexdigest()}
        if settings.vgg16
        else {}
    )
    return record | {
        "mudiff": __version__,
        "recipe": RECIPE_VERSION,
        "fingerprint": settings.fingerprint(),
        "data": data_hash,
        "seed": settings.seed,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "device": gpu or f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores",
        "machine": f"{platform.system()} {platform.machine()}",
        "seconds": round(seconds, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
