"""Notebook 08 in JupyterLab, in a browser: every cell runs, and the explorer's controls change its picture."""

import os
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import PATIENCE, REPOSITORY, lively, save_run

from mudiff import storage

NAME = "08_attention.ipynb"
ERRORS = "[data-mime-type$=stderr]"  # exceptions, too
# A cell has failed, or all have run.
DONE = """errors => {
  const prompts = Array.from(document.querySelectorAll(".jp-CodeCell .jp-InputPrompt"), p => p.textContent);
  return document.querySelector(errors) || (/\\d/.test(prompts[0]) && !prompts.some(p => p.includes("*")));
}"""
PIXELS = """image => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}"""
CHANGED = f"([image, before]) => image.complete && image.naturalWidth && ({PIXELS})(image) !== before"


@pytest.fixture
def lab(lively_slices, tmp_path):
    """Start JupyterLab on a copy of the notebook, with a profile of its own; return its address."""
    save_run(lively(steps=2))
    book = nbformat.read(REPOSITORY / "notebooks" / NAME, as_version=4)
    book.cells[1].source = book.cells[1].source.replace('"demo"', '"smoke"')
    (tmp_path / "notebooks").mkdir()
    nbformat.write(book, tmp_path / "notebooks" / NAME)
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython"), "OMP_NUM_THREADS": "1"}
    own |= {"JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_PATH": ""}  # this interpreter's kernel
    options = ["--no-browser", "--allow-root", "--port=0", "--IdentityProvider.token=", "--LabApp.news_url=None"]
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={tmp_path / 'notebooks'}", *options]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    try:
        written = tmp_path / "RUNTIME" / f"jpserver-{server.pid}.json"
        while not (written.is_file() and written.read_text().endswith("}")):
            assert server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield storage.read_json(written)["url"]
    finally:
        server.terminate()  # it ends its kernels first
        server.wait(PATIENCE)


def test_notebook_08_runs_in_jupyterlab_and_the_explorer_answers(browser, lab, tmp_path):
    page, noise = browser.new_page(), []
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.on("console", lambda message: noise.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.goto(f"{lab}lab/tree/{NAME}")
    page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(DONE, arg=ERRORS)
    assert page.locator(ERRORS).all_text_contents() == []
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
    assert prompts == [f"[{i}]:" for i in range(1, len(prompts) + 1)]

    panel = page.locator(".jupyter-widgets.widget-hbox").filter(has=page.locator("img"))
    picture, numbers = panel.locator("img"), panel.locator("table")
    control = lambda label: panel.locator(".widget-inline-hbox").filter(has=page.get_by_text(label, exact=True))  # noqa: E731
    for change in (
        lambda: control("slice").locator(".noUi-handle").press("ArrowRight"),
        lambda: control("off").locator("select").select_option("T1"),
        lambda: control("region").locator("select").select_option("elsewhere"),
    ):
        before = [picture.element_handle(), picture.evaluate(PIXELS)]
        change()
        page.wait_for_function(CHANGED, arg=before)
    numbers.get_by_text("elsewhere").wait_for()
    assert noise == []
