"""One training in the processes that `torchrun` starts; `benchmarks.scaling --kind ddp` calls it.

torchrun --standalone --nproc-per-node 2 -m benchmarks.ddp --profile demo --file seconds.json
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import counts, machine
from mudiff.methods.base import Batch, build
from mudiff.training import processes, profiles
from mudiff.training.runs import default_device


def steps(profile: str, precision: str, device: torch.device, repeats: int) -> list[float]:
    """Return the seconds of training steps on the joint batch, from the moment when all are ready."""
    settings = profiles.settings(profile, "brats", "t1ce", "mudiff", precision=precision)
    method = build(settings).to(device)
    method.distribute()
    rows, _ = processes.own_part(np.arange(settings.batch_size), 0, settings.batch_size)
    whole = counts.some_images(settings, settings.batch_size, device)
    images = Batch(
        whole.target[rows], whole.conditions[rows], whole.brain[rows], torch.tensor(whole.seeds)[rows]
    )
    seconds = []
    for step in range(1, repeats + 2):
        processes.any_process(False)
        began = time.perf_counter()
        method.training_step(images, step)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        processes.any_process(False)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def main() -> None:
    """Read the command line and measure; the first process writes the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", default="demo", choices=list(profiles.PROFILES))
    parser.add_argument("--precision", default="float32", choices=machine.PRECISIONS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--file", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with processes.joined():
        device = default_device() if arguments.device == "cuda" else torch.device("cpu")
        seconds = steps(arguments.profile, arguments.precision, device, arguments.repeats)
        if processes.rank() == 0:
            arguments.file.write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
