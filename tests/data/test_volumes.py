"""Reading and writing NIfTI, and grids."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import LPS, head, refused, write_nifti
from scipy import ndimage

from mudiff.data import volumes
from mudiff.data.slices import normalise


@pytest.mark.parametrize(("kind", "slope"), [("<u2", 1), (">i2", 1), (">f4", 1), ("<i4", 1), ("<i2", 0.5)])
def test_voxels_of_any_type_and_scale_become_float32(tmp_path, rng, kind, slope):
    header = nibabel.Nifti1Header(endianness=">" if kind[0] == ">" else "<")
    header.set_data_dtype(kind)
    image = nibabel.Nifti1Image(head(rng), LPS, header)
    image.header.set_slope_inter(slope, 0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = volumes.load_volume(tmp_path / "a.nii.gz")
    assert volume.data.dtype == np.float32 and volume.data.dtype.isnative
    np.testing.assert_array_equal(volume.data, image.get_fdata(dtype=np.float32) * slope)


COPIES = {  # of a volume with background 0: what published pipelines and resampling make of it
    "z-scored": lambda x, rng: (x - x.mean()) / x.std(),
    "from -1 to 1": lambda x, rng: x / x.max() * 2 - 1,
    "z-scored in the brain": lambda x, rng: np.where(x, (x - x[x > 0].mean()) / x[x > 0].std(), 0),
    "not quite 0": lambda x, rng: np.where(x, x, 1e-28),
    "noise": lambda x, rng: x + rng.normal(0, 1e-3, x.shape),
    "17 outside": lambda x, rng: x + 17,
}


@pytest.mark.parametrize("name", COPIES)
def test_the_background_is_found_wherever_it_lies(tmp_path, rng, name):
    data = head(rng).astype(np.float64)
    copy = COPIES[name](data, rng).astype(np.float32)
    loaded = volumes.load_volume(write_nifti(tmp_path / "a.nii", copy)).data
    np.testing.assert_array_equal(loaded == 0, data == 0)
    np.testing.assert_allclose(normalise(loaded, "percentile"), normalise(data, "percentile"), atol=2e-5)
    assert volumes.without_background(head(rng))[0].dtype == np.int16  # ordinary volumes come back as they are


def test_what_splines_ring_outside_the_brain_stays_background(rng):
    axes = np.meshgrid(*(np.linspace(-1.5, 1.5, n) for n in (40, 44, 40)), indexing="ij")
    brain = (400 + rng.normal(0, 60, axes[0].shape)) * (sum(a**2 for a in axes) < 1)
    rung = ndimage.shift(brain, (0.5, 0.5, 0.5), order=3).astype(np.float32)
    found, rings = volumes.without_background(rung)
    assert rings and not volumes.without_background(brain.astype(np.float32))[1]
    count = lambda x: np.count_nonzero(x > 0) / np.count_nonzero(brain)  # noqa: E731
    assert count(rung) > 1.7 and 0.95 < count(found) < 1.15


def test_a_saved_volume_has_the_geometry_of_its_model_and_its_single_fourth_axis(tmp_path, rng):
    affine, data = np.array([[0, 0, -1.5, 3], [2, 0, 0, 4], [0, -1, 0, 5], [0, 0, 0, 1.0]]), head(rng)
    image = nibabel.Nifti1Image(data[..., None], affine)
    image.set_qform(affine, code=2)
    image.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 900
    image.header["descrip"], image.header["intent_name"] = b"FLAIR of someone", b"z score"
    image.header.set_intent("z score")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"someone"))
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = volumes.load_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, data)
    volumes.save_volume(tmp_path / "b.nii.gz", volume.data / 1000, volume)
    saved = nibabel.load(tmp_path / "b.nii.gz")
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "quatern_b", "dim"):
        np.testing.assert_array_equal(saved.header[field], volume.header[field])
    assert (saved.shape, saved.get_data_dtype()) == ((*data.shape, 1), np.float32)
    np.testing.assert_allclose(saved.get_fdata()[..., 0], data / 1000, atol=1e-6)
    assert saved.header["cal_max"] == 0 and saved.header.get_intent()[0] == "none" and not saved.header.extensions
    assert bytes(saved.header["descrip"]).startswith(b"synthetic, mudiff")
    refused(r"b\.mgz.*\.nii", volumes.save_volume, tmp_path / "b.mgz", volume.data, volume)


COLOURS = [("R", "u1"), ("G", "u1"), ("B", "u1")]
HEADER = bytes(nibabel.Nifti1Header().binaryblock)
LARGE = HEADER[:40] + np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], "<i2").tobytes() + HEADER[56:] + bytes(4)


def holding(content: bytes) -> Callable[[Path, np.ndarray], object]:
    """Return what writes a file of this content."""
    return lambda path, data: path.write_bytes(content)


UNUSABLE = {  # kind -> what is written in place of a volume, what the error says
    "missing": (lambda path, data: None, "not found"),
    "text": (holding(b"subject,split\n"), "no NIfTI"),
    "empty": (holding(b""), "no NIfTI"),
    "zipped text": (holding(gzip.compress(b"subject\n" * 100)), "no NIfTI"),
    "LFS": (holding(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"), "Git LFS"),
    "annex": (holding(b"/annex/objects/SHA256E-s2148--9a.nii.gz\n"), "git-annex"),
    "web page": (holding(b"<!DOCTYPE HTML>\n<HTML lang=en><title>Log in</title>"), "web page"),
    "too large": (holding(gzip.compress(LARGE)), "bytes are announced"),
    "link": (lambda path, data: path.symlink_to("annex/objects/x"), "a file that is not here.*datalad get"),
    "other format mgz": (lambda path, data: nibabel.save(nibabel.MGHImage(data, LPS), path), "no NIfTI header"),
    "colours": (lambda path, data: write_nifti(path, np.zeros((4, 4, 4), COLOURS)), "not numbers"),
    "no position": (lambda path, data: write_nifti(path, data, np.diag([1, 1, 1e-10, 1])), "no position"),
    "sheared": (lambda path, data: write_nifti(path, data, LPS + np.eye(4, k=1) * 1e27), "no position"),
    "2-D": (lambda path, data: write_nifti(path, data[:, :, 6]), "has 2 axes"),
    "4-D": (lambda path, data: write_nifti(path, np.stack([data] * 2, -1)), r"4 axes \(20x26x12x2\)"),
    "zero": (lambda path, data: write_nifti(path, data * 0), "no image, .* from 0 to 0"),
    "constant": (lambda path, data: write_nifti(path, data * 0 + 3), "no image, .* from 3 to 3"),
    "negative": (lambda path, data: write_nifti(path, -data), "no image, .* to 0;"),
    "NaN": (lambda path, data: write_nifti(path, np.where(data, data, np.nan)), r"\d+ voxels are NaN"),
    "infinite": (lambda path, data: write_nifti(path, np.where(data, data, np.inf)), "NaN or infinite"),
}


def test_files_are_read_by_their_content(tmp_path, rng):
    data = head(rng)
    plain, packed = (write_nifti(tmp_path / name, data).read_bytes() for name in ("a.nii", "a.nii.gz"))
    for name, content in (("plain.nii.gz", plain), ("packed.nii", packed), ("LOUD.NII.GZ", packed)):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(volumes.load_volume(tmp_path / name).data, data)
    (tmp_path / "LOUD.NII.GZ").write_bytes(packed[:-5] + bytes(5))  # a wrong checksum
    refused("to its end", volumes.load_volume, tmp_path / "LOUD.NII.GZ")
    nibabel.save(nibabel.Nifti1Pair(data, LPS), tmp_path / "pair.hdr")
    (tmp_path / "pair.img").rename(tmp_path / "pair.IMG")
    pair = volumes.load_volume(tmp_path / "pair.hdr")
    np.testing.assert_array_equal(pair.data, data)
    volumes.save_volume(tmp_path / "one.nii", pair.data, pair)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "one.nii").affine, LPS)


def test_a_quaternion_that_rounding_made_too_long_is_an_orientation(tmp_path, rng):
    image = nibabel.Nifti1Image(head(rng), LPS)
    image.set_qform(LPS, 1)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[256:268] = np.array([0, 0, 1 + 3e-7], "<f4").tobytes()  # b, c, d: w2 = -6e-7
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_allclose(volumes.load_volume(tmp_path / "a.nii").affine, LPS, atol=1e-5)


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_file_gives_one_line_that_names_it(tmp_path, rng, kind):
    write, says = UNUSABLE[kind]
    path = tmp_path / ("a" + {"mgz": ".mgz"}.get(kind.split()[-1], ".nii.gz"))
    write(path, head(rng).astype(np.float32))
    refused(f"(?=.*{re.escape(str(path))}).*{says}", volumes.load_volume, path)


def grid(shape=(20, 26, 12), affine=LPS, path="x"):
    return volumes.Volume(np.zeros(shape, np.float32), affine, None, Path(path))


def test_unlike_grids_are_named():
    shifted = LPS.copy()
    shifted[0, 3] = 5
    for other, says in (
        (grid(shape=(20, 26, 10)), "t1, t2: 20x26x12 .*flair: 20x26x10"),
        (grid(affine=shifted), r"origin \(0, 0, 0\); flair: .*origin \(5, 0, 0\)"),
    ):
        refused(f"S: .*{says}", volumes.check_grid, {"t1": grid(), "t2": grid(), "flair": other}, "S")
    rounded, turned = LPS + 1e-5, LPS.copy()
    turned[0, 1] = 0.01  # 0.25 mm at the far corner
    assert volumes.grids({"a": grid(), "b": grid(affine=rounded)}) == [["a", "b"]]
    assert volumes.grids({"a": grid(affine=turned), "b": grid(), "c": grid()}) == [["b", "c"], ["a"]]
