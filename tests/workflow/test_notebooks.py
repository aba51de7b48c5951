"""The notebooks keep the rules that make them readable, runnable and reviewable."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import REPOSITORY, lesion, run_cells

from mudiff.training import profiles
from mudiff.workflow import notebook, report

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 20


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def book(path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def sources(book: nbformat.NotebookNode, kind: str) -> list[str]:
    return [cell.source for cell in book.cells if cell.cell_type == kind]


def prose(book: nbformat.NotebookNode) -> str:
    return "\n\n".join(sources(book, "markdown"))


def test_git_holds_no_outputs(book):
    nbformat.validate(book)
    assert book.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert "papermill" not in book.metadata
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}


def test_the_first_cells_are_title_commented_parameters_and_imports(path, book):
    title, parameters, imports = book.cells[:3]
    assert title.cell_type == "markdown" and title.source.startswith("# ")
    assert all(word in title.source for word in ("**Reproduces**", "**Reads**", "**Takes**"))
    assert parameters.metadata.get("tags") == ["parameters"]
    assert notebook.check(path, {"profile": "smoke"}) == {"profile": "smoke"}
    assert all(re.search(r"\S  # \S", line) for line in parameters.source.splitlines())
    assert "from mudiff" in imports.source and "notebook.start(profile" in imports.source


def test_cells_are_short_and_prose_comes_before_code_and_statements_last(path, book):
    for source in sources(book, "code"):
        assert len(source.splitlines()) <= LONGEST_CELL and not re.search(r"^\s*class ", source, re.M), source
    kinds = "".join(cell.cell_type[0] for cell in book.cells)  # m, c
    assert "cccc" not in kinds[3:] and kinds[3] == "m"
    if "04" <= path.stem[:2] <= "12" or path.stem.startswith("15"):
        assert f'claims.record(profile, "{path.stem}"' in sources(book, "code")[-1]


@pytest.mark.parametrize(
    "stem, equations", [("02_training", {*range(5, 9), *range(20, 30)}), ("03_sampling", range(30, 34))]
)
def test_equations_stand_beside_their_code(stem, equations):
    text = prose(nbformat.read(REPOSITORY / "notebooks" / f"{stem}.ipynb", as_version=4))
    named = set()
    for first, last in re.findall(r"Eqs?\. (\d+)(?:(?: and | to )(\d+))?", text):
        named |= {int(first), int(last or first)}
    assert set(equations) <= named


def test_formulas_render_links_lead_somewhere_and_questions_come_with_folded_answers(book):
    text = prose(book)
    report.render_mathematics(text, str)
    assert not re.search(r"^#.*\$", text, re.M)
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (REPOSITORY / "notebooks" / target).exists(), target
    assert text.count("<details>") == text.count("</details>") == text.count("<summary>")
    assert text.count("?</summary>") == text.count("<summary>")


def test_ruff_has_nothing_to_say():
    for options in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *options, "."]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_notebook_01_shows_doubts_by_subject_and_an_excluded_subject_stops_nothing(cohort, tmp_path, write_subject):
    root, manifest = cohort
    write_subject(root, "Brats18_A_1", seg=0 * lesion())
    for name in ("t1.nii", "t1.nii.gz"):  # both claim T1
        (root / "Brats18_0_1").mkdir(exist_ok=True)
        (root / "Brats18_0_1" / f"Brats18_0_1_{name}").write_text("no image")
    manifest.loc[len(manifest)] = ["Brats18_0_1", "excluded", ""]
    manifest.to_csv(tmp_path / "m.csv", index=False)
    given = {"profile": "smoke", "data_root": root, "manifest": tmp_path / "m.csv"}
    given["preparation"] = profiles.preparation("smoke", "brats")
    cells = run_cells("01_data_preparation", "data_root is None", "name = test.subjects[0]", **given)
    doubts = cells["doubts"].set_index("subject")["what is odd"]
    assert "has no lesion" in " ".join(doubts["Brats18_A_1":"Brats18_A_1"]) and "Brats18_0_1" not in doubts
    assert cells["name"] == "Brats18_E_1"
