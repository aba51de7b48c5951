"""Are synthetic contrasts as good as real ones to a segmentation network? Fig. 4c.

One network, trained on real images, segments the test subjects with all four real contrasts ("complete") and with
some replaced by synthetic ones (tasks A to F; section "Validation on lesion segmentation accuracy").
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from torch import nn

from mudiff import paths
from mudiff.analyses import unet
from mudiff.cache import kept
from mudiff.data import dataset
from mudiff.errors import MudiffError
from mudiff.evaluation import scores, tables
from mudiff.training import profiles

TASKS: Mapping[str, tuple[str, ...]] = {
    "complete": (), "A": ("t1ce",), "B": ("flair",), "C": ("t2",), "D": ("t1",), "E": ("t1ce", "flair"),
    "F": ("t1ce", "flair", "t2", "t1"),
}  # fmt: skip
"""Task -> contrasts that are replaced: our reading; of A to F the paper's text says only that one has all four."""

METHODS = ("mudiff", "syndiff", tables.FLOOR)  # whose syntheses are tried: the paper's two, and our floor
REAL = "real"  # stands for the method in the rows of "complete"


def evaluate(profile: str, network: nn.Module, chosen: Sequence[str] = tuple(TASKS)) -> pd.DataFrame:
    """Return Dice of all test subjects with ``unet.train(profile)`` for the chosen tasks; what is there is kept.

    Columns task, method ("real" for "complete"), region, subject, dice (over all prepared slices of the subject) and
    invented, see `unet.dice`. Syntheses of other data or weights than those at hand are an error.
    """
    slices = dataset.open_slices(paths.prepared(profile, unet.DATASET), "test")
    if not unet.ill(slices).any():
        raise MudiffError("segmentation: no test subject has a tumour: Dice is undefined; add some with masks.")
    weights = [value.cpu().numpy().tobytes() for value in network.state_dict().values()]
    inputs = [hashlib.sha256(b"".join(weights)).hexdigest(), slices.info["data_hash"]]
    frames = []
    for task in chosen:
        for method in METHODS if TASKS[task] else (REAL,):
            folders = {target: synthetic(profile, target, method) for target in TASKS[task]}
            sources = [(made, paths.run(profile, made.name)) for made in folders.values()]
            records = [scores.check_record(*source, slices.info["data_hash"], profile) for source in sources]
            made_from = [(record["weights"], record.get("seed")) for record in records]
            path = unet.folder(profile) / f"dice_{task}_{method}.csv"
            frame = kept(path, partial(unet.score, network, slices, **folders), *inputs, made_from)
            frames.append(frame.assign(task=task, method=method))
    return pd.concat(frames, ignore_index=True)[["task", "method", "region", "subject", "dice", "invented"]]


def synthetic(profile: str, target: str, method: str) -> Path:
    """Return the folder of a run's synthetic test slices."""
    return paths.synthetic(profile, profiles.settings(profile, unet.DATASET, target, method).run_name)
