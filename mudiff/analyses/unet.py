"""The segmentation network: MONAI's U-Net on four contrasts, its training on real slices, masks and Dice.

The paper trains "MONAI's UNet model" on the split of the synthesis (section "Validation on lesion segmentation
accuracy") and gives no sizes: those of `RECIPES` are ours.
"""

import contextlib
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mudiff import paths, storage
from mudiff.data import dataset
from mudiff.errors import MudiffError
from mudiff.model.diffusion import slice_seed
from mudiff.synthesis import sample
from mudiff.training import profiles, runs

DATASET = "brats"  # whose masks name the parts of a tumour; the paper segments it

REGIONS = {
    "whole": "Whole tumour", "necrotic": "Necrotic core", "oedema": "Oedema", "enhancing": "Enhancing tumour",
}  # fmt: skip
"""What Dice is computed of, and its name in tables; the whole tumour is the union of the classes."""


@dataclass(frozen=True)
class Recipe:
    """Sizes and training of the network."""

    channels: tuple[int, ...] = (32, 64, 128, 256, 512)  # of the levels, each of which halves the side
    residual_units: int = 2  # convolutions of a residual block
    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 1e-3  # of Adam; falls to 0 along half a cosine
    healthy: float = 0.5  # slices without tumour per slice with tumour: else "no tumour" is a good guess
    seed: int = 1024


RECIPES = {  # profile -> recipe
    "smoke": Recipe(channels=(8, 16, 32), residual_units=1, epochs=2, batch_size=4, learning_rate=5e-3),
    "demo": Recipe(channels=(16, 32, 64, 128), epochs=18, batch_size=16, learning_rate=3e-3),
    "paper": Recipe(),
}


class Features(nn.Module):
    """The bottleneck of a segmentation network, averaged over positions: what a Frechet distance compares."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_features = int(network.channels[-1])
        self.label = f"segmentation U-Net ({self.num_features} features): all four contrasts, three of them real"

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, num_features) of images (B, 4, S, S) in [0, 1]."""
        x, block = images, self.network.model
        for _ in self.network.channels[1:]:  # MONAI nests the levels: down, (skip around the next level), up
            x, block = block[0](x), block[1].submodule
        return block(x).mean(dim=(2, 3))  # (B, C, h, w) -> (B, C)


def images(slices: dataset.Slices, indices: np.ndarray, **replaced: np.ndarray) -> np.ndarray:
    """Return the network's input, float32 (N, 4, S, S) in [0, 1]; `replaced` contrasts are given as (N, S, S)."""
    stacks = [replaced[c] if c in replaced else (slices.images(indices, c) + 1) / 2 for c in slices.contrasts]
    return np.stack(stacks, axis=1)


def truth(slices: dataset.Slices, subject: str) -> np.ndarray:
    """Return the true classes of a subject, uint8 (Z, S, S): 1 necrotic, 2 oedema, 3 enhancing (3 or 4 in masks)."""
    labels = slices.lesion(slices.subject(subject))
    found = set(np.unique(labels).tolist())
    if not found <= {0, 1, 2, 3, 4} or {3, 4} <= found:
        raise MudiffError(
            f"{subject}: the mask has labels {', '.join(map(str, sorted(found)))}; expected 1 (necrotic core), "
            "2 (oedema) and 4, or 3, (enhancing), so relabel it and prepare it again."
        )
    return np.minimum(labels, 3)


def predict(network: nn.Module, inputs: np.ndarray, batch: int = 32) -> np.ndarray:
    """Return the most likely class of every pixel, uint8 (N, S, S), of `images` (N, 4, S, S)."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [network(x.to(device)).argmax(dim=1).byte() for x in torch.from_numpy(inputs).split(batch)]
    return torch.cat(parts).cpu().numpy()


def dice(predicted: np.ndarray, true: np.ndarray) -> pd.DataFrame:
    """Return MONAI's Dice 2 |A n B| / (|A| + |B|) of one subject, from classes 0 to 3 (Z, S, S).

    Columns region, dice (NaN where the truth has nothing of the region) and, only there, invented: predicted voxels.
    """
    from monai.metrics import compute_dice

    found, there = (np.stack([mask > 0, *(mask == i for i in (1, 2, 3))]) for mask in (predicted, true))
    pair = (torch.from_numpy(masks[None]) for masks in (found, there))  # (1, 4, Z, S, S) each
    values = compute_dice(*pair, include_background=True, ignore_empty=True)[0].tolist()
    invented = [None if b.any() else int(a.sum()) for a, b in zip(found, there, strict=True)]
    frame = pd.DataFrame({"region": list(REGIONS), "dice": values, "invented": invented})
    return frame.astype({"dice": float, "invented": "Int64"})


def score(network: nn.Module, slices: dataset.Slices, **folders: Path) -> pd.DataFrame:
    """Return the `dice` of every subject (column subject); `folders` have the syntheses of replaced contrasts."""
    frames = []
    for subject in slices.subjects:
        replaced = {c: sample.read_synthetic(folder, subject) for c, folder in folders.items()}
        predicted = predict(network, images(slices, slices.subject(subject), **replaced))
        frames.append(dice(predicted, truth(slices, subject)).assign(subject=subject))
    return pd.concat(frames, ignore_index=True)


def build(recipe: Recipe) -> nn.Module:
    """Return MONAI's U-Net with weights that follow from the recipe's seed."""
    from monai.networks.nets import UNet

    strides = (2,) * (len(recipe.channels) - 1)
    # MONAI initialises from the global random state: lend it one that starts from the seed.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(slice_seed(recipe.seed, "segment", "weights"))
        return UNet(2, 4, 4, recipe.channels, strides, num_res_units=recipe.residual_units, norm="BATCH")


def folder(profile: str) -> Path:
    """Return where the network and what is computed with it are kept."""
    return paths.analysis(profile, "segmentation")


def train(profile: str, recipe: Recipe | None = None) -> nn.Module:
    """Return the profile's network in evaluation mode; it is trained only where there is none of recipe and data.

    The loss is MONAI's Dice + cross-entropy. Kept are the weights of the best mean Dice of the whole tumour over the
    validation subjects (the last epoch's if none has a tumour), and ``training.csv``: epoch, loss, dice, chosen.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    recipe = recipe or RECIPES[profile]
    prepared, file = paths.prepared(profile, DATASET), folder(profile) / "weights.safetensors"
    data = dataset.check(prepared, profiles.preparation(profile, DATASET))
    made_from = {"recipe": json.dumps(dataclasses.asdict(recipe)), "data": data}
    network = build(recipe).to(runs.default_device())
    found = None  # missing or damaged
    with contextlib.suppress(SafetensorError, OSError), safe_open(file, "pt") as opened:
        found = opened.metadata()
    if found != made_from:
        log, weights = _train(network, recipe, prepared)
        storage.write_text(folder(profile) / "training.csv", log.to_csv(index=False, lineterminator="\n"))
        with storage.atomic_write(file) as temporary:
            save_file(weights, temporary, made_from)
    network.load_state_dict(storage.read_weights(file, "weights", "delete it"))
    return network.eval()


def _train(network: nn.Module, recipe: Recipe, prepared: Path) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Return the log of the training and the weights of the best epoch."""
    from tqdm.auto import tqdm

    training, validation = (dataset.open_slices(prepared, split) for split in ("train", "val"))
    with_tumour, free = (np.flatnonzero(ill(training) == is_ill) for is_ill in (True, False))
    if not len(with_tumour):
        raise MudiffError(f"{prepared}: no training subject has a tumour; add subjects with masks.")
    adam = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    rows, best, weights = [], -math.inf, {}
    for epoch in tqdm(range(recipe.epochs), desc="segmentation", unit="epoch", disable=None):
        rng = np.random.default_rng(slice_seed(recipe.seed, "segment", epoch))
        adam.param_groups[0]["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
        # All slices with tumour and some without, drawn anew in each epoch.
        some = rng.permutation(free)[: round(recipe.healthy * len(with_tumour))]
        order = rng.permutation(np.concatenate([with_tumour, some]))
        loss = _epoch(network.train(), adam, training, order, recipe.batch_size, rng)
        found = score(network.eval(), validation)
        reached = float(found.dice[found.region == "whole"].mean())  # NaN where no subject has a tumour
        if not reached <= best:  # also where it is NaN; it is so in every epoch or in none
            best = reached
            weights = {k: v.detach().cpu().clone().contiguous() for k, v in network.state_dict().items()}
            chosen = epoch
        rows.append({"epoch": epoch, "loss": loss, "dice": reached})
    return pd.DataFrame(rows).assign(chosen=lambda frame: frame.epoch == chosen), weights


def ill(slices: dataset.Slices) -> np.ndarray:
    """Return which slices show tumour, bool (N,)."""
    return np.concatenate([truth(slices, subject).any(axis=(1, 2)) for subject in slices.subjects])


def _epoch(
    network: nn.Module, adam: torch.optim.Optimizer, slices: dataset.Slices, order: np.ndarray, batch_size: int,
    rng: np.random.Generator,
) -> float:  # fmt: skip
    """Train on the slices of one epoch, half of them mirrored left to right, and return the mean loss."""
    from monai.losses import DiceCELoss

    # The Dice of a whole batch: of a single slice a missing class would count as a failure.
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    device = next(network.parameters()).device
    total = torch.zeros((), device=device)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        x = torch.from_numpy(images(slices, part)).to(device)  # (B, 4, S, S)
        y = torch.from_numpy(np.minimum(slices.lesion(part), 3)).to(device)[:, None].long()  # (B, 1, S, S)
        mirrored = torch.from_numpy(rng.random(len(part)) < 0.5).to(device)[:, None, None, None]
        x, y = torch.where(mirrored, x.flip(3), x), torch.where(mirrored, y.flip(3), y)
        loss = criterion(network(x), y)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        total += loss.detach() * len(part)
    return float(total) / len(order)
