"""What all measurements share: a clock, the machine's name, CSV files and tables."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch

from mudiff import paths

Name = TypeVar("Name")

RESULTS = Path(__file__).parent / "results"
"""Where the CSV files and figures lie unless ``--output`` names another folder."""


def processor(device: torch.device) -> str:
    """Return the name of the processor behind a device, with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, file = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if file.is_file():
        names = [
            line.split(":")[1] for line in file.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0].strip() if names else name
    return f"{name}, {os.cpu_count()} cores"


def interleaved(
    works: Mapping[Name, Callable[[], object]], repeats: int, device: torch.device
) -> dict[Name, list[float]]:
    """Return the seconds of all works, run in turn `repeats` times after a first call that is not counted."""
    seconds: dict[Name, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def spread(values: Sequence[float], name: str = "seconds") -> dict[str, float]:
    """Return median, smallest and largest value as columns."""
    return {
        f"{name}_median": statistics.median(values),
        f"{name}_min": min(values),
        f"{name}_max": max(values),
    }


def write(file: Path, rows: list[dict[str, object]], key: Sequence[str]) -> pd.DataFrame:
    """Add rows to a CSV file; of rows with the same `key` the new one stays. Returns the new rows."""
    new = pd.DataFrame(rows)
    old = pd.read_csv(file, keep_default_na=False, na_values=[""]) if file.is_file() else new.iloc[:0]
    every = pd.concat([old, new]) if len(old) else new
    every = every[~every[list(key)].astype(str).duplicated(keep="last")]
    paths.write_text(file, every.to_csv(index=False, float_format="%.5g"))
    return new


def show(frame: pd.DataFrame) -> None:
    """Print a table."""
    print(frame.to_string(index=False, float_format=lambda x: f"{x:.4g}"), flush=True)


def settle(threads: int | None) -> int:
    """Use so many threads, by default one for each core that this process may use; returns their number."""
    affinity = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(threads or (len(affinity(0)) if affinity else os.cpu_count() or 1))
    return torch.get_num_threads()
