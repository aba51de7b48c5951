"""Seconds per image of a training step and of sampling, operations, memory: ours beside the released way.

    python -m benchmarks.step                                        # the small networks of `demo`: seconds
    python -m benchmarks.step --profile paper --batch 1 --repeats 1  # full size: on two cores ten minutes
    python -m benchmarks.step --profile paper --device cuda --batch 3 16 --compile
    python -m benchmarks.step --profile paper --count                # operations and memory by shapes alone

All configurations run in turn, so that what else the machine does meets them alike; the roofs (matrix-product
rate, memory bandwidth) are measured before and after. Writes benchmarks/results/step.csv, a row for each
configuration; a configuration that is measured again replaces its row.
"""

import argparse
import itertools
import statistics
from pathlib import Path

import torch

from benchmarks import counts, machine, report, workers
from benchmarks.workers import MAKERS, Case
from mudiff.data import datasets
from mudiff.training import profiles
from mudiff.training.runs import default_device

KEY = ("profile", "method", "implementation", "phase", "precision", "processor", "device", "threads", "batch")


def cases(arguments: argparse.Namespace) -> list[tuple[str, Case]]:
    """Return profile and case of all that the command line asks for."""
    changes = dict(item.split("=", 1) for item in arguments.set)
    found = []
    for profile, method, precision in itertools.product(
        arguments.profile, arguments.method, arguments.precision
    ):
        settings = profiles.settings(profile, "brats", "t1ce", method, precision=precision, **changes)
        released = arguments.released and method == "mudiff" and precision == "float32"
        asked = {"mudiff": True, "compiled": arguments.compile, "released-like": released}
        for batch, implementation, phase in itertools.product(
            arguments.batch or [settings.batch_size],
            [name for name in MAKERS if asked[name]],
            arguments.phase,
        ):
            found.append((profile, Case(settings, implementation, batch, phase)))
    return found


def columns(profile: str, case: Case) -> dict[str, object]:
    """Return what is known of a case without measuring: its names and its counts."""
    settings = case.settings
    plain = "mudiff" if case.implementation == "compiled" else case.implementation  # the same operations
    counted = counts.count(settings, case.phase, case.batch, MAKERS[plain])
    return {
        "profile": profile,
        "method": settings.method,
        "implementation": case.implementation,
        "phase": case.phase,
        "precision": settings.precision,
        "batch": case.batch,
        "image_size": settings.image_size,
        "width": settings.width,
        "gflop": counted.flops / 1e9,
        "counted_gb_moved": counted.moved / 1e9,
        "flop_per_byte": counted.flops / counted.moved,
        "counted_memory_gb": counted.memory / 1e9,
    }


def measure(found: list[tuple[str, Case]], device: torch.device, repeats: int) -> list[dict[str, object]]:
    """Return a row for each case, measured in turn."""
    threads = torch.get_num_threads()
    rows = [columns(profile, case) for profile, case in found]
    needed = sum(row["counted_memory_gb"] for row in rows) * 1e9
    before = machine.roofs(device, threads)
    taken = workers.measure(dict(enumerate(case for _, case in found)), device, threads, repeats, needed)
    after = machine.roofs(device, threads)
    roofs = {name: max(before[name], after[name]) for name in before}
    for number, row in enumerate(rows):
        results, batch = taken[number], row["batch"]
        row |= {"processor": report.processor(device), "device": device.type, "threads": threads}
        row |= report.spread([result.wall / batch for result in results])
        row["cpu_seconds"] = statistics.median(result.cpu for result in results) / batch
        row["gflop_per_second"] = row["gflop"] / row["seconds_median"]
        row["share_of_product"] = row["gflop_per_second"] / roofs[row["precision"]]
        row["memory_gb"] = results[-1].memory / 1e9
        row |= {"product_float32": roofs["float32"], "product_bfloat16": roofs["bfloat16"]}
        row |= {"bandwidth": roofs["bandwidth"], "torch": torch.__version__, "repeats": repeats}
    return rows


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--profile", nargs="+", default=["demo"], choices=list(profiles.PROFILES))
    made.add_argument("--method", nargs="+", default=["mudiff"], choices=list(datasets.METHODS))
    made.add_argument("--precision", nargs="+", default=list(machine.PRECISIONS), choices=machine.PRECISIONS)
    made.add_argument("--phase", nargs="+", default=list(counts.PHASES), choices=counts.PHASES)
    made.add_argument("--batch", type=int, nargs="+", help="default: the profile's")
    made.add_argument("--device", default=str(default_device()))
    made.add_argument("--threads", type=int, help="default: all cores")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--released", action=argparse.BooleanOptionalAction, default=True,
                      help="also measure MU-Diff in the formulation of the released code")  # fmt: skip
    made.add_argument("--compile", action="store_true", help="also measure ours with torch.compile")
    made.add_argument("--count", action="store_true", help="count only, measure nothing, write nothing")
    made.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="other settings")
    made.add_argument("--output", type=Path, default=report.RESULTS)
    return made


def main() -> None:
    """Read the command line and measure."""
    arguments = parser().parse_args()
    report.settle(arguments.threads)
    found = cases(arguments)
    if arguments.count:
        rows = [columns(profile, case) for profile, case in found]
        report.show(report.pd.DataFrame(rows))
        return
    rows = measure(found, torch.device(arguments.device), arguments.repeats)
    new = report.write(arguments.output / "step.csv", rows, KEY)
    report.show(new[["profile", "method", "implementation", "phase", "precision", "batch", "seconds_median",
                     "seconds_min", "seconds_max", "cpu_seconds", "gflop", "gflop_per_second",
                     "share_of_product", "memory_gb", "counted_memory_gb", "flop_per_byte"]])  # fmt: skip


if __name__ == "__main__":
    main()
