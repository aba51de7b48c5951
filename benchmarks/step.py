"""Seconds per image of a training step and of sampling, with the FLOPs that torch counts.

python -m benchmarks.step --profile demo --device cpu --batch 4
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from mudiff import config
from mudiff.methods import Batch, build
from mudiff.train import default_device


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


def measure(profile: str, device: torch.device, batch: int, repeats: int, changes: dict[str, str]) -> None:
    """Print one line for a training step and one for sampling."""
    settings = config.settings(profile, "brats", "t1ce", "mudiff", **changes)
    method = build(settings).to(device)
    size, n = settings.image_size, len(settings.conditions)
    generator = torch.Generator().manual_seed(0)
    draw = lambda c: torch.rand(batch, c, size, size, generator=generator) * 2 - 1  # noqa: E731
    images = Batch(draw(1), draw(n), torch.ones(batch, 1, size, size) > 0, torch.arange(batch)).to(device)
    # Step 1: without the R1 penalty, which comes every `r1_interval` steps only.
    work = {
        "training step": lambda: method.training_step(images, 1),
        "sampling": lambda: method.synthesize(images.conditions, images.seeds),
    }
    for name, function in work.items():
        with FlopCounterMode(display=False) as counter:
            function()
        flops = counter.get_total_flops() / batch
        per_image = [s / batch for s in timed(function, repeats, device)]
        median = statistics.median(per_image)
        print(
            f"{profile:6} {device.type:5} {size}x{size} width {settings.width:3} batch {batch:3} {name:14}"
            f" {median:9.4f} s/image (min {min(per_image):.4f}, max {max(per_image):.4f})"
            f" {flops / 1e9:9.2f} GFLOP/image {flops / 1e9 / median:8.1f} GFLOP/s"
        )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", nargs="+", default=["smoke", "demo"], choices=list(config.PROFILES))
    parser.add_argument("--device", default=str(default_device()))
    parser.add_argument("--batch", type=int, help="default: the profile's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="other settings")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for profile in arguments.profile:
        batch = arguments.batch or config.settings(profile, "brats", "t1ce", "mudiff").batch_size
        changes = dict(item.split("=", 1) for item in arguments.set)
        measure(profile, torch.device(arguments.device), batch, arguments.repeats, changes)


if __name__ == "__main__":
    main()
