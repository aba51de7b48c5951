"""What every training of the paper's matrix costs: counted operations and memory, no measurement.

    python -m benchmarks.costs        # profile `paper`: one to two minutes

Slices come from the published splits, epochs and batches from the profile. The validation slices of every epoch
and the slices of the test set are sampled. The R1 penalty of every tenth step is not in the counts, nor is
what is computed around the networks (metrics, figures). Writes benchmarks/results/costs.csv, a row per training.
"""

import argparse
import functools
from pathlib import Path

from benchmarks import counts, report
from mudiff.data import manifests
from mudiff.errors import MudiffError
from mudiff.settings import Settings
from mudiff.training import profiles

KEY = ("profile", "dataset", "target", "run")
HEALTHY = {"train": 50, "val": 20, "test": 15}
"""Subjects of the healthy cohort (section "Datasets"): its split is not published, their numbers are."""


def subjects(profile: str, dataset: str) -> dict[str, int]:
    """Return how many subjects each split has."""
    phantoms = profiles.profile(profile).phantoms
    if phantoms:
        return dict(zip(manifests.SPLITS, phantoms[dataset], strict=True))
    try:
        split = manifests.read_manifest(dataset)["split"]
    except MudiffError:
        if dataset != "healthy":
            raise
        return HEALTHY
    return {name: int((split == name).sum()) for name in manifests.SPLITS}


@functools.cache
def _count(settings: Settings, phase: str, batch: int) -> counts.Count:
    return counts.count(settings, phase, batch)


def _sizes(settings: Settings) -> Settings:
    """Return settings that agree for all runs with the same networks, so that each is counted once."""
    n = len(settings.conditions)
    dataset, target = ("healthy", "flair") if n == 2 else ("brats", "t1ce")
    same = {"dataset": dataset, "target": target, "slices": 80, "epochs": 30, "validation_slices": 64}
    variant = "released"  # what the variants change is in the other fields
    return settings.replace(**same, variant=variant)


def row(profile: str, dataset: str, target: str, run: str) -> dict[str, object]:
    """Return the costs of one training and of sampling its test set."""
    settings = profiles.settings(profile, dataset, target, run)
    people = subjects(profile, dataset)
    train, validation, test = (people[name] * settings.slices for name in manifests.SPLITS)
    if settings.validation_slices:
        validation = min(validation, settings.validation_slices)
    sizes = _sizes(settings)
    step, drawn = (_count(sizes, phase, settings.batch_size) for phase in counts.PHASES)
    validated = validation * (settings.epochs // settings.validate_every)
    trained = train * settings.epochs
    return {
        "profile": profile,
        "dataset": dataset,
        "target": target,
        "run": run,
        "image_size": settings.image_size,
        "batch": settings.batch_size,
        "epochs": settings.epochs,
        "training_slices": train,
        "validation_slices": validation,
        "test_slices": test,
        "step_gflop": step.flops / 1e9,
        "sampling_gflop": drawn.flops / 1e9,
        "training_pflop": trained * step.flops / 1e15,
        "validation_pflop": validated * drawn.flops / 1e15,
        "test_pflop": test * drawn.flops / 1e15,
        "memory_gb": step.memory / 1e9,
    }


def main() -> None:
    """Read the command line and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", default="paper", choices=list(profiles.PROFILES))
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    arguments = parser.parse_args()
    rows = [
        row(arguments.profile, dataset, target, run)
        for dataset, target, runs in profiles.profile(arguments.profile).jobs().values()
        for run in runs
        if run != "linear"  # least squares of a few numbers a pixel: minutes, most of them reading
    ]
    new = report.write(arguments.output / "costs.csv", rows, KEY)
    report.show(new[["dataset", "target", "run", "training_slices", "step_gflop", "sampling_gflop",
                     "training_pflop", "validation_pflop", "test_pflop", "memory_gb"]])  # fmt: skip
    total = new[["training_pflop", "validation_pflop", "test_pflop"]].sum().sum() / 1000
    print(f"{len(new)} trainings of {len(profiles.PROFILES['paper'].runs)} tasks: {total:.1f} EFLOP")


if __name__ == "__main__":
    main()
