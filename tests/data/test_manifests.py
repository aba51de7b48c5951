"""Which subject belongs to which split."""

import pandas as pd
import pytest
from conftest import REFERENCE

from mudiff.data import prepare
from mudiff.data.manifests import assign
from mudiff.errors import MudiffError


def manifest_file(tmp_path, text):
    path = tmp_path / "m.csv"
    path.write_text(text)
    return path


def test_published_brats_split():
    table = prepare.read_manifest("brats")
    assert table["split"].value_counts().to_dict() == {"train": 214, "val": 61, "test": 30, "excluded": 30}
    excluded = table[table["split"] == "excluded"]
    assert excluded["subject"].str.fullmatch(r"BraTS19_2013_\d+_1").all()
    assert (excluded["reason"] != "").all()
    assert not table[table["split"] != "excluded"]["subject"].str.contains("_2013_").any()


def test_published_isles_split():
    table = prepare.read_manifest("isles")
    assert table["split"].value_counts().to_dict() == {"train": 20, "val": 2, "test": 5, "excluded": 1}
    assert sorted(table["subject"], key=int) == [str(n) for n in range(1, 29)]
    assert table.set_index("subject").loc["28", "split"] == "excluded"


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference lists at {REFERENCE}")
@pytest.mark.parametrize(("dataset", "name"), [("brats", "brats2019"), ("isles", "isles2015")])
def test_published_splits_are_the_released_lists(dataset, name):
    table = prepare.read_manifest(dataset)
    for split in prepare.SPLITS:
        released = (REFERENCE / "splits" / f"{name}_{split}.txt").read_text().split()
        assert set(table[table["split"] == split]["subject"]) == set(released)


@pytest.mark.parametrize("dataset", ["healthy", "open_ms"])
def test_without_a_published_split_the_error_says_how_to_make_one(dataset):
    with pytest.raises(MudiffError, match=f"--manifest.*verify --dataset {dataset} .*--write-manifest"):
        prepare.read_manifest(dataset)


def test_a_manifest_may_have_blanks_and_other_columns(tmp_path):
    path = manifest_file(tmp_path, "\ufeffSplit, Subject,site\ntrain, A ,x\n\n,,\nexcluded,007,y\n")
    table = prepare.read_manifest("brats", path)
    assert table.to_dict("list") == {
        "subject": ["A", "007"],
        "split": ["train", "excluded"],
        "reason": ["", ""],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,split\nA,train\n", "has columns name, split; expected subject, split"),
        ("subject,split\nA,train\n\nB,training\n", "line 4: split 'training' is unknown"),
        ("subject,split\nA,train\n,val\n", "line 3: '' is no subject id"),
        ("subject,split\nA,train\n../B,val\n", r"line 3: '\.\./B' is no subject id"),
        ("subject,split\n/etc/B,val\n", "line 2: '/etc/B' is no subject id"),
        ("subject,split\na\\b,val\n", "line 2: .* is no subject id"),
        ("subject,split\n..,val\n", r"line 2: '\.\.' is no subject id"),
        (
            "subject,split\nBrats18_A_1,train\nB,val\nBraTS19_A_1,test\n",
            "line 4: BraTS19_A_1 is already on line 2",
        ),
        ("subject,split\nA,excluded\n", "lists no subject"),
        ("", "has columns none"),
        ("subject,split\nA,train,x\n", "line 2: has 3 fields; expected 2"),
        ("subject;split\nA;train\n", "has columns subject;split; expected"),
        ('subject,split\n"A,train\n', "cannot be read as CSV"),
    ],
)
def test_bad_manifests_name_file_and_line(tmp_path, text, says):
    path = manifest_file(tmp_path, text)
    with pytest.raises(MudiffError, match=says) as caught:
        prepare.read_manifest("brats", path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_manifest_and_unknown_dataset(tmp_path):
    with pytest.raises(MudiffError, match="manifest not found"):
        prepare.read_manifest("brats", tmp_path / "none.csv")
    with pytest.raises(MudiffError, match="'brain' is unknown"):
        prepare.read_manifest("brain")


def test_subjects_are_matched_across_releases():
    manifest = pd.DataFrame(
        {"subject": ["BraTS19_A_1", "BraTS19_B_1", "BraTS19_C_1"], "split": ["train", "excluded", "test"]}
    )
    splits, missing, unlisted = assign(["Brats18_A_1", "Brats17_B_1", "Brats18_X_1"], manifest)
    assert (splits, missing, unlisted) == ({"Brats18_A_1": "train"}, ["BraTS19_C_1"], ["Brats18_X_1"])
    with pytest.raises(MudiffError, match="Brats17_A_1 and Brats18_A_1 are one subject"):
        assign(["Brats18_A_1", "Brats17_A_1"], manifest)
