"""Tables: their numbers, ranks, captions and files."""

import numpy as np
import pandas as pd
import pytest

from mudiff import paths
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.evaluation import old_tables as tables
from mudiff.training import profiles


def scores(values, region="brain", protocol="masked"):
    """Return long scores from {(dataset, target, method): [psnr of each unit]}; SSIM = PSNR/40, MAE = 1/PSNR."""
    rows = [
        {"dataset": d, "target": t, "method": m, "region": region, "protocol": protocol}
        | {"unit": tables.UNITS[protocol], "subject": f"s{i}", "slice": None}
        | {"psnr": v, "ssim": v / 40, "mae": 1 / v}
        for (d, t, m), psnrs in values.items()
        for i, v in enumerate(psnrs)
    ]
    return pd.DataFrame(rows).astype({"slice": "Int64"})


TWO = {
    ("brats", "t1ce", "mudiff"): [20.0, 24.0],
    ("brats", "t1ce", "linear"): [16.0, 17.0],
    ("isles", "t1", "mudiff"): [18.0, 18.5],
    ("isles", "t1", "linear"): [19.0, 21.0],
    ("brats", "t1ce", "syndiff"): [16.4, 17.4],
    ("isles", "t1", "syndiff"): [18.6, 18.7],
}
PGAN = {("isles", "t1", "pgan"): [17.0, 18.0]}


def entry(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_mean_and_deviation_follow_the_protocol():
    masked = entry(tables.table(scores(TWO), "masked"), target="t1ce", method="mudiff", metric="psnr")
    assert masked["mean"] == 22 and masked.n == 2 and masked.unit == "subject"
    assert masked.sd == pytest.approx(8**0.5)  # divided by n - 1
    released = tables.table(scores(TWO, protocol="released"), "released")
    released = entry(released, target="t1ce", method="mudiff", metric="psnr")
    assert released.sd == pytest.approx(2) and released.unit == "slice"  # divided by n, as released


def test_undefined_scores_are_left_out_and_counted():
    frame = scores({("brats", "t1", "mudiff"): [20.0, np.nan, 22.0], ("brats", "t1", "linear"): [np.nan] * 3})
    result = tables.table(frame, "masked")
    kept = entry(result, method="mudiff", metric="psnr")
    assert kept["mean"] == 21 and kept.n == 2
    assert entry(result, method="linear", metric="psnr").n == 0
    assert (tables.wide(result).loc["Linear"] == "NA").all()
    one = tables.table(scores({("brats", "t1", "mudiff"): [20.0]}), "masked")
    assert tables.wide(one).loc["MU-Diff"].iloc[0] == "20.00 ± NA"  # one subject has no deviation


def test_ranks_know_that_small_mae_is_good():
    result = tables.table(scores(TWO), "masked")
    for metric in metrics.METRICS:
        assert entry(result, target="t1ce", method="mudiff", metric=metric)["rank"] == 1
        assert entry(result, target="t1", method="syndiff", metric=metric)["rank"] == 1
        assert entry(result, target="t1", method="mudiff", metric=metric)["rank"] == 2


def test_the_floor_is_shown_last_and_not_ranked():
    result = tables.table(scores(TWO), "masked")
    assert result[result.method == "linear"]["rank"].isna().all() and (result.method == "linear").any()
    assert result[result.method != "linear"]["rank"].notna().all()
    assert tables.wide(result).index.tolist() == ["SynDiff", "MU-Diff", "MU-Diff (paper)", "Linear"]
    text = tables.caption(result, "T", "demo")
    assert "Linear, the floor, is not ranked; it is better than the best in 3 of 6 cells." in text
    worse = result[result.target == "t1ce"]
    assert "better than the best in none of 3 cells" in tables.caption(worse, "T", "demo")
    assert "floor" not in tables.caption(result[result.method != "linear"], "T", "demo")


def test_a_method_that_was_not_trained_is_na():
    frame = scores({k: v for k, v in TWO.items() if k != ("brats", "t1ce", "syndiff")} | PGAN)
    result = tables.table(frame, "masked")
    shown = tables.wide(result)
    assert shown.index.tolist() == ["pGAN", "SynDiff", "MU-Diff", "MU-Diff (paper)", "Linear"]
    assert (shown.loc["SynDiff", "BraTS"] == "NA").all() and (shown.loc["pGAN", "BraTS"] == "NA").all()
    assert (shown.loc["pGAN", "ISLES"] != "NA").all()
    assert entry(result, target="t1ce", method="mudiff", metric="psnr")["rank"] == 1
    for text in (tables.markdown(result, "C"), tables.latex(result, "C")):
        assert text.count("NA") == 3 + 3  # not trained
    for block in tables.latex(result, "C").split(r"\begin{tabular}")[1:]:
        rows = [line for line in block.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {line.count("&") for line in rows} == {3} and len(rows) == 6
    assert "NA: not trained for this task" in tables.caption(result, "T", "demo")


def test_paper_values_stand_beside_ours_for_the_brain_only():
    brain = tables.table(scores(TWO), "masked")
    assert entry(brain, target="t1ce", method="mudiff", metric="psnr").paper == 22.697
    assert np.isnan(entry(brain, target="t1ce", method="linear", metric="psnr").paper)
    row = tables.wide(brain).loc["MU-Diff (paper)"]
    assert row.iloc[0] == "22.70"
    lesion = tables.wide(tables.table(scores(TWO, region="lesion"), "masked"))
    assert (lesion.loc["MU-Diff (paper)"] == "NA").all()


def test_reference_values_cover_the_tasks_with_a_source():
    known = tables.reference_values()
    assert set(zip(known.dataset, known.target, strict=True)) == {
        run for run in profiles.profile("paper").runs if run[0] != "healthy"
    }
    assert known.source.str.len().gt(20).all()
    assert (
        known.psnr.between(15, 35).all() and known.ssim.between(0, 1).all() and known.mae.between(0, 1).all()
    )


def test_markdown_marks_best_and_second():
    text = tables.markdown(tables.table(scores(TWO), "masked"), "The caption.")
    assert text.startswith("The caption.\n")
    brats = next(line for line in text.splitlines() if line.startswith("| MU-Diff |"))
    assert "**22.00 ± 2.83**" in brats
    assert "<u>16.90 ± 0.71</u>" in text
    assert text.count("| BraTS |") == 1 and text.count("| ISLES |") == 1
    blocks = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(blocks) == {5}  # every row has as many cells as its heading


def test_latex_marks_and_escapes():
    text = tables.latex(tables.table(scores(TWO), "masked"), r"Over 90 % & more: a_b ± c^2 {d}\ ~ $5 #1.")
    assert r"\textbf{22.00 $\pm$ 2.83}" in text and r"\underline{16.90 $\pm$ 0.71}" in text
    escaped = r"a\_b $\pm$ c\textasciicircum{}2 \{d\}\textbackslash{} \textasciitilde{} \$5 \#1."
    assert rf"\caption{{Over 90 \% \& more: {escaped}}}" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert text.isascii()


def test_caption_names_what_the_numbers_are():
    text = tables.caption(tables.table(scores(TWO), "masked"), "Table 1. Whole brain", "demo")
    for words in (
        "Table 1. Whole brain.",
        "phantoms",
        "Profile demo",
        "protocol masked",
        "subjects",
        "BraTS 2",
    ):
        assert words in text
    assert "real data here" in tables.caption(
        tables.table(scores(TWO), "masked"), "T", "demo", data="real data here"
    )
    assert "phantom" not in tables.data_words("paper")


def test_written_files_are_stable_and_numeric(tmp_path):
    result = tables.table(scores(TWO), "masked")
    tables.write(result, tmp_path / "table1", "Caption.")
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    tables.write(result, tmp_path / "table1", "Caption.")
    assert first == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(first) == {"table1.csv", "table1.md", "table1.tex"}
    back = pd.read_csv(tmp_path / "table1.csv")
    assert back["mean"].tolist() == pytest.approx(result["mean"].tolist(), rel=1e-5)
    assert "paper" in back and back.paper.isna().any()


def test_eight_methods_fit():
    methods = list(datasets.METHODS)
    values = {("brats", t, m): [20.0 + i, 21] for t in ("t1", "t2") for i, m in enumerate(methods)}
    result = tables.table(scores(values), "masked")
    text = tables.markdown(result, "C")
    assert len(methods) == 8 and text.count("**") == 2 * 6 and text.count("<u>") == 6
    best = next(line for line in text.splitlines() if "**" in line)
    assert best.startswith("| MU-Diff |")  # the floor is better, but not ranked
    assert "better than the best in 6 of 6 cells" in tables.caption(result, "T", "demo")
    assert text.splitlines()[-1].startswith("| Linear |")


def test_every_number_names_its_run(tmp_path):
    frame = scores(TWO)
    frame = frame.assign(run=frame.dataset + "_" + frame.method, fingerprint="f" + frame.method)
    tables.write(tables.table(frame, "masked"), tmp_path / "table1", "C")
    back = pd.read_csv(tmp_path / "table1.csv")
    assert (back.run == back.dataset + "_" + back.method).all()
    assert (back.fingerprint == "f" + back.method).all()


def test_unknown_protocol_or_empty_scores_raise():
    with pytest.raises(MudiffError, match="released, masked"):
        tables.table(scores(TWO), "mine")
    with pytest.raises(MudiffError, match="score the runs again"):
        tables.table(scores(TWO), "released")


def test_captions_say_whose_data_were_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    assert tables.data_words("smoke") == "generated phantoms, no patients"  # nothing is prepared yet
    assert tables.data_words("paper") == "patients"
    for dataset in ("brats", "isles"):
        file = paths.phantoms("smoke", dataset) / "1" / "1_t1.nii.gz"
        paths.write_text(file, "")
        source = {"name": file.name, "mtime_ns": file.stat().st_mtime_ns}
        record = paths.prepared("smoke", dataset) / "prepared.json"
        paths.write_json(record, {"subjects": {"1": {"sources": {"t1": source}}}})
    assert tables.data_words("smoke") == "generated phantoms, no patients"
    source["mtime_ns"] += 1  # another file of the same name
    paths.write_json(record, {"subjects": {"1": {"sources": {"t1": source}}}})
    assert tables.data_words("smoke") == "patients; of BraTS generated phantoms"
