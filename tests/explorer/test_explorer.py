"""The explorer: what a view changes, what it shows, and its widgets without a browser."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
from conftest import LIVELY, lively

from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.explorer import state, widgets
from mudiff.synthesis import sample

SIZE = LIVELY["image_size"]


@pytest.fixture
def made(lively_slices, monkeypatch):
    """An explorer; motion, noted in `moved`, shifts by as many columns as its strength."""

    def move(stack, movement, sides):
        explorer.moved.append((movement.subject, movement.strength, stack.shape, sides))
        return np.roll(stack, int(movement.strength), axis=2)

    monkeypatch.setattr(state.motion, "move_stack", move)
    explorer = state.Explorer(lively(steps=2), lively_slices)
    explorer.moved = []
    return explorer


change = dataclasses.replace


def test_switched_off_conditions_are_replaced(made):
    view = made.first()
    before, brain = made.conditions(view), made.zone(view, "brain")
    empty = made.conditions(change(view, off=("t2",)))
    assert made.names == ("flair", "t2", "t1")
    assert not empty[1].any()  # -1 for the networks
    np.testing.assert_array_equal(empty[[0, 2]], before[[0, 2]])
    flat = made.conditions(change(view, off=("t2", "t1"), replacement="mean"))
    for i in (1, 2):
        assert (flat[i][brain] == pytest.approx(before[i][brain].mean())) and not flat[i][~brain].any()
    np.testing.assert_array_equal(flat[0], before[0])


def test_motion_moves_one_condition_of_the_whole_subject(made):
    view = made.first()
    shifted = change(view, moved="t1", strength=2.0)
    before, after = made.conditions(view), made.conditions(shifted)
    np.testing.assert_array_equal(after[2], np.roll(before[2], 2, axis=1))
    np.testing.assert_array_equal(after[:2], before[:2])
    made.conditions(change(shifted, place=view.place - 1))
    ((*given, sides),) = made.moved  # once: the stack is kept
    assert given == [view.subject, 2.0, (len(made.slices.subject(view.subject)), SIZE, SIZE)]
    assert sides == pytest.approx((240 / 26, 240 / SIZE, 240 / SIZE))


def test_the_first_synthesis_is_that_of_notebook_03_and_is_kept(made, monkeypatch):
    view = made.first()
    area = (made.slices.lesion(made.slices.subject(view.subject)) > 0).sum(axis=(1, 2))
    assert area[view.place] == area.max() > 0
    expected = sample.sample_slices(made.method, made.slices, np.array([made.index(view)]))[0]
    kept = made.synthesis(view)
    np.testing.assert_allclose(kept.image, expected, atol=1e-6)
    monkeypatch.setattr(sample, "sample_slices", None)
    made.synthesis(change(view, moved="t1", strength=0.0))  # no motion
    other = change(view, t=1, strength=3.0, replacement="mean", region="lesion", network=1)  # no change
    assert made.synthesis(other) is kept
    with pytest.raises(TypeError):
        made.synthesis(change(view, off=("t1",)))


def test_statistics_are_those_of_the_region(made):
    area = {"region": "rectangle", "rows": (10, 14), "columns": (12, 19)}
    view = change(made.first(), **area, off=("t1",), network=1, t=1)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[10:15, 12:20] = True
    np.testing.assert_array_equal(made.zone(view, "rectangle"), inside)
    found = made.statistics(view)
    masks = made.synthesis(view).masks
    assert set(masks) == {(v, j, t) for v in ("channel_mean", "convolution") for j in (1, 2) for t in (0, 1)}
    mask = masks["channel_mean", 1, 1]
    assert found["pixels"] == 40 and found["mean of the mask"] == pytest.approx(mask[inside].mean())
    assert found["standard deviation of the mask"] == pytest.approx(mask[inside].std())
    truth, a, b = made.truth(view), made.synthesis(view.unchanged()).image, made.synthesis(view).image
    assert found["mean of the unchanged"] == pytest.approx(a[inside].mean())
    assert found["mean of the changed"] == pytest.approx(b[inside].mean())
    for name, pair in {"of the changed": (truth, b), "of the unchanged": (truth, a), "between both": (a, b)}.items():
        assert found[f"PSNR {name}"] == metrics.masked_protocol(*pair, inside)["psnr"]


def test_a_region_that_is_empty_has_no_numbers(made, monkeypatch):
    monkeypatch.setattr(made.slices, "lesion", lambda i: np.zeros((len(i), SIZE, SIZE), np.uint8))
    view = change(made.first(), region="lesion")
    found = made.statistics(view)
    assert found["pixels"] == 0 and np.isnan(found["mean of the mask"]) and np.isnan(found["PSNR of the unchanged"])
    assert view.place == len(made.slices.subject(view.subject)) // 2
    widgets.draw(made, view)


def test_a_missing_condition_is_left_out_by_the_run_for_any_subset(made):
    assert made.replacements == ("background", "mean") and made.first().replacement == "background"
    explorer = state.Explorer(made.method, made.slices, any_subset=lively(steps=2, target="any"))
    view = change(explorer.first(), off=("t2",))
    assert view.replacement == "missing" and explorer.synthesis(explorer.first()).image.tolist() == (
        made.synthesis(made.first()).image.tolist()  # nothing is off: the run itself
    )
    index, task = [explorer.index(view)], (("flair", "t1"), "t1ce")
    expected = sample.sample_slices(explorer.any_subset, explorer.slices, index, task=task)[0]
    np.testing.assert_array_equal(explorer.synthesis(view).image, expected)
    task = (("flair", "t1", "t2"), "t1ce")
    expected = sample.sample_slices(explorer.any_subset, explorer.slices, index, task=task)[0]
    np.testing.assert_array_equal(explorer.normal(view).image, expected)
    black = change(view, replacement="background")
    np.testing.assert_array_equal(explorer.normal(black).image, made.normal(black).image)
    assert explorer.mask(view).shape == explorer.mask(black).shape
    assert "left out" in widgets.static(explorer, explorer.first(), "smoke").get_label()


def titled(figure, words):
    (axis,) = [a for a in figure.axes if words in a.get_title()]
    return axis


def test_the_picture_shows_the_change(made):
    view = change(made.first(), off=("t2",), moved="flair", strength=1.0)
    figure = widgets.draw(made, view)
    before, after = (made.synthesis(v).image for v in (view.unchanged(), view))
    np.testing.assert_array_equal(titled(figure, "difference").images[0].get_array(), after - before)
    assert not titled(figure, "T2 (off)").images[0].get_array().any()
    assert titled(figure, "FLAIR (moved)")
    np.testing.assert_array_equal(titled(figure, "synthesis, changed").images[0].get_array(), after)
    mask, brain = titled(figure, "$M_2$").images[0], made.zone(view, "brain")
    np.testing.assert_allclose(mask.get_array()[brain], made.mask(view)[brain], rtol=1e-6)
    # Masks have one scale in all views: of another slice, step and network too.
    others = {"place": 0, "t": 1, "network": 1}, {"off": (), "moved": ""}, {"variant": "convolution"}
    for other in (change(view, **fields) for fields in others):
        axis = titled(widgets.draw(made, other), f"$M_{other.network}$")
        assert axis.images[0].get_clim() == mask.get_clim()
    low, high = mask.get_clim()
    assert low + high == pytest.approx(1) and high >= 0.55


def test_the_static_panel_has_each_change(made):
    view = made.first()
    found = widgets.scenarios(made, view)
    expected = "nothing changed, FLAIR off, T2 off, T1 off, FLAIR with motion 1, FLAIR with motion 3"
    assert list(found) == expected.split(", ")
    figure = widgets.static(made, view, "smoke")
    top = [a for a in figure.axes if a.get_xlabel().endswith(" dB")]
    assert len(top) == len(found)
    brain, truth = made.zone(view, "brain"), made.truth(view)
    for axis, chosen in zip(top, found.values(), strict=True):
        pair = (made.normal(chosen).image, made.synthesis(chosen).image)
        before, psnr = (metrics.masked_protocol(truth, image, brain)["psnr"] for image in pair)
        assert axis.get_xlabel() == f"{before:.1f} → {psnr:.1f} dB"
    assert view.subject in figure.get_label()


def test_each_widget_sets_its_field(made):
    panel = widgets.Panel(made)
    assert panel.view() == made.first()
    greyed = {name for name, control in panel.controls.items() if control.disabled}
    assert greyed == {"replacement", "strength", "rows", "columns"}  # nothing is changed, and the region is the brain
    assert set(panel.controls) == {field.name for field in dataclasses.fields(state.View)}
    values = {
        "off": ("t2",), "replacement": "mean", "moved": "t1", "strength": 2.0, "t": 1, "network": 1,
        "variant": "convolution", "region": "rectangle", "rows": (3, 9), "columns": (4, 8), "place": 0,
    }  # fmt: skip
    for name, value in values.items():
        panel.controls[name].value = value
        assert getattr(panel.view(), name) == value
    assert panel.view() == change(made.first(), **values)
    assert not any(control.disabled for control in panel.controls.values())
    assert f">{7 * 5}" in panel.numbers.value


def test_a_change_draws_once_and_anew(made, monkeypatch):
    panel, drawn, real = widgets.Panel(made), [], widgets.draw
    monkeypatch.setattr(widgets, "draw", lambda e, v: drawn.append(v) or real(e, v))
    before, numbers = bytes(panel.picture.value), panel.numbers.value
    assert before.startswith(b"\x89PNG") and "<th>brain</th>" in numbers
    panel.controls["off"].value = ("t1",)
    assert bytes(panel.picture.value) != before and len(drawn) == 1 and drawn[0].off == ("t1",)
    panel.controls["region"].value = "lesion"
    assert "<th>lesion</th>" in panel.numbers.value and len(drawn) == 2
    panel.controls["subject"].value = made.slices.subjects[1]
    assert len(drawn) == 3  # the slice went along without a drawing of its own
    assert drawn[-1].place == made.first(made.slices.subjects[1]).place
    assert panel.controls["place"].max == len(made.slices.subject(made.slices.subjects[1])) - 1


def test_a_choice_that_fails_says_why_and_keeps_the_picture(made, monkeypatch):
    panel = widgets.Panel(made)
    before, error = bytes(panel.picture.value), MudiffError("too <strong> a motion")
    monkeypatch.setattr(state.motion, "move_stack", mock.Mock(side_effect=error))
    panel.controls["moved"].value = "t1"
    assert panel.numbers.value == "<b>too &lt;strong&gt; a motion</b>"
    assert bytes(panel.picture.value) == before


def test_where_widgets_do_not_run_a_sentence_stands_for_them(made):
    bundle = widgets.Panel(made)._repr_mimebundle_()
    assert bundle["text/plain"] == widgets.STILL
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "VBox(" not in json.dumps(bundle) and "image/png" not in bundle  # neither dead text nor bulk
    assert len(widgets.Panel(made).picture.value) < 100_000
