"""How time grows: sampling over slices; training and sampling over batch, threads and processes.

    python -m benchmarks.scaling                       # the small networks of `demo` on this CPU
    python -m benchmarks.scaling --profile paper --device cuda --kind slices batch --precision bfloat16

Kinds: "slices", the time to sample 1 .. 80 slices, in the batches that `mudiff` takes; "batch"; "threads";
"processes" (with "threads"), several jobs with one thread each beside one job with as many; "ddp", one training in
several processes that `torchrun` starts beside one process with as many threads, with the same joint batch.
Writes benchmarks/results/scaling.csv.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import counts, machine, report, workers
from benchmarks.workers import Case, Worker
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.synthesis import sample
from mudiff.training import profiles
from mudiff.training.runs import default_device

KEY = ("profile", "kind", "x", "phase", "precision", "processor", "device", "threads", "jobs", "batch")
SLICES = (1, 2, 4, 8, 16, 40, 80)
BATCHES = (1, 2, 4, 8, 16)
Row = dict[str, object]


def _row(kind: str, x: int, phase: str, images: int, seconds: list[float], **more: object) -> Row:
    """Return a row: `x` is what grows, the seconds are those of `images` slices."""
    row = {"kind": kind, "x": x, "phase": phase, "images": images} | more
    row |= report.spread(seconds)
    return row | {"images_per_second": images / row["seconds_median"], "repeats": len(seconds)}


def over_slices(settings: Settings, device: torch.device, threads: int, repeats: int) -> Iterator[Row]:
    """Sample growing numbers of slices in one process."""
    method = build(settings).to(device)
    images = counts.some_images(settings, max(SLICES), device)

    def work(count: int) -> None:
        for start in range(0, count, sample.BATCH):
            chosen = slice(start, min(count, start + sample.BATCH))
            method.synthesize(images.conditions[chosen], torch.tensor(images.seeds[chosen]))

    jobs = {count: lambda count=count: work(count) for count in SLICES}
    for count, seconds in report.interleaved(jobs, repeats, device).items():
        yield _row("slices", count, "sampling", count, seconds, threads=threads, jobs=1, batch=sample.BATCH)


def over_batch(settings: Settings, device: torch.device, threads: int, repeats: int) -> Iterator[Row]:
    """Train and sample with growing batches."""
    cases = {(p, b): Case(settings, "mudiff", b, p) for p in counts.PHASES for b in BATCHES}
    needed = sum(counts.count(c.settings, c.phase, c.batch).memory for c in cases.values())
    for (phase, batch), taken in workers.measure(cases, device, threads, repeats, needed).items():
        row = _row(
            "batch", batch, phase, batch, [t.wall for t in taken], threads=threads, jobs=1, batch=batch
        )
        yield row | {"memory_gb": taken[-1].memory / 1e9}


def over_threads(settings: Settings, device: torch.device, threads: int, repeats: int) -> Iterator[Row]:
    """Train and sample with growing numbers of threads, and in as many jobs of one thread each."""
    several = sorted({*(2**k for k in range(threads.bit_length())), threads})
    batch = settings.batch_size
    for phase in counts.PHASES:
        case = Case(settings, "mudiff", batch, phase)
        groups = {("threads", n): [Worker(case, device, n)] for n in several}
        groups |= {("processes", n): [Worker(case, device, 1) for _ in range(n)] for n in several}
        for (kind, n), seconds in _together(groups, repeats).items():
            used = n if kind == "threads" else 1
            yield _row(kind, n, phase, batch * n if kind == "processes" else batch, seconds,
                       threads=used, jobs=n // used, batch=batch)  # fmt: skip


def _together(
    groups: dict[tuple[str, int], list[Worker]], repeats: int
) -> dict[tuple[str, int], list[float]]:
    """Return the seconds in which all workers of a group are done, groups in turn; first turn not counted."""
    seconds: dict[tuple[str, int], list[float]] = {name: [] for name in groups}
    every = {(name, k): worker for name, group in groups.items() for k, worker in enumerate(group)}
    with workers.closing(every):
        for turn in range(repeats + 1):
            for name, group in groups.items():
                began = time.perf_counter()
                for worker in group:
                    worker.start()
                for worker in group:
                    worker.wait()
                if turn:
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def over_ranks(settings: Settings, device: torch.device, threads: int, repeats: int) -> Iterator[Row]:
    """Train one run in one process with all threads, and in several that share them and the batch."""
    most = torch.cuda.device_count() if device.type == "cuda" else threads
    for n in (1, 2, 4, 8):
        if n <= min(most, settings.batch_size):
            each = max(1, threads // n)
            seconds = _torchrun(settings, device, n, each, repeats)
            yield _row("ddp", n, "training", settings.batch_size, seconds, threads=each, jobs=n,
                       batch=settings.batch_size)  # fmt: skip


def _torchrun(
    settings: Settings, device: torch.device, processes: int, threads: int, repeats: int
) -> list[float]:
    """Return the seconds of steps in so many processes."""
    profile = next(name for name in profiles.PROFILES if _same_sizes(name, settings))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes), "-m", "benchmarks.ddp", "--profile", profile]
        command += ["--precision", settings.precision, "--device", device.type]
        command += ["--repeats", str(repeats), "--file", str(file)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        return json.loads(file.read_text())


def _same_sizes(profile: str, settings: Settings) -> bool:
    return settings == profiles.settings(profile, "brats", "t1ce", "mudiff", precision=settings.precision)


KINDS = {"slices": over_slices, "batch": over_batch, "threads": over_threads, "ddp": over_ranks}


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", default="demo", choices=list(profiles.PROFILES))
    parser.add_argument("--kind", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--precision", default="float32", choices=machine.PRECISIONS)
    parser.add_argument("--device", default=str(default_device()))
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    arguments = parser.parse_args()
    device, threads = torch.device(arguments.device), report.settle(arguments.threads)
    settings = profiles.settings(arguments.profile, "brats", "t1ce", "mudiff", precision=arguments.precision)
    common = {"profile": arguments.profile, "precision": arguments.precision, "device": device.type}
    common |= {"processor": report.processor(device), "image_size": settings.image_size}
    rows = [
        common | row
        for kind in arguments.kind
        for row in KINDS[kind](settings, device, threads, arguments.repeats)
    ]
    report.show(report.write(arguments.output / "scaling.csv", rows, KEY))


if __name__ == "__main__":
    main()
