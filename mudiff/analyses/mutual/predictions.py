"""The predictions of F1, F2 and both together on test slices (section "Training and inference", Eqs. 30 to 33)."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mudiff import paths
from mudiff.analyses.mutual.trained import Trained, code, kept
from mudiff.data import datasets
from mudiff.data.prepare import Slices
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.methods.base import Method
from mudiff.model.diffusion import slice_seed
from mudiff.synthesis import sample

PREDICTIONS = {"f1": "$\\mathcal{F}_1$", "f2": "$\\mathcal{F}_2$", "mutual": "mutual"}
"""Prediction -> its name in figures."""


# Sampling


def conditions_of(method: Method, slices: Slices, indices: np.ndarray) -> Tensor:
    """Return the conditions of some slices, (N, n, S, S) in [-1, 1]."""
    y = np.stack([slices.images(indices, c) for c in method.settings.conditions], axis=1)
    return torch.from_numpy(y).to(method.device)


def trace(method: Method, slices: Slices, indices: np.ndarray, seed: int = 0) -> list[dict[str, Any]]:
    """Sample some slices and return every step, from t = T-1 to 0.

    Parameters
    ----------
    method : Method
        A run of MU-Diff.
    slices : Slices
        Prepared slices.
    indices : np.ndarray
        Which of them.
    seed : int
        As in `mudiff.synthesis.sample.sample_slices`: the trajectory is that of the kept synthetic slices.

    Returns
    -------
    list of dict
        ``t``, ``x_t``, ``x_p1`` and ``x_p2``, each Tensor (N, 1, S, S); the last also has ``result``.
    """
    rows = slices.index.iloc[indices]
    seeds = [slice_seed(seed, "sample", s, z) for s, z in zip(rows["subject"], rows["slice"], strict=True)]
    steps: list[dict[str, Any]] = []
    result = method.synthesize(conditions_of(method, slices, indices), torch.tensor(seeds), steps.append)
    steps[-1]["result"] = result
    return steps


def predict(method: Method, slices: Slices, indices: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Return x^{p1} and x^{p2} of the last step and the mutual result, each float32 (N, S, S) in [0, 1]."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in PREDICTIONS}
    for start in range(0, len(indices), sample.BATCH):
        last = trace(method, slices, indices[start : start + sample.BATCH], seed)[-1]
        for name, image in zip(PREDICTIONS, (last["x_p1"], last["x_p2"], last["result"]), strict=True):
            parts[name].append((image[:, 0].float().cpu().numpy() + 1) / 2)  # [-1, 1] -> [0, 1]
    return {name: np.concatenate(images) for name, images in parts.items()}


def collect(trained: Trained, seed: int = 0) -> Path:
    """Keep the predictions of all test slices; finished subjects are kept while weights, data and code stay.

    Writes ``{f1,f2,mutual}/<subject>.npy``, uint16 (n, S, S) with value / 65535 in [0, 1], for
    `mudiff.synthesis.sample.read_synthetic`.

    Returns
    -------
    Path
        The folder of the three.
    """
    from tqdm.auto import tqdm

    folder, key = trained.folder / "predictions", trained.key | {"code": code(), "seed": seed}
    record = folder / "predictions.json"
    if folder.is_dir() and not (record.is_file() and paths.read_json(record) == key):
        for old in folder.glob("*/*.npy"):  # of another run, or nobody knows of which
            old.unlink()
    paths.write_json(record, key)
    for subject in tqdm(trained.slices.subjects, desc="predict", unit="subject", disable=None):
        files = {name: folder / name / f"{subject}.npy" for name in PREDICTIONS}
        if all(path.is_file() for path in files.values()):
            continue
        images = predict(trained.method, trained.slices, trained.slices.subject(subject), seed)
        for name, path in files.items():
            with paths.atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.round(images[name] * 65535).astype(np.uint16), allow_pickle=False)
    return folder


# Scores


def scores(trained: Trained) -> pd.DataFrame:
    """Score the three predictions of every test subject, protocol masked; see `collect`.

    Returns
    -------
    DataFrame
        One row per prediction (f1, f2, mutual), region (brain, lesion) and subject: psnr, ssim, mae. NaN where a
        subject has no lesion.
    """
    folder = collect(trained)

    def compute() -> pd.DataFrame:
        """Score every subject anew."""
        tables = []
        for subject in trained.slices.subjects:
            images = {name: sample.read_synthetic(folder / name, subject) for name in PREDICTIONS}
            tables.append(_score(trained, subject, trained.slices.subject(subject), images))
        return pd.concat(tables, ignore_index=True)

    return kept(trained, "scores", compute)


def _score(
    trained: Trained, subject: str, indices: np.ndarray, images: dict[str, np.ndarray]
) -> pd.DataFrame:
    truth, masks = _truth(trained, indices)
    rows = []
    for region, mask in masks.items():
        for name, stack in images.items():
            _, whole = metrics.score_subject(truth, stack, mask, "masked")
            rows.append({"prediction": name, "region": region, "subject": str(subject)} | whole)
    return pd.DataFrame(rows)


def _truth(trained: Trained, indices: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return true slices (N, S, S) in [0, 1] and the masks of both regions, of ISLES dilated as in Table 2."""
    slices, settings = trained.slices, trained.method.settings
    lesion = metrics.lesion_mask(slices.lesion(indices), datasets.dataset(settings.dataset).dilate)
    truth = (slices.images(indices, settings.target) + 1) / 2  # [-1, 1] -> [0, 1]
    return truth, {"brain": slices.brain(indices), "lesion": lesion}


def alone(method: Method, network: int) -> Method:
    """Return the method with a sampler that follows one network: its posterior mean in place of Eq. 31's average.

    F2 is still given F1's prediction, which is an input of it.

    Parameters
    ----------
    method : Method
        A run of MU-Diff; not changed, its weights are shared.
    network : {1, 2}
        Which network.
    """

    def predict(*arguments: Any) -> tuple[Tensor]:
        """Return the prediction of one network alone."""
        return (method.predict(*arguments)[network - 1],)

    follower = copy.copy(method)
    follower.predict = predict
    return follower


def alone_scores(trained: Trained, every: int = 5, seed: int = 0) -> pd.DataFrame:
    """Score each network sampling alone beside the predictions of the common trajectory, on some slices.

    Parameters
    ----------
    trained : Trained
        The run.
    every : int
        Each how-manieth slice of a subject is used.
    seed : int
        As in `collect`: all samplers start from the same noise.

    Returns
    -------
    DataFrame
        As `scores`, with the predictions "f1 alone" and "f2 alone" too.

    Raises
    ------
    MudiffError
        If `every` is below 1.
    """
    if every < 1:
        raise MudiffError(f"every = {every}: each how-manieth slice is used; choose 1 (all) or more.")
    folder = collect(trained, seed)

    def compute() -> pd.DataFrame:
        """Score every subject anew."""
        tables = []
        for subject in trained.slices.subjects:
            indices = trained.slices.subject(subject)[::every]
            images = {name: sample.read_synthetic(folder / name, subject)[::every] for name in PREDICTIONS}
            for network in (1, 2):
                follower = alone(trained.method, network)
                images[f"f{network} alone"] = sample.sample_slices(follower, trained.slices, indices, seed)
            tables.append(_score(trained, subject, indices, images))
        return pd.concat(tables, ignore_index=True)

    return kept(trained, "alone", compute, every=every, seed=seed)


def disagreement(trained: Trained) -> pd.DataFrame:
    """Split the error of the average: mean error of both predictions minus their disagreement.

    With truth x and a = (a_1 + a_2) / 2, (a - x)^2 = [(a_1 - x)^2 + (a_2 - x)^2] / 2 - (a_1 - a_2)^2 / 4 in every
    pixel (Krogh and Vedelsby 1995).

    Returns
    -------
    DataFrame
        One row per region and subject: mutual, single (mean of both), gain (the last term), each a mean over the
        voxels of the region, and ratio (of the root mean squared disagreement to the root mean squared error).
    """
    folder, rows = collect(trained), []
    for subject in trained.slices.subjects:
        truth, masks = _truth(trained, trained.slices.subject(subject))
        first, second = (sample.read_synthetic(folder / name, subject) for name in ("f1", "f2"))
        for region, mask in masks.items():
            if not mask.any():
                continue
            a, b, x = first[mask], second[mask], truth[mask]
            single, gain = (((a - x) ** 2 + (b - x) ** 2) / 2).mean(), ((a - b) ** 2 / 4).mean()
            mutual = (((a + b) / 2 - x) ** 2).mean()
            row = {"mutual": mutual, "single": single, "gain": gain, "ratio": 2 * np.sqrt(gain / single)}
            rows.append({"region": region, "subject": subject} | {k: float(v) for k, v in row.items()})
    return pd.DataFrame(rows)
