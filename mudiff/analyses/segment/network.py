"""MONAI's U-Net on four contrasts: sizes, inputs, masks and Dice.

The paper trains "MONAI's UNet model" on the split of the synthesis (section "Validation on lesion segmentation
accuracy") and gives no sizes; those of `RECIPES` are ours. Images are (N, 4, S, S) in [0, 1], contrasts in the
order of the slice cache; classes are 0 background and 1 to 3 `CLASSES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.model.diffusion import slice_seed
from mudiff.synthesis import sample

DATASET = "brats"
"""The paper segments BraTS, the cohort whose masks name the parts of a tumour."""

CLASSES = ("necrotic", "oedema", "enhancing")
"""Classes 1 to 3; BraTS stores them as 1, 2 and 4 (3 in BraTS 2023 and later)."""

REGIONS = ("whole", *CLASSES)
"""What Dice is computed of; "whole" is the union of the classes."""

_CLASS_OF = np.array([0, 1, 2, 3, 3], np.uint8)  # stored label -> class


@dataclass(frozen=True)
class Recipe:
    """Sizes and training of the network.

    Attributes
    ----------
    channels : tuple of int
        Feature maps of the levels; each level halves the image's side.
    residual_units : int
        Convolutions of each residual block.
    epochs, batch_size : int
        An epoch sees every slice with tumour once, and some without.
    learning_rate : float
        Of Adam; falls to 0 along half a cosine.
    healthy : float
        Slices without tumour per slice with tumour, drawn anew in each epoch. Without a limit the network
        would mostly learn that there is nothing to see.
    seed : int
        Decides the first weights, the order of the slices and which are mirrored.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    residual_units: int = 2
    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 1e-3
    healthy: float = 0.5
    seed: int = 1024


RECIPES = {
    "smoke": Recipe(channels=(8, 16, 32), residual_units=1, epochs=2, batch_size=4, learning_rate=5e-3),
    "demo": Recipe(channels=(16, 32, 64, 128), epochs=18, batch_size=16, learning_rate=3e-3),
    "paper": Recipe(),
}
"""Profile -> recipe."""


def build(recipe: Recipe, contrasts: int = 4) -> nn.Module:
    """Return MONAI's U-Net with weights that follow from the recipe's seed."""
    from monai.networks.nets import UNet

    # MONAI initialises from the global random state: lend it one that starts from the seed.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(slice_seed(recipe.seed, "segment", "weights"))
        return UNet(
            spatial_dims=2,
            in_channels=contrasts,
            out_channels=1 + len(CLASSES),
            channels=recipe.channels,
            strides=(2,) * (len(recipe.channels) - 1),
            num_res_units=recipe.residual_units,
            norm="BATCH",
        )


class Features(nn.Module):
    """The bottleneck of a segmentation network, averaged over positions: what a Frechet distance compares.

    Attributes
    ----------
    num_features : int
        Width of the bottleneck.
    label : str
        What the features are, in words. Beside one synthetic contrast the other three are real.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_features = int(network.channels[-1])
        self.label = (
            f"segmentation U-Net ({self.num_features} features): all four contrasts, three of them real"
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, num_features) of images (B, 4, S, S) in [0, 1]."""
        x, block = images, self.network.model
        for _ in self.network.channels[1:]:  # MONAI nests the levels: down, (skip around the next level), up
            x, block = block[0](x), block[1].submodule
        return block(x).mean(dim=(2, 3))  # (B, C, h, w) -> (B, C)


# Images and masks


def images(
    slices: prepare.Slices, indices: np.ndarray, replaced: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """Return the network's input, float32 (N, 4, S, S) in [0, 1].

    Parameters
    ----------
    slices : Slices
        The real slices.
    indices : array of int (N,)
        Which of them.
    replaced : mapping of str to array (N, S, S), optional
        Contrast -> images in [0, 1] that stand in for the real ones.
    """
    replaced = replaced or {}
    return np.stack(
        [
            np.asarray(replaced[contrast], np.float32)
            if contrast in replaced
            else (slices.images(indices, contrast) + 1) / 2  # [-1, 1] -> [0, 1]
            for contrast in slices.contrasts
        ],
        axis=1,
    )


def synthetic(slices: prepare.Slices, folder: Path, subject: str) -> np.ndarray:
    """Return a subject's synthetic slices, float32 (Z, S, S) in [0, 1], checked against the real ones.

    Raises
    ------
    MudiffError
        If they are missing, damaged, or of another number or size than the prepared ones.
    """
    stack = sample.read_synthetic(folder, subject)
    expected = (len(slices.subject(subject)), slices.image_size, slices.image_size)
    if stack.shape != expected:
        raise MudiffError(
            f"{folder}: subject {subject} has synthetic slices {stack.shape} but prepared ones {expected}; "
            "delete the folder and make it again."
        )
    return stack


def classes(labels: np.ndarray) -> np.ndarray:
    """Return the classes 0 to 3 of stored labels (0, 1, 2, and 4 or 3; see `truth`), uint8 of the same shape."""
    return _CLASS_OF[labels]


def truth(slices: prepare.Slices, subject: str) -> np.ndarray:
    """Return the classes of a subject's mask, uint8 (Z, S, S), after a check of its labels.

    Raises
    ------
    MudiffError
        If there are other labels than 0 to 4, or both 3 and 4, of which each means enhancing tumour.
    """
    labels = slices.lesion(slices.subject(subject))
    found = set(np.unique(labels).tolist())
    if not found <= {0, 1, 2, 3, 4} or {3, 4} <= found:
        raise MudiffError(
            f"{subject}: the mask has labels {', '.join(map(str, sorted(found)))}; expected 1 (necrotic core), "
            "2 (oedema) and 4, or 3, (enhancing), so relabel it and prepare it again."
        )
    return classes(labels)


def predict(network: nn.Module, inputs: np.ndarray, batch: int = 32) -> np.ndarray:
    """Return the most likely class of every pixel.

    Parameters
    ----------
    network : Module
        From `train`.
    inputs : array (N, 4, S, S)
        From `images`.
    batch : int
        Slices that are predicted together; has no influence on the result.

    Returns
    -------
    array of uint8 (N, S, S)
    """
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(inputs[i : i + batch]).to(device)).argmax(dim=1).byte().cpu().numpy()
            for i in range(0, len(inputs), batch)
        ]
    return np.concatenate(parts) if parts else np.zeros((0, *inputs.shape[2:]), np.uint8)


def dice(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    r"""Return MONAI's Dice :math:`2|A \cap B| / (|A| + |B|)` over a stack of slices, per region.

    Parameters
    ----------
    predicted, truth : array of uint8 (Z, S, S)
        Classes 0 to 3 of one subject.

    Returns
    -------
    dict of str to float
        One of `REGIONS` -> Dice in [0, 1]; NaN where the truth has nothing of the region.
    """
    from monai.metrics import compute_dice

    found, true = (torch.from_numpy(_regions(mask)[None]) for mask in (predicted, truth))  # (1, 4, Z, S, S)
    values = compute_dice(y_pred=found, y=true, include_background=True, ignore_empty=True)
    return dict(zip(REGIONS, values[0].tolist(), strict=True))


def invented(predicted: np.ndarray, truth: np.ndarray) -> dict[str, int | None]:
    """Return the predicted voxels of each region that the truth does not have, where `dice` is undefined.

    Parameters
    ----------
    predicted, truth : array of uint8 (Z, S, S)
        Classes 0 to 3 of one subject.

    Returns
    -------
    dict of str to int or None
        One of `REGIONS` -> voxels of the prepared slices; None where the truth has the region.
    """
    pairs = zip(REGIONS, _regions(predicted), _regions(truth), strict=True)
    return {region: None if true.any() else int(found.sum()) for region, found, true in pairs}


def _regions(mask: np.ndarray) -> np.ndarray:
    """Return bool (4, Z, S, S), one mask for each of `REGIONS`."""
    return np.stack([mask > 0, *(mask == i for i in range(1, 1 + len(CLASSES)))])


def score(
    network: nn.Module,
    slices: prepare.Slices,
    replaced: Callable[[str], Mapping[str, np.ndarray]] = lambda subject: {},
) -> pd.DataFrame:
    """Segment every subject and return its Dice and what was invented.

    Parameters
    ----------
    network : Module
        From `train`.
    slices : Slices
        The real slices.
    replaced : callable
        Subject -> the contrasts that are replaced, see `images`.

    Returns
    -------
    DataFrame
        Columns subject, region, dice, invented (see `invented`; missing where dice is there).

    Raises
    ------
    MudiffError
        If a mask has labels that `truth` refuses.
    """
    rows = []
    for subject in slices.subjects:
        indices = slices.subject(subject)
        predicted = predict(network, images(slices, indices, replaced(subject)))
        true = truth(slices, subject)
        overlap, extra = dice(predicted, true), invented(predicted, true)
        rows += [(subject, region, overlap[region], extra[region]) for region in REGIONS]
    return pd.DataFrame(rows, columns=["subject", "region", "dice", "invented"]).astype({"invented": "Int64"})
