"""Where the brain is, and where the lesion."""

import numpy as np
import pytest

from mudiff.data.masks import brain_mask, lesion_mask


def test_specks_go_holes_are_filled_within_a_slice_and_a_cut_brain_reaches_the_border():
    volume = np.zeros((3, 14, 14))
    volume[:, 2:12, :10] = 1  # cut by the field of view on the left
    volume[:, 0, 13] = volume[1, 0, 5] = 1  # specks
    volume[1, 6:8, 5:7] = 0  # a hole
    volume[2, 6:8, 5:10] = 0  # a bay
    expected = np.zeros((3, 14, 14), bool)
    expected[:, 2:12, :10] = True
    expected[:, [2, 11], 9] = False  # opening by a cross rounds free corners
    expected[2, 6:8, 5:10] = False
    expected[2, [5, 8], 9] = False
    np.testing.assert_array_equal(brain_mask(volume[None]), expected)
    assert not brain_mask(np.zeros((2, 4, 16, 16))).any()


def test_separate_lobes_stay_and_crumbs_are_dropped():
    lobes = np.zeros((1, 1, 64, 64))
    lobes[..., 10:40, 10:20] = 1
    lobes[..., 10:40, 40:50] = 0.5
    lobes[..., 58:61, 58:61] = 1  # survives the opening
    mask = brain_mask(lobes)
    assert mask[0, 25, 15] and mask[0, 25, 45] and not mask[0, 50:].any()


@pytest.mark.parametrize(("size", "reach"), [(256, 3), (128, 2), (32, 1)])
def test_lesions_are_all_labels_and_dilation_scales_with_the_image(size, reach):
    labels = np.zeros((2, size, size), np.uint8)
    labels[0, 10, 10], labels[0, 20, 20] = 4, 1
    assert lesion_mask(labels).sum() == 2
    mask = lesion_mask(labels, dilate=True)
    assert mask.sum() == 2 * (2 * reach + 1) ** 2 and mask[0, 10 - reach, 10 + reach] and not mask[1].any()
