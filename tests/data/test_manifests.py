"""Which subject belongs to which split."""

import itertools

import pandas as pd
import pytest
from conftest import REFERENCE

from mudiff.data import manifests
from mudiff.errors import MudiffError


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
    with pytest.raises(MudiffError, match=f"--manifest.*verify --dataset {dataset} .*--write-manifest"):
        manifests.read_manifest(dataset)


def test_a_manifest_may_have_blanks_and_other_columns(tmp_path):
    (tmp_path / "m.csv").write_text("\ufeffSplit, Subject,site\ntrain, A ,x\n\n,,\nexcluded,007,y\n")
    table = manifests.read_manifest("brats", tmp_path / "m.csv")
    assert table.to_numpy().tolist() == [["A", "train", ""], ["007", "excluded", ""]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,split\nA,train\n", "has columns name, split; expected subject, split"),
        ("subject,split\nA,train\n\nB,training\n", "split 'training' of B is unknown"),
        ("subject,split\nA,train\n,val\n", "'' is no subject id"),
        ("subject,split\nA,train\n../B,val\n", r"'\.\./B' is no subject id"),
        ("subject,split\n/etc/B,val\n", "'/etc/B' is no subject id"),
        ("subject,split\na\\b,val\n", ".* is no subject id"),
        ("subject,split\n..,val\n", r"'\.\.' is no subject id"),
        ("subject,split\nBrats18_A_1,train\nB,val\nBraTS19_A_1,test\n", "Brats18_A_1 and BraTS19_A_1 are"),
        ("subject,split\nA,excluded\n", "lists no subject"),
        ("", "no readable CSV"),
        (None, "manifest not found"),
        ("subject,split\nA,train\nB,train,x\n", "no readable CSV .*line 3"),
        ("subject;split\nA;train\n", "has columns subject;split; expected"),
        ('subject,split\n"A,train\n', "no readable CSV"),
    ],
)
def test_bad_manifests_name_file_and_line(tmp_path, text, says):
    path = tmp_path / "m.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MudiffError, match=says) as caught:
        manifests.read_manifest("brats", path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_subjects_are_matched_across_releases():
    listed = {"subject": [f"BraTS19_{name}_1" for name in "ABC"], "split": ["train", "excluded", "test"]}
    manifest = pd.DataFrame(listed)
    splits, missing, unlisted = manifests.assign(["Brats18_A_1", "Brats17_B_1", "Brats18_X_1"], manifest)
    assert (splits, missing, unlisted) == ({"Brats18_A_1": "train"}, ["BraTS19_C_1"], ["Brats18_X_1"])
    with pytest.raises(MudiffError, match="Brats17_A_1 and Brats18_A_1 are one subject"):
        manifests.assign(["Brats18_A_1", "Brats17_A_1"], manifest)


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
    assert manifests.read_manifest("brats", tmp_path / "a.csv")[["subject", "split"]].equals(table)
    before = (tmp_path / "a.csv").read_bytes()
    with pytest.raises(MudiffError, match=r"a\.csv: exists already"):  # a draft never overwrites
        draft("a.csv", 2)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes() == before


def test_healthy_proportions_and_sessions_of_one_person_stay_together(tmp_path):
    for number, session in itertools.product(range(85), "ab"):
        file = tmp_path / f"raw/sub-{number:02}/ses-{session}/anat/x_T1w.nii.gz"
        file.parent.mkdir(parents=True)
        file.touch()
    table = manifests.draft_manifest("healthy", tmp_path / "raw", tmp_path / "m.csv")
    assert table["split"].value_counts().to_dict() == {"train": 100, "val": 40, "test": 30}
    person = table["subject"].str.split("_").str[0]
    assert (table.groupby(person)["split"].nunique() == 1).all()
