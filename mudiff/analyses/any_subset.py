"""Any subset of contrasts in: every scenario of target and given contrasts, scored (beyond the paper, X-1)."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.cache import file_hash, kept
from mudiff.data import datasets
from mudiff.data.dataset import Slices
from mudiff.evaluation import metrics
from mudiff.methods.base import Method
from mudiff.synthesis import sample
from mudiff.training import profiles, runs

DATASET = "brats"  # whose "any" runs every profile trains


def scenarios(contrasts: Sequence[str]) -> list[sample.Task]:
    """Return all (given, target) of a dataset: 28 of four contrasts, by target and from one given to all others."""
    found = []
    for target in contrasts:
        others = [name for name in contrasts if name != target]
        found += [(given, target) for n in range(1, len(contrasts)) for given in combinations(others, n)]
    return found


def named(given: Sequence[str]) -> str:
    """Return the given contrasts as tables write them: T1 + T2."""
    return " + ".join(datasets.LABELS[name] for name in given)


def evenly(slices: Slices, subject: str, count: int) -> np.ndarray:
    """Return the places in a subject's stack that are scored: the middles of up to `count` equal parts."""
    total = len(slices.subject(subject))
    return ((np.arange(min(count, total)) + 0.5) * total / min(count, total)).astype(int)


def open_run(profile: str, method: str) -> Method:
    """Return the profile's run of target "any"."""
    settings = profiles.settings(profile, DATASET, datasets.ANY, method)
    return runs.load(paths.run(profile, settings.run_name), runs.default_device())


def any_scores(profile: str, method: str, slices: Slices, count: int) -> pd.DataFrame:
    """Score a run of target "any" in all `scenarios`, on up to `count` slices of each test subject; kept.

    One row per scenario, subject and protocol: target, given (by `named`), conditions (their number), subject,
    protocol, psnr, ssim, mae. The noise of a slice is the same in all scenarios.
    """
    made, run = open_run(profile, method), profiles.settings(profile, DATASET, datasets.ANY, method).run_name
    weights = file_hash(paths.run(profile, run) / "weights.safetensors")

    def draw(task: sample.Task, subject: str, places: np.ndarray) -> np.ndarray:
        return sample.sample_slices(made, slices, slices.subject(subject)[places], task=task)

    compute = partial(score, slices, count, scenarios(slices.contrasts), draw)
    return kept(
        paths.analysis(profile, "any_subset") / f"{run}.csv", compute, weights, slices.info["data_hash"], count
    )


def score(
    slices: Slices, count: int, tasks: Sequence[sample.Task],
    draw: Callable[[sample.Task, str, np.ndarray], np.ndarray],
) -> pd.DataFrame:  # fmt: skip
    """Score what ``draw(task, subject, places)`` makes, slices in [0, 1], under both protocols; as `any_scores`."""
    rows = []
    for given, target in tasks:
        for subject in slices.subjects:
            places = evenly(slices, subject, count)
            indices = slices.subject(subject)[places]
            real, brain = (slices.images(indices, target) + 1) / 2, slices.brain(indices)
            image = draw((given, target), subject, places)
            row = {"target": target, "given": named(given), "conditions": len(given), "subject": subject}
            for protocol in metrics.PROTOCOLS:
                _, whole = metrics.score_subject(real, image, brain, protocol)
                rows.append(row | {"protocol": protocol} | whole)
    return pd.DataFrame(rows)
