"""Figures run on made-up data, say what they show, and are written as small, stable files."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mudiff import paths
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.plots import figures, pictures
from mudiff.plots import old_style as style
from mudiff.training import profiles


def example(methods=("mudiff", "linear"), size=32, lesion=True):
    y, x = np.mgrid[:size, :size] / size - 0.5
    brain = x**2 / 0.12 + y**2 / 0.16 < 1
    truth = brain * (0.4 + 0.3 * np.sin(20 * x))
    mask = brain & (np.hypot(x - 0.15, y - 0.1) < 0.08) & lesion
    synthetic = {m: 0.9**i * truth for i, m in enumerate(methods)}
    ssim = dict.fromkeys(methods, (0.9, 0.8 if lesion else np.nan))
    return style.Example("T1CE", "t1ce", truth, synthetic, brain, mask, ssim)


def lesion_scores(methods=("mudiff", "linear")):
    generator = np.random.default_rng(0)
    rows = [
        {"dataset": d, "target": t, "method": m, "region": "lesion", "protocol": protocol, "unit": "slice"}
        | {"subject": s, "slice": z, "psnr": 20 + generator.normal(), "ssim": 0.7, "mae": 0.05}
        for d, t in (("brats", "t1ce"), ("brats", "t2"), ("isles", "t1"))
        for m in methods
        for protocol in metrics.PROTOCOLS
        for s in ("a", "b")
        for z in range(3)
    ]
    frame = pd.DataFrame(rows)
    frame.loc[frame.slice == 2, ["psnr", "ssim", "mae"]] = np.nan  # slices without a lesion
    return frame


def texts(figure):
    """Return all text of a figure."""
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


EIGHT = list(datasets.METHODS)
CLOSEST = ("syndiff", "mudiff", "linear")


def test_written_files_are_stable_small_and_carry_the_caption(tmp_path):
    figure = style.comparison([example()], "What it shows.")
    first = [p.read_bytes() for p in style.save(figure, tmp_path / "a")]
    again = [
        p.read_bytes() for p in style.save(style.comparison([example()], "What it shows."), tmp_path / "b")
    ]
    assert first == again
    assert first[0].startswith(b"\x89PNG") and len(first[0]) <= style.MAX_PNG
    assert b"What it shows." in first[1] and b"<dc:date>" not in first[1]
    assert style.caption(figure) == "What it shows."
    assert "What it shows." in texts(figure)


def test_large_pictures_are_packed(tmp_path, monkeypatch):
    figure = style.comparison([example()], "C")
    free = style.save(figure, tmp_path / "free")[0].stat().st_size
    monkeypatch.setattr(style, "MAX_PNG", free * 0.6)
    assert style.save(figure, tmp_path / "packed")[0].stat().st_size <= free * 0.6


def test_style_ignores_and_keeps_the_callers_settings():
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 31}):
        figure = style.comparison([example()], "C")
        assert mpl.rcParams["font.size"] == 31
    from matplotlib.text import Text

    assert max(t.get_fontsize() for t in figure.findobj(Text)) < 15


def test_comparison_prints_scores_and_enlarges_the_lesion():
    figure = style.comparison([example(), example(lesion=False)], "C")
    words = " ".join(texts(figure))
    for expected in (
        "Ground truth",
        "MU-Diff",
        "Linear",
        "SSIM$_B$ 0.900",
        "SSIM$_T$ 0.800",
        "SSIM$_T$ –",
        "R",
        "L",
    ):
        assert expected in words
    rows = np.array(figure.axes, object).reshape(2, 3)
    assert all(len(axis.child_axes) == 1 for axis in rows[0])
    assert not any(axis.child_axes for axis in rows[1])
    inset = rows[0, 0].child_axes[0]
    box = rows[0, 0].patches[0]
    assert inset.get_xlim() == pytest.approx((box.get_x(), box.get_x() + box.get_width()))
    columns = np.nonzero(example().lesion.any(axis=0))[0]
    assert inset.get_xlim()[0] < columns.min() and inset.get_xlim()[1] > columns.max()


def test_rows_run_from_anterior_at_the_top_and_share_one_window():
    figure = style.comparison([example()], "C")
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top
    left, right = figure.axes[0].get_xlim()
    assert left < right  # the patient's right, column 0, is on the left
    assert {axis.images[0].get_clim() for axis in figure.axes} == {style.WINDOWS["t1ce"]}


def test_every_contrast_has_a_window_and_every_method_its_colour():
    assert set(style.WINDOWS) == set(datasets.LABELS)
    assert len(set(style.colours(EIGHT).values())) == len(EIGHT) == 8
    assert style.colours(EIGHT[3:4])[EIGHT[3]] == style.colours(EIGHT)[EIGHT[3]]


def test_a_method_that_was_not_trained_leaves_an_empty_panel():
    figure = style.comparison([example(CLOSEST), example(EIGHT)], "C")
    axes = np.array(figure.axes, object).reshape(2, 9)
    titles = [axis.get_title() for axis in axes[0]]
    assert titles == ["Ground truth", *datasets.METHODS.values()]  # in the order of the tables
    empty = [not axis.images for axis in axes[0]]
    assert empty == [False] + [method not in CLOSEST for method in EIGHT]
    assert texts(figure).count("not trained") == 5 and all(axis.images for axis in axes[1])
    shown = axes[0, 1 + EIGHT.index("mudiff")].images[0].get_array()
    assert np.allclose(shown, example(CLOSEST).synthetic["mudiff"])


def test_without_any_lesion_only_the_brain_has_a_score():
    words = " ".join(texts(style.comparison([example(lesion=False)], "C")))
    assert "SSIM$_B$ 0.900" in words and "SSIM$_T$" not in words


def test_nothing_is_cut_off_with_eight_methods():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    scores = lesion_scores(EIGHT)
    scores = scores[(scores.target != "t2") | scores.method.isin(CLOSEST)]
    log = pd.DataFrame({"epoch": [0.5, 1.0], "loss/supervised": [0.3, 0.2], "validation/psnr": [9.0, 15.0]})
    for figure in (
        figures.loss_curves(dict.fromkeys(EIGHT, log), "C"),
        style.comparison(
            [example(EIGHT), example(CLOSEST)], "A caption that is long enough to be broken. " * 8
        ),
        figures.fig1d(scores, "demo"),
        figures.supp5(scores, "demo"),
    ):
        FigureCanvasAgg(figure).draw()
        width, height = figure.bbox.width, figure.bbox.height
        for text in figure.findobj(Text):
            if text.get_text() and text.get_visible():
                box = text.get_window_extent()
                assert box.x0 >= -1 and box.y0 >= -1, text
                assert box.x1 <= width + 1 and box.y1 <= height + 1, text


def boxes_of(axis):
    """Return (place, face colour) of the boxes of an axis, from left to right."""
    from matplotlib.patches import PathPatch

    found = [patch for patch in axis.patches if isinstance(patch, PathPatch)]
    return sorted((box.get_path().vertices[:4, 0].mean(), box.get_facecolor()) for box in found)


def test_boxes_stand_around_the_name_of_their_group():
    from matplotlib.colors import to_rgba

    scores = lesion_scores(EIGHT[::-1])  # whatever the order of the rows
    scores = scores[(scores.target != "t2") | scores.method.isin(CLOSEST)]
    figure = figures.supp5(scores, "demo")
    assert "A method without a box was not trained" in style.caption(figure)
    palette = style.colours(EIGHT)
    for axis in figure.axes:
        boxes = boxes_of(axis)
        assert [colour for _, colour in boxes] == [to_rgba(palette[m]) for m in (*EIGHT, *CLOSEST)]
        middles = [np.mean([place for place, _ in part]) for part in (boxes[:8], boxes[8:])]
        assert axis.get_xticks() == pytest.approx(middles)
        assert [label.get_text() for label in axis.get_xticklabels()] == ["T1CE", "T2"]


def test_fig1d_pools_only_tasks_that_every_method_has():
    scores = lesion_scores(EIGHT)
    easy = (scores.target == "t2") & scores.method.isin(CLOSEST)
    scores.loc[easy, "psnr"] += 100
    scores = scores[(scores.target != "t2") | easy]
    figure = figures.fig1d(scores, "demo")
    words = style.caption(figure)
    assert "(BraTS T1CE; ISLES T1). Tasks that some method was not trained for are left out." in words
    assert figure.axes[0].get_ylim()[1] < 50
    assert "left out" not in style.caption(figures.fig1d(lesion_scores(), "demo"))


@pytest.mark.parametrize("name", ["fig1d", "supp5", "supp6"])
def test_box_plots_count_slices_with_lesions(name):
    figure = getattr(figures, name)(lesion_scores(), "demo")
    words = style.caption(figure)
    assert "4 slices of 2 subjects" in words and "protocol masked" in words and "phantoms" in words
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels[:2] == ["PSNR$_T$ (dB)", "SSIM$_T$"]
    assert ("MAE$_T$ (fraction of range)" in labels) == (name == "fig1d")


def test_box_plots_without_lesions_say_so():
    scores = lesion_scores()
    with pytest.raises(MudiffError, match="no lesions"):
        figures.supp6(scores[scores.dataset == "brats"], "demo")


def test_infinite_scores_do_not_break_box_plots(tmp_path):
    scores = lesion_scores()
    scores.loc[scores.index[0], "psnr"] = np.inf
    style.save(figures.fig1d(scores, "demo"), tmp_path / "fig1d")


def test_cohorts_shows_counts_and_availability():
    counts = pd.DataFrame({"train": [214, 20], "val": [61, 2], "test": [30, 5]}, index=["brats", "isles"])
    words = texts(pictures.cohorts(counts, "C"))
    assert "  214 / 61 / 30" in words and "  20 / 2 / 5" in words
    assert words.count("✗") == 6  # one target a task
    assert words.count("✓") == 6 * 3
    assert words.count("–") == 4 * 1 + 2 * 1  # BraTS has no DWI, ISLES no T1CE


def test_shared_pictures_draw():
    stack = np.stack([example().truth] * 2)
    lesion = np.stack([example().lesion, 0 * example().lesion])
    montage = figures.montage({"t1": stack, "dwi": stack}, "One subject.", lesion)
    assert len(montage.axes) == 4 and len(montage.axes[0].collections) == 1
    steps = figures.normalisation_steps(
        1000 * stack,
        {"clipped": 900 * stack, "0 to 1": stack},
        {"before": stack[0], "after": stack[1]},
        "t1",
        "C",
    )
    assert {"raw", "clipped", "0 to 1", "before", "after"} <= set(texts(steps))
    log = pd.DataFrame(
        {"epoch": [0.5, 1.0], "loss/supervised": [0.3, 0.2], "validation/psnr": [np.nan, 15.0]}
    )
    curves = figures.loss_curves({"mudiff": log, "linear": log[["epoch", "validation/psnr"]]}, "C")
    validation, losses = curves.axes  # no panel for the method that has no losses
    assert [line.get_label() for line in validation.lines] == ["MU-Diff", "Linear"]
    assert validation.lines[0].get_ydata().tolist() == [15.0]
    assert losses.get_title() == "MU-Diff" and [line.get_label() for line in losses.lines] == ["supervised"]


class FakeSlices:
    """Two subjects of three slices; the lesion is largest in the last slice of the first, none in the second."""

    subjects = ("a", "b")

    def subject(self, name):
        return np.arange(3) + 3 * self.subjects.index(name)

    def images(self, indices, contrast):
        return np.stack([2 * example().truth * (1 - 0.1 * i) - 1 for i in indices])

    def brain(self, indices):
        return np.stack([example().brain for _ in indices])

    def lesion(self, indices):
        return np.stack([example().lesion.astype(np.uint8) * (i == 2) for i in indices])


@pytest.fixture
def fake_runs(monkeypatch, tmp_path):
    slices = FakeSlices()

    def open_slices(folder, split):
        if split == "val":
            raise MudiffError("empty split")
        return slices

    def read_synthetic(folder, subject):
        return (slices.images(slices.subject(subject), None) + 1) / 2

    for name, module in {
        "data.prepare": SimpleNamespace(open_slices=open_slices),
        "synthesis.sample": SimpleNamespace(read_synthetic=read_synthetic),
    }.items():
        monkeypatch.setitem(sys.modules, f"mudiff.{name}", module)
        room, _, file = name.partition(".")
        monkeypatch.setattr(importlib.import_module(f"mudiff.{room}"), file, module, raising=False)
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    for dataset in ("isles", "brats"):
        paths.prepared("smoke", dataset).mkdir(parents=True)


def test_examples_take_the_largest_lesion_or_the_middle(fake_runs):
    rows = figures.examples("smoke", "brats")
    assert [row.target for row in rows] == [t for d, t in profiles.profile("smoke").runs if d == "brats"]
    assert np.allclose(rows[0].truth, example().truth * 0.8, atol=1e-6)  # slice 2
    assert rows[0].ssim["mudiff"] == pytest.approx((1, 1))
    methods = {row.target: tuple(row.synthetic) for row in rows}
    assert methods == {t: m for (d, t), m in profiles.profile("smoke").runs.items() if d == "brats"}
    second = figures.examples("smoke", "brats", first=1)
    assert np.allclose(second[0].truth, example().truth * 0.6, atol=1e-6)  # slice 4, the middle one
    assert np.isnan(second[0].ssim["mudiff"][1])
    assert len(figures.examples("smoke", "brats", first=1, count=2)) == 4  # one subject is left
    assert len(figures.examples("smoke", "brats", first=7)) == 4  # none is left: from the start
    with pytest.raises(MudiffError, match="open_ms"):
        figures.examples("smoke", "open_ms")


@pytest.mark.parametrize("name", ["fig1a", "fig3a", "fig3b", "supp1", "supp2"])
def test_artefacts_from_a_profile(fake_runs, name):
    figure = getattr(figures, name)("smoke")
    words = style.caption(figure)
    assert "phantoms" in words and "profile smoke" in words
    assert len(figure.axes) >= 2


def test_subject_counts_orders_datasets_and_takes_empty_splits(fake_runs):
    counts = figures.subject_counts("smoke")
    assert counts.index.tolist() == ["brats", "isles"]
    assert counts.loc["brats"].to_dict() == {"train": 2, "val": 0, "test": 2}


def test_the_inset_shows_the_largest_of_several_lesions():
    lesion = np.zeros((64, 64), bool)
    lesion[10:14, 10:14] = lesion[40:52, 44:52] = True
    _, zoom, corner = style._views(np.ones((64, 64), bool), lesion)
    (top, bottom), (left, right) = zoom
    assert top < 40 and bottom > 51 and left < 44 and right > 51 and corner == "upper left"
