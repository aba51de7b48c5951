"""Where the brain is, and where the lesion; masks as people bring them."""

import nibabel
import numpy as np
import pytest
from conftest import LPS, SHAPE, lesion, refused, write_nifti

from mudiff.data import dataset, prepare, verify
from mudiff.data.dataset import Preparation
from mudiff.data.masks import brain_mask, convention, lesion_mask, load_mask


def looked_at(cohort, folder, **options):
    """Return what `verify` finds and what `prepare` returns for a cohort."""
    found = verify.verify("brats", *cohort, 1, progress=False, **options)
    return found, prepare.prepare(Preparation("brats", 16, 4), *cohort, folder, 1, progress=False, **options)


def test_specks_go_holes_are_filled_within_a_slice_a_cut_brain_reaches_the_border_and_lobes_stay():
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
    parts = volume * (np.arange(14) < 5), volume * (np.arange(14) >= 5)  # of two contrasts, each cut
    np.testing.assert_array_equal(brain_mask(np.stack(parts)), expected)
    assert not brain_mask(np.zeros((2, 4, 16, 16))).any()
    lobes = np.zeros((1, 1, 64, 64))
    lobes[..., 10:40, 10:20] = 1
    lobes[..., 10:40, 40:50] = 0.5
    lobes[..., 58:61, 58:61] = 1  # a crumb that survives the opening
    mask = brain_mask(lobes)
    assert mask[0, 25, 15] and mask[0, 25, 45] and not mask[0, 50:].any()


@pytest.mark.parametrize(("size", "reach"), [(256, 3), (128, 2), (32, 1)])
def test_lesions_are_all_labels_and_dilation_scales_with_the_image(size, reach):
    labels = np.zeros((2, size, size), np.uint8)
    labels[0, 10, 10], labels[0, 20, 20] = 4, 1
    assert lesion_mask(labels).sum() == 2
    mask = lesion_mask(labels, dilate=True)
    assert mask.sum() == 2 * (2 * reach + 1) ** 2 and mask[0, 10 - reach, 10 + reach] and not mask[1].any()


def test_masks_keep_labels_round_floats_and_may_be_empty(tmp_path):
    raw = np.zeros((4, 4, 4), np.float32)
    raw.flat[:9] = 1, 2, 4, 0.4, 0.6, 3.9999, 300, -2, 255
    mask, (doubt,) = load_mask(write_nifti(tmp_path / "a.nii.gz", raw))
    assert mask.data.dtype == np.uint8 and mask.data.flat[:9].tolist() == [1, 2, 4, 0, 1, 4, 1, 0, 255]
    assert doubt.startswith("4 voxels are no labels from 0 to 255 (for example 0.4); fractions are rounded, ")
    assert not load_mask(write_nifti(tmp_path / "b.nii.gz", raw * 0 + 1e-7))[0].data.any()
    raw.flat[20] = np.nan
    for data, says in ((raw, "the mask has NaN"), (lesion() * 0.075, "largest value is 0.3; threshold it first")):
        refused(rf"c\.nii\.gz: .*{says}", load_mask, write_nifti(tmp_path / "c.nii.gz", data))


def test_labels_off_by_rounding_are_labels_without_a_finding(cohort, tmp_path):
    paths = [cohort[0] / f"Brats18_{name}_1/Brats18_{name}_1_seg.nii.gz" for name in "ABC"]
    for path, data in zip(paths, (lesion() * 0.9999, lesion() + 1e-7, lesion() * 1.0), strict=True):
        image = nibabel.Nifti1Image(data, LPS)
        image.set_data_dtype(np.uint8 if path == paths[2] else np.float32)  # nibabel scales integers: 1 -> 1.004
        nibabel.save(image, path)
    found, info = looked_at(cohort, tmp_path / "p")
    assert (found, info["warnings"], info["labels"]) == ([], [], "2020")
    assert {tuple(record["labels"]) for record in info["subjects"].values()} == {(1, 4)}


CORNER = np.zeros(SHAPE, np.uint8)
CORNER[:3, :3, :3] = 1
REFUSED = [
    (1 - (lesion() > 0), "covers 9"),
    (np.where(lesion() > 0, lesion(), 255), "covers 100% of the brain"),  # -1 in a file of unsigned integers
    (CORNER, "100% of it lies outside"),
]


@pytest.mark.parametrize(("data", "says"), REFUSED)
def test_a_mask_of_most_of_the_brain_or_beside_it_is_refused(cohort, tmp_path, write_subject, data, says):
    write_subject(cohort[0], "Brats18_B_1", seg=data.astype(np.uint8))
    ((subject, name, problem),), info = looked_at(cohort, tmp_path / "p")
    assert (subject, name) == ("Brats18_B_1", "mask") and says in problem and "B_1_seg.nii.gz: the mask " in problem
    assert info["failed"] == {subject: problem}


def test_the_labels_of_all_masks_tell_the_release():
    releases = [("2020", [1, 2, 4], [2]), ("2023", [1, 2, 3], []), ("2024", [3, 4], [4]), ("2020", [1], [2])]
    for release, a, b in releases:
        assert convention("brats", {"a": a, "b": b}) == release and convention("isles", {"a": a, "b": b}) is None
    mixed = {"a": [1, 2, 4], "b": [1, 3]}
    refused("b has label 3, a label 4, no mask has both; .*--labels 2020 ", convention, "brats", mixed)
    assert convention("brats", mixed, "2023") == "2023"
    for name, given in (("isles", "2024"), ("brats", "2019")):
        refused(given, convention, name, mixed, given)


def test_a_resection_cavity_is_no_lesion(cohort, tmp_path, write_subject):
    enhancing = np.where(lesion() == 1, 3, lesion()).astype(np.uint8)
    write_subject(cohort[0], "Brats18_C_1", seg=enhancing)
    _, info = looked_at(cohort, tmp_path / "p")
    _, usual = looked_at(cohort, tmp_path / "p", labels="2020")
    slices, hashes = dataset.open_slices(tmp_path / "p", "train"), {info["data_hash"], usual["data_hash"]}
    assert (info["labels"], usual["labels"], len(hashes)) == ("2024", "2020", 2)
    assert set(np.unique(slices.lesion(slices.subject("Brats18_C_1")))) == {0, 3, 4}
    slices.info = info
    assert set(np.unique(slices.lesion(slices.subject("Brats18_C_1")))) == {0, 3}
    write_subject(cohort[0], "Brats18_C_1", seg=np.where(enhancing == 4, 2, enhancing))
    ((_, _, problem),) = verify.verify("brats", *cohort, 1, progress=False)
    assert "two releases are mixed: Brats18_C_1 has label 3, Brats18_A_1 label 4" in problem


def test_a_missing_mask_is_an_error_unless_allowed(cohort, tmp_path):
    mask = cohort[0] / "Brats18_C_1/Brats18_C_1_seg.nii.gz"
    mask.rename(mask.with_name("other_name.nii.gz"))
    ((subject, name, problem),), info = looked_at(cohort, tmp_path / "p")
    assert (subject, name, info["failed"]) == ("Brats18_C_1", "mask", {subject: problem})
    assert "has no lesion mask; left out: other_name.nii.gz (its name fits no layout); add it" in problem
    assert "--allow-missing-masks" in problem
    found, info = looked_at(cohort, tmp_path / "p", allow_missing_masks=True)
    assert found == [] and info["warnings"] == ["Brats18_C_1: has no lesion mask; counted as free of lesions"]
