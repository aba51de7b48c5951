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


class Inception(nn.Module):
    """Inception-v3 features of one contrast, from the file of torch-fidelity's weights that the user fetched."""

    num_features = 2048
    label = "Inception-v3 (2048 features)"

    def __init__(self, weights: Path | str) -> None:
        super().__init__()
        file = "weights-inception-2015-12-05-6cffb8f4.pth"
        advice = f"fetch {file} from the releases of github.com/toshas/torch-fidelity"
        # torch-fidelity unpickles whatever it is given: let through only what holds tensors alone.
        paths.read_weights(weights, "Inception weights", advice)
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.network = NoTrainInceptionV3("inception-v3-compat", [str(self.num_features)], str(weights))
        except ImportError:
            raise MudiffError("Inception features need `pip install torch-fidelity`.") from None
        except Exception as error:  # torch raises many kinds for files that hold something else
            reason = str(error).splitlines()[:1]
            raise MudiffError(f"{weights}: no Inception weights ({reason}); {advice}.") from None

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 2048) of images (B, 1, S, S) in [0, 1]."""
        grey = (images.clamp(0, 1) * 255).round().byte()
        return self.network(grey.expand(-1, 3, -1, -1))


@torch.inference_mode()
def features(slices: Slices, target: str, network: nn.Module, folder: Path | None = None) -> Tensor:
    """Return the features (N, ``network.num_features``) of all slices; with `folder`, their target is synthetic."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    found = []
    for subject in slices.subjects:
        rows = slices.subject(subject)
        stack = np.stack([(slices.images(rows, c) + 1) / 2 for c in slices.contrasts], axis=1)  # (Z, C, S, S)
        if folder is not None:
            stack[:, slices.contrasts.index(target)] = sample.read_synthetic(folder, subject)
        # To the segmentation network an image is all contrasts, of which three stay real.
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
