"""Scores of runs and the tables made of them."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import mudiff
from mudiff import config, metrics, paths, tables, tasks
from mudiff.errors import MudiffError


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
}


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
        assert entry(result, target="t1", method="linear", metric=metric)["rank"] == 1


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
    assert set(zip(known.dataset, known.target, strict=True)) == set(config.profile("paper").runs)
    assert known.source.str.len().gt(20).all()
    assert (
        known.psnr.between(15, 35).all() and known.ssim.between(0, 1).all() and known.mae.between(0, 1).all()
    )


def test_markdown_marks_best_and_second():
    text = tables.markdown(tables.table(scores(TWO), "masked"), "The caption.")
    assert text.startswith("The caption.\n")
    brats = next(line for line in text.splitlines() if line.startswith("| MU-Diff |"))
    assert "**22.00 ± 2.83**" in brats
    assert "<u>16.50 ± 0.71</u>" in text
    assert text.count("| BraTS |") == 1 and text.count("| ISLES |") == 1
    blocks = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(blocks) == {5}  # every row has as many cells as its heading


def test_latex_marks_and_escapes():
    text = tables.latex(tables.table(scores(TWO), "masked"), "Over 90 % & more: a_b ± c.")
    assert r"\textbf{22.00 $\pm$ 2.83}" in text and r"\underline{16.50 $\pm$ 0.71}" in text
    assert r"\caption{Over 90 \% \& more: a\_b $\pm$ c.}" in text
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


def test_eight_methods_fit(monkeypatch):
    names = {f"method{i}": f"Method {i}" for i in range(8)}
    monkeypatch.setattr(tasks, "METHODS", names)
    frame = scores({("brats", t, m): [20.0 + i, 21] for t in ("t1", "t2") for i, m in enumerate(names)})
    text = tables.markdown(tables.table(frame, "masked"), "C")
    assert text.count("**") == 2 * 6 and text.count("<u>") == 6


def test_unknown_protocol_or_empty_scores_raise():
    with pytest.raises(MudiffError, match="released, masked"):
        tables.table(scores(TWO), "mine")
    with pytest.raises(MudiffError, match="score the runs again"):
        tables.table(scores(TWO), "released")


class FakeSlices:
    """Two subjects of three slices each; the lesion of the second is empty."""

    subjects = ("a", "b")
    index = pd.DataFrame({"subject": list("aaabbb"), "slice": [40, 41, 42, 50, 51, 52]})

    def subject(self, name):
        return np.flatnonzero(self.index.subject == name)

    def images(self, indices, contrast):
        grid = np.linspace(-1, 1, 16 * 16, dtype=np.float32).reshape(16, 16)
        return np.stack([grid * (0.5 + i / 12) for i in indices])

    def brain(self, indices):
        return np.ones((len(indices), 16, 16), bool)

    def lesion(self, indices):
        masks = np.zeros((len(indices), 16, 16), np.uint8)
        masks[np.asarray(indices) < 3, 6:9, 6:9] = 4
        return masks


@pytest.fixture
def fake_runs(monkeypatch, tmp_path):
    """Stand in for prepared data and for synthetic slices that are 0.1 too bright."""
    slices = FakeSlices()

    def read_synthetic(folder, subject):
        real = (slices.images(slices.subject(subject), None) + 1) / 2
        return np.clip(real + (0.1 if "mudiff" in folder.name else 0.2), 0, 1)

    for name, module in {
        "data": SimpleNamespace(open_slices=lambda folder, split: slices),
        "sample": SimpleNamespace(read_synthetic=read_synthetic),
    }.items():
        monkeypatch.setitem(sys.modules, f"mudiff.{name}", module)
        monkeypatch.setattr(mudiff, name, module, raising=False)
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    for dataset, target in config.profile("smoke").runs:
        for method in config.profile("smoke").methods:
            paths.synthetic("smoke", f"{dataset}_{target}_{method}").mkdir(parents=True)
        paths.prepared("smoke", dataset).mkdir(parents=True, exist_ok=True)
    return tmp_path


def test_score_runs_covers_runs_methods_protocols(fake_runs):
    frame = tables.score_runs("smoke", "brain")
    runs = len(config.profile("smoke").runs) * len(config.profile("smoke").methods)
    assert len(frame) == runs * 2 * (6 + 2)  # both protocols; six slices and two subjects
    assert frame[frame.unit == "subject"].slice.isna().all()
    assert set(frame[frame.unit == "slice"].slice) == {40, 41, 42, 50, 51, 52}
    masked = frame[(frame.protocol == "masked") & (frame.unit == "subject")].groupby("method").mae.max()
    assert masked["mudiff"] == pytest.approx(0.1, abs=0.01) and masked["linear"] > 0.15


def test_score_runs_lesion_dilates_isles_and_skips_lesion_free(fake_runs, monkeypatch):
    seen = set()
    real = metrics.score_subject

    def spy(*args):
        seen.add(args[4])
        return real(*args)

    monkeypatch.setattr(metrics, "score_subject", spy)
    frame = tables.score_runs("smoke", "lesion")
    assert seen == {True, False}
    assert frame[frame.subject == "b"].psnr.isna().all()
    assert frame[frame.subject == "a"].mae.notna().all()


def test_score_runs_takes_what_is_prepared_or_chosen(fake_runs):
    paths.prepared("smoke", "isles").rmdir()
    assert set(tables.score_runs("smoke").dataset) == {"brats"}
    chosen = tables.score_runs("smoke", runs=[("brats", "t2")], methods=["linear"])
    assert set(chosen.target) == {"t2"} and set(chosen.method) == {"linear"}
    paths.prepared("smoke", "brats").rmdir()
    with pytest.raises(MudiffError, match="no dataset is prepared"):
        tables.score_runs("smoke")


def test_missing_run_names_the_command(fake_runs):
    paths.synthetic("smoke", "brats_t2_linear").rmdir()
    with pytest.raises(MudiffError, match=r"brats_t2_linear.*snakemake --config profile=smoke"):
        tables.score_runs("smoke")
    with pytest.raises(MudiffError, match="brain, lesion"):
        tables.score_runs("smoke", "liver")
