"""The register of differences names all of them once, and what it says of the settings is so."""

import re

import pytest
from conftest import REFERENCE, REPOSITORY

from mudiff.errors import MudiffError
from mudiff.training import profiles
from mudiff.workflow import register
from mudiff.workflow.register import Difference

COUNTS = {"A": 11, "B": 11, "C": 13, "D": 12, "E": 6, "F": 10, "G": 6, "L": 1}
IDS = [f"{letter}-{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
DOCUMENT = (REPOSITORY / "DIFFERENCES.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def entries() -> list[Difference]:
    return register.read()


def test_every_difference_is_there_once_and_in_order(entries):
    assert [one.id for one in entries] == IDS
    part = DOCUMENT.partition(register.BEGIN)[2].partition(register.END)[0]
    assert re.findall(r"^\| \**([A-L]-\d+)\** \|", part, re.M) == IDS
    assert set(re.findall(r"\b[A-L]-\d+\b", DOCUMENT)) == set(IDS)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference register at {REFERENCE}")
def test_the_ids_and_their_weight_are_those_of_the_reference(entries):
    text = (REFERENCE / "discrepancies.md").read_text(encoding="utf-8")
    marks = {"!!!": "results", "!!": "method", "!": "minor"}
    found = {name: marks[mark] for name, mark in re.findall(r"^([A-L]-\d+) (!+) ", text, re.M)}
    assert {one.id: one.severity for one in entries if one.id in found} == found
    assert {one.id for one in entries} - found.keys() <= {"D-12"}  # found later


def test_the_document_is_the_one_made_from_the_data(entries):
    assert register.filled(DOCUMENT, entries) == DOCUMENT, "run python -m mudiff.workflow.register"


def test_comments_of_the_settings_name_differences_of_the_register():
    texts = [(REPOSITORY / "mudiff" / file).read_text() for file in ("settings.py", "training/profiles.py")]
    named = set(re.findall(r"\b([A-L]-\d+)\b", "".join(texts)))
    assert len(named) > 15 and named <= set(IDS)


def test_stated_values_are_those_of_the_settings(entries):
    """Independently of what `read` checks: against the two variants as a run would have them."""
    variants = [profiles.settings("paper", "brats", "t1ce", "mudiff", v) for v in ("released", "text")]
    stated = [(name, pair) for one in entries for name, pair in one.fields.items()]
    assert len(stated) > 30
    for name, pair in stated:
        assert pair == [getattr(settings, name) for settings in variants], name
    assert len({name for name, _ in stated}) == len(stated), "a field belongs to one difference"
    assert profiles.TEXT.keys() <= {name for name, _ in stated}, "what the text changes is in the register"
    for one in entries:
        why = "No setting|A protocol|In neither protocol|`released` counts"
        assert one.fields or re.match(why, one.here), one.id


@pytest.mark.parametrize(
    "fields, complaint",
    [({"beta1": [0.5, 0.2]}, "beta1 is [0.5, 0.1] in variants released and text, not [0.5, 0.2]"),
     ({"epochs": [30.0, 30.0]}, "epochs is [30, 30]"), ({"beta1": [0.5]}, "not [0.5]"),
     ({"mask_detached": [0, 0]}, "mask_detached is [False, False]"),
     ({"replace": [0.5, 0.1]}, "there is no setting 'replace'")],
)  # fmt: skip
def test_a_wrong_statement_is_found(fields, complaint):
    (found,) = register.problems([Difference("A-2", "results", "p", "c", "h", fields)])
    assert found.startswith("A-2: ") and complaint in found


ENTRY = '[[difference]]\nid = "A-2"\nseverity = "results"\npaper = "p"\ncode = "c"\nhere = "h"\n'


@pytest.mark.parametrize(
    "text, complaint",
    [("", "cannot be read"), ("[[difference]]\nid = ", "cannot be read"),
     (ENTRY.replace("A-2", "Z-2"), "Z-2: expected a letter"), (ENTRY * 2, "A-2: expected .* each once"),
     (ENTRY.replace('paper = "p"\n', ""), "missing 1 required positional argument: 'paper'"),
     (ENTRY + 'switch = "x"\n', "unexpected keyword argument 'switch'"),
     (ENTRY.replace("results", "huge"), "severity is 'huge'"),
     (ENTRY + "fields = { beta1 = [0.5, 0.3] }\n", r"not \[0.5, 0.3\]; correct the register")],
)  # fmt: skip
def test_a_damaged_register_is_refused(tmp_path, text, complaint):
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(MudiffError, match=complaint):
        register.read(tmp_path / "d.toml")


def test_a_sound_register_is_read_and_shown(tmp_path):
    (tmp_path / "d.toml").write_text(ENTRY.replace('"c"', '"-"') + "fields = { beta1 = [0.5, 0.1] }\n")
    (one,) = register.read(tmp_path / "d.toml")
    assert one == Difference("A-2", "results", "p", "-", "h", {"beta1": [0.5, 0.1]})
    other = Difference("B-1", "minor", "p", "c", "h", {"mask_detached": [False, True]})
    page = register.markdown([one, other])
    assert "| **A-2** | p | – | `beta1` 0.5 → 0.1 | h |" in page
    assert "### B. Data" in page and "| B-1 | p | c | `mask_detached` off → on | h |" in page


def test_the_place_in_the_document_must_be_marked(entries):
    kept = register.filled(f"above {register.BEGIN} stale {register.END} below", entries)
    assert kept.startswith("above") and kept.endswith("below") and "stale" not in kept
    begin, end = register.BEGIN, register.END
    for text in ("", begin, f"{end}{begin}", f"{begin}{end}" * 2):
        with pytest.raises(MudiffError, match="expected one line"):
            register.filled(text, entries)
