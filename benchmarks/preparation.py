"""Seconds per subject of the preparation, by stage, number of subjects and of processes; milliseconds to read.

python -m benchmarks.preparation --csv preparation.csv                               # generated phantoms
python -m benchmarks.preparation --data-root DIR --dataset brats --subjects 4 8      # your own folder

Columns of the CSV, one row per measurement:

    benchmark   "stage": one part of the work on a subject, measured alone on one core; "cohort": `mudiff prepare`
                from start to end; "reading": all contrasts and the brain mask of a slice, as training reads them;
                "sharing": two processes that hold the same slices
    name        which stage, "prepare" or "restart" (nothing left to do), "batch", or which kind of memory
    dataset, image_size, slices, subjects, workers, batch
                what was measured: slices per subject, subjects, processes, slices per batch (0: does not apply)
    cpu_ms      processor time, all processes and their start, per subject (stage, cohort) or per slice (reading)
    wall_ms     elapsed time, likewise
    mib         cohort: peak memory of the largest process; sharing: memory of one process; else empty

Stage "decompression" is the time within gzip, "conversion" the rest of the reading. The share outside
decompression is 1 minus its part of the processor time of the largest cohort on one process. Files are read once
before, so the disk counts in wall_ms of what is written alone.
"""

import argparse
import concurrent.futures
import csv
import gzip
import hashlib
import math
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

from mudiff.data import datasets, prepare, resizing, volumes
from mudiff.data import files as layouts
from mudiff.data.dataset import WHITE
from mudiff.data.masks import brain_mask
from mudiff.phantoms import cohort
from mudiff.settings import Preparation

Row = dict[str, Any]
Measure = Callable[[str, Callable[[], Any]], Any]
COLUMNS = (
    "benchmark", "name", "dataset", "image_size", "slices", "subjects", "workers", "batch", "cpu_ms", "wall_ms",
    "mib",
)  # fmt: skip
MADE = 2
"""Phantoms that are generated; larger cohorts hold them again under other names."""


def phantoms(dataset: str, folder: Path, count: int, spacing: float) -> Path:
    """Write a cohort of `count` subjects, two of them made and the rest hard links to their files."""
    cohort.write_cohort(dataset, folder, (min(count, MADE), 0, 0), spacing=spacing, workers=1)
    for number in range(MADE + 1, count + 1):
        made = cohort.subject_files(dataset, folder, 1 + (number - 1) % MADE)
        for name, path in cohort.subject_files(dataset, folder, number).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            os.link(made[name], path)
    return folder


def _row(preparation: Preparation, benchmark: str, name: str, **values: float) -> Row:
    empty = {"workers": 1, "batch": 0, "mib": ""}
    settings = {
        "dataset": preparation.dataset, "image_size": preparation.image_size, "slices": preparation.slices
    }  # fmt: skip
    row = {"benchmark": benchmark, "name": name, **settings, **empty, **values}
    return {column: row[column] for column in COLUMNS}


def measure_stages(preparation: Preparation, root: Path, subjects: int, repeats: int = 3) -> list[Row]:
    """Return one row per stage: the median over repeats and subjects, on one core."""
    found = list(layouts.find_subjects(preparation.dataset, root).values())[:subjects]
    subjects_taken = []
    for _ in range(repeats):
        for files in found:
            taken: dict[str, np.ndarray] = {}

            def timed(name: str, work: Callable[[], Any], taken: dict[str, np.ndarray] = taken) -> Any:
                began = np.array([time.process_time(), time.perf_counter()])
                result = work()
                seconds = np.array([time.process_time(), time.perf_counter()]) - began
                taken[name] = taken.get(name, 0) + seconds
                return result

            _stages(preparation, files, timed)
            unpacking = taken.pop("decompression", np.zeros(2))
            conversion = taken.pop("reading") - unpacking
            subjects_taken.append({"decompression": unpacking, "conversion": conversion, **taken})
    medians = {
        name: 1000 * np.median([t[name] for t in subjects_taken], axis=0) for name in subjects_taken[0]
    }
    return [
        _row(preparation, "stage", name, subjects=len(found), cpu_ms=float(cpu), wall_ms=float(wall))
        for name, (cpu, wall) in medians.items()
    ]


def _stages(preparation: Preparation, files: layouts.Files, timed: Measure) -> np.ndarray:
    """Do the work on one subject in the order of `data.subject_slices`, each stage by itself; return its images."""
    dataset, size = datasets.dataset(preparation.dataset), preparation.image_size
    contrasts = [files[name] for name in dataset.contrasts]
    masks = [files["mask"]] if dataset.lesions and "mask" in files else []
    # In its place: alone, gzip takes more or less, as the memory that it gets is new or was used before.
    unpack = gzip.decompress
    unpacked = lambda content: timed("decompression", lambda: unpack(content))  # noqa: E731
    with mock.patch.object(gzip, "decompress", unpacked):
        loaded, labels = timed(
            "reading",
            lambda: ([volumes.load_volume(p) for p in contrasts], [volumes.load_mask(p) for p in masks]),
        )
    limits = timed(
        "percentiles", lambda: [volumes.limits(v.data, preparation.normalisation, v.path) for v in loaded]
    )
    kept = [volumes.cut(v.data, v.affine, size, preparation.slices)[0] for v in loaded]
    units = timed(
        "rescaling", lambda: [volumes.rescale(k, *low_high) for k, low_high in zip(kept, limits, strict=True)]
    )
    squares = timed("resizing", lambda: [resizing.to_square(unit, size, order=1) for unit in units])
    images = timed(
        "quantisation", lambda: np.stack([np.rint(s * WHITE).astype(np.uint16) for s in squares], axis=1)
    )
    timed("brain mask", lambda: brain_mask(images.swapaxes(0, 1)))
    timed(
        "lesion mask",
        lambda: [volumes.to_slices(v.data, v.affine, size, 0, preparation.slices) for v in labels],
    )
    timed("hashes", lambda: [hashlib.sha256(path.read_bytes()).digest() for path in contrasts + masks])
    with tempfile.TemporaryFile() as file:
        timed("writing", lambda: np.save(file, images))
    return images


def measure_cohort(preparation: Preparation, root: Path, subjects: int, workers: int) -> list[Row]:
    """Return rows of a whole preparation, and of a second one that finds nothing left to do."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in ("prepare", "restart"):
            with _pool(1) as pool:  # one each, since the peak of a process never falls
                task = pool.submit(_prepare, preparation, root, subjects, workers, Path(folder))
                cpu, wall, mib = task.result()
            per_subject = {"cpu_ms": 1000 * cpu / subjects, "wall_ms": 1000 * wall / subjects}
            rows.append(
                _row(preparation, "cohort", name, subjects=subjects, workers=workers, mib=mib, **per_subject)
            )
        return rows


def _pool(processes: int) -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # peak memory is that of the work alone
    return concurrent.futures.ProcessPoolExecutor(processes, mp_context=context)


def _prepare(
    preparation: Preparation, root: Path, subjects: int, workers: int, folder: Path
) -> tuple[float, float, float]:
    """Prepare the first subjects of a folder; return processor and elapsed seconds and the peak in MiB."""
    names = list(layouts.find_subjects(preparation.dataset, root))[:subjects]
    manifest = pd.DataFrame({"subject": names, "split": "train", "reason": ""})
    before, began = _usage(), time.perf_counter()
    prepare.prepare(preparation, root, manifest, folder, workers=workers, progress=False).check()
    wall, after = time.perf_counter() - began, _usage()
    return after[0] - before[0], wall, after[1]


def _usage() -> tuple[float, float]:
    """Return processor seconds of this process and its ended children, and the largest peak of one in MiB."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    peak, status = own.ru_maxrss / unit, Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss also counts the process that started this one
        peak = (
            next(int(x.split()[1]) for x in status.read_text().splitlines() if x.startswith("VmHWM")) / 2**10
        )
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
    return seconds, max(peak, children.ru_maxrss / unit)


def measure_reading(
    preparation: Preparation,
    root: Path,
    subjects: int,
    batches: tuple[int, ...] = (1, 4, 16),
    repeats: int = 50,
) -> list[Row]:
    """Return one row per batch size for reading slices in random order, and rows for what two readers share."""
    with tempfile.TemporaryDirectory() as folder:
        _prepare(preparation, root, subjects, 1, Path(folder))
        slices, rng, rows = prepare.open_slices(Path(folder), "train"), np.random.default_rng(0), []
        everything = np.arange(len(slices))
        for part in np.array_split(everything, subjects):
            _read(slices, part)
        for batch in batches:
            seconds = []
            for _ in range(repeats):
                indices = rng.choice(everything, batch)
                began = time.process_time(), time.perf_counter()
                _read(slices, indices)
                seconds.append((time.process_time() - began[0], time.perf_counter() - began[1]))
            cpu, wall = (1000 * statistics.median(s) / batch for s in zip(*seconds, strict=True))
            rows.append(
                _row(
                    preparation, "reading", "batch", subjects=subjects, batch=batch, cpu_ms=cpu, wall_ms=wall
                )
            )
        shared = _share(Path(folder)) if Path("/proc/self/smaps_rollup").exists() else {}
        shared["files"] = sum(f.stat().st_size for f in Path(folder).rglob("*.npy")) / 2**20
        return rows + [
            _row(preparation, "sharing", name, subjects=subjects, workers=2, mib=mib, cpu_ms="", wall_ms="")
            for name, mib in shared.items()
        ]  # fmt: skip


def _read(slices: prepare.Slices, indices: np.ndarray) -> int:
    """Read what a training step needs of some slices."""
    images = np.stack([slices.images(indices, contrast) for contrast in slices.contrasts], axis=1)
    return images.nbytes + slices.brain(indices).nbytes


def _share(folder: Path) -> dict[str, float]:
    """Let two processes read all slices; return by how many MiB each grew, for each kind of memory."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    readers = [context.Process(target=_read_all, args=(folder, barrier, queue)) for _ in range(2)]
    for reader in readers:
        reader.start()
    grown = [queue.get(timeout=300) for _ in readers]
    for reader in readers:
        reader.join()
    return {f"{kind} of each reader": statistics.mean(g[kind] for g in grown) for kind in grown[0]}


def _read_all(folder: Path, barrier: Any, queue: Any) -> None:
    slices = prepare.open_slices(folder, "train")
    _read(slices, np.arange(1))
    before = _memory()
    for index in range(1, len(slices)):
        _read(slices, np.array([index]))
    barrier.wait(timeout=300)
    after = _memory()
    barrier.wait(timeout=300)  # nobody lets go before both have looked
    queue.put({kind: after[kind] - before[kind] for kind in after})


def _memory() -> dict[str, float]:
    """Return the MiB of this process that are resident, its share of them, and its own dirty pages (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 2**10 for line in lines}
    return {
        "resident memory": sizes["Rss"],
        "proportional memory": sizes["Pss"],
        "own memory": sizes["Private_Dirty"],
    }


def measure(
    preparation: Preparation, root: Path, subjects: list[int], workers: list[int], repeats: int = 3
) -> list[Row]:
    """Measure everything; `COLUMNS` are the keys of each row.

    Parameters
    ----------
    preparation : Preparation
        Dataset and sizes.
    root : Path
        Folder of the NIfTI files.
    subjects, workers : list of int
        Sizes of the cohorts, each prepared by each number of processes.
    repeats : int, optional
        Repetitions of the stages.
    """
    few = min(4, max(subjects))
    rows = measure_stages(preparation, root, few, repeats)
    for count in subjects:
        for processes in workers:
            rows += measure_cohort(preparation, root, count, processes)
    return rows + measure_reading(preparation, root, few)


def summary(rows: list[Row]) -> list[str]:
    """Return one line per row, and the share of the preparation outside decompression."""
    lines = []
    for row in rows:
        numbers = [
            f"{row[key]:9.2f} {unit}"
            for key, unit in (("cpu_ms", "ms CPU"), ("wall_ms", "ms"))
            if row[key] != ""
        ]
        numbers += [f"{row['mib']:8.1f} MiB"] if row["mib"] != "" else []
        size = f"{row['subjects']} subjects, {row['workers']} processes" + (
            f", batch {row['batch']}" if row["batch"] else ""
        )
        lines.append(f"{row['benchmark']:8} {row['name']:36} {size:36} {' '.join(numbers)}")
    return [*lines, f"share of processor time outside decompression: {share_outside(rows):.2f}"]


def share_outside(rows: list[Row]) -> float:
    """Return which part of the processor time of the largest cohort on one process is not decompression."""
    unpacking = next(row["cpu_ms"] for row in rows if row["name"] == "decompression")
    whole = [row for row in rows if row["name"] == "prepare" and row["workers"] == 1]
    return 1 - unpacking / max(whole, key=lambda row: row["subjects"])["cpu_ms"] if whole else math.nan


def main() -> None:
    """Read the command line, measure, print and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="your NIfTI files; default: generated phantoms")
    parser.add_argument("--dataset", default="brats", choices=list(datasets.DATASETS))
    parser.add_argument("--size", type=int, default=256, help="pixels of the square slices")
    parser.add_argument("--slices", type=int, default=80, help="slices per subject")
    parser.add_argument("--subjects", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel side of the phantoms in mm")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    preparation = Preparation(arguments.dataset, arguments.size, arguments.slices)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.data_root or phantoms(
            arguments.dataset, Path(folder), max(arguments.subjects), arguments.spacing
        )
        rows = measure(preparation, root, arguments.subjects, arguments.workers, arguments.repeats)
    print("\n".join(summary(rows)))
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
