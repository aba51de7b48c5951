"""Seconds per image of a training step and of sampling, with the FLOPs that torch counts.

python -m benchmarks.step --profile demo --method mudiff syndiff --device cpu --batch 4
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from mudiff import config, tasks
from mudiff.methods import Batch, build
from mudiff.runs import default_device


def timed(work: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Return the seconds of each repetition, after one that is not counted."""
    seconds = []
    for repeat in range(repeats + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat:
            seconds.append(time.perf_counter() - began)
    return seconds


def work(settings: config.Settings, batch: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return a training step (one without the R1 penalty, as nine of ten are) and sampling of a batch."""
    method = build(settings).to(device)
    size, n = settings.image_size, len(settings.conditions)
    generator = torch.Generator().manual_seed(0)
    draw = lambda c: torch.rand(batch, c, size, size, generator=generator) * 2 - 1  # noqa: E731
    images = Batch(draw(1), draw(n), torch.ones(batch, 1, size, size) > 0, torch.arange(batch)).to(device)
    return {
        "training step": lambda: method.training_step(images, 1),
        "sampling": lambda: method.synthesize(images.conditions, images.seeds),
    }


def count(settings: config.Settings) -> dict[str, float]:
    """Return the FLOPs of one image, which torch counts from shapes alone."""
    counted = {}
    settings = settings.replace(dropout=0.0)  # torch has no random numbers on the device that only counts
    for name, function in work(settings, 1, torch.device("meta")).items():
        with FlopCounterMode(display=False) as counter:
            function()
        counted[name] = counter.get_total_flops()
    return counted


def measure(
    profile: str, method: str, device: torch.device, batch: int, repeats: int, changes: dict[str, str]
) -> None:
    """Print one line for a training step and one for sampling; count only where `repeats` is 0."""
    settings = config.settings(profile, "brats", "t1ce", method, **changes)
    flops = count(settings)
    size, functions = settings.image_size, work(settings, batch, device) if repeats else {}
    for name, counted in flops.items():
        line = (
            f"{profile:6} {method:8} {size}x{size} width {settings.width:3} {name:14} "
            f"{counted / 1e9:10.2f} GFLOP/image"
        )
        if repeats:
            per_image = [s / batch for s in timed(functions[name], repeats, device)]
            median = statistics.median(per_image)
            line += f" on {device.type}, batch {batch}: {median:.4f} s/image"
            line += (
                f" (min {min(per_image):.4f}, max {max(per_image):.4f}), {counted / 1e9 / median:.1f} GFLOP/s"
            )
        print(line)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", nargs="+", default=["smoke", "demo"], choices=list(config.PROFILES))
    parser.add_argument("--method", nargs="+", default=["mudiff"], choices=list(tasks.METHODS))
    parser.add_argument("--device", default=str(default_device()))
    parser.add_argument("--batch", type=int, help="default: the profile's")
    parser.add_argument("--repeats", type=int, default=5, help="0 counts FLOPs only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="other settings")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for profile in arguments.profile:
        batch = arguments.batch or config.settings(profile, "brats", "t1ce", "mudiff").batch_size
        changes = dict(item.split("=", 1) for item in arguments.set)
        for method in arguments.method:
            measure(profile, method, torch.device(arguments.device), batch, arguments.repeats, changes)


if __name__ == "__main__":
    main()
