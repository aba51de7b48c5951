"""Training of the segmentation network on real slices; a trained one is kept."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from mudiff import paths
from mudiff.analyses.segment.network import DATASET, RECIPES, Recipe, build, classes, images, score, truth
from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.model.diffusion import slice_seed
from mudiff.training import profiles, runs

VERSION = 1
"""Raised by every change of the training that alters weights."""


def train(
    profile: str,
    recipe: Recipe | None = None,
    device: torch.device | None = None,
    progress: bool = True,
) -> nn.Module:
    """Return the profile's segmentation network; it is trained only where it is not there yet.

    Training is on the real slices of the training subjects, by MONAI's Dice + cross-entropy loss. The
    weights of the epoch with the best Dice of the whole tumour, averaged over the validation subjects, are
    kept (those of the last epoch if no validation subject has a tumour). A training that was interrupted
    starts anew. Writes ``weights.safetensors`` and ``training.csv`` into `folder`.

    Parameters
    ----------
    profile : str
        Whose prepared slices; decides the recipe.
    recipe : Recipe, optional
        Sizes and training, by default ``RECIPES[profile]``.
    device : torch.device, optional
        The GPU if there is one, else the CPU.
    progress : bool
        Whether to show a bar (never in a log file).

    Returns
    -------
    Module
        In evaluation mode.

    Raises
    ------
    MudiffError
        If nothing is prepared, no training subject has a tumour, or the loss is no number.
    """
    from safetensors.torch import load_file

    recipe = recipe or RECIPES[profiles.profile(profile).name]
    device = device or runs.default_device()
    key = _key(
        recipe, prepare.check(paths.prepared(profile, DATASET), profiles.preparation(profile, DATASET))
    )
    file = folder(profile) / "weights.safetensors"
    network = build(recipe).to(device)
    with runs.locked(folder(profile)):
        if _made_by(file) != key:
            _train(network, recipe, profile, key, progress)
    network.load_state_dict(load_file(file))
    return network.eval()


def folder(profile: str) -> Path:
    """Return where the network and what is computed with it are kept."""
    return paths.analysis(profile, "segmentation")


def fingerprint(network: nn.Module) -> str:
    """Return the hash of a network's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def history(profile: str) -> pd.DataFrame:
    """Return the training of the kept network: epoch, loss, dice (validation, whole tumour), chosen.

    Raises
    ------
    MudiffError
        If no network was trained.
    """
    path = folder(profile) / "training.csv"
    if not path.is_file():
        raise MudiffError(f"{path}: no segmentation network yet; run notebook 10_segmentation.")
    return pd.read_csv(path)


def _key(recipe: Recipe, data_hash: str) -> str:
    text = json.dumps([VERSION, dataclasses.asdict(recipe), data_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _made_by(file: Path) -> str | None:
    """Return the key of a weights file; None where there is none or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return (opened.metadata() or {}).get("key")
    except (SafetensorError, OSError):
        return None


def _train(network: nn.Module, recipe: Recipe, profile: str, key: str, progress: bool) -> None:
    from safetensors.torch import save_file
    from tqdm.auto import tqdm

    prepared = paths.prepared(profile, DATASET)
    training, validation = (prepare.open_slices(prepared, split) for split in ("train", "val"))
    ill, free = _ill_and_free(training, prepared)
    ill_in_validation = np.flatnonzero(_areas(validation)).size > 0
    adam = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    rows, best, kept = [], -math.inf, {}
    with tqdm(
        total=recipe.epochs, desc="segmentation", unit="epoch", disable=None if progress else True
    ) as bar:
        for epoch in range(recipe.epochs):
            rng = np.random.default_rng(slice_seed(recipe.seed, "segment", epoch))
            for group in adam.param_groups:
                group["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
            loss = _epoch(network, adam, training, _chosen(ill, free, recipe, rng), recipe, rng)
            if not math.isfinite(loss):
                raise MudiffError(
                    f"{folder(profile)}: the loss is no number in epoch {epoch}: training has diverged; pass a "
                    "recipe with a lower learning_rate."
                )
            reached = _whole(network.eval(), validation) if ill_in_validation else math.nan
            if not reached <= best:  # also where it is NaN: then the last epoch counts
                best = reached if math.isfinite(reached) else best
                kept = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
                chosen = epoch
            rows.append({"epoch": epoch, "loss": loss, "dice": reached})
            bar.update()
            bar.set_postfix(dice=f"{reached:.3f}")
    log = pd.DataFrame(rows).assign(chosen=lambda frame: frame.epoch == chosen)
    paths.write_text(folder(profile) / "training.csv", log.to_csv(index=False, lineterminator="\n"))
    # Written last and in one move: a network whose key is right is complete.
    metadata = {"key": key, "recipe": json.dumps(dataclasses.asdict(recipe)), "epoch": str(chosen)}
    with paths.atomic_write(folder(profile) / "weights.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in kept.items()}, temporary, metadata)


def _areas(slices: prepare.Slices) -> np.ndarray:
    """Return the pixels of tumour in each slice, int (N,), and check the labels on the way."""
    areas = np.zeros(len(slices), int)
    for subject in slices.subjects:
        areas[slices.subject(subject)] = (truth(slices, subject) > 0).sum(axis=(1, 2))
    return areas


def _ill_and_free(training: prepare.Slices, prepared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the slices with and without tumour."""
    areas = _areas(training)
    if not areas.any():
        raise MudiffError(
            f"{prepared}: no training subject has a tumour, so there is nothing to learn; add subjects with masks."
        )
    return np.flatnonzero(areas > 0), np.flatnonzero(areas == 0)


def _chosen(ill: np.ndarray, free: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Return the slices of one epoch in their order: all with tumour, some without."""
    some = rng.permutation(free)[: round(recipe.healthy * len(ill))]
    return rng.permutation(np.concatenate([ill, some]))


def _epoch(
    network: nn.Module,
    adam: torch.optim.Optimizer,
    slices: prepare.Slices,
    order: np.ndarray,
    recipe: Recipe,
    rng: np.random.Generator,
) -> float:
    """Train on the slices of one epoch, half of them mirrored left to right, and return the mean loss."""
    from monai.losses import DiceCELoss

    # The Dice of a whole batch: of a single slice a missing class would count as a failure.
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    device = next(network.parameters()).device
    network.train()
    total = torch.zeros((), device=device)
    for start in range(0, len(order), recipe.batch_size):
        part = order[start : start + recipe.batch_size]
        x = torch.from_numpy(images(slices, part)).to(device)  # (B, 4, S, S)
        y = torch.from_numpy(classes(slices.lesion(part))).to(device)[:, None].long()  # (B, 1, S, S)
        mirrored = torch.from_numpy(rng.random(len(part)) < 0.5).to(device)[:, None, None, None]
        x, y = torch.where(mirrored, x.flip(3), x), torch.where(mirrored, y.flip(3), y)
        loss = criterion(network(x), y)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        total += loss.detach() * len(part)
    return float(total) / len(order)


def _whole(network: nn.Module, slices: prepare.Slices) -> float:
    """Return Dice of the whole tumour, averaged over the subjects that have one."""
    scores = score(network, slices)
    return float(scores.dice[scores.region == "whole"].mean())
