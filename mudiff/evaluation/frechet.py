"""Frechet distances between real and synthetic images (Fig. 5f), by torchmetrics.

Features of both sets are taken for Gaussian, with means m and covariances C:
d^2 = |m_r - m_s|^2 + tr(C_r + C_s - 2 (C_r C_s)^(1/2)) (Heusel et al. 2017, Eq. 6). Of few images it is too large: a
covariance from n images has rank n - 1 at most. So say their number beside each value.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mudiff import paths
from mudiff.data.dataset import Slices
from mudiff.errors import MudiffError
from mudiff.synthesis import sample

INCEPTION_FILE = "weights-inception-2015-12-05-6cffb8f4.pth"
"""The weights that torch-fidelity publishes, as it names them (github.com/toshas/torch-fidelity, releases)."""


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


@torch.inference_mode()
def features(slices: Slices, target: str, network: nn.Module, folder: Path | None = None) -> Tensor:
    """Return the features (N, ``network.num_features``) of all slices; with `folder`, their target is synthetic.

    To the segmentation network an image is all contrasts, of which three stay real; to `Inception` it is the target
    alone.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    found = []
    for subject in slices.subjects:
        rows = slices.subject(subject)
        stack = np.stack([(slices.images(rows, c) + 1) / 2 for c in slices.contrasts], axis=1)  # (Z, C, S, S)
        if folder is not None:
            stack[:, slices.contrasts.index(target)] = sample.read_synthetic(folder, subject)
        seen = stack[:, [slices.contrasts.index(target)]] if isinstance(network, Inception) else stack
        found.append(network.eval()(torch.from_numpy(seen).to(device)).cpu())
    return torch.cat(found)


def distance(real: Tensor, other: Tensor) -> float:
    """Return the squared Frechet distance of two sets of features (N, d), NaN where one has fewer than two rows."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(real), len(other)) < 2:  # there is no covariance of one image
        return math.nan
    given = nn.Identity()
    given.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=given)
    metric.update(real, real=True)
    metric.update(other, real=False)
    return max(float(metric.compute()), 0.0)  # rounding can make a distance of 0 negative


def halves(slices: Slices) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of two equally large sets of slices; every second subject is in the second."""
    halved = [[slices.subject(name) for name in slices.subjects[i::2]] for i in (0, 1)]
    sides = [np.concatenate([[], *parts]).astype(int) for parts in halved]
    count = min(map(len, sides))
    first, second = (side[np.linspace(0, len(side), count, endpoint=False).astype(int)] for side in sides)
    return first, second
