"""The report in a real browser: pictures load, links lead somewhere, nothing is cut off, on screen and on paper."""

import base64
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from test_report import png, project  # noqa: F401  executed notebooks and figures

from mudiff.workflow import report

A4 = 794 - 2 * 45  # px: 210 mm at 96 pixels an inch, less the margins of 12 mm in the report's style
BROKEN = "Array.from(document.images).filter(i => !(i.complete && i.naturalWidth)).map(i => i.alt || i.src)"
CUT_OFF = """scrolling => Array.from(document.querySelectorAll("main *")).filter(e => {
  const style = getComputedStyle(e), right = e.getBoundingClientRect().right;
  const scrolls = e.closest(".wide, pre, math, .output_area, svg");
  return right > window.innerWidth + 1 && style.display !== "none" && !(scrolling && scrolls);
}).map(e => e.tagName + ": " + e.textContent.trim().slice(0, 40))"""
NOISE = []  # what a reader would see in the console, or could not load


@pytest.fixture(scope="module")
def tab(browser):
    page = browser.new_page()
    page.on("console", lambda message: NOISE.append(message.text))
    page.on("pageerror", lambda error: NOISE.append(str(error)))
    page.on("requestfailed", lambda request: NOISE.append(request.url))
    page.on("request", lambda r: NOISE.append(r.url) if r.url.startswith("http") else None)
    return page


def show(tab, file: Path, width: int = 1300) -> None:
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(file.resolve().as_uri())


@pytest.fixture
def pages(project):  # noqa: F811
    """Build a report with a wide table, a widget, a long line and several jobs of one notebook."""
    v4 = nbformat.v4
    header, cells = "<th>column</th>" * 16, "<td>0.123 ± 0.456</td>" * 15
    wide = f"<table><thead><tr>{header}</tr></thead><tr>{cells}<td>{'long words ' * 20}</td></tr></table>"
    shown = [
        {"text/html": wide, "text/plain": "a frame"},
        {"text/plain": "interactive(children=(IntSlider(1),))"},
        {"text/plain": "HBox()", "image/png": base64.b64encode(png()).decode()},
        {"text/plain": "A sentence instead." + "x" * 400},
        {"text/plain": "<matplotlib.legend.Legend at 0x7f0a19056850>"},
    ]
    code = f"name = '{'y' * 300}'\ncall({', '.join(f'argument_{i}=1' for i in range(30))})"
    text = v4.new_markdown_cell("# 02 Training\n\nOn $x_t$.\n\n## A Fréchet distance")
    outputs = [v4.new_output("display_data", data=data) for data in shown]
    book = v4.new_notebook(cells=[text, v4.new_code_cell(code, outputs=outputs)])
    for job in ("isles_t1", "brats_t2"):
        nbformat.write(book, project / "results" / "smoke" / "executed" / f"02_training_{job}.ipynb")
    return sorted(report.build("smoke").parent.glob("*.html"))


@pytest.mark.parametrize("width", [1300, 420])
def test_pictures_load_links_resolve_and_the_console_is_empty(tab, pages, width):
    assert len(pages) == 4
    for page in pages:
        show(tab, page, width)
        assert tab.evaluate(BROKEN) == [] and tab.evaluate(CUT_OFF, True) == [], page.name
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        hrefs = tab.evaluate("Array.from(document.links).map(a => a.href).filter(h => h.startsWith('file:'))")
        assert len(hrefs) >= len(pages) - 1
        for href in map(urlparse, hrefs):
            file = Path(unquote(href.path))
            assert file.is_file() and (not href.fragment or f'id="{href.fragment}"' in file.read_text())
    assert NOISE == []


def test_the_menu_folds_the_jobs_of_a_notebook(tab, pages):
    for page in pages:
        show(tab, page)
        groups = "Array.from(document.querySelectorAll('nav details'))"
        shown = tab.evaluate(f"{groups}.map(d => [d.querySelector('summary').textContent, d.open])")
        assert shown == [["02 Training", page.name != "index.html"]]
        assert tab.evaluate("document.querySelector('nav [aria-current]').href").endswith(page.name)
    labels = tab.evaluate("Array.from(document.querySelectorAll('nav details a')).map(a => a.textContent)")
    assert labels == ["BraTS T1CE", "BraTS T2", "ISLES T1"]
    show(tab, pages[0], width=420)
    height = "document.querySelector('nav').getBoundingClientRect().height"
    folded = tab.evaluate(height)
    tab.click("nav label")
    assert folded < 80 < tab.evaluate(height)


def test_widgets_leave_no_text(tab, pages):
    show(tab, next(page for page in pages if "isles_t1" in page.name))
    text = tab.evaluate("document.body.innerText")
    assert not any(dead in text for dead in ("interactive(", "Box(", "Legend at"))
    assert "A sentence instead." in text and "argument_29" in text and "x" * 400 in text
    assert tab.evaluate("document.images.length") == 1  # the picture that stands for a widget


def test_paper_shows_everything(tab, pages):
    tab.emulate_media(media="print")
    for page in pages:
        show(tab, page, A4)
        assert tab.evaluate(CUT_OFF, False) == [], page.name
        assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    printed = tab.pdf(prefer_css_page_size=True, print_background=True)
    tab.emulate_media(media="screen")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 4  # thumbnails in a grid, not one a page
