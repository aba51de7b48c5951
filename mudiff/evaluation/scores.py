"""Scores of runs: each synthetic test slice against the truth, computed once and kept beside the slices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mudiff import paths, storage
from mudiff.cache import file_hash, kept
from mudiff.data import dataset, datasets
from mudiff.data.masks import lesion_mask
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.settings import Settings
from mudiff.training import profiles

REGIONS = {"brain": "whole brain", "lesion": "lesions"}
"""Regions of the scores, and what texts call them: Table 1 has the brain, Table 2 the lesions."""

_RUN = ["dataset", "target", "method", "region"]
_SCORES = ["protocol", "unit", "subject", "slice", *metrics.METRICS]


def prepared_runs(profile: str) -> list[tuple[str, str]]:
    """Return the profile's (dataset, target) pairs whose dataset is prepared, of which there must be one."""
    runs = [run for run in profiles.profile(profile).runs if paths.prepared(profile, run[0]).is_dir()]
    if not runs:
        command = f"`snakemake --config profile={profile}`, or `mudiff prepare` on your own data"
        raise MudiffError(f"{paths.results(profile) / 'prepared'}: no dataset is prepared; run {command}.")
    return runs


def score_runs(profile: str, region: str, runs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Score the synthetic test slices of all runs of some tasks (dataset, target), in one of the `REGIONS`.

    Lesions of ISLES are dilated (section "Evaluation procedure"). One row per score, under both protocols: dataset,
    target, method, region, protocol, unit ("slice" or "subject"), subject, slice (number in the volume; missing for
    subjects), psnr, ssim, mae (NaN where there is no lesion), run (its folder's name) and weights (their SHA-256).
    """
    frames = []
    for name, target in runs:
        slices = dataset.open_slices(paths.prepared(profile, name), "test")
        for method in profiles.profile(profile).runs[name, target]:
            frame = score_run(profile, profiles.settings(profile, name, target, method), slices, region)
            frames.append(frame.assign(dataset=name, target=target, method=method, region=region))
    return pd.concat(frames, ignore_index=True)[[*_RUN, *_SCORES, "run", "weights"]]


def score_run(
    profile: str, settings: Settings, slices: dataset.Slices, region: str, folder: Path | None = None
) -> pd.DataFrame:
    """Return the `score_slices` of a run, of the profile's test slices or those in `folder`, with run and weights."""
    folder = folder or paths.synthetic(profile, settings.run_name)
    record = check_record(folder, paths.run(profile, settings.run_name), slices.info["data_hash"], profile)
    dilate = region == "lesion" and datasets.dataset(settings.dataset).dilate
    compute = partial(score_slices, slices, folder, settings.target, region, dilate)
    inputs = [record.get(key) for key in ("weights", "data", "split", "seed")]
    frame = kept(folder / f"scores_{region}.csv", compute, *inputs, region, dilate)
    return frame.assign(run=settings.run_name, weights=record["weights"][:12])


def check_record(folder: Path, run: Path, data_hash: str, profile: str) -> dict[str, Any]:
    """Return ``synthetic.json``; refuse slices that are missing, or of other weights or data than are there now."""
    path, command = folder / "synthetic.json", f"`snakemake --config profile={profile}`"
    if not path.is_file():
        raise MudiffError(f"{folder}: run {run.name} has no synthetic test slices; make them with {command}.")
    record = storage.read_json(path)
    weights, present = run / "weights.safetensors", {"data": data_hash}
    if weights.is_file():
        present["weights"] = file_hash(weights)
    for what, now in present.items():
        if record.get(what) != now:
            raise MudiffError(f"{folder}: made from other {what} than are there now; make it again with {command}.")
    return record


def score_slices(slices: dataset.Slices, folder: Path, target: str, region: str, dilate: bool) -> pd.DataFrame:
    """Score the syntheses in `folder` of one contrast; columns are those of `score_runs` from protocol to mae."""
    from mudiff.synthesis import sample  # loads torch, which scores that are kept do not need

    rows = []
    for subject in slices.subjects:
        indices = slices.subject(subject)
        real = (slices.images(indices, target) + 1) / 2  # [-1, 1] -> [0, 1]  # (Z, S, S)
        synthetic = sample.read_synthetic(folder, subject)
        mask = slices.brain(indices) if region == "brain" else slices.lesion(indices)
        numbers = slices.index["slice"].to_numpy()[indices]
        for protocol in metrics.PROTOCOLS:
            per_slice, whole = metrics.score_subject(real, synthetic, mask, protocol, dilate)
            common = {"protocol": protocol, "subject": str(subject)}
            units = [{"unit": "slice", "slice": int(z)} | s for z, s in zip(numbers, per_slice, strict=True)]
            rows += [common | row for row in [*units, {"unit": "subject", "slice": None} | whole]]
    return pd.DataFrame(rows)[_SCORES].astype({"slice": "Int64"})


@dataclass(frozen=True)
class Example:
    """A test slice beside its syntheses, one row of a figure."""

    label: str  # left of the row
    target: str  # contrast
    truth: np.ndarray  # (S, S) in [0, 1]
    synthetic: Mapping[str, np.ndarray]  # method or variant -> (S, S) in [0, 1]
    brain: np.ndarray  # bool (S, S)
    lesion: np.ndarray  # uint8 (S, S): labels, 0 outside
    ssim: Mapping[str, tuple[float, float]]  # in brain and lesion (protocol masked); NaN where there is none


def example(slices: dataset.Slices, target: str, subject: str, folders: Mapping[str, Path]) -> Example:
    """Return the slice of a subject that is shown (`Slices.example`) beside its syntheses (name -> folder)."""
    from mudiff.synthesis import sample

    index = slices.example(subject)
    place = int(np.flatnonzero(slices.subject(subject) == index)[0])
    truth = (slices.images([index], target)[0] + 1) / 2
    brain, lesion = slices.brain([index])[0], slices.lesion([index])[0]
    widened = lesion_mask(lesion, datasets.dataset(slices.info["settings"]["dataset"]).dilate)
    synthetic = {name: sample.read_synthetic(folder, subject)[place] for name, folder in folders.items()}
    ssim = {
        name: tuple(metrics.masked_protocol(truth, image, mask)["ssim"] for mask in (brain, widened))
        for name, image in synthetic.items()
    }
    number = str(subject).removeprefix("PhantomBraTS_")
    name = f"subject {number}" if number.isdecimal() else subject
    return Example(f"{datasets.LABELS[target]}\n{name}", target, truth, synthetic, brain, lesion, ssim)
