"""Resizing as sparse products is the resizing of scikit-image."""

import numpy as np
import pytest
from skimage.transform import resize

from mudiff.data import resizing


def warped(stack: np.ndarray, size: int, order: int) -> np.ndarray:
    """Return each slice resized by scikit-image's general warp."""
    options = {"order": order, "anti_aliasing": order > 0 and size < stack.shape[1], "preserve_range": True}
    return np.stack([resize(image, (size, size), **options) for image in stack])


@pytest.mark.parametrize("side", [13, 26, 40])
@pytest.mark.parametrize("size", [5, 13, 26, 27, 64])
def test_intensities_are_those_of_scikit_image_up_to_the_border(rng, side, size):
    stack = rng.random((3, side, side))  # no background: the border counts
    squares = resizing.to_square(stack, size, order=1)
    assert squares.dtype == np.float32
    np.testing.assert_allclose(squares, warped(stack, size, 1), atol=1e-7)


@pytest.mark.parametrize("size", [240, 256, 300])
def test_enlarged_slices_are_stored_as_the_same_integers(rng, size):
    stack = rng.random((2, 240, 240), np.float32)
    stored, expected = (
        np.rint(s.astype(np.float32) * 65535)
        for s in (resizing.to_square(stack, size, order=1), warped(stack, size, 1))
    )
    np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("size", [5, 9, 14, 33])
def test_labels_are_those_of_scikit_image(rng, size):
    stack = rng.integers(0, 256, (3, 14, 14), np.uint8)
    squares = resizing.to_square(stack, size, order=0)
    assert squares.dtype == np.uint8
    np.testing.assert_array_equal(squares, warped(stack, size, 0))


def test_slices_are_padded_in_the_middle_and_cut_back(rng):
    stack = rng.random((2, 9, 6), np.float32)
    expected = np.zeros((2, 9, 9), np.float32)
    expected[:, :, 1:7] = stack
    np.testing.assert_array_equal(resizing.to_square(stack, 9, order=1), expected)
    np.testing.assert_array_equal(
        resizing.to_square(stack, 20, order=1), resizing.to_square(expected, 20, order=1)
    )
    np.testing.assert_array_equal(resizing.from_square(expected, (9, 6), order=1), stack)
    larger = resizing.from_square(rng.random((2, 8, 8)), (20, 11), order=1)
    assert larger.shape == (2, 20, 11)


def test_background_around_the_head_changes_nothing(rng):
    stack = np.zeros((4, 30, 30), np.float32)
    stack[1:3, 4:9, 20:30] = rng.random((2, 5, 10)) - 0.5  # up to the border, and below 0
    np.testing.assert_allclose(resizing.to_square(stack, 41, order=1), warped(stack, 41, 1), atol=1e-7)
    assert not resizing.to_square(stack[:1], 41, order=1).any()
    assert not resizing.from_square(np.zeros((2, 8, 8), np.uint8), (5, 4), order=0).any()
