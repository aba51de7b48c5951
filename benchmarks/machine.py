"""The two roofs of a machine: its rate of a large matrix product and its memory bandwidth.

    python -m benchmarks.machine                  # this CPU with 1, 2, .. threads, and the GPU if there is one
    python -m benchmarks.machine --device cuda

Writes benchmarks/results/machine.csv.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import report
from mudiff.training.runs import default_device

KEY = ("processor", "device", "threads", "quantity", "precision")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _calls(device: torch.device) -> int:
    """Return how many calls one measurement has: a GPU is too fast for one."""
    return 20 if device.type == "cuda" else 1


def product(device: torch.device, precision: str) -> tuple[Callable[[], object], float]:
    """Return a product of square matrices and its GFLOP."""
    side = 8192 if device.type == "cuda" else 2560
    a, b = (torch.randn(side, side).to(device, PRECISIONS[precision]) for _ in range(2))
    out, calls = torch.empty_like(a), _calls(device)

    def work() -> None:
        for _ in range(calls):
            torch.mm(a, b, out=out)

    return work, calls * 2 * side**3 / 1e9


def stream(device: torch.device, kind: str) -> tuple[Callable[[], object], float]:
    """Return a copy or a triad (a = b + s c) of arrays much larger than any cache, and the GB it moves."""
    count = 2**28 if device.type == "cuda" else 2**26  # float32: 1 GiB, 256 MiB
    a, b, c = (torch.ones(count, device=device) for _ in range(3))
    calls = _calls(device)

    def work() -> None:
        for _ in range(calls):
            if kind == "copy":
                a.copy_(b)
            else:
                torch.add(b, c, alpha=0.5, out=a)

    return work, calls * {"copy": 2, "triad": 3}[kind] * 4 * count / 1e9


def measure(device: torch.device, threads: int, repeats: int) -> list[dict[str, object]]:
    """Return a row for each matrix product and each stream, measured in turn."""
    works = {("matrix product", name): product(device, name) for name in PRECISIONS}
    works |= {(kind, "float32"): stream(device, kind) for kind in ("copy", "triad")}
    taken = report.interleaved({name: work for name, (work, _) in works.items()}, repeats, device)
    rows = []
    for (quantity, precision), times in taken.items():
        amount = works[quantity, precision][1]
        row = {"processor": report.processor(device), "device": device.type, "threads": threads}
        row |= {"quantity": quantity, "precision": precision}
        row["unit"] = "GFLOP/s" if quantity == "matrix product" else "GB/s"
        rows.append(
            row | report.spread([amount / seconds for seconds in times], "rate") | {"repeats": repeats}
        )
    return rows


def roofs(device: torch.device, threads: int, repeats: int = 5) -> dict[str, float]:
    """Return the matrix-product rate per precision in GFLOP/s and, as "bandwidth", the triad's in GB/s.

    The best of the repetitions: a roof is what the machine can do.
    """
    rows = measure(device, threads, repeats)
    best = {(row["quantity"], row["precision"]): row["rate_max"] for row in rows}
    return {name: best["matrix product", name] for name in PRECISIONS} | {
        "bandwidth": best["triad", "float32"]
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", nargs="+", help="default: cpu, and cuda where there is one")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1, 2, 4 .. and all cores")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    arguments = parser.parse_args()
    names = arguments.device or ["cpu", *([str(default_device())] if torch.cuda.is_available() else [])]
    every = report.settle(None)
    several = arguments.threads or sorted({*(2**k for k in range(every.bit_length())), every})
    rows = []
    for device in map(torch.device, names):
        for threads in several if device.type == "cpu" else several[-1:]:
            report.settle(threads)
            rows += measure(device, threads, arguments.repeats)
    report.show(report.write(arguments.output / "machine.csv", rows, KEY))


if __name__ == "__main__":
    main()
