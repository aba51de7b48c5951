"""The register of differences names all of them once, and what it says of the settings is so."""

import re

import pytest
from conftest import REFERENCE, REPOSITORY

from mudiff.training import profiles
from mudiff.workflow import register
from mudiff.workflow.register import Difference

COUNTS = {"A": 11, "B": 11, "C": 13, "D": 12, "E": 6, "F": 10, "G": 6, "L": 1, "X": 2}
IDS = [f"{letter}-{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
DOCUMENT = (REPOSITORY / "DIFFERENCES.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def entries() -> list[Difference]:
    return register.read()


def test_every_difference_is_there_once_and_in_order(entries):
    assert [one.id for one in entries] == IDS
    assert {one.severity for one in entries} == set(register.SEVERITIES)
    part = DOCUMENT.partition(register.BEGIN)[2].partition(register.END)[0]
    assert re.findall(r"^\| \**([A-LX]-\d+)\** \|", part, re.M) == IDS
    assert set(re.findall(r"\b[A-LX]-\d+\b", DOCUMENT)) == set(IDS)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference register at {REFERENCE}")
def test_the_ids_and_their_weight_are_those_of_the_reference(entries):
    text = (REFERENCE / "discrepancies.md").read_text(encoding="utf-8")
    marks = {"!!!": "results", "!!": "method", "!": "minor"}
    found = {name: marks[mark] for name, mark in re.findall(r"^([A-LX]-\d+) (!+) ", text, re.M)}
    assert {one.id: one.severity for one in entries if one.id in found} == found
    assert {one.id for one in entries} - found.keys() <= {"D-12", "X-1", "X-2"}  # found later, and beyond the paper


def test_the_document_is_the_one_made_from_the_data(entries):
    assert register.filled(DOCUMENT, entries) == DOCUMENT, "run python -m mudiff.workflow.register"


def test_comments_of_the_settings_name_differences_of_the_register():
    texts = [(REPOSITORY / "mudiff" / file).read_text() for file in ("settings.py", "training/profiles.py")]
    named = set(re.findall(r"\b([A-LX]-\d+)\b", "".join(texts)))
    assert len(named) > 15 and named <= set(IDS)


def test_stated_values_are_those_of_the_settings(entries):
    variants = [profiles.settings("paper", "brats", "t1ce", "mudiff", v) for v in ("released", "text")]
    stated = [(name, pair) for one in entries for name, pair in one.fields.items()]
    assert len(stated) > 30
    for name, pair in stated:
        actual = [getattr(settings, name) for settings in variants]
        assert [*map(repr, pair)] == [*map(repr, actual)], name  # 30 is not 30.0, and 0 is not False
    assert len({name for name, _ in stated}) == len(stated), "a field belongs to one difference"
    assert profiles.TEXT.keys() <= {name for name, _ in stated}, "what the text changes is in the register"
    for one in entries:
        why = "No setting|A protocol|In neither protocol|`released` counts"
        assert one.fields or re.match(why, one.here), one.id
