"""Where the brain is, and where the lesion (section "Evaluation procedure")."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from mudiff.errors import MudiffError


def brain_mask(volumes: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Return the brain, bool (Z, S, S): all voxels above 0 in any contrast, cleaned by morphology.

    Specks are opened away slice by slice, crumbs far smaller than the brain are dropped, holes are filled. `volumes`
    are skull-stripped contrasts (Z, S, S) on one grid, background 0: where one is cut, the others cover the rest.
    """
    shapes = {np.shape(volume) for volume in volumes}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise MudiffError(f"brain mask: expected contrasts of one shape (Z, S, S), got {sorted(shapes)}.")
    head = np.any([np.asarray(volume) > 0 for volume in volumes], axis=0)
    # Edge padding: a brain that the field of view cuts keeps its full extent at the border.
    padded = np.pad(head, ((0, 0), (2, 2), (2, 2)), mode="edge")
    cross = ndimage.generate_binary_structure(2, 1)[None]
    opened = ndimage.binary_opening(padded, cross)[:, 2:-2, 2:-2]
    labels, count = ndimage.label(opened, np.ones((3, 3, 3)))
    if not count:
        return np.zeros_like(head)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    brain = (sizes >= 0.1 * sizes.max())[labels]  # temporal lobes and cerebellum can be apart from the rest
    return np.stack([ndimage.binary_fill_holes(plane) for plane in brain])


def lesion_mask(labels: np.ndarray, dilate: bool = False) -> np.ndarray:
    """Return the lesion, bool (..., S, S): every label above 0 counts (the paper's "whole tumor").

    `dilate`: slice by slice, with a 3x3 kernel in three iterations (section "Evaluation procedure", for ISLES).
    The iterations are pixels at 256x256 and scale with the image, at least one.
    """
    mask = np.asarray(labels) > 0
    if not dilate:
        return mask
    kernel = np.ones((1,) * (mask.ndim - 2) + (3, 3), bool)
    return ndimage.binary_dilation(mask, kernel, iterations=max(1, round(3 * max(mask.shape[-2:]) / 256)))
