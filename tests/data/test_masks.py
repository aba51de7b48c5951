"""The brain mask in the box of the head is that of plain morphology on the whole slices."""

import numpy as np
import pytest
from scipy import ndimage

from mudiff.data.masks import brain_mask


def plain(volumes: np.ndarray) -> np.ndarray:
    """Return the mask by scipy's own morphology, without any box."""
    head = np.any(volumes > 0, axis=0)
    padded = np.pad(head, ((0, 0), (2, 2), (2, 2)), mode="edge")
    cross = ndimage.generate_binary_structure(2, 1)[None]
    opened = ndimage.binary_opening(padded, cross)[:, 2:-2, 2:-2] & head
    labels, count = ndimage.label(opened, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    brain = np.isin(labels, 1 + np.flatnonzero(sizes >= 0.1 * sizes.max(initial=1)))
    return np.stack([ndimage.binary_fill_holes(plane) for plane in brain])


@pytest.mark.parametrize("seed", range(20))
def test_it_is_plain_morphology_wherever_the_head_lies(seed):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((2, 5, 40, 36)), (0, 1, 2, 2))
    volumes = np.where(noise > 0.05, noise, 0)  # blobs with holes and specks, some at the border
    top, left = rng.integers(0, 12, 2)
    volumes[:, :, :top], volumes[:, :, :, :left] = 0, 0
    if seed % 2:
        volumes[:, :, 40 - top :], volumes[:, :, :, 36 - left :] = 0, 0
    expected = plain(volumes)
    assert 0.02 < expected.mean() < 0.9
    assert (expected != np.any(volumes > 0, axis=0)).any()
    np.testing.assert_array_equal(brain_mask(volumes), expected)


def test_holes_are_filled_within_a_slice_only():
    volume = np.zeros((3, 12, 12))
    volume[:, 2:10, 2:10] = 1
    volume[1, 5:7, 5:7] = 0  # a hole
    volume[2, 5:7, 2:7] = 0  # a bay
    mask = brain_mask([volume])
    assert mask[1, 5:7, 5:7].all()
    assert not mask[2, 5:7, 2:7].any()


def test_single_pixels_leave_nothing():
    volume = np.zeros((1, 8, 8))
    volume[0, 4, 4] = 1
    assert not brain_mask([volume]).any()
