"""Motion artefacts: no motion changes nothing, more motion changes more, and nothing else has a say."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import refused, reoriented
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mudiff.data import motion
from mudiff.data.slices import normalise, to_slices

SHAPE = (40, 48, 32)
AFFINE = np.diag([-2.0, -2.0, 2.0, 1.0])


@pytest.fixture
def brain(rng) -> np.ndarray:
    """A smooth head with structure, float32 (X, Y, Z), L, P, S order, background 0."""
    axes = np.meshgrid(*(np.linspace(-1.4, 1.4, n) for n in SHAPE), indexing="ij")
    inside = sum(a**2 for a in axes) < 1
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)
    return np.where(inside, 500 + 2000 * texture, 0).clip(0).astype(np.float32)


def test_a_strength_is_a_documented_scale():
    assert [motion.scale(s) for s in (0, 1, 1.5, 2, 3)] == [0, 2, 3.5, 5, 10]
    assert motion.name(2) == "moderate" and motion.name(1.5) == "1.5"
    for strength in (-0.1, 3.01, float("nan"), float("inf"), "2"):
        refused(r"strength .* of motion: expected a number from 0 .* to 3", motion.draw, "A", strength)


def test_strengths_of_a_subject_differ_in_size_alone():
    mild, severe = motion.draw("A", 1), motion.draw("A", 3)
    np.testing.assert_array_equal(mild.times, severe.times)
    np.testing.assert_allclose(mild.degrees * 5, severe.degrees)
    np.testing.assert_allclose(mild.translation * 5, severe.translation)
    assert not motion.draw("A", 0).degrees.any() and not motion.draw("A", 0).translation.any()
    for other in (motion.draw("B", 1), motion.draw("A", 1, seed=1)):
        assert not np.isclose(mild.degrees, other.degrees).any() and not np.isclose(mild.times, other.times).any()


def test_parameters_lie_within_the_scale_and_fill_it():
    drawn = [motion.draw(f"subject {n}", 2) for n in range(200)]
    for values in ([m.degrees for m in drawn], [m.translation for m in drawn]):
        assert np.abs(values).max() <= 5 < 1.02 * np.abs(values).max() and abs(np.mean(values)) < 0.3
    times = np.array([m.times for m in drawn])
    assert (np.diff(times) > 0).all() and times.min() > 0 and times.max() < 1
    off = times * 5 - [1, 2, 3, 4]  # of the regular times, in steps
    assert -0.3 <= off.min() < -0.29 and 0.29 < off.max() <= 0.3


def rebuilt(volume, frame):
    """Put the k-space together from the rows of a table, all by scipy; volume (P, S, L) with voxels of 2 mm."""
    middle = (np.array(volume.shape) - 1) / 2
    spectrum = np.zeros(volume.shape, complex)
    for row in frame.itertuples():
        degrees = (row.degrees_y, row.degrees_x, row.degrees_z)
        rotation = Rotation.from_euler("yxz", degrees, degrees=True)  # about fixed axes, y first
        axes = [1, 2, 0]  # of x, y, z (to the left, posterior, superior) for those of the array
        matrix = rotation.as_matrix()[np.ix_(axes, axes)]
        shift = np.array([row.translation_x, row.translation_y, row.translation_z])[axes] / 2  # mm -> voxels
        moved = ndimage.affine_transform(volume, matrix, middle - matrix @ middle + shift, order=3)
        count = volume.shape[-1]
        lines = slice(int(row.begin * count), int(row.end * count))
        spectrum[..., lines] = np.fft.fftshift(np.fft.fftn(moved))[..., lines]
    return np.fft.ifftn(np.fft.ifftshift(spectrum)).real


@pytest.mark.parametrize("times", [None, (0.1, 0.2, 0.3, 0.4), (0.6, 0.7, 0.8, 0.9), (0.2, 0.3, 0.4, 0.8)])
def test_the_table_says_which_pose_has_which_part_of_the_scan(brain, times):
    """Segment by segment from the table, the k-space gives what TorchIO gives."""
    drawn = motion.draw("A", 2)
    movement = drawn if times is None else dataclasses.replace(drawn, times=np.array(times))
    frame = motion.table([movement])
    assert frame.segment.tolist() == [1, 2, 3, 4, 5] and list(motion.table([])) == list(frame)
    still_row = frame[~frame.filter(regex="degrees|translation").any(axis=1)]
    assert len(still_row) == 1 and still_row.begin.item() <= 0.5 <= max(still_row.end.item(), 0.5)
    volume = np.moveaxis(brain, [0, 1, 2], [2, 0, 1]).copy()  # L, P, S -> P, S, L
    affine = np.array([[0, 0, -2.0, 0], [-2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    moved = motion.move(volume, affine, movement)
    expected = np.where(volume > 0, rebuilt(volume, frame), 0)
    assert np.abs(moved - volume).mean() > 3
    np.testing.assert_allclose(moved, expected, atol=0.5)  # of values up to 1000


def test_no_motion_changes_no_bit_more_changes_more_and_the_background_stays_zero(brain):
    same, *moved = (motion.move(brain, AFFINE, motion.draw("A", s)) for s in (0, 0.5, 1, 3))
    np.testing.assert_array_equal(same, brain)
    assert same.dtype == moved[2].dtype == np.float32 and same is not brain
    half, mild, severe = (np.abs(image - brain).mean() for image in moved)
    assert 1 < half < mild < severe
    assert np.isfinite(moved[2]).all() and not moved[2][brain == 0].any()


@pytest.mark.parametrize("order", ["RAS", "PSL", "SRA", "IPR"])
def test_the_storage_order_and_the_origin_do_not_matter(brain, order):
    """TorchIO alone takes the last axis of the file and turns about the origin of its affine."""
    stored, affine = reoriented(brain, AFFINE, order)
    affine[:3, 3] += (37.0, -150.0, 80.0)
    movement = motion.draw("A", 2)
    expected, _ = reoriented(motion.move(brain, AFFINE, movement), AFFINE, order)
    np.testing.assert_allclose(motion.move(stored, affine, movement), expected, atol=1e-2)


def test_millimetres_are_those_of_the_affine(brain):
    movement = dataclasses.replace(motion.draw("A", 1), degrees=np.zeros((motion.MOVEMENTS, 3)))
    wider = dataclasses.replace(movement, translation=movement.translation * (1, 2, 3))
    unlike = np.diag([-2.0, -4.0, 6.0, 1.0])  # each axis has its own side
    np.testing.assert_allclose(motion.move(brain, unlike, wider), motion.move(brain, AFFINE, movement), atol=1e-2)


def test_the_global_generator_that_torchio_uses_is_neither_changed_nor_read(brain):
    before = torch.manual_seed(1).get_state()
    first = motion.move(brain, AFFINE, motion.draw("A", 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.testing.assert_array_equal(motion.move(brain, AFFINE, motion.draw("A", 2)), first)
    refused(r"expected a volume \(X, Y, Z\), not 2 axes", motion.move, brain[0], AFFINE, motion.draw("A", 1))


def test_a_stack_moves_as_its_volume_does(brain):
    unit = normalise(brain, "minmax")
    stack, _ = to_slices(unit, AFFINE, max(SHAPE[:2]))  # no resizing: padding alone
    movement = motion.draw("A", 2)
    wide = np.zeros((48, 48, 32), np.float32)
    wide[4:44] = unit
    expected, _ = to_slices(motion.move(wide, AFFINE, movement), AFFINE, 48)
    moved = motion.move_stack(stack, movement, (2, 2, 2))
    np.testing.assert_allclose(moved, np.clip(expected, 0, 1), atol=1e-4)
    assert moved.dtype == np.float32 and np.abs(moved - stack).mean() > 1e-3
    np.testing.assert_array_equal(motion.move_stack(stack, motion.draw("A", 0), (2, 2, 2)), stack)
