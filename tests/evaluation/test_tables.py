"""Tables: their numbers, ranks, captions and files."""

import numpy as np
import pandas as pd
import pytest
from conftest import refused, run_cells, score_rows

from mudiff import paths, storage
from mudiff.data import datasets
from mudiff.evaluation import metrics, tables
from mudiff.training import profiles

TWO = {
    ("brats", "t1ce", "mudiff"): [20.0, 24.0], ("brats", "t1ce", "linear"): [16.0, 17.0],
    ("isles", "t1", "mudiff"): [18.0, 18.5], ("isles", "t1", "linear"): [19.0, 21.0],
    ("brats", "t1ce", "syndiff"): [16.4, 17.4], ("isles", "t1", "syndiff"): [18.6, 18.7],
}  # fmt: skip


def entry(frame, **where):
    (row,) = frame[(frame[list(where)] == list(where.values())).all(axis=1)].iloc
    return row


def test_mean_and_deviation_follow_the_protocol():
    masked = entry(tables.table(score_rows(TWO), "masked"), target="t1ce", method="mudiff", metric="psnr")
    assert (masked["mean"], masked.n, masked.unit) == (22, 2, "subject")
    assert masked.sd == pytest.approx(8**0.5)  # divided by n - 1
    released = tables.table(score_rows(TWO, unit="slice"), "released")
    released = entry(released, target="t1ce", method="mudiff", metric="psnr")
    assert released.sd == pytest.approx(2) and released.unit == "slice"  # divided by n, as released
    assert (released.run, released.weights) == ("brats_t1ce_mudiff", "w")


def test_undefined_scores_are_left_out_and_counted():
    frame = score_rows({("brats", "t1", "mudiff"): [20.0, np.nan, 22.0], ("brats", "t1", "linear"): [np.nan] * 3})
    result = tables.table(frame, "masked")
    kept = entry(result, method="mudiff", metric="psnr")
    assert (kept["mean"], kept.n) == (21, 2)
    assert (tables.wide(result)["BraTS"].loc["Linear"] == "NA").all()
    one = tables.wide(tables.table(score_rows({("brats", "t1", "mudiff"): [20.0]}), "masked"))["BraTS"]
    assert one.loc["MU-Diff"].iloc[0] == "**20.00 ± NA**"  # one subject has no deviation


def test_ranks_know_that_small_mae_is_good_and_leave_the_floor_out():
    result = tables.table(score_rows(TWO), "masked")
    for metric in metrics.METRICS:
        for target, method, rank in (("t1ce", "mudiff", 1), ("t1", "syndiff", 1), ("t1", "mudiff", 2)):
            assert entry(result, target=target, method=method, metric=metric)["rank"] == rank
    assert result[result.method == "linear"]["rank"].isna().all()
    assert list(tables.wide(result)["BraTS"].index) == ["SynDiff", "MU-Diff", "Linear"]


def test_the_papers_values_stand_under_their_own_protocol_alone():
    released = tables.table(score_rows(TWO, unit="slice"), "released")
    assert entry(released, target="t1ce", method="mudiff", metric="psnr").paper == 22.697
    assert tables.wide(released)["BraTS"].loc["MU-Diff (paper)"].iloc[0] == "22.70"
    assert tables.table(score_rows(TWO), "masked").paper.isna().all()
    lesion = tables.table(score_rows(TWO, "lesion", "slice"), "released")
    assert "MU-Diff (paper)" not in tables.wide(lesion)["BraTS"].index


def test_reference_values_cover_the_tasks_with_a_source():
    known = pd.read_csv(paths.manifests() / "reference_values.csv")
    tasks = {run for run in profiles.profile("paper").runs if run[0] != "healthy"}
    assert set(zip(known.dataset, known.target, strict=True)) == tasks
    assert known.source.str.len().gt(20).all()
    assert known.psnr.between(15, 35).all() and known[["ssim", "mae"]].stack().between(0, 1).all()


def test_a_method_that_was_not_trained_is_na():
    values = {("brats", t, m): [20.0 + i, 21] for t in ("t1", "t2") for i, m in enumerate(datasets.METHODS)}
    del values["brats", "t2", "pgan"]
    shown = tables.wide(tables.table(score_rows(values), "masked"))["BraTS"]
    assert len(shown) == 8 and list(shown.loc["pGAN"]).count("NA") == 3
    for name, mark in (("MU-Diff", "**"), ("SynDiff", "<u>")):
        assert shown.loc[name].str.startswith(mark).all()


def test_markdown_and_latex_show_the_same_cells(tmp_path):
    shown = tables.wide(tables.table(score_rows(TWO), "masked"))
    text = r"Over 90 % & more: a_b ± 5² $5 #1, P < 0.05."
    markdown, latex = tables.markdown(shown, text), tables.latex(shown, text)
    assert markdown.startswith(text) and "| MU-Diff | **22.00 ± 2.83** |" in markdown
    assert {line.count("|") for line in markdown.splitlines() if line.startswith("|")} == {5}
    assert r"\textbf{22.00 $\pm$ 2.83}" in latex and r"\underline{16.90 $\pm$ 0.71}" in latex
    assert r"\caption{Over 90 \% \& more: a\_b $\pm$ 5$^2$ \$5 \#1, P $<$ 0.05.}" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2 and latex.isascii()
    assert latex.startswith(r"\begin{table}") and "sideways" in tables.latex(pd.DataFrame(columns=range(12)), text)
    tables.write(tmp_path / "table1", shown, text)
    assert {p.name for p in tmp_path.iterdir()} == {"table1.md", "table1.tex"}


def test_p_values_as_one_writes_them():
    p_value = run_cells("06_significance", "def p_value(", "def p_value(")["p_value"]
    texts = {0.0004: "**< 0.001**", 0.0123: "**0.012**", 0.0497: "**0.0497**", 0.2: "0.200", np.nan: "NA"}
    assert [p_value(p) for p in texts] == list(texts.values())


def test_captions_say_what_the_numbers_are_and_whose_data_as_the_preparation_recorded_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    frame = tables.table(score_rows(TWO), "masked")
    text = tables.caption(frame, "Brain", "demo")
    assert text.startswith("Brain. Protocol masked: mean ± standard deviation over subjects (n: BraTS 2, ISLES 2)")
    assert text.endswith("Data: generated phantoms, no patients; profile demo (λ_c 0.005, A-1).")
    for name, content, origin in (  # no guess from the phantoms' folder, which may be copied or deleted
        ("brats", {"phantoms": True}, "generated phantoms, no patients"),
        ("isles", {"phantoms": False}, "patients; of BraTS generated phantoms"),
        ("brats", {}, "of unknown origin"),
    ):
        storage.write_json(paths.prepared("smoke", name) / "prepared.json", content)
        assert tables.origin("smoke") == origin


def test_an_unknown_protocol_or_one_without_scores_is_an_error():
    for protocol in ("mine", "released"):
        refused("expected released or masked", tables.table, score_rows(TWO), protocol)
