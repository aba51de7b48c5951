"""Frechet distances between real and synthetic images (Fig. 5f), by torchmetrics.

Features of both sets are taken for Gaussian, with means m and covariances C:
d^2 = |m_r - m_s|^2 + tr(C_r + C_s - 2 (C_r C_s)^(1/2)) (Heusel et al. 2017, Eq. 6). The usual features are
Inception's, learnt on photographs. Ours are those of the segmentation network, learnt on the same contrasts
without any download; Inception's are there for who has the weights (`Inception`).

A distance from few images is too large, since a covariance of d features from n images has rank n - 1 at most:
`Distance.images` belongs beside each value, and `reference` says what two sets of real images reach.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mudiff.analyses import segment
from mudiff.data import prepare
from mudiff.errors import MudiffError

INCEPTION_FILE = "weights-inception-2015-12-05-6cffb8f4.pth"
"""The weights that torch-fidelity publishes, as it names them (github.com/toshas/torch-fidelity, releases)."""


@dataclass(frozen=True)
class Distance:
    """A Frechet distance and what it was computed from.

    Attributes
    ----------
    value : float
        The (squared) distance, 0 or more; NaN where a set has fewer than two images.
    images : int
        Images in the smaller set.
    features : str
        Which features, in words. Values of different features cannot be compared.
    subjects : int or None
        Subjects that the smaller set is of, where that is known. Slices of one subject resemble each other,
        so that a few subjects are a small sample even where their slices are many.
    """

    value: float
    images: int
    features: str
    subjects: int | None = None


class Inception(nn.Module):
    """Inception-v3 features of one contrast: grey images as three equal channels, 2048 features.

    Parameters
    ----------
    weights : Path or str
        The file `INCEPTION_FILE`, which the user fetched; nothing is downloaded.

    Raises
    ------
    MudiffError
        If the package torch-fidelity or the file is missing, or the file holds something else.
    """

    num_features = 2048
    label = "Inception-v3 (2048 features)"

    def __init__(self, weights: Path | str) -> None:
        super().__init__()
        try:
            import torch_fidelity  # noqa: F401
            from torchmetrics.image.fid import NoTrainInceptionV3
        except ImportError as error:
            raise MudiffError(
                f"Inception features need the package torch-fidelity ({error}); install it with "
                "`pip install torch-fidelity`, or use the features of the segmentation network."
            ) from None
        if not Path(weights).is_file():
            raise MudiffError(
                f"{weights}: no such file; fetch {INCEPTION_FILE} from the releases of "
                "github.com/toshas/torch-fidelity and pass its path."
            )
        try:
            # torch-fidelity unpickles whatever it is given: let through only what holds tensors alone.
            torch.load(weights, map_location="cpu", weights_only=True)
            self.network = NoTrainInceptionV3(
                "inception-v3-compat", [str(self.num_features)], feature_extractor_weights_path=str(weights)
            )
        except Exception as error:  # torch raises many kinds for files that hold something else
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise MudiffError(
                f"{weights}: no Inception weights ({reason}); fetch {INCEPTION_FILE} again."
            ) from None

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 2048) of images (B, 1, S, S) in [0, 1]."""
        grey = (images.clamp(0, 1) * 255).round().byte()
        return self.network(grey.expand(-1, 3, -1, -1))


class _Given(nn.Module):
    """Features that are there already."""

    label = "given features"

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, features: Tensor) -> Tensor:
        """Return the features as they are."""
        return features


def frechet_distance(
    real: np.ndarray, synthetic: np.ndarray, network: nn.Module | None = None, batch: int = 32
) -> Distance:
    """Return the Frechet distance between two sets of images, or of features.

    Parameters
    ----------
    real, synthetic : array (N, C, H, W) or (N, F)
        Images as `network` takes them, or without a network features; the two N may differ.
    network : Module, optional
        With ``num_features`` and ``label``, such as ``segment.Features`` and `Inception`.
    batch : int
        Images that go through the network together; has no influence on the result.

    Raises
    ------
    MudiffError
        If the arrays do not fit each other, or hold values that are no numbers.
    """
    real, synthetic = np.asarray(real), np.asarray(synthetic)
    if real.shape[1:] != synthetic.shape[1:] or real.ndim != (2 if network is None else 4):
        raise MudiffError(
            f"Frechet distance of arrays {real.shape} and {synthetic.shape}: expected two of shape "
            f"{'(N, features); pass a network for images' if network is None else '(N, channels, height, width)'}."
        )
    parts = ([stack[i : i + batch] for i in range(0, len(stack), batch)] for stack in (real, synthetic))
    return _distance(*parts, _Given(real.shape[1]) if network is None else network)


def _distance(real: Iterable[np.ndarray], synthetic: Iterable[np.ndarray], network: nn.Module) -> Distance:
    """Return the distance between two sets that come in parts, so that no set has to fit into memory."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    metric = FrechetInceptionDistance(feature=network.eval()).to(device)
    counts = []
    with torch.inference_mode():
        for parts, is_real in ((real, True), (synthetic, False)):
            counts.append(0)
            for part in parts:
                if not np.isfinite(part).all():
                    raise MudiffError(
                        "Frechet distance: some values are no finite numbers; make the images again."
                    )
                metric.update(torch.from_numpy(np.ascontiguousarray(part)).to(device), real=is_real)
                counts[-1] += len(part)
        # There is no covariance of one image. Rounding can make a distance of 0 negative.
        value = max(float(metric.compute()), 0.0) if min(counts) > 1 else math.nan
    return Distance(value, min(counts), network.label)


def of_run(
    profile: str,
    slices: prepare.Slices,
    target: str,
    folder: Path,
    network: nn.Module | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
) -> Distance:
    """Return the Frechet distance between real slices and those in which one contrast is synthetic.

    With the features of the segmentation network an image is all four contrasts, so that the synthetic
    one is judged together with its conditions. Three of the four are then the same real images in both
    sets: the distance is smaller than that of sets that share nothing, and says how much the one contrast
    moves the features. With Inception's features an image is the one contrast alone. `reference` is of
    about half as many slices; pass ``halves(slices)[0]`` as `indices` to compare with it.

    Parameters
    ----------
    profile : str
        Whose segmentation network is used where no `network` is given; it is trained if need be.
    slices : Slices
        The real slices.
    target : str
        The synthetic contrast.
    folder : Path
        Its synthetic slices, a file per subject, as ``sample.synthesize_split`` writes them.
    network : Module, optional
        ``segment.Features(segment.train(profile))``, which is the default, or `Inception`.
    indices : sequence of int, optional
        Which slices, by default all; one of the `halves` has as many as their `reference`.

    Raises
    ------
    MudiffError
        If a subject's synthetic slices are missing, or are of another number or size.
    """
    network = network or segment.Features(segment.train(profile))
    chosen = np.arange(len(slices)) if indices is None else np.asarray(indices)
    found = _distance(
        _parts(slices, chosen, target, network), _parts(slices, chosen, target, network, folder), network
    )
    return replace(found, subjects=_subjects(slices, chosen))


def reference(
    profile: str, slices: prepare.Slices, target: str, network: nn.Module | None = None
) -> Distance:
    """Return the Frechet distance between two halves of the real slices, of different subjects.

    It is what perfect images of other subjects reach with so few of them: a scale for `of_run`, which
    compares images of the same subjects and can therefore be smaller. NaN with one subject.

    Parameters
    ----------
    profile, slices, target, network
        As in `of_run`.
    """
    network = network or segment.Features(segment.train(profile))
    sides = halves(slices)
    found = _distance(*(_parts(slices, side, target, network) for side in sides), network)
    return replace(found, subjects=min(_subjects(slices, side) for side in sides))


def halves(slices: prepare.Slices) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of two equally large sets of slices; every second subject is in the second.

    Where one set has to become smaller, the slices that it keeps are evenly spaced.
    """
    sides = [
        np.concatenate([[], *(slices.subject(name) for name in slices.subjects[i::2])]).astype(int)
        for i in (0, 1)
    ]
    count = min(map(len, sides))
    first, second = (side[np.linspace(0, len(side), count, endpoint=False).astype(int)] for side in sides)
    return first, second


def _subjects(slices: prepare.Slices, indices: np.ndarray) -> int:
    """Return the number of subjects that the slices are of."""
    return int(slices.index["subject"].iloc[indices].nunique())


def _parts(
    slices: prepare.Slices, indices: np.ndarray, target: str, network: nn.Module, folder: Path | None = None
) -> Iterator[np.ndarray]:
    """Yield images of one subject after the other, with a synthetic target if there is a `folder`."""
    place = slices.contrasts.index(target)
    for subject in slices.subjects:
        every = slices.subject(subject)
        places = np.flatnonzero(np.isin(every, indices))
        if not len(places):
            continue
        replaced = {} if folder is None else {target: segment.synthetic(slices, folder, subject)[places]}
        stack = segment.images(slices, every[places], replaced)  # (Z, 4, S, S)
        yield stack[:, place : place + 1] if isinstance(network, Inception) else stack
