"""The notebooks keep the rules that make them readable, runnable and reviewable."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mudiff.workflow import notebook, report

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 20


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def book(path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(book: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def prose(book: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


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


def test_cells_are_short_and_functions_are_shorter(book):
    for source in code(book):
        assert len(source.splitlines()) <= LONGEST_CELL, source
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(source))), source


@pytest.mark.parametrize("number", [f"{n:02d}" for n in range(4, 13)])
def test_notebooks_end_by_recording_the_papers_statements(number):
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    last = code(nbformat.read(path, as_version=4))[-1]
    assert f'claims.record(profile, "{path.stem}"' in last


def test_prose_comes_before_code(book):
    kinds = "".join(cell.cell_type[0] for cell in book.cells)  # m, c
    assert "cccc" not in kinds[3:]
    assert kinds[3] == "m"


def test_formulas_render_without_a_browser(book):
    formulas = []
    report.render_mathematics(prose(book), lambda mathml: formulas.append(mathml) or "")
    assert all(formula.startswith("<math") for formula in formulas)
    assert not [line for line in prose(book).splitlines() if line.startswith("#") and "$" in line]


@pytest.mark.parametrize(
    "stem, equations", [("02_training", {*range(5, 9), *range(20, 30)}), ("03_sampling", range(30, 34))]
)
def test_equations_stand_beside_their_code(stem, equations):
    text = prose(nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4))
    named = set()
    for first, last in re.findall(r"Eqs?\. (\d+)(?:(?: and | to )(\d+))?", text):
        named |= {int(first), int(last or first)}
    assert set(equations) <= named


def test_links_lead_somewhere_and_questions_come_with_folded_answers(book):
    text = prose(book)
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (ROOT / "notebooks" / target).exists(), target
    assert text.count("<details>") == text.count("</details>") == text.count("<summary>")
    assert text.count("?</summary>") == text.count("<summary>")


def test_ruff_has_nothing_to_say():
    for options in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *options, "notebooks"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
