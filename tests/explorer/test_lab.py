"""Notebook 16 in JupyterLab, in a browser: what researchers do with the explorer, and the files that they keep."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import nibabel
import pytest
from conftest import PATIENCE, REPOSITORY, lively, save_run

from mudiff import paths, storage
from mudiff.explorer import keep

NAME = "16_explore.ipynb"
ERRORS = "[data-mime-type$=stderr]"  # exceptions, too
PIXELS = "canvas => canvas.toDataURL()"


@pytest.fixture
def lab(lively_slices, tmp_path):
    """Start JupyterLab on a copy of the notebook, with a profile of its own; return its address."""
    for seed, name in enumerate(("brats_t1ce_mudiff", "brats_t1ce_second")):
        storage.write_json(save_run(lively(steps=2, seed=seed), paths.run("smoke", name)) / "provenance.json", {})
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


def test_notebook_16_explores_and_keeps_a_view(browser, lab, lively_slices, tmp_path):
    page, noise = browser.new_page(), []
    page.set_viewport_size({"width": 1500, "height": 1400})
    busy = "Failed to load resource"  # JupyterLab's own, now and then, on a busy machine
    page.on(
        "console",
        lambda m: noise.append(f"{m.text} {m.location}") if m.type == "error" and busy not in m.text else None,
    )
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.goto(f"{lab}lab/tree/{NAME}")
    page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    picture = page.locator(".jupyter-widgets canvas").first
    picture.wait_for()
    numbers = page.locator(".jupyter-widgets table")
    numbers.get_by_text("brain", exact=True).wait_for()
    control = lambda label: page.locator(".widget-inline-hbox").filter(has=page.get_by_text(label, exact=True))  # noqa: E731
    tab = lambda name: page.locator(".lm-TabBar-tab").get_by_text(name, exact=True).click()  # noqa: E731
    second = lively_slices.subjects[1]

    def shows(words: str, change) -> None:
        """Make a change and wait until the caption, which comes after the picture, says so."""
        change()
        page.locator(".widget-html-content").get_by_text(words).wait_for()

    before = picture.evaluate(PIXELS)
    shows(f"of subject {second}", lambda: control("subject").locator("select").select_option(second))
    shows("by brats_t1ce_second", lambda: control("run").locator("select").select_option("brats_t1ce_second"))
    tab("view")
    shows("gates, t = 0", lambda: control("layer").locator("select").select_option("gates"))
    shows("gates, t = 1", lambda: control("step t").locator(".noUi-handle").press("ArrowRight"))
    tab("change")
    shows("FLAIR off (background)", lambda: page.locator(".widget-checkbox input:visible").first.click())
    tab("region")
    page.get_by_text("by mouse").wait_for()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 70, box["y"] + 80, steps=4)
    page.mouse.up()
    numbers.get_by_text("drawn", exact=True).wait_for()
    assert picture.evaluate(PIXELS) != before
    tab("keep")
    page.get_by_role("button", name="save", exact=True).click()
    page.get_by_text("Saved in").wait_for()
    page.screenshot(path=tmp_path / "explorer.png")
    assert noise == [] and page.locator(ERRORS).all_text_contents() == []

    (folder,) = (tmp_path / "results/smoke/explorer").iterdir()
    run, subject, view = keep.load(folder / "view.json")
    assert run.name == "brats_t1ce_second" and subject == second and view.off == ("flair",)
    assert (view.layer, view.t, view.region) == ("gates", 1, "drawn") and len(view.polygon) == 4
    kept = {path.name for path in Path(folder).iterdir()}
    assert {"view.png", "view.svg", "view.csv", "synthesis.nii.gz", "z_a-FLAIR-T2.nii.gz"} <= kept
    assert nibabel.load(folder / "region.nii.gz").get_fdata().any()
