"""The report in a real browser: pictures load, links lead somewhere, nothing is cut off, on screen and on paper."""

import base64
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from test_report import png, project  # noqa: F401  executed notebooks and figures

from mudiff.workflow import report

PICTURE = base64.b64encode(png()).decode()
A4 = 794 - 2 * 45  # px: 210 mm at 96 pixels an inch, less the margins of 12 mm in the report's style
BROKEN = "Array.from(document.images).filter(i => !(i.complete && i.naturalWidth)).map(i => i.alt || i.src)"
CUT_OFF = """scrolling => Array.from(document.querySelectorAll("main *")).filter(e => {
  const style = getComputedStyle(e), right = e.getBoundingClientRect().right;
  const scrolls = e.closest(".wide, pre, math, .output_area, svg");
  return right > window.innerWidth + 1 && style.display !== "none" && !(scrolling && scrolls);
}).map(e => e.tagName + ": " + e.textContent.trim().slice(0, 40))"""


class Tab:
    """A page of the browser, and what a reader would see in its console or could not load."""

    def __init__(self, page):
        self.page, self.noise = page, []
        page.on("console", lambda message: self.noise.append(message.text))
        page.on("pageerror", lambda error: self.noise.append(str(error)))
        page.on("requestfailed", lambda request: self.noise.append(request.url))
        page.on("request", lambda r: self.noise.append(r.url) if r.url.startswith("http") else None)

    def open(self, file: Path, width: int = 1300) -> None:
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.goto(Path(file).resolve().as_uri())

    def ask(self, expression: str, argument: object = None) -> object:
        return self.page.evaluate(expression, argument)


@pytest.fixture(scope="module")
def tab(browser):
    return Tab(browser.new_page())


@pytest.fixture
def pages(project):  # noqa: F811
    """Build a report with a wide table, a widget, a long line and several jobs of one notebook."""
    v4 = nbformat.v4
    header = "".join(f"<th>column {i}</th>" for i in range(16))
    cells = "".join(f"<td>{i}.123 ± 0.{i}</td>" for i in range(15))
    wide = f"<table><thead><tr>{header}</tr></thead><tr>{cells}<td>{'long words ' * 20}</td></tr></table>"
    shown = [
        {"text/html": wide, "text/plain": "a frame"},
        {"text/plain": "interactive(children=(IntSlider(1),))"},
        {"text/plain": "HBox()", "image/png": PICTURE},
        {"text/plain": "A sentence instead."},
        {"text/plain": "<matplotlib.legend.Legend at 0x7f0a19056850>"},
    ]
    outputs = [v4.new_output("display_data", data=data) for data in shown]
    outputs.append(v4.new_output("stream", text="x" * 400))
    code = f"name = '{'y' * 300}'\ncall({', '.join(f'argument_{i}=1' for i in range(30))})"
    text = v4.new_markdown_cell("# 02 Training\n\nOn $x_t$.\n\n## A Fréchet distance")
    book = v4.new_notebook(cells=[text, v4.new_code_cell(code, outputs=outputs)])
    for job in ("isles_t1", "brats_t2"):
        nbformat.write(book, project / "results" / "smoke" / "executed" / f"02_training_{job}.ipynb")
    return sorted(report.build("smoke").parent.glob("*.html"))


@pytest.mark.parametrize("width", [1300, 420])
def test_pictures_load_links_resolve_and_the_console_is_empty(tab, pages, width):
    tab.noise.clear()
    assert len(pages) == 4
    for page in pages:
        tab.open(page, width)
        assert tab.ask(BROKEN) == [] and tab.ask(CUT_OFF, True) == [], page.name
        assert tab.ask("document.documentElement.scrollWidth") <= width
        hrefs = tab.ask("Array.from(document.links).map(a => a.href).filter(h => h.startsWith('file:'))")
        assert len(hrefs) >= len(pages) - 1
        for href in map(urlparse, hrefs):
            file = Path(unquote(href.path))
            assert file.is_file() and (not href.fragment or f'id="{href.fragment}"' in file.read_text())
        assert tab.ask("document.scripts.length") == 0
    assert tab.noise == []


def test_a_broken_picture_would_be_seen(tab, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text('<main><img alt="gone" src="gone.png"><p style="width: 2000px">wide</p></main>')
    tab.open(broken)
    assert tab.ask(BROKEN) == ["gone"] and tab.ask(CUT_OFF, True) == ["P: wide"] and tab.noise
    tab.noise.clear()


def test_the_menu_folds_the_jobs_of_a_notebook(tab, pages):
    for page in pages:
        tab.open(page)
        groups = "Array.from(document.querySelectorAll('nav details'))"
        shown = tab.ask(f"{groups}.map(d => [d.querySelector('summary').textContent, d.open])")
        assert shown == [["02 Training", page.name != "index.html"]]
        assert tab.ask("document.querySelector('nav [aria-current]').href").endswith(page.name)
    labels = tab.ask("Array.from(document.querySelectorAll('nav details a')).map(a => a.textContent)")
    assert labels == ["BraTS T1CE", "BraTS T2", "ISLES T1"]
    tab.open(pages[0], width=420)
    height = "document.querySelector('nav').getBoundingClientRect().height"
    folded = tab.ask(height)
    tab.page.click("nav label")
    assert folded < 80 < tab.ask(height)


def test_widgets_leave_no_text(tab, pages):
    (page,) = [page for page in pages if "isles_t1" in page.name]
    tab.open(page)
    text = tab.ask("document.body.innerText")
    assert not any(dead in text for dead in ("interactive(", "Box(", "Legend at"))
    assert "A sentence instead." in text and "argument_29" in text and "x" * 400 in text
    assert tab.ask("document.images.length") == 1  # the picture that stands for a widget


def test_paper_shows_everything(tab, pages, tmp_path):
    tab.page.emulate_media(media="print")
    for page in pages:
        tab.open(page, A4)
        assert tab.ask(CUT_OFF, False) == [], page.name
        assert tab.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    printed = tab.page.pdf(prefer_css_page_size=True, print_background=True)
    tab.page.emulate_media(media="screen")
    sheets = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert printed.startswith(b"%PDF") and 1 <= sheets <= 4  # thumbnails in a grid, not one a page
