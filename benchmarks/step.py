"""Seconds, memory and floating-point operations of a training step and of sampling, on this machine.

    python -m benchmarks.step                                                # a small MU-Diff
    python -m benchmarks.step --size 256 --width 64 --batch 1 --repeat 1     # the paper's, on two cores five minutes
    python -m benchmarks.step --size 256 --width 64 --batch 3 16 --device cuda

A row for each precision, batch and phase, measured in a process of its own after one call that is not timed.
Memory is the peak of that process beyond PyTorch itself; on a GPU, what PyTorch allocated. Nothing is written.
"""

import argparse
import itertools
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mudiff.methods.base import Batch, Method, build
from mudiff.settings import Settings

PHASES = ("training", "sampling")
"""A training step without the R1 penalty, as nine of ten steps are, and sampling with all T steps."""


_aten = torch.ops.aten
ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda gradient, q, k, v, *_, **__: (
        sdpa_backward_flop_count(gradient, q, k, v)
    ),
}
"""The attention of CPUs, which PyTorch's counter passes over; that of other devices it knows."""


class Seeds(list):
    """Seeds of slices, which stay numbers where tensors have no values."""

    def tolist(self) -> list[int]:
        """Return them, as a tensor does."""
        return list(self)


def work(method: Method, settings: Settings, batch: int, phase: str, device: str) -> Callable[[], object]:
    """Return a function that does one phase for slices of uniform noise, all of them brain."""
    size, n = settings.image_size, len(settings.conditions)
    generator = torch.Generator().manual_seed(0)
    images = (2 * torch.rand(batch, 1 + n, size, size, generator=generator) - 1).to(device)
    brain = torch.ones(batch, 1, size, size, dtype=torch.bool, device=device)
    target, conditions, seeds = images[:, :1], images[:, 1:], Seeds(range(batch))
    if phase == "training":
        return lambda: method.training_step(Batch(target, conditions, brain, seeds), step=1)
    return lambda: method.synthesize(conditions, seeds)


def count(call: Callable[[], object]) -> int:
    """Return the floating-point operations of a call; a multiplication with its addition is two."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        call()
    return counter.get_total_flops()


def peak(device: str) -> float:
    """Return the largest memory so far in bytes."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(settings: Settings, batch: int, phase: str, device: str, threads: int, repeat: int) -> dict[str, object]:
    """Return a row of the table; seconds are those of the whole batch, median, smallest and largest."""
    torch.set_num_threads(threads)
    torch.ones(256, 256) @ torch.ones(256, 256)  # loads libraries, which are no memory of the method
    before = peak(device)
    call = work(build(settings).to(device), settings, batch, phase, device)
    flops, seconds = count(call), []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    return {
        "phase": phase,
        "precision": settings.precision,
        "batch": batch,
        "seconds": median,
        "min": min(seconds),
        "max": max(seconds),
        "GFLOP": flops / 1e9,
        "GFLOP/s": flops / 1e9 / median,
        "GB": (peak(device) - before) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", default="mudiff", help="any but linear, which is not trained")
    parser.add_argument("--size", type=int, default=64, help="side of the images, a multiple of 64")
    parser.add_argument("--width", type=int, default=8, help="feature maps of the first level, critic alike")
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--phase", nargs="+", default=PHASES, choices=PHASES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    rows = []
    cases = itertools.product(given.precision, given.batch, given.phase)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for precision, batch, phase in cases:
            sizes = {"image_size": given.size, "width": given.width, "critic_width": given.width}
            settings = Settings(method=given.method, precision=precision, **sizes)
            case = (settings, batch, phase, given.device, given.threads, given.repeat)
            rows.append(pool.apply(measure, case))
            print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)


if __name__ == "__main__":
    main()
