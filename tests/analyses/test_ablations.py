"""Scores and figures of the ablations, on runs made by hand."""

import numpy as np
import pandas as pd
import pytest

from mudiff.analyses import ablations
from mudiff.errors import MudiffError
from mudiff.plots import figures

SUBJECTS = ["a", "b", "c", "d"]


def scored(loss: dict[str, float], region: str = "brain") -> pd.DataFrame:
    """Scores in which each variant loses a known amount, with a little spread over the subjects."""
    rng = np.random.default_rng(3)
    base, noise = rng.uniform(18, 22, 4), rng.normal(0, 0.05, (len(loss), 4))
    rows = [
        (variant, region, s, base[i] - lost + noise[k, i], 0.8 - lost / 50, 0.1 + lost / 100)
        for k, (variant, lost) in enumerate(loss.items())
        for i, s in enumerate(SUBJECTS)
    ]
    return pd.DataFrame(rows, columns=["variant", "region", "subject", "psnr", "ssim", "mae"])


def test_differences_are_what_the_part_is_worth_in_every_metric():
    frame = ablations.differences(scored({"full": 0, "abl1": 1.0, "abl4": -0.5}))
    found = frame.set_index(["variant", "metric"])
    assert set(frame.variant) == {"abl1", "abl4"} and (frame.n == 4).all()
    assert found.difference["abl1", "psnr"] == pytest.approx(1.0, abs=0.1)
    assert found.difference["abl1", "ssim"] == pytest.approx(0.02)
    assert found.difference["abl1", "mae"] == pytest.approx(0.01)  # turned: above zero is better
    assert found.low["abl1", "psnr"] > 0 and found.high["abl4", "psnr"] < 0


def test_the_verdict_names_both_directions():
    words = ablations.verdict(ablations.differences(scored({"full": 0, "abl1": 1.0, "abl4": -0.5})))
    better, worse = words.split("it scores lower than")
    assert "abl1: one network (PSNR)" in better and "abl4" not in better
    assert "abl4: no mask loss (PSNR)" in worse and "2 of 6 comparisons" in worse


def test_one_subject_decides_nothing():
    frame = scored({"full": 0, "abl1": 1.0})
    one = ablations.differences(frame[frame.subject == "a"])
    assert one.low.isna().all() and "nothing can be decided" in ablations.verdict(one)


def test_subjects_without_a_lesion_do_not_count():
    frame = scored({"full": 0, "abl1": 1.0}, "lesion")
    frame.loc[frame.subject == "b", ["psnr", "ssim", "mae"]] = np.nan
    assert (ablations.differences(frame).n == 3).all()


def test_figures_draw_every_variant(tmp_path):
    frame = scored(dict.fromkeys(ablations.COMPONENTS, 0.1) | {"full": 0})
    for draw in (ablations.fig5g, ablations.fig5h):
        figure = draw(frame, "smoke")
        labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert labels[0] == "Full" and len(labels) == 6 and "4 test subjects" in figures.caption(figure)
    with pytest.raises(MudiffError, match="no lesions"):
        ablations.fig5h(frame.assign(psnr=np.nan), "smoke")
    ablations.write(frame, tmp_path / "fig5g")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "fig5g.csv"), frame, rtol=1e-5)


def test_steps_are_drawn_with_their_cost():
    parts = [scored({"T1": 1, "T2": 0.5, "full": 0, "T8": 0.2}, region) for region in ("brain", "lesion")]
    frame = pd.concat(parts)
    frame["steps"] = frame.variant.map(ablations.STEPS)
    frame["seconds"] = frame.steps * 0.1
    figure = ablations.fig5e(frame, "smoke")
    assert [axis.get_title() for axis in figure.axes] == ["whole brain"] * 2 + ["lesions"] * 2 + ["cost"]
    (line,) = figure.axes[-1].lines
    assert line.get_xdata().tolist() == [1, 2, 4, 8] and line.get_ydata().tolist() == [0.1, 0.2, 0.4, 0.8]
    assert len(ablations.fig5e(frame[frame.region == "brain"], "smoke").axes) == 3


def test_distances_show_their_number_of_images():
    frame = pd.DataFrame(
        {
            "variant": [ablations.REAL, "full", "full_half"],
            "features": "f",
            "images": [9, 18, 18],
            "fid": [3.0, 1, 2],
        }
    )
    (axis,) = ablations.fig5f(frame, "smoke").axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["real against real", "Full", "Full, half"]
    assert [text.get_text() for text in axis.texts] == ["3 (9 images)", "1 (18 images)", "2 (18 images)"]


def test_a_missing_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    with pytest.raises(MudiffError, match="prepare"):
        ablations.score("smoke", ["abl1"], "brain")
    assert ablations.run_name("smoke", "full") == "brats_t1ce_mudiff"  # the same budget: no run of its own
    assert ablations.run_name("demo", "full") == "brats_t1ce_mudiff_full"
