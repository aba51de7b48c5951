"""What every training of the paper's matrix costs: counted operations, and hours at a rate.

    python -m benchmarks.costs --rate 20        # hours at 20 TFLOP/s; `benchmarks.step` measures your rate

Slices come from the published splits, epochs and batches from the profile. Training is every slice in every epoch;
the validation slices of every epoch and the test set are sampled. The R1 penalty of every tenth step and what is
computed around the networks (preparation, metrics, figures) come on top.
"""

import argparse
import functools

import pandas as pd
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import step
from mudiff.data import manifests
from mudiff.errors import MudiffError
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.training import profiles

HEALTHY = {"train": 50, "val": 20, "test": 15}
"""Subjects of the healthy cohort (section "Datasets"): its split is not published, their numbers are."""

FEW = 25
"""Steps of DDPM that are counted in place of all its 1000, which are alike; its noise schedule needs 21."""


def subjects(dataset: str) -> dict[str, int]:
    """Return how many subjects each split has."""
    try:
        split = manifests.read_manifest(dataset)["split"]
    except MudiffError:
        if dataset != "healthy":
            raise
        return HEALTHY
    return {name: int((split == name).sum()) for name in manifests.SPLITS}


@functools.cache
def gflop(settings: Settings, phase: str) -> float:
    """Return the operations for one slice, counted from shapes: nothing is computed."""
    if settings.method == "ddpm" and settings.steps > FEW and phase == "sampling":
        return gflop(settings.replace(steps=FEW), phase) * settings.steps / FEW
    method = build(settings)  # draws numbers, which needs values
    with FakeTensorMode(allow_non_fake_inputs=True):
        call = step.work(method, settings, settings.batch_size, phase, "cpu")
        return step.count(call) / settings.batch_size / 1e9


def row(profile: str, dataset: str, target: str, run: str) -> dict[str, object]:
    """Return the costs of one training and of sampling its test set, in PFLOP."""
    settings = profiles.settings(profile, dataset, target, run)
    train, validation, test = (subjects(dataset)[name] * settings.slices for name in manifests.SPLITS)
    validation = min(validation, settings.validation_slices or validation)
    # Runs with the same networks are counted once: only the number of conditions is of the task; "any" has one more.
    task = ("healthy", "flair") if len(settings.conditions) == 2 else ("brats", "t1ce")
    sizes = settings.replace(
        dataset=task[0], target=task[1], slices=80, epochs=30, validation_slices=64, variant="released"
    )
    training, sampling = (gflop(sizes, phase) for phase in step.PHASES)
    costs = {
        "training": train * settings.epochs * training / 1e6,
        "validation": validation * (settings.epochs // settings.validate_every) * sampling / 1e6,
        "test": test * sampling / 1e6,
    }
    return {"dataset": dataset, "target": target, "run": run} | costs | {"PFLOP": sum(costs.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=float, default=20.0, help="TFLOP/s of your device")
    given = parser.parse_args()
    jobs = profiles.profile("paper").jobs().values()
    rows = [row("paper", dataset, target, run) for dataset, target, runs in jobs for run in runs
            if run != "linear"]  # least squares of a few numbers a pixel: minutes, most of them reading  # fmt: skip
    frame = pd.DataFrame(rows).assign(hours=lambda f: f["PFLOP"] / given.rate / 3.6)
    print(frame.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
    tasks = len({*zip(frame["dataset"], frame["target"], strict=True)})
    print(f"{len(frame)} trainings of {tasks} tasks: {frame['hours'].sum():.4g} h")


if __name__ == "__main__":
    main()
