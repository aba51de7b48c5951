"""Where a mask or a map is high: zones of the brain, means over them, and a test over subjects."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from mudiff.evaluation.metrics import lesion_mask

ZONES = ("lesion", "boundary", "elsewhere")
"""Names of the zones: the lesion without its rim, a band along its rim, and the rest of the brain."""

EXACT = 14
"""Up to so many subjects every sign flip is counted; beyond, `FLIPS` are drawn."""

FLIPS = 9999


def reach(size: int) -> int:
    """Return how many pixels the boundary reaches to either side of the rim: 3 at 256x256, at least 1."""
    return max(1, round(3 * size / 256))


def zones(labels: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Divide slices into `ZONES`.

    The boundary is the morphological gradient, dilation minus erosion by a 3x3 square, `reach` times each,
    as far as it lies in the brain.

    Parameters
    ----------
    labels : array (N, S, S)
        Lesion labels, above 0 inside.
    brain : array of bool (N, S, S)
        Brain mask.

    Returns
    -------
    array of bool (N, 3, S, S)
        Disjoint; together the brain. A slice without lesion is all elsewhere.
    """
    lesion = lesion_mask(labels)
    tissue = np.asarray(brain, bool) | lesion
    square, times = np.ones((1, 3, 3), bool), reach(lesion.shape[-1])
    wide = ndimage.binary_dilation(lesion, square, times)
    # Beyond the image's edge nothing is known: the lesion goes on there rather than ends.
    narrow = ndimage.binary_erosion(lesion, square, times, border_value=1)
    return np.stack([narrow, wide & ~narrow & tissue, tissue & ~wide], axis=1)


def native_weights(areas: np.ndarray | Tensor, side: int) -> Tensor:
    """Return what each pixel of a small mask adds to the sum over an area of the enlarged mask.

    Enlarging is linear, so the sum over an area is a weighted sum over the small mask. It is the same
    number as from the enlarged one, and hundreds of masks cost no more than one.

    Parameters
    ----------
    areas : array (N, Z, S, S)
        Areas, 1 inside and 0 outside.
    side : int
        Side of the small mask, which `mudiff.model.critic.attentive_mask` enlarges to S.

    Returns
    -------
    Tensor (N, Z, side, side)
    """
    areas = torch.as_tensor(areas).float()
    with torch.enable_grad():
        small = areas.new_zeros(*areas.shape[:2], side, side, requires_grad=True)
        large = F.interpolate(small, size=areas.shape[-2:], mode="bilinear", align_corners=False)
        return torch.autograd.grad(large, small, areas)[0]


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided P value of a permutation test on differences, one a subject.

    If there were no effect, each subject's difference could as well have the other sign. P is the part of
    all sign patterns whose mean is at least as far from 0. The smallest possible one is 2 / 2^n.

    Parameters
    ----------
    differences : sequence of float
        Finite, one per subject.
    seed : int
        Of the patterns that are drawn where there are too many (more than `EXACT` subjects).

    Returns
    -------
    float
        NaN for fewer than two subjects.
    """
    from scipy import stats

    values = np.asarray(differences, float)
    if len(values) < 2:
        return math.nan
    test = stats.permutation_test(
        (values, np.zeros_like(values)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",  # exchanging a pair (d, 0) flips the sign of d
        vectorized=True,
        n_resamples=np.inf if len(values) <= EXACT else FLIPS,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def smallest_p(subjects: int) -> float:
    """Return the smallest P value that `sign_flip` can give for so many subjects."""
    return 2 / (2**subjects if subjects <= EXACT else FLIPS + 1)


def contrasts(means: pd.DataFrame, by: Sequence[str], ratio: bool = False) -> pd.DataFrame:
    """Compare lesion and boundary with elsewhere, subject by subject.

    Parameters
    ----------
    means : DataFrame
        Columns zone, subject, mean and those of `by`; what else there is (networks, steps) is averaged
        within the subject first.
    by : sequence of str
        Columns that make groups of their own.
    ratio : bool
        Compare by the ratio zone / elsewhere, and test its logarithm, rather than by the difference.

    Returns
    -------
    DataFrame
        One row per group and zone: `by`, zone, n (subjects), value (mean difference, or geometric mean
        ratio), lowest and highest subject, p, p_smallest (what n subjects can reach at best). No rows
        where no subject has a lesion.
    """
    by = list(by)
    wide = means.groupby([*by, "subject", "zone"], sort=False)["mean"].mean().unstack("zone")
    rows = []
    for zone in [z for z in ZONES if z in wide and z != "elsewhere"]:
        change = np.log(wide[zone] / wide["elsewhere"]) if ratio else wide[zone] - wide["elsewhere"]
        for key, values in change.dropna().groupby(level=by, sort=False):
            low, middle, high = (getattr(values, name)() for name in ("min", "mean", "max"))
            if ratio:
                low, middle, high = np.exp([low, middle, high])
            group = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            numbers = {"n": len(values), "value": middle, "lowest": low, "highest": high}
            tests = {"p": sign_flip(values), "p_smallest": smallest_p(len(values))}
            rows.append(group | {"zone": zone} | numbers | tests)
    return pd.DataFrame(rows, columns=[*by, "zone", "n", "value", "lowest", "highest", "p", "p_smallest"])
