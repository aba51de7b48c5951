"""Frechet distances between real and synthetic images (Fig. 5f), by torchmetrics.

Features of both sets are taken for Gaussian, with means m and covariances C:
d^2 = |m_r - m_s|^2 + tr(C_r + C_s - 2 (C_r C_s)^(1/2)) (Heusel et al. 2017, Eq. 6). Of few images it is too large: a
covariance from n images has rank n - 1 at most. So the number of images stands beside each value.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mudiff import paths
from mudiff.data.dataset import Slices
from mudiff.errors import MudiffError
from mudiff.synthesis import sample

INCEPTION_FILE = "weights-inception-2015-12-05-6cffb8f4.pth"
"""The weights that torch-fidelity publishes, as it names them (github.com/toshas/torch-fidelity, releases)."""


class Distance(NamedTuple):
    """A squared Frechet distance (NaN below two images), images and subjects of the smaller set, and the features."""

    value: float
    images: int
    subjects: int
    features: str


class Inception(nn.Module):
    """Inception-v3 features of one contrast, from the file `INCEPTION_FILE` that the user fetched."""

    num_features = 2048
    label = "Inception-v3 (2048 features)"

    def __init__(self, weights: Path | str) -> None:
        super().__init__()
        try:
            import torch_fidelity  # noqa: F401
            from torchmetrics.image.fid import NoTrainInceptionV3
        except ImportError as error:
            raise MudiffError(f"Inception features need `pip install torch-fidelity` ({error}).") from None
        advice = f"fetch {INCEPTION_FILE} from the releases of github.com/toshas/torch-fidelity"
        # torch-fidelity unpickles whatever it is given: let through only what holds tensors alone.
        paths.read_tensors(weights, "Inception weights", advice)
        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", [str(self.num_features)], str(weights))
        except Exception as error:  # torch raises many kinds for files that hold something else
            reason = str(error).splitlines()[:1]
            raise MudiffError(f"{weights}: no Inception weights ({reason}); {advice}.") from None

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 2048) of images (B, 1, S, S) in [0, 1]."""
        grey = (images.clamp(0, 1) * 255).round().byte()
        return self.network(grey.expand(-1, 3, -1, -1))


def of_run(
    slices: Slices, target: str, folder: Path, network: nn.Module, indices: np.ndarray | None = None
) -> Distance:
    """Return the distance between real slices (all, or `indices`) and those whose target is synthetic (`folder`).

    The network gives features and has ``num_features`` and ``label``. To the segmentation network an image is all
    contrasts, of which three are real in both sets; to `Inception` it is the target alone.
    """
    chosen = np.arange(len(slices)) if indices is None else indices
    return _distance(slices, target, network, (chosen, None), (chosen, folder))


def reference(slices: Slices, target: str, network: nn.Module) -> Distance:
    """Return the distance between two halves of the real slices, of different subjects: a scale for `of_run`."""
    first, second = halves(slices)
    return _distance(slices, target, network, (first, None), (second, None))


def halves(slices: Slices) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of two equally large sets of slices; every second subject is in the second."""
    halved = [[slices.subject(name) for name in slices.subjects[i::2]] for i in (0, 1)]
    sides = [np.concatenate([[], *parts]).astype(int) for parts in halved]
    count = min(map(len, sides))
    first, second = (side[np.linspace(0, len(side), count, endpoint=False).astype(int)] for side in sides)
    return first, second


def _distance(slices: Slices, target: str, network: nn.Module, *sets: tuple[np.ndarray, Path | None]) -> Distance:
    from torchmetrics.image.fid import FrechetInceptionDistance

    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    metric = FrechetInceptionDistance(feature=network.eval()).to(device)
    with torch.inference_mode():
        for (indices, folder), real in zip(sets, (True, False), strict=True):
            for stack in _stacks(slices, indices, target, folder):
                seen = stack[:, [slices.contrasts.index(target)]] if isinstance(network, Inception) else stack
                metric.update(torch.from_numpy(seen).to(device), real=real)
        images = min(len(indices) for indices, _ in sets)
        # There is no covariance of one image. Rounding can make a distance of 0 negative.
        value = max(float(metric.compute()), 0.0) if images > 1 else math.nan
    subjects = min(slices.index["subject"].iloc[indices].nunique() for indices, _ in sets)
    return Distance(value, images, subjects, network.label)


def _stacks(slices: Slices, indices: np.ndarray, target: str, folder: Path | None) -> Iterator[np.ndarray]:
    """Yield images (Z, C, S, S) in [0, 1], subject by subject, with a synthetic target if there is a folder."""
    for subject in slices.subjects:
        every = slices.subject(subject)
        places = np.flatnonzero(np.isin(every, indices))
        if len(places):
            stack = np.stack([(slices.images(every[places], c) + 1) / 2 for c in slices.contrasts], axis=1)
            if folder is not None:
                stack[:, slices.contrasts.index(target)] = sample.read_synthetic(folder, subject)[places]
            yield stack
