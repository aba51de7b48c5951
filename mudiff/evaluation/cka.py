"""Centred kernel alignment (CKA) of layers, by the library torch-cka (Fig. 2b).

CKA compares two layers by the similarities that they see between slices: with features X (N, p) and Y (N, q) of the
same N slices, Gram matrices K = XX' and L = YY', it is HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). Rotations and
scalings of the features leave it as it is. torch-cka takes the unbiased HSIC_1 (Song et al. 2012), averaged over
minibatches (Nguyen et al. 2021), so that a value can be below 0.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mudiff.errors import MudiffError

SMALLEST_BATCH = 4
"""HSIC_1 divides by N - 3."""

BATCH = 16
"""Slices of a minibatch; small test sets have one smaller one."""

FEW, FEW_IN_BATCH = 32, 8
"""With fewer slices, in all or in a minibatch, the values are given with a caution."""

Features = Callable[[Tensor], Sequence[Tensor]]
"""Batch of inputs (B, ...) -> the features (B, ...) of each layer, or the `factor` of each."""


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    r"""Return the unbiased HSIC_1 of two Gram matrices (N, N), N >= 4: the definition, for checks and for reading.

    With the diagonals of both set to 0,
    ``[tr(KL) + (1'K1)(1'L1) / ((N-1)(N-2)) - 2/(N-2) 1'KL1] / (N(N-3))`` (Song et al. 2012, Eq. 5).
    """
    n = len(k)
    k, l = (m - torch.diag(m.diagonal()) for m in (k, l))  # noqa: E741
    cross = (k @ l).sum()
    return ((k * l.T).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))


def reference(batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the minibatch CKA of two layers from their features, by its definition in float64.

    Parameters
    ----------
    batches : sequence of (Tensor (B, ...), Tensor (B, ...))
        Features of both layers for each minibatch.
    """
    grams = [[(f := x.flatten(1).double()) @ f.T for x in pair] for pair in batches]
    sums = [sum(hsic(pair[i], pair[j]) for pair in grams) for i, j in ((0, 1), (0, 0), (1, 1))]
    return float(sums[0] / (sums[1] * sums[2]).sqrt())


class _Taps(nn.Module):
    """What torch-cka hooks: a module of its own for each layer, through which that layer's features pass."""

    def __init__(self, features: Features, count: int) -> None:
        super().__init__()
        self.features = features
        self.taps = nn.ModuleList(nn.Identity() for _ in range(count))

    @property
    def names(self) -> list[str]:
        """Names of the taps, in the order of the layers."""
        return [f"taps.{i}" for i in range(len(self.taps))]

    def forward(self, inputs: Tensor) -> Tensor:
        """Send every layer's features through its tap, where torch-cka listens."""
        for tap, features in zip(self.taps, self.features(inputs), strict=True):
            tap(features)
        return inputs


def factor(features: Tensor) -> Tensor:
    """Return (B, <= B) with the Gram matrix of the centred features (B, ...): all that CKA looks at.

    HSIC_1 does not change when one vector is subtracted from the features of all slices; without their large common
    part its differences of sums are exact in float32 too.
    """
    x = features.flatten(1).float()
    return torch.linalg.qr((x - x.mean(dim=0)).T, mode="r").R.T


def check_count(slices: int, batch: int = BATCH) -> None:
    """Raise MudiffError if there are too few slices, or slices in a minibatch, for the unbiased estimator."""
    if min(slices, batch) < SMALLEST_BATCH:
        raise MudiffError(
            f"CKA: {slices} slices in batches of {batch}; the unbiased estimator needs "
            f"{SMALLEST_BATCH} or more of both: compare on more slices, or prepare more slices or test subjects."
        )


def caution(slices: int, batch: int = BATCH) -> str:
    """Return a sentence on how little the values of so few slices say; empty where there are enough of them.

    HSIC_1 compares Gram matrices from which diagonal and row sums are taken away, so that N (N - 1) / 2 - N =
    N (N - 3) / 2 of their numbers are free.

    Parameters
    ----------
    slices : int
        Slices that CKA was computed on.
    batch : int
        Of them in a minibatch, at most.
    """
    n = min(batch, slices)
    if n >= FEW_IN_BATCH and slices >= FEW:
        return ""
    verdict = "close to noise" if n < FEW_IN_BATCH else "uncertain"
    return (
        f"Few slices: a minibatch of {n} has {n * (n - 3) // 2} degrees of freedom, minibatches: {slices // n}; "
        f"the values are {verdict}."
    )


def alignment(
    first: Features, second: Features, counts: tuple[int, int], inputs: Tensor, batch: int = BATCH
) -> np.ndarray:
    """Compute CKA between all layers of two networks with torch-cka.

    torch-cka 0.21 is used through modules of our own, since it

    - feeds one tensor to both models: whatever they need must be packed into `inputs`;
    - never removes its hooks, so networks that it saw would keep every later batch's features alive;
    - orders the matrix by first call but its list of names by definition, so names may belong to other rows;
    - keeps the features of all layers with their autograd graph: here there are no gradients, and whoever has
      many layers passes the `factor` of each;
    - divides by zero for three slices or fewer, and gives a last smaller batch the weight of a full one;
    - iterates its loaders apart, so a loader that shuffles pairs unlike slices; a loader without a generator of
      its own also draws from the global random state;
    - shows a progress bar and warnings wherever it runs, and imports pyplot;
    - stops with a bare assertion where a layer's features are the same for all slices (0/0).

    Parameters
    ----------
    first, second : callable
        Inputs (B, ...) -> the features of each layer; called once a batch.
    counts : (int, int)
        Numbers of layers.
    inputs : Tensor (N, ...)
        At least four slices, on the device of the networks, in random order.
    batch : int
        Slices of a minibatch; the last ones are left out where they do not fill one.

    Returns
    -------
    np.ndarray
        float32 (counts[0], counts[1]), from -1 to 1.

    Raises
    ------
    MudiffError
        If there are too few slices, or a layer does not tell slices apart.
    """
    check_count(len(inputs), batch)
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        from torch.utils.data import DataLoader, TensorDataset
        from torch_cka import CKA

        taps = [_Taps(features, count) for features, count in zip((first, second), counts, strict=True)]
        loaders = [
            DataLoader(
                TensorDataset(inputs),
                min(batch, len(inputs)),
                drop_last=True,
                generator=torch.Generator().manual_seed(0),
            )
            for _ in taps
        ]
        cka = CKA(*taps, "first", "second", *(t.names for t in taps), device=str(inputs.device))
        with contextlib.suppress(AssertionError):
            cka.compare(*loaders)
    matrix = cka.hsic_matrix.numpy()
    if not np.isfinite(matrix).all():
        raise MudiffError("CKA: some layer has the same features for all slices; train the run for longer.")
    return matrix
