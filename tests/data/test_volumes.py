"""Reading NIfTI, grids, normalisation, and the way to slices and back."""

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import LPS, head, write_nifti
from skimage.transform import resize

from mudiff.data import volumes
from mudiff.errors import MudiffError

ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]


def reoriented(data: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the same anatomy stored in another voxel order, with the affine that says so."""
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes)
    )
    stored = nibabel.orientations.apply_orientation(data, change)
    return stored, affine @ nibabel.orientations.inv_ornt_aff(change, data.shape)


# --- reading


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_load_volume_keeps_values_shape_and_affine(tmp_path, rng, suffix, kind):
    data = (head(rng) % 200).astype(kind)
    affine = LPS @ np.diag([2, 1, 3, 1])
    affine[:3, 3] = 5, -7, 9
    volume = volumes.load_volume(write_nifti(tmp_path / f"a{suffix}", data, affine))
    assert volume.data.dtype == (np.float32 if kind == np.float64 else kind)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "slope", "becomes"),
    [("<u2", 1, "uint16"), (">i2", 1, "int16"), (">f4", 1, "float32"), ("<i4", 1, "float32"),
     ("<i2", 0.5, "float32")],
)  # fmt: skip
def test_integers_stay_as_they_are_where_float32_holds_them_and_nothing_scales_them(
    tmp_path, rng, kind, slope, becomes
):
    header = nibabel.Nifti1Header(endianness=">" if kind[0] == ">" else "<")
    header.set_data_dtype(kind)
    image = nibabel.Nifti1Image(head(rng), LPS, header)
    image.header.set_slope_inter(slope, 0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = volumes.load_volume(tmp_path / "a.nii.gz")
    assert volume.data.dtype == np.dtype(becomes)
    expected = image.get_fdata(dtype=np.float32) * slope
    np.testing.assert_array_equal(volume.data, expected)
    for method in ("percentile", "minmax"):
        np.testing.assert_array_equal(
            volumes.normalise(volume.data, method), volumes.normalise(expected, method)
        )


def test_a_trailing_single_fourth_axis_is_dropped_and_comes_back_on_saving(tmp_path, rng):
    data = head(rng)
    volume = volumes.load_volume(write_nifti(tmp_path / "a.nii.gz", data[..., None]))
    np.testing.assert_array_equal(volume.data, data)
    volumes.save_volume(tmp_path / "b.nii.gz", volume.data / 1000, volume)
    saved = nibabel.load(tmp_path / "b.nii.gz")
    assert saved.shape == (*data.shape, 1)
    assert saved.get_data_dtype() == np.float32
    np.testing.assert_allclose(saved.get_fdata()[..., 0], data / 1000, atol=1e-6)


def test_saved_volume_has_the_geometry_of_its_model(tmp_path, rng):
    affine = np.array([[0, 0, -1.5, 3], [2, 0, 0, 4], [0, -1, 0, 5], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(head(rng), affine)
    image.set_qform(affine, code=2)
    image.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 900
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = volumes.load_volume(tmp_path / "a.nii.gz")
    volumes.save_volume(tmp_path / "b.nii.gz", volume.data, volume)
    saved = nibabel.load(tmp_path / "b.nii.gz")
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "quatern_b", "dim"):
        np.testing.assert_array_equal(saved.header[field], volume.header[field])
    np.testing.assert_array_equal(saved.get_fdata(), volume.data)
    assert saved.header["cal_max"] == 0


def test_saving_refuses_other_formats(tmp_path, rng):
    volume = volumes.load_volume(write_nifti(tmp_path / "a.nii", head(rng)))
    with pytest.raises(MudiffError, match=r"b\.mgz.*\.nii"):
        volumes.save_volume(tmp_path / "b.mgz", volume.data, volume)


def bad_file(tmp_path: Path, rng: np.random.Generator, kind: str) -> Path:
    """Write one unusable file."""
    data = head(rng).astype(np.float32)
    path = tmp_path / ("a.nii" if "uncompressed" in kind else "a.nii.gz")
    if kind == "missing":
        return path
    if kind.startswith("truncated"):
        write_nifti(path, data)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "flipped bits":
        content = bytearray(write_nifti(path, data).read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(bytes(content))
    elif kind == "text":
        path.write_bytes(b"subject,split\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "zipped text":
        path.write_bytes(gzip.compress(b"subject,split\n" * 100))
    elif kind == "other format":
        path = tmp_path / "a.mgz"
        nibabel.save(nibabel.MGHImage(data, LPS), path)
    elif kind == "colours":
        write_nifti(path, np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    elif kind == "no position":
        image = nibabel.Nifti1Image(data, None)
        image.header.set_sform(np.zeros((4, 4)), code=1)
        nibabel.save(image, path)
    else:
        changed = {
            "2-D": data[:, :, 6],
            "4-D": np.stack([data, data], axis=-1),
            "zero": data * 0,
            "constant": data * 0 + 3,
            "negative": -data,
            "NaN": np.where(data == data.max(), np.nan, data),
            "infinite": np.where(data == data.max(), np.inf, data),
        }
        write_nifti(path, changed[kind].astype(np.float32))
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "not found"),
        ("truncated", "to its end"),
        ("truncated uncompressed", "to its end"),
        ("flipped bits", "to its end"),
        ("text", "read as NIfTI"),
        ("empty", "read as NIfTI"),
        ("zipped text", "read as NIfTI"),
        ("other format", "not NIfTI"),
        ("colours", "not numbers"),
        ("no position", "no position"),
        ("2-D", "has 2 axes"),
        ("4-D", r"has 4 axes \(20x26x12x2\)"),
        ("zero", "every voxel is 0"),
        ("constant", "every voxel is 3"),
        ("negative", "no voxel is above 0"),
        ("NaN", r"\d+ voxels are NaN"),
        ("infinite", "2 voxels are NaN or infinite"),
    ],
)
def test_an_unusable_file_gives_one_line_that_names_it(tmp_path, rng, kind, says):
    path = bad_file(tmp_path, rng, kind)
    with pytest.raises(MudiffError, match=says) as caught:
        volumes.load_volume(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masks_keep_labels_round_floats_and_may_be_empty(tmp_path):
    raw = np.zeros((4, 4, 4), np.float32)
    raw.flat[:9] = 1, 2, 4, 0.4, 0.6, 3.9999, 300, -2, 255
    labels = volumes.load_mask(write_nifti(tmp_path / "a.nii.gz", raw)).data
    assert labels.dtype == np.uint8
    assert labels.flat[:9].tolist() == [1, 2, 4, 0, 1, 4, 1, 0, 255]
    assert not volumes.load_mask(write_nifti(tmp_path / "b.nii.gz", raw * 0)).data.any()
    whole = np.zeros(raw.shape, np.int16)
    whole.flat[:6] = 1, 2, 4, 300, -2, 255
    labels = volumes.load_mask(write_nifti(tmp_path / "d.nii.gz", whole)).data
    assert labels.dtype == np.uint8
    assert labels.flat[:6].tolist() == [1, 2, 4, 1, 0, 255]
    whole.flat[3] = 3
    labels = volumes.load_mask(write_nifti(tmp_path / "e.nii.gz", whole)).data
    assert labels.flat[:6].tolist() == [1, 2, 4, 3, 0, 255]
    raw.flat[20] = np.nan
    with pytest.raises(MudiffError, match=r"c\.nii\.gz: the mask has NaN"):
        volumes.load_mask(write_nifti(tmp_path / "c.nii.gz", raw))


# --- grids


def grid(shape=(20, 26, 12), affine=LPS, path="x"):
    return volumes.Volume(np.zeros(shape, np.float32), affine, None, Path(path))


def test_unlike_grids_are_named():
    shifted = LPS.copy()
    shifted[0, 3] = 5
    same = {"t1": grid(), "t2": grid()}
    volumes.check_grid(same, "S")
    with pytest.raises(MudiffError, match=r"S: .*t1, t2: 20x26x12 .*flair: 20x26x10"):
        volumes.check_grid({**same, "flair": grid(shape=(20, 26, 10))}, "S")
    with pytest.raises(MudiffError, match=r"S: .*origin \(0, 0, 0\); flair: .*origin \(5, 0, 0\)"):
        volumes.check_grid({**same, "flair": grid(affine=shifted)}, "S")


def test_rounding_of_an_affine_is_one_grid_but_a_turned_one_is_not():
    rounded, turned = LPS + 1e-5, LPS.copy()
    turned[0, 1] = 0.01  # 0.25 mm at the far corner
    assert volumes.grids({"a": grid(), "b": grid(affine=rounded)}) == [["a", "b"]]
    assert volumes.grids({"a": grid(affine=turned), "b": grid(), "c": grid()}) == [["b", "c"], ["a"]]


# --- normalisation


def released_normalisation(data: np.ndarray) -> np.ndarray:
    """Return what the register describes (B-4): clip to the 1-99 percentile of voxels > 0, min-max."""
    low, high = np.percentile(data[data > 0], [1, 99])
    clipped = np.clip(data, low, high)
    return (clipped - clipped.min()) / (clipped.max() - clipped.min())


@pytest.mark.parametrize("scale", [1e-3, 1, 1e7 / 1000])
def test_percentile_normalisation_is_the_released_one_at_any_range(rng, scale):
    data = head(rng).astype(np.float64) * scale
    result = volumes.normalise(data, "percentile")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, released_normalisation(data), atol=1e-6)
    assert (result[data == 0] == 0).all()
    assert (result.min(), result.max()) == (0, 1)
    assert 0.005 < (result[data > 0] == 0).mean() < 0.02  # the darkest hundredth joins the background


def test_minmax_normalisation_keeps_order_and_dark_tissue(rng):
    data = head(rng)
    result = volumes.normalise(data, "minmax")
    np.testing.assert_allclose(result, data / data.max(), atol=1e-6)
    assert (result[data > 0] > 0).all()


@pytest.mark.parametrize("method", ["percentile", "minmax"])
def test_negative_values_count_as_background(rng, method):
    data = head(rng).astype(np.float32)
    edge = data.copy()
    edge[data == 0] = -rng.random((data == 0).sum()) * 1e6
    np.testing.assert_array_equal(volumes.normalise(edge, method), volumes.normalise(data, method))
    assert edge.min() < 0  # the input is not touched


def test_the_limits_of_a_volume_rescale_a_part_of_it_as_the_whole(rng):
    data = head(rng)
    for method in ("percentile", "minmax"):
        part = volumes.rescale(data[3:9], *volumes.limits(data, method))
        np.testing.assert_array_equal(part, volumes.normalise(data, method)[3:9])


def test_limits_of_truth_values_and_halves_are_those_of_the_numbers(rng):
    data = head(rng) % 200
    for method in ("percentile", "minmax"):
        assert volumes.limits(data.astype(np.float16), method) == volumes.limits(data.astype("f4"), method)
    assert volumes.limits(data > 0, "minmax") == (0, 1)
    with pytest.raises(MudiffError, match="voxels above 0 all have the value 1"):
        volumes.limits(data > 0, "percentile")


def test_normalisation_errors_name_the_source(rng):
    with pytest.raises(MudiffError, match=r"scan\.nii: no voxel is above 0"):
        volumes.normalise(-head(rng), "minmax", "scan.nii")
    with pytest.raises(MudiffError, match=r"scan\.nii: .* value 7"):
        volumes.normalise((head(rng) > 0) * 7, "percentile", "scan.nii")
    with pytest.raises(MudiffError, match="'zscore' is unknown"):
        volumes.normalise(head(rng), "zscore")


# --- slices


@pytest.mark.parametrize(
    ("total", "wanted", "start", "stop"),
    [(155, 80, 37, 117), (154, 80, 37, 117), (80, 80, 0, 80), (40, 80, 0, 40), (5, 2, 1, 3)],
)
def test_middle(total, wanted, start, stop):
    assert volumes.middle(total, wanted) == slice(start, stop)


def test_slices_show_anterior_on_top_the_right_side_left_and_rise_to_superior():
    data = np.zeros((6, 6, 6), np.float32)  # stored R, A, S: the last index is right, anterior, superior
    data[5, 2, 2], data[2, 5, 2], data[2, 2, 5] = 1, 2, 3
    slices, _ = volumes.to_slices(data, np.eye(4), 6)
    assert slices[2, 3, 0] == 1  # patient's right in the first column
    assert slices[2, 0, 3] == 2  # anterior in the first row
    assert slices[5, 3, 3] == 3  # superior in the last slice


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_storage_order_gives_the_same_slices_and_comes_back(rng, codes):
    canonical, spacing = head(rng, (6, 8, 4)).astype(np.float32), np.diag([2.0, 1.0, 3.0, 1.0])
    stored, affine = reoriented(canonical, LPS @ spacing, codes)
    expected, _ = volumes.to_slices(canonical, LPS, 8)
    slices, geometry = volumes.to_slices(stored, affine, 8)
    np.testing.assert_array_equal(slices, expected)
    np.testing.assert_array_equal(volumes.from_slices(slices, geometry), stored)
    np.testing.assert_array_equal(
        slices[:, :, 1:7], canonical.transpose(2, 1, 0)
    )  # rows are full, columns padded


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SLA", "AIR"])
@pytest.mark.parametrize("size", [16, 64])
def test_round_trip_with_resizing_is_close(codes, size):
    axes = np.meshgrid(*(np.linspace(-2, 2, n) for n in (26, 32, 5)), indexing="ij")
    smooth = np.exp(-sum(a**2 for a in axes)).astype(np.float32)
    stored, affine = reoriented(smooth, LPS, codes)
    slices, geometry = volumes.to_slices(stored, affine, size)
    back = volumes.from_slices(slices, geometry)
    assert back.shape == stored.shape
    assert np.abs(back - stored).max() < (0.06 if size == 16 else 0.02)


def test_an_oblique_volume_takes_the_closest_axes(rng):
    data = head(rng).astype(np.float32)
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    plain, _ = volumes.to_slices(data, LPS, 26)
    oblique, _ = volumes.to_slices(data, turn @ LPS, 26)
    np.testing.assert_array_equal(oblique, plain)


def test_padding_is_centred_and_nothing_is_stretched():
    data = np.ones((10, 20, 2), np.float32)
    slices, _ = volumes.to_slices(data, LPS, 40)
    inside = slices[0] > 0.5
    assert inside.any(axis=0).sum() == 20
    assert inside.any(axis=1).sum() == 40
    assert np.flatnonzero(inside.any(axis=0))[[0, -1]].tolist() == [10, 29]


@pytest.mark.parametrize("size", [13, 40])
def test_resizing_is_that_of_scikit_image(rng, size):
    data = volumes.normalise(head(rng, (26, 26, 3)), "percentile")
    slices, _ = volumes.to_slices(data, LPS, size)
    expected = [resize(image, (size, size), anti_aliasing=size < 26) for image in data.transpose(2, 1, 0)]
    np.testing.assert_allclose(slices, expected, atol=1e-6)


def test_masks_keep_their_labels_and_type():
    labels = np.zeros((9, 9, 2), np.uint8)
    labels[2:7, 2:7], labels[4, 4] = 4, 1
    for size in (5, 9, 30):
        slices, geometry = volumes.to_slices(labels, LPS, size, order=0)
        assert slices.dtype == np.uint8
        assert set(np.unique(slices)) == {0, 1, 4}
        assert volumes.from_slices(slices, geometry, order=0).shape == labels.shape


def test_only_the_middle_slices_are_kept_and_the_rest_comes_back_as_zero(rng):
    data = head(rng).astype(np.float32)
    everything, _ = volumes.to_slices(data, LPS, 26)
    slices, geometry = volumes.to_slices(data, LPS, 26, wanted=5)
    assert geometry.kept == (3, 8)
    np.testing.assert_array_equal(slices, everything[3:8])
    back = volumes.from_slices(slices, geometry)
    np.testing.assert_array_equal(back[:, :, 3:8], data[:, :, 3:8])
    assert not back[:, :, :3].any()
    assert not back[:, :, 8:].any()
    with pytest.raises(MudiffError, match="4 slices"):
        volumes.from_slices(slices[:4], geometry)
