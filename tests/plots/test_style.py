"""Figures: what they show, that they are stable, and the one way in which they are published."""

import numpy as np
import pandas as pd
import pytest

from mudiff.evaluation.scores import Example
from mudiff.plots import overview, style
from mudiff.plots.publish import publish


def disc(size=64, row=32, column=32, radius=20):
    y, x = np.mgrid[:size, :size]
    return (y - row) ** 2 + (x - column) ** 2 < radius**2


def row(methods=("syndiff", "mudiff"), lesion=True, label="T1CE"):
    brain = disc()
    labels = 2 * disc(row=24, column=24, radius=9).astype(np.uint8) * lesion
    labels[disc(row=27, column=27, radius=3)] = 4 * lesion
    images = {m: 0.5 * brain.astype(float) for m in methods}
    ssim = dict.fromkeys(methods, (0.9, 0.8 if lesion else np.nan))
    return Example(label, "t1ce", brain * 0.6, images, brain, labels, ssim)


def test_a_square_holds_the_mask_and_all_of_an_empty_one():
    assert style.square(disc(row=20, column=30), margin=1.0) == (20, 30, 19.5)
    assert style.square(np.zeros((8, 8), bool), margin=1.0) == (3.5, 3.5, 4.0)


def test_a_comparison_has_a_panel_for_each_method_and_says_what_is_missing():
    names = {"pgan": "pGAN", "syndiff": "SynDiff", "mudiff": "MU-Diff"}
    figure = style.comparison([row(), row(("mudiff",))], names)
    titles = [axis.get_title() for axis in figure.axes[:3]]
    assert titles == ["Ground truth", "SynDiff", "MU-Diff"]  # pGAN has no synthesis at all
    missing = [a for a in figure.axes if any(t.get_text() == "not trained" for t in a.texts)]
    assert len(missing) == 1
    assert figure.axes[2].get_xlabel() == "SSIM$_B$ 0.900\nSSIM$_T$ 0.800"


def test_insets_enlarge_the_core_of_the_lesion():
    figure = style.comparison([row()], {"mudiff": "MU-Diff"})
    inset = figure.axes[0].child_axes[0]
    assert np.mean(inset.get_xlim()) == pytest.approx(27) and np.mean(inset.get_ylim()) == pytest.approx(27)
    assert not style.comparison([row(lesion=False)], {"mudiff": "MU-Diff"}).axes[0].child_axes


def test_boxes_leave_infinite_scores_out_and_keep_the_order_of_methods(rng):
    frame = pd.DataFrame({"group": "T1", "method": ["mudiff", "pgan"] * 6, "psnr": rng.normal(20, 1, 12)})
    frame.loc[0, "psnr"] = np.inf
    figure = style.boxes(frame, {"psnr": "PSNR (dB)"})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pGAN", "MU-Diff"]
    assert figure.axes[0].get_ylabel() == "PSNR (dB)"


def test_every_method_has_a_colour_of_its_own():
    assert len(set(style.METHOD_COLOURS.values())) == len(style.METHOD_COLOURS) == 8
    assert style.METHOD_COLOURS["mudiff"] == style.COLOURS[0]


def test_dots_and_intervals_leave_out_what_is_missing():
    figure = style.new_figure(3, 2)
    first, second = figure.subplots(1, 2)
    style.dots(first, {"full": [1.0, 2.0, np.nan], "abl1": [np.nan]})
    assert [len(line.get_xdata()) for line in first.lines] == [2, 1, 0]
    rows = pd.DataFrame({"difference": [0.5, 1.0], "low": [0.1, np.nan], "high": [0.9, np.nan]})
    style.intervals(second, rows)
    segments = second.collections[0].get_segments()
    assert segments[0][:, 0] == pytest.approx([0.1, 0.9]) and segments[1][0, 0] == segments[1][1, 0]


def test_the_overview_draws_the_given_tasks_alone():
    counts = pd.DataFrame({"train": [3, 2], "val": [1, 1], "test": [1, 0]}, index=["brats", "healthy"])
    figure = overview.fig1a(counts, [("brats", "t1ce"), ("isles", "t1"), ("healthy", "flair")])
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert texts.count("✗") == 2 and texts.count("✓") == 3 + 2 and "T1CE" in texts


def test_published_files_are_complete_and_the_same_on_every_run(tmp_path):
    for folder in ("one", "two"):
        figure = style.comparison([row()], {"mudiff": "MU-Diff"})
        style.caption(figure, "Syntheses.", "Data: phantoms; profile demo.")
        table = pd.DataFrame({"PSNR": ["**20.0**"]}, index=["MU-Diff"])
        publish(tmp_path / folder, "fig9", figure, pd.DataFrame({"x": [1 / 3]}), {"BraTS": table}, "A table.")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("one", "two"))
    assert one == two
    assert set(one) == {f"fig9.{suffix}" for suffix in ("png", "svg", "txt", "csv", "md", "tex")}
    assert one["fig9.txt"] == b"Syntheses. Data: phantoms; profile demo.\n"
    assert b"Syntheses. Data: phantoms" in one["fig9.svg"] and one["fig9.csv"] == b"x\n0.333333\n"


def test_pictures_keep_their_colours_and_resolution(tmp_path):
    """A colour bar of 256 steps arrives as such, and the file knows its dots per inch."""
    from PIL import Image

    figure = style.new_figure(3, 1)
    figure.subplots().imshow(np.linspace(0, 1, 256)[None].repeat(40, 0), cmap="viridis", aspect="auto")
    style.caption(figure, "A bar.", "Data: none.")
    publish(tmp_path, "bar", figure)
    with Image.open(tmp_path / "bar.png") as image:
        assert image.mode == "RGBA" and round(image.info["dpi"][0]) == 150
        assert len(set(image.getdata())) > 200
