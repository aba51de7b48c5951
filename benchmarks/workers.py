"""One process for each measured piece of work, so that none inherits memory or settings of another."""

import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks import counts
from benchmarks.released_like import ReleasedLike
from mudiff.methods.base import Method, build
from mudiff.settings import Settings

Name = TypeVar("Name")


def _compiled(settings: Settings) -> Method:
    method = build(settings)
    method.compile()
    return method


MAKERS = {"mudiff": build, "compiled": _compiled, "released-like": ReleasedLike}
"""Implementation -> what makes a method of settings; the last one is MU-Diff in float32 alone."""

LONG = 10.0
"""Seconds from which a first call is counted too, if nothing was compiled: its own part is then lost in it."""


@dataclass(frozen=True)
class Taken:
    """What one call took: wall seconds, CPU seconds of all threads, largest memory so far in bytes."""

    wall: float
    cpu: float
    memory: float


@dataclass(frozen=True)
class Case:
    """What is measured: `implementation` of a method does `phase` for `batch` slices."""

    settings: Settings
    implementation: str
    batch: int
    phase: str


def take(work, device: torch.device, before: float) -> Taken:
    """Run some work to its end on the device and measure it; `before` is the memory without a method."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cpu = time.process_time()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        wall, peak = start.elapsed_time(end) / 1000, float(torch.cuda.max_memory_allocated(device))
        return Taken(wall, time.process_time() - cpu, peak)
    cpu, began = time.process_time(), time.perf_counter()
    work()
    wall = time.perf_counter() - began
    return Taken(wall, time.process_time() - cpu, resident("VmHWM") - before)


def resident(field: str = "VmRSS") -> float:
    """Return this process's resident memory in bytes, or with "VmHWM" its peak; NaN where not Linux."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(field)), math.nan)


def _serve(pipe: Connection, case: Case, device_name: str, threads: int) -> None:
    """Make the method, then do its work once for every message."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    torch.ones(256, 256) @ torch.ones(256, 256)  # what only loads libraries is no memory of the method
    before = resident()
    method = MAKERS[case.implementation](case.settings).to(device)
    images = counts.some_images(case.settings, case.batch, device)
    work = counts.works(method, images)[case.phase]
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        result, calls = None, 0
        while pipe.recv():
            result, calls = take(work, device, before), calls + 1
            while calls == 1 and (result.wall < LONG or case.implementation == "compiled"):
                result, calls = take(work, device, before), calls + 1
            pipe.send(result)


class Worker:
    """A process that does one piece of work when asked; it starts with the first call.

    Parameters
    ----------
    case : Case
        The work.
    device : torch.device
        Where.
    threads : int
        Threads of torch on the CPU.
    """

    def __init__(self, case: Case, device: torch.device, threads: int) -> None:
        self.arguments = (case, str(device), threads)
        self.process: multiprocessing.process.BaseProcess | None = None

    def start(self) -> None:
        """Ask for one call; the first one of a process is not counted, unless it takes `LONG` or more."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=_serve, args=(other, *self.arguments), daemon=True)
            self.process.start()
            other.close()
        self.pipe.send(True)

    def wait(self) -> Taken:
        """Return what the call took."""
        return self.pipe.recv()

    def take(self) -> Taken:
        """Do the work once and return what it took."""
        self.start()
        return self.wait()

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.pipe.close()
            self.process.join()
            self.process = None


@contextlib.contextmanager
def closing(workers: Mapping[Name, Worker]) -> Iterator[None]:
    """End all processes when the block ends."""
    try:
        yield
    finally:
        for worker in workers.values():
            worker.close()


def in_turn(workers: Mapping[Name, Worker], repeats: int, keep: bool = True) -> dict[Name, list[Taken]]:
    """Let all workers do their work in turn, so that what else the machine does meets all alike.

    Parameters
    ----------
    workers : mapping of Worker
        What is measured.
    repeats : int
        Calls of each that are counted.
    keep : bool
        Whether the processes, and the memory that they hold, stay from one turn to the next.
    """
    taken: dict[Name, list[Taken]] = {name: [] for name in workers}
    with closing(workers):
        for _ in range(repeats):
            for name, worker in workers.items():
                taken[name].append(worker.take())
                if not keep:
                    worker.close()
    return taken


def memory_of_machine() -> float:
    """Return the bytes of the machine's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def measure(
    cases: Mapping[Name, Case], device: torch.device, threads: int, repeats: int, memory_needed: float
):
    """Return what each case took, `repeats` times.

    On a GPU one case is measured after the other; nothing else disturbs it, and memory is dear there.
    """
    workers = {name: Worker(case, device, threads) for name, case in cases.items()}
    if device.type == "cuda":
        return {name: in_turn({name: worker}, repeats)[name] for name, worker in workers.items()}
    return in_turn(workers, repeats, keep=memory_needed < memory_of_machine() / 2)
