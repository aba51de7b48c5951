"""Where the brain is, and where the lesion (section "Evaluation procedure")."""

import numpy as np
from scipy import ndimage


def brain_mask(volumes: np.ndarray) -> np.ndarray:
    """Return the brain, bool (Z, S, S): all voxels above 0 in any contrast, cleaned by morphology.

    Specks are opened away slice by slice, crumbs far smaller than the brain are dropped, holes are filled. `volumes`
    are skull-stripped contrasts (C, Z, S, S), background 0: where one is cut, the others cover the rest.
    """
    head = (volumes > 0).any(axis=0)
    # Edge padding: a brain that the field of view cuts keeps its full extent at the border.
    padded = np.pad(head, ((0, 0), (2, 2), (2, 2)), mode="edge")
    cross = ndimage.generate_binary_structure(2, 1)[None]
    opened = ndimage.binary_opening(padded, cross)[:, 2:-2, 2:-2]
    labels, _ = ndimage.label(opened, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    brain = (sizes >= max(0.1 * sizes.max(), 1))[labels]  # temporal lobes and cerebellum can be apart from the rest
    return np.stack([ndimage.binary_fill_holes(plane) for plane in brain])


def lesion_mask(labels: np.ndarray, dilate: bool = False) -> np.ndarray:
    """Return the lesion, bool (..., S, S): every label above 0 counts (the paper's "whole tumor").

    `dilate`: slice by slice, by a 3x3 kernel in three iterations at 256x256 (ISLES), which scale with the image.
    """
    mask = np.asarray(labels) > 0
    if not dilate:
        return mask
    kernel = np.ones((1,) * (mask.ndim - 2) + (3, 3), bool)
    return ndimage.binary_dilation(mask, kernel, iterations=max(1, round(3 * max(mask.shape[-2:]) / 256)))
