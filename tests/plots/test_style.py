"""Figures: what they show, that they are stable, and the one way in which they are published."""

import numpy as np
import pandas as pd
import pytest
from conftest import run_cells
from PIL import Image

from mudiff.evaluation.scores import Example
from mudiff.plots import style
from mudiff.plots.publish import publish


def disc(size=64, row=32, column=32, radius=20):
    y, x = np.mgrid[:size, :size]
    return (y - row) ** 2 + (x - column) ** 2 < radius**2


def row(methods=("syndiff", "mudiff"), lesion=True, label="T1CE"):
    brain = disc()
    labels = 2 * disc(row=24, column=24, radius=9).astype(np.uint8) * lesion
    labels[disc(row=27, column=27, radius=3)] = 4 * lesion
    images = {m: 0.5 * brain.astype(float) for m in methods}
    return Example(label, "t1ce", brain * 0.6, images, brain, labels, dict.fromkeys(methods, (0.9, 0.8)))


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
    assert figure.axes[5].get_xlabel() == "0.900\n0.800"  # below the enlarged lesion
    assert figure.get_size_inches()[0] <= style.WIDTH


def test_the_core_of_the_lesion_is_enlarged_below_or_in_a_corner_of_many_rows():
    names = {"mudiff": "MU-Diff"}
    below, corner = style.comparison([row()], names), style.comparison([row()] * 5, names)
    for shown in (below.axes[2], corner.axes[0].child_axes[0]):
        assert np.mean(shown.get_xlim()) == pytest.approx(27) and np.mean(shown.get_ylim()) == pytest.approx(27)
    assert not below.axes[0].child_axes
    healthy = style.comparison([row(lesion=False)], names)
    assert len(healthy.axes) == 2 and healthy.axes[1].get_xlabel() == "0.900"
    at_the_rim = row()
    at_the_rim.lesion[:] = disc(row=14, column=32, radius=2)
    bottom, top = style.comparison([at_the_rim], names).axes[2].get_ylim()
    assert top < 13 < 15 < bottom and (top + bottom) / 2 > 14.5  # the brain lies further down


def test_boxes_have_the_methods_colours_and_outliers_do_not_stretch_the_axis(rng):
    frame = pd.DataFrame({"group": "T1CE", "method": ["mudiff", "pgan"] * 20, "psnr": rng.normal(20, 1, 40)})
    frame.loc[0, "psnr"], frame.loc[2, "psnr"] = np.inf, 60
    boxes = run_cells("05_lesion_metrics", "def boxes(", "def boxes(")["boxes"]
    figure = boxes(pd.concat([frame, frame.assign(group="T1")]), {"psnr": "PSNR (dB)"})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pGAN", "MU-Diff"]
    assert figure.axes[0].get_ylim()[1] < 25


def test_dots_and_intervals_leave_out_what_is_missing():
    figure = style.new_figure(3, 2)
    first, second = figure.subplots(1, 2)
    style.dots(first, {"full": [1.0, 2.0, np.nan], "abl1": [np.nan]})
    assert [len(line.get_xdata()) for line in first.lines] == [2, 1, 0]
    rows = pd.DataFrame({"difference": [0.5, 1.0], "low": [0.1, np.nan], "high": [0.9, np.nan]})
    style.intervals(second, rows)
    segments = second.collections[0].get_segments()
    assert segments[0][:, 0] == pytest.approx([0.1, 0.9]) and segments[1][0, 0] == segments[1][1, 0]


def test_published_files_are_complete_the_same_on_every_run_and_keep_colours_and_resolution(tmp_path):
    for folder in ("one", "two"):
        figure = style.new_figure(3, 1)
        figure.subplots().imshow(np.linspace(0, 1, 256)[None].repeat(40, 0), cmap="viridis", aspect="auto")
        style.caption(figure, "A bar.", "Data: phantoms; profile demo.")
        frame, table = pd.DataFrame({"x": [1 / 3, np.nan], "n": [1, 2]}), pd.DataFrame({"PSNR": ["**20.0**"]})
        publish(tmp_path / folder, "fig9", figure, frame, {"BraTS": table}, "A table.")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("one", "two"))
    assert one == two
    assert set(one) == {f"fig9.{suffix}" for suffix in ("png", "svg", "txt", "csv", "md", "tex")}
    assert one["fig9.txt"] == b"A bar. Data: phantoms; profile demo.\n"
    assert b"A bar. Data: phantoms" in one["fig9.svg"] and one["fig9.csv"] == b"x,n\n0.333333,1\nNA,2\n"
    with Image.open(tmp_path / "one" / "fig9.png") as image:
        assert image.mode == "RGBA" and round(image.info["dpi"][0]) == 300
        assert len(set(image.getdata())) > 200  # of the bar's 256
