"""Centred kernel alignment (CKA) of layers, by the library torch-cka (Fig. 2b).

With features X (N, p) and Y (N, q) of the same N slices and Gram matrices K = XX' and L = YY', CKA is
HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). torch-cka takes the unbiased HSIC_1 (Song et al. 2012, Eq. 5), averaged over
minibatches (Nguyen et al. 2021), so that a value can be below 0. Notebook 07 computes it by hand.
"""

import contextlib
import io
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError

BATCH = 16
"""Slices of a minibatch, of which HSIC_1 sees N (N - 3) / 2 numbers: of few slices CKA is close to noise."""


def factor(features: Tensor) -> Tensor:
    """Return (B, B) with the Gram matrix of the centred features (B, ...): all that CKA looks at, and little."""
    x = features.flatten(1).float()  # centring leaves HSIC_1 as it is, and its differences of sums exact in float32
    rows = torch.linalg.qr((x - x.mean(dim=0)).T, mode="r").R.T  # (B, <= B)
    return F.pad(rows, (0, len(x) - rows.shape[1]))


class _Layers(nn.ModuleList):
    """A module for each layer, which torch-cka hooks; the layers' features are the input (B, layers, ...)."""

    def forward(self, features: Tensor) -> None:
        for tap, layer in zip(self, features.unbind(dim=1), strict=True):
            tap(layer)


def alignment(first: Tensor, second: Tensor, batch: int = BATCH) -> np.ndarray:
    """Return CKA of all layers of two networks, float32 (L1, L2), from -1 to 1.

    Both inputs are (N, L, ...), the `factor` of each minibatch of the same slices, in random order, in each of L
    layers. The last slices are left out where they do not fill a minibatch, which has four or more.
    """
    from torch.utils.data import DataLoader, TensorDataset

    if min(len(first), batch) < 4:
        raise MudiffError(f"CKA of {len(first)} slices in batches of {batch}: it takes 4 or more of both.")
    whole, draw = len(first) // batch * batch, torch.Generator()
    loaders = [DataLoader(TensorDataset(x[:whole].cpu()), batch, generator=draw) for x in (first, second)]
    # torch-cka shows a bar and warnings, and stops with a bare assertion where a value is 0/0.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"), torch.no_grad():
        from torch_cka import CKA

        models = [_Layers(nn.Identity() for _ in range(x.shape[1])) for x in (first, second)]
        cka = CKA(*models, "first", "second", *(list(map(str, range(len(model)))) for model in models))
        with contextlib.suppress(AssertionError):
            cka.compare(*loaders)
    matrix = cka.hsic_matrix.numpy()
    if not np.isfinite(matrix).all():
        raise MudiffError("CKA: a layer has the same features for all slices; train the run for longer.")
    return matrix
