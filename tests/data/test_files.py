"""Which file is which contrast of which subject."""

import pytest
from conftest import refused

from mudiff.data import files

LAYOUTS = {  # case -> dataset, files, expected subject -> contrasts
    "brats nested": (
        "brats",
        [f"HGG/Brats18_A_1/Brats18_A_1_{c}.nii.gz" for c in ("t1", "t1ce", "t2", "flair", "seg")]
        + [f"LGG/Brats18_B_1/Brats18_B_1_{c}.nii" for c in ("T1", "T1CE", "T2", "FLAIR")],
        {"Brats18_A_1": "flair mask t1 t1ce t2", "Brats18_B_1": "flair t1 t1ce t2"},
    ),
    "brats newer names": (
        "brats",
        [f"BraTS-GLI-00001-000/BraTS-GLI-00001-000-{c}.nii.gz" for c in ("t1n", "t1c", "t2w", "t2f", "seg")],
        {"BraTS-GLI-00001-000": "flair mask t1 t1ce t2"},
    ),
    "brats without folders": ("brats", ["A_t1.nii", "A_t2.nii", "B_t1.nii"], {"A": "t1 t2", "B": "t1"}),
    "brats without folders, masks apart, in any form": (
        "brats",
        ["images/\u00e9_t1.hdr", "images/\u00e9_t1.img", "images/e\u0301_t2.NII.GZ", "masks/e\u0301_seg.nii"],
        {"\u00e9": "mask t1 t2"},
    ),
    "brats numbered, and a mask of another name": (
        "brats",
        [f"BraTS2021_00495/BraTS2021_00495_{c}.nii/0000005{n}_brain_{c}.nii" for n, c in enumerate(("t1", "t1ce"))]
        + ["BraTS2021_00495/00000057_final_seg.nii", "BraTS2021_00495/00000058_brain_flair.nii"]
        + [f"BraTS20_Training_355/{name}.nii" for name in ("BraTS20_Training_355_t1", "W39_1998.09.19_Segm")],
        {"BraTS2021_00495": "flair mask t1 t1ce", "BraTS20_Training_355": "mask t1"},
    ),
    "isles": (
        "isles",
        [f"{n}/VSD.Brain.XX.O.MR_{c}.7{n}/x.nii" for n in (1, 10) for c in ("T1", "T2", "Flair", "DWI")]
        + ["10/VSD.Brain_3more.XX.XX.OT.9/x.nii", "10/VSD.Brain.XX.O.MR_T1c.5/x.nii"],
        {"1": "dwi flair t1 t2", "10": "dwi flair mask t1 t2"},
    ),
    "healthy": (
        "healthy",
        [f"sub-01/anat/sub-01_{c}.nii.gz" for c in ("T1w", "T2w", "FLAIR")]
        + [f"sub-02/ses-a/anat/sub-02_ses-a_acq-x_{c}.nii.gz" for c in ("T1w", "FLAIR")]
        + ["sub-01/func/sub-01_bold.nii.gz", "derivatives/p/sub-01/anat/sub-01_T1w.nii.gz"],
        {"sub-01": "flair t1 t2", "sub-02_ses-a": "flair t1"},
    ),
    "healthy, derived": (
        "healthy",
        ["sub-1/anat/sub-1_space-x_desc-y_T1w.nii", "sub-1/anat/sub-1_space-x_desc-y_T2w.nii.gz"]
        + [f"sub-2/anat/sub-2_{name}.nii" for name in ("T2w", "desc-y_T2w", "desc-y_FLAIR")]
        + [f"sub-3/anat/sub-3_{name}.nii" for name in ("ce-gd_T1w", "ce-gd_FLAIR", "part-mag_T2w", "part-phase_T2w")]
        + ["sub-3/anat/sub-3_inv-1_T1w.nii", "sub-3/anat/sub-1_FLAIR.nii"],
        {"sub-1": "t1 t2", "sub-2": "t2", "sub-3": "t1ce t2"},
    ),
    "open_ms": (
        "open_ms",
        [f"patient07/{c}_N4_regtoMNI.nii.gz" for c in ("T1", "T1POST", "T2", "FLAIR", "GOLD_STANDARD")],
        {"patient07": "flair mask t1 t1ce t2"},
    ),
}


def touch(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_layout_is_found_and_so_is_the_folder_of_one_subject(tmp_path, case):
    dataset, names, expected = LAYOUTS[case]
    touch(tmp_path, [*names, "._hidden_t1.nii.gz", ".cache/B_9_t1.nii.gz", "readme_t1.txt"])
    found = files.find_subjects(dataset, tmp_path)
    assert {subject: " ".join(contrasts) for subject, contrasts in found.items()} == expected
    assert all(path.is_file() for contrasts in found.values() for path in contrasts.values())
    if "without" not in case and "derived" not in case:
        subject, contrasts = next(iter(found.items()))
        parents = next(iter(contrasts.values())).parents
        folder = next(parent for parent in parents if parent.name == subject.split("_ses-")[0])
        assert files.find_contrasts(folder) == contrasts


def test_two_files_for_one_contrast_are_an_error_of_that_subject(tmp_path):
    touch(tmp_path, ["A/A_t1.nii", "A/A_t1.nii.gz", "B/B_t1.nii"])
    names = ("2_space-a_T1w", "2_space-b_T2w", "3_part-phase_T1w", "4_T2w")
    touch(tmp_path / "bids", [f"sub-{name[0]}/anat/sub-{name}.nii" for name in names])
    assert list(files.find_subjects("healthy", tmp_path / "bids", problems := {})) == ["sub-4"]
    assert "sub-2: has files of space-a and of space-b; keep" in problems["sub-2"]
    assert "sub-3_part-phase_T1w.nii is no contrast by itself (part-phase)" in problems["sub-3"]
    assert "B" in files.find_subjects("brats", tmp_path, problems := {}) and "A" in problems
    for find, *given in ((files.find_subjects, "brats", tmp_path), (files.find_contrasts, tmp_path / "A")):
        refused(r"A_t1\.nii and .*A_t1\.nii\.gz both claim t1", find, *given)


def test_files_of_two_subjects_or_sessions_are_not_mixed(tmp_path):
    touch(tmp_path / "x", ["A_t1.nii", "A_t2.nii", "B_flair.nii"])
    touch(tmp_path / "y/sub-1", ["ses-a/anat/x_T1w.nii", "ses-b/anat/x_T2w.nii"])
    touch(tmp_path / "z/sub-1", ["anat/sub-1_ses-a_T1w.nii", "anat/sub-1_ses-b_T2w.nii"])
    refused("holds files of A and B; pass the folder of one", files.find_contrasts, tmp_path / "x")
    for folder in ("y/sub-1", "z/sub-1"):
        refused("of sub-1_ses-a and sub-1_ses-b; pass", files.find_contrasts, tmp_path / folder)
    assert list(files.find_contrasts(tmp_path / "y/sub-1/ses-a")) == ["t1"]


def test_files_that_were_left_out_are_named(tmp_path):
    names = {"sub-1_ce-gd_T1w.nii": "t1ce", "sub-1_desc-x_T1w.nii": "desc-x", "sub-1_inv-1_FLAIR.nii": "inv-1"}
    touch(tmp_path / "sub-1/anat", [*names, "sub-1_T2w.nii"])
    touch(tmp_path / "flat", ["A_t1.nii", "A_T2_brain.nii", "A_t2_synthetic.nii", "B_t2.nii"])
    found = files.find_subjects("healthy", tmp_path)["sub-1"]
    said = ", ".join(f"{name} ({why})" for name, why in names.items())
    assert files.left_out(found, "t1", "flair") == f"; left out: {said}"
    found = files.find_subjects("brats", tmp_path / "flat")["A"]
    assert files.left_out(found, "t2") == "; left out: A_T2_brain.nii (its name fits no layout)"
    assert files.left_out(found, "flair") == ""


def test_links_are_followed_wherever_they_lead_but_never_round_in_circles(tmp_path):
    touch(tmp_path, ["store/x.nii", "store/17/anat/sub-01_T1w.nii", "raw/sub-02/anat/sub-02_T1w.nii"])
    for link, target in {
        "sub-01": "store/17", "sub-02/loop": "raw", "sub-02/up": "raw/sub-02", "sub-02/gone": "nowhere",
        "sub-02/anat/sub-02_FLAIR.nii": "store/x.nii", "sub-02/anat/sub-02_T2w.nii": "nowhere",
        "sub-02/itself": "raw/sub-02/itself", "sub-02/anat/sub-02_T1w.nii.gz": "raw/sub-02/anat/sub-02_T1w.nii.gz",
    }.items():  # fmt: skip
        (tmp_path / "raw" / link).symlink_to(tmp_path / target)
    found = files.find_subjects("healthy", tmp_path / "raw")
    names = {subject: list(contrasts) for subject, contrasts in found.items()}
    assert names == {"sub-01": ["t1"], "sub-02": ["flair", "t1", "t2"]}  # reading says what is not there
    assert files.find_contrasts(tmp_path / "raw/sub-01") == found["sub-01"]
    for name, other in (("a", "b"), ("b", "a")):  # two folders that link to each other
        touch(tmp_path, [f"{name}/{name}_t1.nii"])
        (tmp_path / name / "on").symlink_to(tmp_path / other)
    assert list(files.find_subjects("brats", tmp_path / "a")) == ["a", "b"]


def test_missing_and_empty_folders_and_unknown_datasets(tmp_path):
    touch(tmp_path, ["A/A_seg.nii"])
    refused("none: data folder not found", files.find_subjects, "brats", tmp_path / "none")
    refused("no isles files found; expected .*VSD", files.find_subjects, "isles", tmp_path)
    refused("'brain' is unknown", files.find_subjects, "brain", tmp_path)
    refused("subject folder not found", files.find_contrasts, tmp_path / "none")
    refused("no contrast found", files.find_contrasts, tmp_path / "A")


def test_ids_match_across_releases():
    for name in ("Brats17_CBICA_1", "Brats18_2013_0_1", "BraTS19_TMC_1_1", "BraTS20_Training_001", "BraTS2021_00000"):
        assert files.match_id(name) == files.patient(name, sure=True) == name.partition("_")[2]
    assert files.match_id("e\u0301") == "\u00e9"
    same = {name: name for name in ("28", "site1_001", "patient_1", "sub_2")}
    sure = {"BraTS-GLI-00001-001": "BraTS-GLI-00001", "BraTS-MEN-RT-0003-1": "BraTS-MEN-RT-0003"}
    for subject, person in (same | sure | {"sub-02_ses-a": "sub-02"}).items():
        assert files.patient(subject) == files.patient(subject, sure=True) == person
        assert files.match_id(subject) == subject
    likely = {"TCIA02_370_2": "TCIA02_370", "patient07_1": "patient07", "Brats18_2013_0_1": "2013_0"}
    assert {subject: files.patient(subject) for subject in likely} == likely
