"""The HTML report stands alone and shows every artefact."""

import base64
import io

import nbformat
import pytest
from bs4 import BeautifulSoup
from conftest import refused, run_cells
from PIL import Image

from mudiff.data import datasets
from mudiff.workflow import artefacts, report


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Executed notebooks and figures, as a finished workflow leaves them."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    figures = tmp_path / "figures" / "smoke"
    figures.mkdir(parents=True)
    for name in artefacts.files():
        (figures / name).write_bytes(png() if name.endswith(".png") else b"text")
    executed = tmp_path / "results" / "smoke" / "executed"
    executed.mkdir(parents=True)
    v4 = nbformat.v4
    training = "# 02 Training\n\nWith $\\beta_t$ and `$code$`:\n\n$$x_t=\\sqrt{a}$$"
    summary = "# Report\n\n[training](02_training.ipynb), [paper](https://doi.org/10.1)"
    picture = {"image/png": base64.b64encode(png()).decode(), "text/plain": "<Figure>"}
    cells = run_cells("14_report", "tiles = []", "tiles = []", folder=figures, profile="smoke")
    gallery = {"text/html": cells["gallery"].data}
    books = {"02_training_brats_t1ce": (training, picture), "14_report": (summary, gallery)}
    for stem, (text, shown) in books.items():
        code = v4.new_code_cell("x", outputs=[v4.new_output("display_data", data=shown)])
        book = v4.new_notebook(cells=[v4.new_markdown_cell(text), code])
        nbformat.write(book, executed / f"{stem}.ipynb")
    (executed / "02_training_brats_t1.failed.ipynb").write_text("not a notebook")
    return tmp_path


def test_the_report_is_complete_and_needs_no_network(project):
    index = report.build("smoke")
    pages = sorted(path.name for path in index.parent.glob("*.html"))
    assert pages == ["02_training_brats_t1ce.html", "index.html"]
    text = (index.parent / pages[0]).read_text()
    assert text.count("<math") == 2 and "<msqrt>" in text and 'display="block"' in text
    assert "<code>$code$</code>" in text
    assert "<script" not in text and text.count("http") == 0
    assert {path.name for path in (index.parent / "figures").iterdir()} == set(artefacts.files())
    summary = BeautifulSoup((index.parent / pages[1]).read_text(), "html.parser")
    assert all(image["src"].startswith("data:image/png;base64,") for image in summary("img"))
    assert len(summary("img")) == sum(".png" in artefact.suffixes for artefact in artefacts.ARTEFACTS.values())
    links = {link["href"] for link in summary("a")}
    assert {"02_training_brats_t1ce.html", *(f"figures/{name}" for name in artefacts.files())} <= links


def test_a_formula_that_cannot_be_rendered_is_an_error_and_prices_and_shell_variables_are_none():
    refused("alignments", report.render_mathematics, r"$$\begin{aligned}a&=b\\c&=d\end{aligned}$$", str)
    refused("cannot be converted", report.render_mathematics, r"$\left(x$", str)
    text = "It costs $5 or $10, see `$HOME/$USER`.\n```\n$a$\n```"
    assert report.render_mathematics(text, lambda _: "?") == text


def test_a_page_that_needs_something_else_is_refused(project):
    v4, executed = nbformat.v4, project / "results" / "smoke" / "executed"
    for tag in ('<img src="gone.png">', "<script>1</script>", '<link href="https://x.org/a.css">'):
        nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell(tag)]), executed / "13_a.ipynb")
        refused(f"13_a: {tag[:5]}", report.build, "smoke")


def test_artefacts_need_one_of_their_datasets():
    isles, healthy = (artefacts.files(available=[name]) for name in ("isles", "healthy"))
    assert "table1_masked.csv" in isles and "fig3a.png" not in isles
    assert "table1_masked.csv" not in healthy and {"fig1a.png", "supp4a.svg"} <= set(healthy)
    named = {dataset for artefact in artefacts.ARTEFACTS.values() for dataset in artefact.datasets}
    assert named <= {*datasets.DATASETS, "unseen"}


def test_stale_and_missing_figures_and_notebooks_are_errors(project):
    figures = project / "figures" / "smoke"
    (figures / "fig9z.png").write_bytes(png())
    refused(r"no notebook writes fig9z\.png", report.build, "smoke")
    (figures / "fig9z.png").rename(figures / "fig3a.svg").unlink()
    refused(r"fig3a\.svg missing", report.build, "smoke")
    (project / "results" / "smoke" / "executed" / "14_report.ipynb").unlink()
    refused("run the notebooks with make reproduce", report.build, "smoke")
