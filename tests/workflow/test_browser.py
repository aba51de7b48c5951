"""The report in a real browser: pictures load, links lead somewhere, nothing is cut off, on screen and on paper.

The pages hold no scripts, so the browser is asked through its debugging pipe. Skipped where no Chromium is
installed.
"""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from test_report import png, project  # noqa: F401  executed notebooks and figures

from mudiff.workflow import report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURE = base64.b64encode(png()).decode()
A4 = 794  # px: 210 mm at 96 pixels an inch
MARGIN = 2 * 45  # px: 12 mm on each side, as in the report's style


class Browser:
    """A headless Chromium, spoken to in its DevTools protocol: JSON between NUL bytes on file descriptors 3 and 4."""

    def __init__(self, profile: Path) -> None:
        (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += [
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--disable-background-networking",
        ]
        wired = ["bash", "-c", f'exec "$@" 3<&{read_in} 4>&{write_out}', "bash", CHROMIUM, *options]
        self.process = subprocess.Popen(wired, pass_fds=(read_in, write_out), stderr=subprocess.DEVNULL)
        os.close(read_in)
        os.close(write_out)
        self.to, self.answers = os.fdopen(write_in, "wb"), os.fdopen(read_out, "rb")
        self.number, self.session, self.rest, self.noise = 0, None, b"", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        """Send a command and return its result; what is said meanwhile is noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.to.write(json.dumps(message).encode() + b"\0")
        self.to.flush()
        while (answer := self.receive()).get("id") != self.number:
            self.note(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def receive(self) -> dict:
        while b"\0" not in self.rest:
            more = os.read(self.answers.fileno(), 1 << 16)
            assert more, "Chromium has gone"
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def note(self, event: dict) -> None:
        """Keep what a reader would see in the console, and what did not load or came from elsewhere."""
        kind, said = event.get("method"), event.get("params", {})
        wanted = (
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Network.loadingFailed",
        )
        outside = kind == "Network.requestWillBeSent" and said["request"]["url"].startswith("http")
        if kind in wanted or outside:
            self.noise.append(event)

    def open(self, page: Path, width: int = 1300) -> None:
        """Load a page into a window of `width` CSS pixels."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=Path(page).resolve().as_uri())
        while (event := self.receive()).get("method") != "Page.loadEventFired":
            self.note(event)

    def ask(self, expression: str) -> object:
        """Return the value of a JavaScript expression on the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def close(self) -> None:
        self.session = None
        self.call("Browser.close")
        self.process.wait(20)
        self.to.close()
        self.answers.close()

    def print_to(self, file: Path) -> None:
        """Print the page on A4."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
        file.write_bytes(base64.b64decode(printed))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


BROKEN = "Array.from(document.images).filter(i => !(i.complete && i.naturalWidth)).map(i => i.alt || i.src)"
CUT_OFF = """Array.from(document.querySelectorAll("main *")).filter(e => {
  const style = getComputedStyle(e), right = e.getBoundingClientRect().right;
  const scrolls = e.closest(".wide, pre, math, .output_area, svg");
  return right > window.innerWidth + 1 && style.display !== "none" && !(%s && scrolls);
}).map(e => e.tagName + ": " + e.textContent.trim().slice(0, 40))"""


def links(browser):
    """Return (file, anchor) of the links of a page that lead to files."""
    hrefs = browser.ask("Array.from(document.links).map(a => a.href).filter(h => h.startsWith('file:'))")
    return [(Path(unquote(urlparse(h).path)), urlparse(h).fragment) for h in hrefs]


@pytest.fixture
def pages(project):  # noqa: F811
    """Build a report with a wide table, a widget, a long line and several jobs of one notebook."""
    executed = project / "results" / "smoke" / "executed"
    v4 = nbformat.v4
    header = "".join(f"<th>column {i}</th>" for i in range(16))
    cells = "".join(f"<td>{i}.123 ± 0.{i}</td>" for i in range(15))
    wide = f"<table><thead><tr>{header}</tr></thead><tr>{cells}<td>{'long words ' * 20}</td></tr></table>"
    outputs = [
        v4.new_output("display_data", data={"text/html": wide, "text/plain": "a frame"}),
        v4.new_output("display_data", data={"text/plain": "interactive(children=(IntSlider(1),))"}),
        v4.new_output(
            "display_data", data={"text/plain": "ToggleButtons(value=1)", WIDGET: {"model_id": "a"}}
        ),
        v4.new_output(
            "display_data", data={"text/plain": "HBox()", "image/png": PICTURE, WIDGET: {"model_id": "b"}}
        ),
        v4.new_output("display_data", data={"text/plain": "A sentence instead.", WIDGET: {"model_id": "c"}}),
        v4.new_output("display_data", data={WIDGET: {"model_id": "d"}}),
        v4.new_output("execute_result", data={"text/plain": "<matplotlib.legend.Legend at 0x7f0a19056850>"}),
        v4.new_output("stream", text="x" * 400),
    ]
    code = f"name = '{'y' * 300}'\ncall({', '.join(f'argument_{i}=1' for i in range(30))})"
    shown = v4.new_code_cell(code, outputs=outputs)
    book = v4.new_notebook(
        cells=[v4.new_markdown_cell("# 02 Training\n\nOn $x_t$.\n\n## A Fréchet distance"), shown]
    )
    for job in ("isles_t1", "brats_t2"):
        nbformat.write(book, executed / f"02_training_{job}.ipynb")
    return sorted(report.build("smoke").parent.glob("*.html"))


@pytest.mark.parametrize("width", [1300, 420])
def test_pictures_load_links_resolve_and_the_console_is_empty(browser, pages, width):
    browser.noise.clear()
    assert len(pages) == 4
    for page in pages:
        browser.open(page, width)
        assert browser.ask("document.images.length") > 0 or "02_training_" in page.name
        assert browser.ask(BROKEN) == []
        assert browser.ask(CUT_OFF % "true") == [], page.name
        assert browser.ask("document.documentElement.scrollWidth") <= width
        found = links(browser)
        assert len(found) >= len(pages) - 1
        for file, anchor in found:
            assert file.is_file() and (not anchor or f'id="{anchor}"' in file.read_text())
        assert browser.ask("document.scripts.length") == 0
    assert browser.noise == []


def test_a_broken_picture_would_be_seen(browser, pages, tmp_path):
    """The test above cannot pass by chance: the browser does report what is wrong."""
    broken = tmp_path / "broken.html"
    broken.write_text('<main><img alt="gone" src="gone.png"><p style="width: 2000px">wide</p></main>')
    browser.noise.clear()
    browser.open(broken)
    assert browser.ask(BROKEN) == ["gone"] and browser.ask(CUT_OFF % "true") == ["P: wide"]
    assert browser.noise
    browser.noise.clear()


def test_the_menu_folds_the_jobs_of_a_notebook(browser, pages):
    for page in pages:
        browser.open(page)
        groups = "Array.from(document.querySelectorAll('nav details'))"
        shown = browser.ask(f"{groups}.map(d => [d.querySelector('summary').textContent, d.open])")
        assert shown == [["02 Training", page.name != "index.html"]]
        assert browser.ask("document.querySelector('nav [aria-current]').href").endswith(page.name)
    labels = browser.ask("Array.from(document.querySelectorAll('nav details a')).map(a => a.textContent)")
    assert labels == ["BraTS T1CE", "BraTS T2", "ISLES T1"]
    browser.open(pages[0], width=420)
    height = "document.querySelector('nav').getBoundingClientRect().height"
    folded = browser.ask(height)
    browser.ask("document.querySelector('nav label').click()")
    assert folded < 80 < browser.ask(height)


def test_widgets_leave_no_text(browser, pages):
    (page,) = [page for page in pages if "isles_t1" in page.name]
    browser.open(page)
    text = browser.ask("document.body.innerText")
    assert not any(dead in text for dead in ("interactive(", "Buttons(", "Box(", "Legend at"))
    assert "A sentence instead." in text and "argument_29" in text and "x" * 400 in text
    assert browser.ask("document.images.length") == 1  # the picture that stands for a widget


def test_paper_shows_everything(browser, pages, tmp_path):
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        for page in pages:
            browser.open(page, width=A4 - MARGIN)
            assert browser.ask(CUT_OFF % "false") == [], page.name
            assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
        grid = browser.ask("getComputedStyle(document.querySelector('.gallery')).gridTemplateColumns")
        tile = browser.ask("getComputedStyle(document.querySelector('.tile')).breakInside")
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
    assert len(grid.split()) == 3 and tile == "avoid"
    browser.open(pages[-1])
    browser.print_to(tmp_path / "index.pdf")
    printed = (tmp_path / "index.pdf").read_bytes()
    sheets = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert printed.startswith(b"%PDF") and 1 <= sheets <= 4  # 29 thumbnails in a grid, not one a page
