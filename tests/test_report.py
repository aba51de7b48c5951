"""The HTML report stands alone; claims are decided by the numbers."""

import base64
import io

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mudiff import artefacts, report
from mudiff.errors import MudiffError

TABLE = (
    b"dataset,target,method,protocol,metric,mean\n"
    b"brats,t1ce,mudiff,masked,psnr,21.5\nbrats,t1ce,mudiff,masked,mae,0.05\n"
)


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Executed notebooks and figures, as a finished workflow leaves them."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    figures = tmp_path / "figures" / "smoke"
    figures.mkdir(parents=True)
    for name in artefacts.files():
        (figures / name).write_bytes(png() if name.endswith(".png") else TABLE)
    executed = tmp_path / "results" / "smoke" / "executed"
    executed.mkdir(parents=True)
    v4 = nbformat.v4
    gallery = artefacts.gallery(figures).data
    texts = {
        "02_training_brats_t1ce": [
            v4.new_markdown_cell("# 02 Training\n\nWith $\\beta_t$ and `$code$`:\n\n$$x_t=\\sqrt{a}$$"),
            v4.new_code_cell("1 + 1"),
        ],
        "14_report": [
            v4.new_markdown_cell("# Report\n\n[training](02_training.ipynb), [paper](https://doi.org/10.1)"),
            v4.new_code_cell("x", outputs=[v4.new_output("display_data", data={"text/html": gallery})]),
        ],
    }
    picture = {"image/png": base64.b64encode(png()).decode(), "text/plain": "<Figure>"}
    texts["02_training_brats_t1ce"][1].outputs = [v4.new_output("display_data", data=picture)]
    for stem, cells in texts.items():
        nbformat.write(v4.new_notebook(cells=cells), executed / f"{stem}.ipynb")
    (executed / "02_training_brats_t1.failed.ipynb").write_text("not a notebook")
    return tmp_path


def test_the_report_is_complete_and_needs_no_network(project):
    index = report.build("smoke")
    pages = sorted(path.name for path in index.parent.glob("*.html"))
    assert pages == ["02_training_brats_t1ce.html", "index.html"]
    assert {path.name for path in (index.parent / "figures").iterdir()} == set(artefacts.files())
    parsed = {}
    for page in pages:
        parsed[page] = report._Sources()
        parsed[page].feed((index.parent / page).read_text())
        assert all(source.startswith("data:image/png;base64,") for source in parsed[page].loaded)
    assert len(parsed["index.html"].loaded) == sum(
        a.suffixes == artefacts.FIGURE for a in artefacts.ARTEFACTS.values()
    )
    assert "02_training_brats_t1ce.html" in parsed["index.html"].links
    assert (index.read_text().count("<td>21.5</td>"), index.read_text().count("0.05")) == (2, 0)
    assert {f"figures/{name}" for name in artefacts.files()} <= set(parsed["index.html"].links)


def test_equations_become_mathml_and_code_stays(project):
    text = (report.build("smoke").parent / "02_training_brats_t1ce.html").read_text()
    assert text.count("<math") == 2 and "<msqrt>" in text and 'display="block"' in text
    assert "<code>$code$</code>" in text
    assert "<script" not in text and text.count("http") == 0


@pytest.mark.parametrize(
    "formula, message",
    [(r"$$\begin{aligned}a&=b\\c&=d\end{aligned}$$", "alignments"), (r"$\left(x$", "cannot be converted")],
)
def test_a_formula_that_cannot_be_rendered_is_an_error(formula, message):
    with pytest.raises(MudiffError, match=message):
        report.render_mathematics(formula, str)


def test_prices_and_shell_variables_are_no_formulas():
    text = "It costs $5 or $10, see `$HOME/$USER`.\n```\n$a$\n```"
    assert report.render_mathematics(text, lambda _: "?") == text


@pytest.mark.parametrize(
    "tag", ['<img src="https://x.org/a.png">', '<img src="gone.png">', '<script src="https://x.org/a.js"></script>',
            "<script>1</script>", '<link rel="stylesheet" href="https://x.org/a.css">', '<a href="gone.html">x</a>',
            '<a href="#gone">x</a>']
)  # fmt: skip
def test_a_page_that_needs_something_else_is_refused(tmp_path, tag):
    (tmp_path / "a.html").write_text(f"<html><head></head><body>{tag}</body></html>")
    with pytest.raises(MudiffError, match=r"a\.html"):
        report.check_pages(tmp_path)


def test_stale_and_missing_figures_are_errors(project, capsys):
    figures = project / "figures" / "smoke"
    (figures / "fig9z.png").write_bytes(png())
    assert report.main(["smoke"]) == 2
    assert "no notebook writes fig9z.png" in capsys.readouterr().err
    (figures / "fig9z.png").unlink()
    (figures / "fig3a.svg").unlink()
    assert report.main(["smoke"]) == 2
    assert "fig3a.svg missing" in capsys.readouterr().err


def test_a_report_without_executed_notebooks_names_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    assert report.main(["smoke"]) == 2
    assert "run the notebooks with make reproduce" in capsys.readouterr().err


def scores(gains: dict[str, float], subjects: int = 6, noise: float = 0.1) -> pd.DataFrame:
    """Subject scores in which MU-Diff is better than Linear by `gains` (target -> dB)."""
    rng = np.random.default_rng(0)
    rows = []
    for target, gain in gains.items():
        for subject in range(subjects):
            level = rng.normal(20, 3)
            for method, more in (("mudiff", gain + rng.normal(0, noise)), ("linear", 0.0)):
                quality = {"psnr": level + more, "ssim": 0.7 + more / 50, "mae": 0.1 - more / 500}
                keys = {"dataset": "brats", "target": target, "method": method, "protocol": "masked"}
                rows.append(keys | {"unit": "subject", "subject": str(subject)} | quality)
    return pd.DataFrame(rows)


def test_claims_hold_fail_or_stay_open():
    frame = scores({"t1ce": 2.0, "flair": -2.0, "t2": 0.0})
    verdicts = artefacts.claims(frame, frame.iloc[:0]).set_index("claim")["verdict"].to_dict()
    floor = "MU-Diff beats a linear fit: whole brain, {} on BraTS"
    assert verdicts[floor.format("T1CE")] == "holds"
    assert verdicts[floor.format("FLAIR")] == "does not hold"
    assert verdicts[floor.format("T2")] == "cannot be decided"
    assert [v for claim, v in verdicts.items() if "SynDiff" in claim] == ["cannot be decided"] * 2


def test_two_subjects_decide_nothing():
    frame = artefacts.claims(scores({"t1ce": 5.0}, subjects=2), scores({"t1ce": 5.0}, subjects=2))
    assert set(frame["verdict"]) == {"cannot be decided"}
    assert frame["ours"].str.contains("n = 2 subjects").sum() == 2
