"""Where the brain is: the mask of skull-stripped contrasts (section "Evaluation procedure")."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from mudiff.errors import MudiffError


def brain_mask(volumes: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Return the brain: all voxels above 0 in any contrast, cleaned by morphology.

    Specks are opened away slice by slice, crumbs far smaller than the brain are dropped, holes are filled.
    A contrast with a cut field of view cannot cut the mask, since the other contrasts cover the rest.

    Parameters
    ----------
    volumes : array (C, Z, S, S) or sequence of C arrays (Z, S, S)
        Skull-stripped contrasts on one grid, background 0; Z may be 1.

    Returns
    -------
    array of bool (Z, S, S), all False where every contrast is empty

    Raises
    ------
    MudiffError
        If the contrasts have unlike shapes or another number of axes.
    """
    shapes = {np.shape(volume) for volume in volumes}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise MudiffError(f"brain mask: expected contrasts of one shape (Z, S, S), got {sorted(shapes)}.")
    head = np.any([np.asarray(volume) > 0 for volume in volumes], axis=0)
    brain = np.zeros_like(head)
    used = head.any(axis=0)
    if used.any():
        # In the box around the head: the rest, one pixel of it within the box, is background.
        spans = (np.flatnonzero(used.any(axis=axis)) for axis in (1, 0))
        box = np.s_[:, *(slice(max(0, span[0] - 1), span[-1] + 2) for span in spans)]
        brain[box] = _clean(head[box])
    return brain


def _clean(head: np.ndarray) -> np.ndarray:
    """Return a head mask (Z, rows, columns) without specks, crumbs and holes."""
    # Edge padding: a brain that the field of view cuts keeps its full extent at the border.
    padded = np.pad(head, ((0, 0), (2, 2), (2, 2)), mode="edge")
    eroded = np.logical_and.reduce(_neighbours(padded))
    opened = np.logical_or.reduce(_neighbours(eroded))

    # Temporal lobes and cerebellum can be apart from the rest where the slices begin, so everything of at
    # least a tenth of the largest component stays.
    labels, count = ndimage.label(opened, np.ones((3, 3, 3)))
    if not count:
        return np.zeros_like(head)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    brain = (sizes >= 0.1 * sizes.max())[labels]

    # Background that does not reach the corner of its padded plane is a hole.
    plane = ndimage.generate_binary_structure(3, 1) & np.array([0, 1, 0], bool)[:, None, None]
    outside, _ = ndimage.label(np.pad(~brain, ((0, 0), (1, 1), (1, 1)), constant_values=True), plane)
    return np.isin(outside, outside[:, 0, 0], invert=True)[:, 1:-1, 1:-1]


def _neighbours(planes: np.ndarray) -> list[np.ndarray]:
    """Return all pixels but the border's and their four neighbours in the plane (ndimage takes tenfold)."""
    centre, before, after = slice(1, -1), slice(-2), slice(2, None)
    cross = ((centre, centre), (before, centre), (after, centre), (centre, before), (centre, after))
    return [planes[:, rows, columns] for rows, columns in cross]
