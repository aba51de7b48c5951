"""A run's folder: settings, log and weights, each written so that a crash loses nothing.

``settings.json`` (settings, data and recipe), ``log.jsonl``, ``weights.safetensors`` (the chosen checkpoint),
``provenance.json`` (written last: the run is complete) and, until then, ``state.pt`` and ``best.safetensors``.
"""

import contextlib
import json
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mudiff import __version__, cache, storage
from mudiff.errors import MudiffError
from mudiff.methods.base import Method, build
from mudiff.settings import Settings


def default_device() -> torch.device:
    """Return torch's current GPU (a training sets it), or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


_RECORD = {"settings": dict, "data": str, "recipe": int}  # what settings.json holds
_STATE = {
    "step": range(2**63), "best": float, "seconds": float, "sums": {str: Tensor}, "counts": {str: int},
    "weights": {str: Tensor}, "average": {str: Tensor}, "optimisers": {str: dict},
}  # fmt: skip


def matches(folder: Path, settings: Settings, data_hash: str) -> bool:
    """Tell whether the folder belongs to these settings and data, under the present recipe."""
    if not (folder / "settings.json").is_file():
        return False
    found = storage.read_json(folder / "settings.json", _RECORD)
    with contextlib.suppress(MudiffError):  # values that no field takes any more
        found["settings"] = Settings.from_dict(found["settings"])
    return found == {"settings": settings, "data": data_hash, "recipe": cache.RECIPE_VERSION}


def claim(folder: Path, settings: Settings, data_hash: str) -> None:
    """Make the folder belong to these settings and data; a run of others is moved aside, not deleted."""
    if matches(folder, settings, data_hash):
        return
    if folder.is_dir() and any(folder.iterdir()):
        storage.move_aside(folder, "a run of other settings or data")
    record = {"settings": settings.to_dict(), "data": data_hash, "recipe": cache.RECIPE_VERSION}
    storage.write_json(folder / "settings.json", record)


def is_complete(folder: Path) -> bool:
    """Tell whether the run has ended."""
    return (folder / "provenance.json").is_file() and (folder / "weights.safetensors").is_file()


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return the resume state, None where there is none; raise a `MudiffError` if it is damaged."""
    path, advice = folder / "state.pt", "delete it to start this run anew"
    return storage.read_tensors(path, "resume state", advice, _STATE) if path.is_file() else None


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights in one move."""
    from safetensors.torch import save_file

    with storage.atomic_write(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)


def load(folder: Path, device: torch.device | str = "cpu", precision: str | None = None) -> Method:
    """Rebuild a run's method, ready to sample, in the run's own or another precision."""
    path, recorded = Path(folder) / "weights.safetensors", Path(folder) / "settings.json"
    if not recorded.is_file() or not path.is_file():
        advice = "train it with `mudiff train` or import one with `mudiff import-released`"
        raise MudiffError(f"{folder}: no trained run here (settings.json and weights.safetensors); {advice}.")
    record = storage.read_json(recorded, {"settings": dict})
    try:
        method = build(settings := Settings.from_dict(record["settings"]))
    except MudiffError as error:
        raise MudiffError(f"{recorded}: {error}") from None
    weights = storage.read_weights(path, "weights", "train or import the run again")
    found, own = ({k: v.shape for k, v in state.items()} for state in (weights, method.state_dict()))
    expected = {k: v for k, v in own.items() if k in found or not k.startswith(method.training_only)}
    if wrong := [k for k in expected | found if found.get(k) != expected.get(k)]:
        differ = f"{len(wrong)} tensors differ, such as {min(wrong)}"
        raise MudiffError(f"{path}: weights of other settings than settings.json ({differ}); train the run again.")
    method.load_state_dict(weights, strict=False)
    if precision is not None:
        method.settings = settings.replace(precision=precision)
    return method.to(device).eval()


def append_log(folder: Path, line: dict[str, Any]) -> None:
    """Append one line to ``log.jsonl``."""
    with storage.clear_os_errors(folder), (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last line cut off by a crash is left out."""
    path = Path(folder) / "log.jsonl"
    with storage.reading(path, "log of a training", "delete it, no weights depend on it"):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        storage.check_form(lines, [{"step": range(2**63)}])
    return lines


def cut_log(folder: Path, step: int) -> None:
    """Drop the lines after `step`, which a resumed run writes again."""
    kept = [json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= step]
    storage.write_text(folder / "log.jsonl", "".join(kept))


def provenance(settings: Settings, data_hash: str, device: torch.device, seconds: float) -> dict[str, Any]:
    """Return what made a run: versions, data, seed, hardware, duration and peak memory."""
    packages = ("torch", "numpy", "scipy", "scikit-image", "nibabel", "safetensors", "monai")
    cpu = f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    mebibyte = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kibibytes
    vgg16 = {"vgg16_sha256": cache.file_hash(Path(settings.vgg16))} if settings.vgg16 else {}
    return vgg16 | {
        "mudiff": __version__, "recipe": cache.RECIPE_VERSION, "data": data_hash, "seed": settings.seed,
        "python": platform.python_version(), "versions": {name: metadata.version(name) for name in packages},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "machine": f"{platform.system()} {platform.machine()}", "seconds": round(seconds, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // mebibyte,
    }  # fmt: skip
