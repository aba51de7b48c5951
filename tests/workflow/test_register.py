"""The register of differences names all of them once, and what it says of the settings is so."""

import dataclasses
import re

import pytest
from conftest import REFERENCE, REPOSITORY

from mudiff.errors import MudiffError
from mudiff.settings import Settings
from mudiff.training import profiles
from mudiff.workflow import register

COUNTS = {"A": 11, "B": 11, "C": 13, "D": 12, "E": 6, "F": 10, "G": 6, "L": 1}
IDS = [f"{letter}-{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
DOCUMENT = (REPOSITORY / "DIFFERENCES.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def entries() -> list[register.Difference]:
    return register.read()


def test_every_difference_is_there_once_and_in_order(entries):
    assert [one.id for one in entries] == IDS


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference register at {REFERENCE}")
def test_the_ids_and_their_weight_are_those_of_the_reference(entries):
    text = (REFERENCE / "discrepancies.md").read_text(encoding="utf-8")
    marks = {"!!!": "results", "!!": "method", "!": "minor"}
    found = {name: marks[mark] for name, mark in re.findall(r"^([A-L]-\d+) (!+) ", text, re.M)}
    assert {one.id: one.severity for one in entries} == found


def test_the_document_has_each_difference_once(entries):
    part = DOCUMENT.partition(register.BEGIN)[2].partition(register.END)[0]
    assert re.findall(r"^\| \**([A-L]-\d+)\** \|", part, re.M) == IDS


def test_the_document_is_the_one_made_from_the_data(entries):
    assert register.filled(DOCUMENT, entries) == DOCUMENT, "run python -m mudiff.workflow.register"


def test_the_document_names_no_other_difference():
    assert set(re.findall(r"\b[A-L]-\d+\b", DOCUMENT)) == set(IDS)


def test_comments_of_the_settings_name_differences_of_the_register():
    named = set()
    for file in ("settings.py", "training/profiles.py"):
        named |= set(re.findall(r"\b([A-L]-\d+)\b", (REPOSITORY / "mudiff" / file).read_text()))
    assert len(named) > 15 and named <= set(IDS)


def test_stated_values_are_those_of_the_settings(entries):
    """Independently of what `read` checks: against the two variants as a run would have them."""
    variants = [profiles.settings("paper", "brats", "t1ce", "mudiff", v) for v in ("released", "text")]
    stated = [(name, pair) for one in entries for name, pair in one.fields.items()]
    assert len(stated) > 30
    for name, pair in stated:
        assert pair == tuple(getattr(settings, name) for settings in variants), name
    assert len({name for name, _ in stated}) == len(stated), "a field belongs to one difference"


def test_every_field_that_the_text_changes_is_in_the_register(entries):
    assert register.undocumented(entries) == []
    without = [one for one in entries if one.id != "C-8"]
    assert register.undocumented(without) == ["order"]


def test_an_entry_without_a_setting_says_why(entries):
    for one in entries:
        if not one.fields:
            assert re.match("No setting|A protocol|In neither protocol|`released` counts", one.here), one.id


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"beta1": (0.5, 0.2)}, "beta1 is 0.1 in variant text, not 0.2"),
        ({"beta1": (0.4, 0.1)}, "beta1 is 0.5 in variant released, not 0.4"),
        ({"epochs": (30.0, 30.0)}, "epochs is 30 in variant released, not 30.0"),
        ({"mask_detached": (0, 0)}, "mask_detached is False in variant released, not 0"),
        ({"beta3": (0.5, 0.1)}, "there is no setting 'beta3'"),
        ({"replace": (0.5, 0.1)}, "there is no setting 'replace'"),
    ],
)
def test_a_wrong_statement_is_found(fields, complaint):
    one = register.Difference("A-2", "results", "p", "c", "h", fields)
    assert f"A-2: {complaint}" in register.disagreements([one])


ENTRY = 'id = "A-2"\nseverity = "results"\npaper = "p"\ncode = "c"\nhere = "h"\n'


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "cannot be read"),
        ("[[difference]]\nid = ", "cannot be read"),
        ("[[difference]]\n" + ENTRY.replace("A-2", "Z-2"), "expected a letter"),
        ("[[difference]]\n" + ENTRY.replace('paper = "p"\n', ""), "check paper"),
        ("[[difference]]\n" + ENTRY + 'switch = "x"\n', "check switch"),
        ("[[difference]]\n" + ENTRY.replace("results", "huge"), "check severity"),
        ("[[difference]]\n" + ENTRY + "fields = { beta1 = 0.5 }\n", "two values"),
        ("[[difference]]\n" + ENTRY + "fields = { beta1 = [0.5, 0.3] }\n", "not 0.3"),
        (("[[difference]]\n" + ENTRY) * 2, "A-2 is there 2 times"),
    ],
)
def test_a_damaged_register_is_refused(tmp_path, text, complaint):
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(MudiffError, match=complaint):
        register.read(tmp_path / "d.toml")


def test_a_sound_register_is_read(tmp_path):
    (tmp_path / "d.toml").write_text("[[difference]]\n" + ENTRY + "fields = { beta1 = [0.5, 0.1] }\n")
    (one,) = register.read(tmp_path / "d.toml")
    assert one == register.Difference("A-2", "results", "p", "c", "h", {"beta1": (0.5, 0.1)})
    assert (one.group, one.setting) == ("training", "`beta1` 0.5 → 0.1")


def test_tables_show_values_and_weight():
    base = register.Difference(
        "B-4", "minor", "-", "c", "h", {"mask_detached": (False, True), "order": ("a", "a")}
    )
    line = register.markdown([base]).splitlines()[2]
    assert line == "| B-4 | – | c | `mask_detached` off → on; `order` `a` | h |"
    strong = register.markdown([dataclasses.replace(base, severity="results", fields={})])
    assert "| **B-4** | – | c | – | h |" in strong


def test_the_place_in_the_document_must_be_marked(entries):
    kept = register.filled(f"above {register.BEGIN} stale {register.END} below", entries)
    assert kept.startswith("above") and kept.endswith("below") and "stale" not in kept
    for text in (
        "",
        register.BEGIN,
        f"{register.END}{register.BEGIN}",
        f"{register.BEGIN}{register.END}" * 2,
    ):
        with pytest.raises(MudiffError, match="expected one line"):
            register.filled(text, entries)


def test_groups_cover_the_chapters(entries):
    assert {one.group for one in entries} == {
        "training",
        "data",
        "architecture",
        "sampling",
        "metrics",
        "packaging",
    }
    assert set(Settings().to_dict()) >= {name for one in entries for name in one.fields}
