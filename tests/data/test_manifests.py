"""Which subject belongs to which split."""

import itertools
import re

import pandas as pd
import pytest
from conftest import REFERENCE, refused

from mudiff.data import manifests, prepare, verify
from mudiff.data.dataset import Preparation


def test_published_splits():
    table = manifests.read_manifest("brats")
    assert table["split"].value_counts().to_dict() == {"train": 214, "val": 61, "test": 30, "excluded": 30}
    excluded = table["split"] == "excluded"
    assert (table["subject"].str.contains("_2013_") == excluded).all()
    assert (table["reason"][excluded] != "").all()
    table = manifests.read_manifest("isles")
    assert table["split"].value_counts().to_dict() == {"train": 20, "val": 2, "test": 5, "excluded": 1}
    assert sorted(table["subject"], key=int) == [str(n) for n in range(1, 29)]
    assert table.set_index("subject").loc["28", "split"] == "excluded"


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference lists at {REFERENCE}")
@pytest.mark.parametrize(("dataset", "name"), [("brats", "brats2019"), ("isles", "isles2015")])
def test_published_splits_are_the_released_lists(dataset, name):
    table = manifests.read_manifest(dataset)
    for split in manifests.SPLITS:
        released = (REFERENCE / "splits" / f"{name}_{split}.txt").read_text().split()
        assert set(table[table["split"] == split]["subject"]) == set(released)


@pytest.mark.parametrize("dataset", ["healthy", "open_ms"])
def test_without_a_published_split_the_error_says_how_to_make_one(dataset):
    refused(f"--manifest.*verify --dataset {dataset} .*--write-manifest", manifests.read_manifest, dataset)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        "\ufeffSplit, Subject,site\ntrain, A ,x\n\n,,\nexcluded,007,y\n",
        "sep=;\r\nsubject;split;;\r\nA;Training;;\r\n007;EXCLUDED;;\r\n",
        '# of the clinic, "2020"\nage\tparticipant_id\tsplit\n31\tA\tTrain\n#\n8\t007\texcluded\n',
    ],
)
def test_a_manifest_may_have_other_columns_separators_encodings_and_words(tmp_path, text, encoding):
    (tmp_path / "m.csv").write_text(text, encoding)
    table = manifests.read_manifest("brats", tmp_path / "m.csv")
    assert table.to_numpy().tolist() == [["A", "train", ""], ["007", "excluded", ""]]


NO_IDS = ("", "../B", "/etc/B", "a\\b", "..")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,split\nA,train\n", "has columns name, split; expected subject, split"),
        ("subject,split\nA,train\n\nB,dev\n", "split 'dev' of B is unknown"),
        ("subject,split\nA,val\nB,validation\n", "splits val and validation"),
        ("subject,split,split\nA,val,test\n", "has columns subject, split, split; expected .*, each once"),
        *((f"subject,split\nA,train\n{name},val\n", f"{re.escape(repr(name))} is no subject id") for name in NO_IDS),
        ("subject,split\nBrats18_A_1,train\nB,val\nBraTS19_A_1,test\n", "Brats18_A_1 and BraTS19_A_1 are"),
        ("subject,split\nA,train\nA,excluded\n", "A and A are one subject"),
        ("subject,split\nA,excluded\n", "lists no subject"),
        ("", "no readable CSV"),
        (None, "file not found"),
        ("subject,split\nA,train\nB,train,x\n", "no readable CSV .*line 3"),
        ("subject split\nA train\n", "has columns subject split; expected"),
        ("subject,split\nA;train\n", "split '' of A;train is unknown"),
        ('subject,split\n"A,train\n', "no readable CSV"),
    ],
)
def test_bad_manifests_name_file_and_line(tmp_path, text, says):
    path = tmp_path / "m.csv"
    if text is not None:
        path.write_text(text)
    refused(f"^{re.escape(str(path))}.*{says}", manifests.read_manifest, "brats", path)


def test_subjects_are_matched_across_releases():
    listed = {"subject": [f"BraTS19_{name}_1" for name in "ABC"], "split": ["train", "excluded", "test"]}
    manifest = pd.DataFrame(listed)
    splits, missing, unlisted = manifests.assign(["Brats18_A_1", "Brats17_B_1", "Brats18_X_1"], manifest)
    assert (splits, missing, unlisted) == ({"Brats18_A_1": "train"}, ["BraTS19_C_1"], ["Brats18_X_1"])
    refused("Brats17_A_1 and Brats18_A_1 are one subject", manifests.assign, ["Brats18_A_1", "Brats17_A_1"], manifest)
    # What is excluded, or listed by its own name, is no second release of what is used.
    assert manifests.assign(["Brats18_B_1", "Brats17_B_1"], manifest)[0] == {}
    splits, _, unlisted = manifests.assign(["Brats17_A_1", "BraTS19_A_1"], manifest)
    assert (splits, unlisted) == ({"BraTS19_A_1": "train"}, ["Brats17_A_1"])


def test_ids_match_without_zeros_and_sub_and_a_person_with_all_sessions(tmp_path):
    (tmp_path / "m.tsv").write_text("participant_id\tsplit\n2\ttrain\n03\tval\ne\u0301\ttest\nsub-x\ttest\n12\tval\n")
    manifest = manifests.read_manifest("healthy", tmp_path / "m.tsv")
    splits, missing, unlisted = manifests.assign(
        ["002", "sub-03", "\u00e9", "sub-x_ses-a", "sub-x_ses-b", "13", "Training_012"], manifest
    )
    assert splits == {"002": "train", "sub-03": "val", "\u00e9": "test", "sub-x_ses-a": "test", "sub-x_ses-b": "test"}
    assert (missing, unlisted) == (["12"], ["13", "Training_012"])
    assert manifests.nearest("BraTS19_A_12", unlisted) == ""
    assert manifests.nearest("Training_12", unlisted) == " (did you mean Training_012?)"


def test_leaks_of_time_points_stop_prepare_and_doubtful_ones_are_named(cohort, write_subject, tmp_path):
    root, manifest = cohort
    extra = {"BraTS-GLI-00001-000": "train", "BraTS-GLI-00001-001": "test", "X_12_1": "train", "X_12_2": "val"}
    for name in extra:
        write_subject(root, name)
    manifest = pd.concat((manifest, pd.DataFrame(extra.items(), columns=["subject", "split"])), ignore_index=True)
    found = verify.verify("brats", root, manifest, 1, progress=False)
    assert {(name, c) for name, c, problem in found if "one person" in problem} == {(name, "") for name in extra}
    given = Preparation("brats", 16, 4), root, manifest, tmp_path / "p", 1
    refused("00001-000 in train, .*00001-001 in test; put them into one split", prepare.prepare, *given)
    manifest.loc[manifest["subject"] == "BraTS-GLI-00001-001", "split"] = "excluded"
    warnings = prepare.prepare(*given, progress=False)["warnings"]
    assert any("one person by the ids is X_12_1 in train, X_12_2" in warning for warning in warnings)
    for dataset in ("brats", "isles"):
        table = manifests.read_manifest(dataset)
        assert manifests.leaks(dict(zip(table["subject"], table["split"], strict=True))) == {}


SPLITS = [(100, (70, 20, 10)), (1, (1, 0, 0)), (3, (1, 1, 1)), (14, (10, 3, 1))]


@pytest.mark.parametrize(("count", "expected"), SPLITS)
def test_a_drafted_manifest_fills_every_split_and_is_seeded_complete_and_readable(tmp_path, count, expected):
    (tmp_path / "raw").mkdir()
    for number in range(count):
        (tmp_path / f"raw/S{number:03}_t1.nii").touch()
    draft = lambda name, seed: manifests.draft_manifest("brats", tmp_path / "raw", tmp_path / name, seed)  # noqa: E731
    table = draft("a.csv", 1)
    assert tuple((table["split"] == split).sum() for split in manifests.SPLITS) == expected
    assert table.equals(draft("b.csv", 1)) and table.equals(draft("c.csv", 2)) == (count == 1)
    assert manifests.read_manifest("brats", tmp_path / "a.csv").equals(table)
    before = (tmp_path / "a.csv").read_bytes()
    refused(r"a\.csv: exists already", draft, "a.csv", 2)  # a draft never overwrites
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes() == before


def test_healthy_proportions_and_sessions_of_one_person_stay_together(tmp_path):
    for number, session in itertools.product(range(85), "ab"):
        file = tmp_path / f"raw/sub-{number:02}/ses-{session}/anat/x_T1w.nii.gz"
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "raw/sub-00/ses-a/anat/y_T1w.nii").touch()  # two files for one contrast stop no other subject
    table = manifests.draft_manifest("healthy", tmp_path / "raw", tmp_path / "m.csv")
    assert table["split"].value_counts().to_dict() == {"train": 99, "val": 40, "test": 30, "excluded": 1}
    table = table[table["split"] != "excluded"]
    person = table["subject"].str.split("_").str[0]
    assert (table.groupby(person)["split"].nunique() == 1).all()
