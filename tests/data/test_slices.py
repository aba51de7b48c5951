"""Normalisation, and the way to slices and back."""

import itertools

import nibabel
import numpy as np
import pytest
from conftest import LPS, head, refused, reoriented

from mudiff.data.slices import from_slices, middle, normalise, to_slices

ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*axes)
]  # fmt: skip


def released_normalisation(data: np.ndarray) -> np.ndarray:
    """Return what the register describes (B-4): clip to the 1-99 percentile of voxels > 0, min-max."""
    low, high = np.percentile(data[data > 0], [1, 99])
    clipped = np.clip(data, low, high)
    return (clipped - clipped.min()) / (clipped.max() - clipped.min())


@pytest.mark.parametrize("scale", [1e-3, 1, 1e7 / 1000])
def test_percentile_normalisation_is_the_released_one_at_any_range(rng, scale):
    data = head(rng).astype(np.float64) * scale
    result = normalise(data, "percentile")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, released_normalisation(data), atol=1e-6)
    assert (result[data == 0] == 0).all() and (result.min(), result.max()) == (0, 1)
    assert 0.005 < (result[data > 0] == 0).mean() < 0.02  # the darkest hundredth joins the background
    np.testing.assert_allclose(normalise(data, "minmax"), data / data.max(), atol=1e-6)


@pytest.mark.parametrize("method", ["percentile", "minmax"])
def test_negative_values_count_as_background(rng, method):
    data = head(rng).astype(np.float32)
    edge = data.copy()
    edge[data == 0] = -rng.random((data == 0).sum()) * 1e6
    np.testing.assert_array_equal(normalise(edge, method), normalise(data, method))
    assert edge.min() < 0  # the input is not touched


def test_normalisation_errors_name_the_source(rng):
    refused(r"scan\.nii: no voxel is above 0", normalise, -head(rng), "minmax", "scan.nii")
    refused(r"scan\.nii: all voxels above 0 are 7", normalise, (head(rng) > 0) * 7, "percentile", "scan.nii")
    refused("'zscore' is unknown", normalise, head(rng), "zscore")


def test_slices_show_anterior_on_top_the_right_side_left_and_rise_to_superior():
    data = np.zeros((6, 6, 6), np.float32)  # stored R, A, S: the last index is right, anterior, superior
    data[5, 2, 2], data[2, 5, 2], data[2, 2, 5] = 1, 2, 3
    slices, _ = to_slices(data, np.eye(4), 6)
    assert slices[2, 3, 0] == 1  # patient's right in the first column
    assert slices[2, 0, 3] == 2  # anterior in the first row
    assert slices[5, 3, 3] == 3  # superior in the last slice


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_storage_order_gives_the_same_slices_and_comes_back(rng, codes):
    canonical, spacing = head(rng, (6, 8, 4)).astype(np.float32), np.diag([2.0, 1.0, 3.0, 1.0])
    stored, affine = reoriented(canonical, LPS @ spacing, codes)
    expected, _ = to_slices(canonical, LPS, 8)
    slices, geometry = to_slices(stored, affine, 8)
    np.testing.assert_array_equal(slices, expected)
    np.testing.assert_array_equal(from_slices(slices, geometry), stored)
    np.testing.assert_array_equal(slices[:, :, 1:7], canonical.transpose(2, 1, 0))  # columns are padded
    np.testing.assert_array_equal(to_slices(stored, affine)[0], slices)  # 8 is the native size


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SLA", "AIR"])
@pytest.mark.parametrize("size", [16, 64])
def test_round_trip_with_resizing_is_close(codes, size):
    axes = np.meshgrid(*(np.linspace(-2, 2, n) for n in (26, 32, 5)), indexing="ij")
    smooth = np.exp(-sum(a**2 for a in axes)).astype(np.float32)
    stored, affine = reoriented(smooth, LPS, codes)
    slices, geometry = to_slices(stored, affine, size)
    back = from_slices(slices, geometry)
    assert back.shape == stored.shape
    assert np.abs(back - stored).max() < (0.06 if size == 16 else 0.02)


def test_an_oblique_volume_takes_the_closest_axes(rng):
    data = head(rng).astype(np.float32)
    turn = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(x=np.deg2rad(20)))
    plain, _ = to_slices(data, LPS, 26)
    oblique, _ = to_slices(data, turn @ LPS, 26)
    np.testing.assert_array_equal(oblique, plain)


def test_masks_keep_their_labels_and_type():
    labels = np.zeros((9, 9, 2), np.uint8)
    labels[2:7, 2:7], labels[4, 4] = 4, 1
    for size in (5, 9, 30):
        slices, geometry = to_slices(labels, LPS, size, order=0)
        assert slices.dtype == np.uint8 and set(np.unique(slices)) == {0, 1, 4}
        assert from_slices(slices, geometry).shape == labels.shape


def test_only_the_middle_slices_are_kept_and_the_rest_comes_back_as_zero(rng):
    data = head(rng).astype(np.float32)
    everything, _ = to_slices(data, LPS, 26)
    slices, geometry = to_slices(data, LPS, 26, wanted=5)
    assert geometry.kept == (3, 8) and middle(155, 80) == middle(154, 80) == slice(37, 117)
    assert (middle(40, 80), middle(5, 2)) == (slice(0, 40), slice(1, 3))
    np.testing.assert_array_equal(slices, everything[3:8])
    back = from_slices(slices, geometry)
    np.testing.assert_array_equal(back[:, :, 3:8], data[:, :, 3:8])
    assert not back[:, :, :3].any() and not back[:, :, 8:].any()
