"""The explorer: what a view changes, shows and keeps, and its widgets without a browser."""

import dataclasses
import json
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import LIVELY, lively, refused, save_run

from mudiff import paths, storage
from mudiff.data.dataset import open_slices
from mudiff.evaluation import metrics
from mudiff.explorer import keep, picture, state, widgets
from mudiff.plots import attention as drawings
from mudiff.synthesis import sample

SIZE = LIVELY["image_size"]
change = dataclasses.replace


def run(name="brats_t1ce_mudiff", without=(), **settings) -> Path:
    """Write a complete run of profile smoke."""
    folder = save_run(lively(steps=2, **settings), paths.run("smoke", name), without)
    storage.write_json(folder / "provenance.json", {})
    return folder


@pytest.fixture
def made(lively_slices, monkeypatch):
    """An explorer of the first test subject; motion, noted in `moved`, shifts by as many columns as its strength."""

    def move(stack, movement, sides):
        explorer.moved.append((movement.subject, movement.strength, stack.shape, sides))
        return np.roll(stack, int(movement.strength), axis=2)

    monkeypatch.setattr(state.motion, "move_stack", move)
    explorer = state.Explorer(run())
    explorer.moved = []
    return explorer


@pytest.fixture
def folder(lively_slices, tmp_path) -> Path:
    """The NIfTI files of the first test subject."""
    return tmp_path / "raw" / lively_slices.subjects[0]


def test_a_folder_of_files_is_the_subject_that_was_prepared_from_it(made, folder):
    loose = state.Explorer(made.run, folder)
    for field in dataclasses.fields(loose.subject):
        if field.name not in ("images", "geometry", "source", "doubts"):
            np.testing.assert_array_equal(getattr(loose.subject, field.name), getattr(made.subject, field.name))
    for name, stack in made.subject.images.items():
        np.testing.assert_allclose(loose.subject.images[name], stack, atol=1e-6)
    assert loose.subject.geometry.kept == made.subject.geometry.kept and loose.subject.source == str(folder)
    np.testing.assert_allclose(loose.synthesis(loose.first()).image, made.synthesis(made.first()).image, atol=1e-5)

    next(folder.glob("*_t1ce*")).unlink()  # no truth
    blind = state.Explorer(made.run, folder)
    view = blind.first()
    assert blind.truth(view) is None and not blind.statistics(view).index.str.startswith("PSNR").any()
    np.testing.assert_allclose(blind.synthesis(view).image, made.synthesis(view).image, atol=1e-5)
    assert blind.contribution(view, 1).lost.isna().all()
    titles = [text.get_text() for text in picture.draw(blind, view)[0].axes[0].texts]
    assert "synthesis" in titles and "error" not in titles and "true T1CE" not in titles


def test_what_cannot_be_explored_is_one_line(made, folder, tmp_path):
    refused("no complete run", state.Explorer, tmp_path)
    refused("'nobody' is not in", state.Explorer, made.run, "nobody")
    refused("no slices are prepared", state.Explorer, run("brats_t1ce_other", slices=5))
    next(folder.glob("*_t2*")).unlink()
    refused("has no T2, which is needed", state.Explorer, made.run, folder)
    assert state.Explorer(run("brats_any_mudiff", target="any"), folder).targets == ("t2", "t1", "t1ce", "flair")
    flair = next(folder.glob("*_flair*"))
    nibabel.save(nibabel.Nifti1Image(nibabel.load(flair).get_fdata(), np.diag([-2.0, -2, 2, 1])), flair)
    refused("not on one grid", state.Explorer, paths.run("smoke", "brats_any_mudiff"), folder)
    panel = widgets.Panel(tmp_path)
    assert "no complete run" in panel.says.value and panel.explorer is None


def test_changes_are_made_to_the_conditions(made):
    view = made.first()
    before, brain = made.conditions(view), made.subject.brain[view.place]
    assert list(before) == ["flair", "t2", "t1"]
    moved, off = (("t1", 2.0),), ("t2",)
    after = made.conditions(change(view, off=off, motion=moved, brightness=(("flair", 0.5),)))
    assert not after["t2"].any()  # -1 for the networks
    np.testing.assert_allclose(after["flair"], before["flair"] / 2)
    np.testing.assert_array_equal(after["t1"], np.roll(before["t1"], 2, axis=1))
    mean = made.conditions(change(view, off=off, replacement="mean"))["t2"]
    assert mean[brain] == pytest.approx(before["t2"][brain].mean()) and not mean[~brain].any()
    noisy = made.conditions(change(view, noise=(("t1", 0.1),)))["t1"] - before["t1"]
    assert not noisy[~brain].any() and 0.03 < noisy[brain].std() < 0.12

    made.conditions(change(view, motion=moved, place=view.place - 1))
    ((*given, sides),) = made.moved  # once: the stack is kept
    assert given == [made.subject.name, 2.0, (len(made.subject.brain), SIZE, SIZE)]
    assert sides == pytest.approx((1, 26 / SIZE, 26 / SIZE))  # mm, of the 20 x 26 voxels of 1 mm


def test_the_first_synthesis_is_that_of_notebook_03_and_is_kept(made, lively_slices, monkeypatch):
    view = made.first()
    areas = (made.subject.labels > 0).sum(axis=(1, 2))
    assert areas[view.place] == areas.max() > 0
    index = lively_slices.subject(made.subject.name)[[view.place]]
    kept = made.synthesis(view)
    np.testing.assert_allclose(kept.image, sample.sample_slices(made.method, lively_slices, index)[0], atol=1e-6)
    early = made.synthesis(change(view, steps=1))
    expected = sample.sample_slices(made.method, lively_slices, index, steps=1)[0]
    np.testing.assert_allclose(early.image, expected, atol=1e-6)
    assert {t for *_, t in early.layers} == {1} and made.step(change(view, steps=1)) == 1
    monkeypatch.setattr(sample, "sample_batch", None)
    neutral = {"motion": (("t1", 0.0),), "brightness": (("t2", 1.0),)}
    other = change(view, t=1, replacement="mean", region="lesion", network=1, **neutral)  # no change
    assert made.synthesis(other) is made.normal(other) is kept
    with pytest.raises(TypeError):
        made.synthesis(change(view, off=("t1",)))


def test_layers_are_those_of_the_networks(made):
    layers = made.synthesis(made.first()).layers
    masks = {(f"M{j}", v, t) for v in ("channel_mean", "convolution") for j in (1, 2) for t in (0, 1)}
    assert masks < set(layers)
    pairs = {name for kind, name, _ in layers if kind in ("fused", "z_a", "z_b")}
    assert pairs == {"FLAIR, T2", "T2, T1", "T1, FLAIR"}
    assert {name for kind, name, _ in layers if kind in ("before", "after", "adapted")} == {"FLAIR", "T2", "T1"}
    gate = layers["z_a", "FLAIR, T2", 0]
    assert gate.shape == (SIZE, SIZE) and 0 < gate.min() < gate.max() < 1
    assert made.layers == list(state.LAYERS)
    plain = state.Explorer(
        run("brats_t1ce_syndiff", method="mudiff", contrast_adaptation=False, target_adaptation=False)
    )
    assert plain.layers == ["masks", "predictions"]
    published = state.Explorer(run("brats_t1ce_published", without=("critic.", "attention.")))
    assert published.layers == ["predictions", "gates", "maps"] and state.ABOVE not in published.regions
    assert "mean of the mask" not in published.statistics(published.first()).index


def test_statistics_are_those_of_the_regions(made):
    corners = ((9.5, 11.5), (9.5, 19.5), (14.5, 19.5), (14.5, 11.5))
    view = change(made.first(), region="drawn", polygon=corners, off=("t1",), network=1, t=1)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[10:15, 12:20] = True
    np.testing.assert_array_equal(made.region(view), inside)
    found = made.statistics(view)
    assert list(found) == ["drawn", "brain", "lesion"] and found.loc["pixels", "drawn"] == 40
    synthesis = made.synthesis(view)
    mask = synthesis.layers["M1", "channel_mean", 1]
    images = {
        "mask": mask,
        "truth": made.truth(view),
        "changed": synthesis.image,
        "disagreement": synthesis.disagreement(1),
    }
    for name, image in images.items():
        assert found.loc[f"mean of the {name}", "drawn"] == pytest.approx(image[inside].mean())
        assert found.loc[f"SD of the {name}", "drawn"] == pytest.approx(image[inside].std())
    for name, image in {"changed": synthesis.image, "unchanged": made.normal(view).image}.items():
        expected = metrics.masked_protocol(made.truth(view), image, inside)["psnr"]
        assert found.loc[f"PSNR of the {name}", "drawn"] == pytest.approx(expected, rel=1e-5)
    middle = float(np.median(mask[made.subject.brain[view.place]]))
    above = made.region(change(view, region=state.ABOVE, threshold=middle))
    assert above.sum() == pytest.approx(made.subject.brain[view.place].sum() / 2, abs=2)
    np.testing.assert_array_equal(made.region(view, "label 1"), made.subject.labels[view.place] == 1)


def test_an_empty_region_has_no_numbers(made):
    view = change(made.first(), region="drawn")
    found = made.statistics(view)
    assert found.loc["pixels", "drawn"] == 0 and found["drawn"].drop("pixels").isna().all()
    picture.draw(made, view)
    healthy = state.Explorer(made.run, open_slices(paths.prepared("smoke", "brats"), "test").subjects[2])
    assert (
        healthy.regions == ["brain", "drawn", state.ABOVE]
        and healthy.first().place == len(healthy.subject.brain) // 2
    )


def test_a_missing_condition_is_left_out_by_the_run_for_any_subset(made, lively_slices):
    assert made.replacements == ("background", "mean") and made.first().replacement == "background"
    run("brats_any_mudiff", target="any")
    explorer = state.Explorer(made.run)
    view, index = change(explorer.first(), off=("t2",)), lively_slices.subject(made.subject.name)
    assert view.replacement == "missing"
    np.testing.assert_array_equal(explorer.normal(explorer.first()).image, made.normal(made.first()).image)
    for given, image in ((("flair", "t1"), explorer.synthesis(view)), (("flair", "t1", "t2"), explorer.normal(view))):
        expected = sample.sample_slices(explorer.any, lively_slices, index[[view.place]], task=(given, "t1ce"))[0]
        np.testing.assert_allclose(image.image, expected, atol=1e-6)
    black = change(view, replacement="background")
    np.testing.assert_array_equal(explorer.normal(black).image, made.normal(black).image)
    lost = explorer.contribution(view, 2)
    assert lost.groupby("condition").size().eq(4).all()  # two regions, two draws
    first = lost.query("condition == 't2' and region == 'brain' and draw == 0").iloc[0]
    brain, whole = explorer.subject.brain[view.place], explorer.normal(view).image
    psnr = [explorer.psnr(view, image, brain) for image in (whole, explorer.synthesis(view).image)]
    assert first.lost == pytest.approx(psnr[0] - psnr[1])
    refused("keep one", explorer.synthesis, change(view, off=("t1", "t2", "flair")))
    assert drawings.contribution(lost).axes[0].get_ylabel() == "PSNR lost without it (dB)"


def test_the_picture_has_one_scale_for_a_row(made):
    view = change(made.first(), off=("t2",), motion=(("flair", 1.0),), samples=3)
    figure, layout = picture.draw(made, view)
    titles = [text.get_text() for text in figure.axes[0].texts]
    seen = {"FLAIR (changed)", "T2 (off)", "T1", "true T1CE", "error", "unchanged", "SD of 3 samples", "$M_1$, t = 1"}
    assert seen <= set(titles)
    assert titles.count(f"{made.scale(view, ('M1', 'M2'))[1]:.3g}") == 1
    row, (low, high) = ("M1", "M2"), made.scale(view, ("M1", "M2"))
    assert low + high == pytest.approx(1) and high >= 0.55
    assert made.scale(change(view, place=0, t=1, off=()), row) == (low, high)  # of another slice, too
    assert made.spread(view) == pytest.approx(
        np.std([made._image(view.made_by(), False, k) for k in range(3)], axis=0, ddof=1)
    )
    (left, top), side = layout.corners[0], layout.side
    assert layout.pixels([(left, top), (left + 1, top + 1)])[1] == (
        layout.row + side - 0.5,
        layout.column + side - 0.5,
    )
    assert "T2 off (background)" in figure.get_label() and "FLAIR with motion 1" in figure.get_label()


def test_a_view_is_kept_and_opens_again(made, tmp_path):
    view = change(
        made.first(), off=("t2",), noise=(("t1", 0.1),), layer="maps", polygon=((1.0, 2.0), (3.0, 4.0), (5.0, 1.0))
    )
    own = keep.save(made, view, tmp_path / "kept", made.contribution(view, 1))
    assert keep.save(made, view, tmp_path / "kept").name.endswith("_2")  # what was there stays
    for name in ("view.png", "view.svg", "view.txt", "view.csv", "contribution.csv", "before-rho-FLAIR.nii.gz"):
        assert (own / name).is_file()
    truth, native = (
        nibabel.load(next(f.glob(n))) for f, n in ((own, "true*"), (tmp_path / "raw" / made.subject.name, "*_t1ce*"))
    )
    assert truth.shape == native.shape and np.allclose(truth.affine, native.affine)
    place = view.place + made.subject.geometry.kept[0]
    there = np.flatnonzero(truth.get_fdata().any(axis=(0, 1)))
    assert there.tolist() == [place]
    inside = native.get_fdata()[..., place] > 0
    assert np.corrcoef(truth.get_fdata()[..., place][inside], native.get_fdata()[..., place][inside])[0, 1] > 0.6
    assert keep.load(own / "view.json") == (made.run, made.subject.source, view)
    panel = widgets.Panel(*keep.load(own / "view.json")).wait()
    assert panel.view() == view and not panel.says.value
    record = json.loads((own / "view.json").read_text())
    storage.write_json(tmp_path / "odd.json", record | {"view": record["view"] | {"colour": 1}})
    refused("no view of the explorer", keep.load, tmp_path / "odd.json")
    panel.others["view"].value = str(tmp_path / "none.json")
    panel.buttons["open"].click()
    assert "file not found" in panel.says.value and panel.view() == view


def test_each_widget_sets_its_field(made):
    panel = widgets.Panel(made.run).wait()
    assert panel.view() == made.first() and "<th>brain</th>" in panel.numbers.value
    fields = {key if isinstance(key, str) else key[0] for key in panel.controls} | {"polygon"}
    assert fields == {field.name for field in dataclasses.fields(state.View)}
    assert panel.controls["replacement"].disabled and panel.controls["threshold"].disabled
    values = {
        ("off", "t2"): True, "replacement": "mean", ("motion", "t1"): 2.0, "t": 1, "network": 1, "samples": 2,
        "variant": "convolution", "layer": "gates", "region": state.ABOVE, "threshold": 0.4, "place": 0,
    }  # fmt: skip
    for name, value in values.items():
        panel.controls[name].value = value
    panel.wait()
    view = panel.view()
    assert view.off == ("t2",) and view.motion == (("t1", 2.0),) and not panel.controls["replacement"].disabled
    assert all(getattr(view, name) == value for name, value in values.items() if isinstance(name, str))
    assert "SD of 2 samples" in [text.get_text() for text in panel.canvas.figure.axes[0].texts]
    panel.buttons["reset"].click()
    panel.wait()
    assert panel.view() == view.unchanged()
    panel.buttons["contribution"].click()
    panel.wait()
    assert bytes(panel.bars.value).startswith(b"\x89PNG")
    for first, second in zip(*[iter(panel.others["subject"].options[:2])] * 2, strict=True):
        panel.others["subject"].value = second
        assert panel.wait().explorer.subject.name == second != first
    panel.others["keep"].value = str(made.run.parent / "kept")
    panel.buttons["save"].click()
    assert Path(panel.others["view"].value).is_file()


def test_a_change_draws_once_and_a_failure_says_why(made, monkeypatch):
    panel, drawn, real = widgets.Panel(made.run).wait(), [], picture.draw
    monkeypatch.setattr(picture, "draw", lambda e, v, f: drawn.append(v) or real(e, v, f))
    panel.controls["off", "t1"].value = True
    panel.wait()
    assert len(drawn) == 1 and drawn[0].off == ("t1",)
    panel.show()  # nothing has changed
    panel.wait()
    assert len(drawn) == 1
    before = panel.numbers.value
    panel.others["folder"].value = str(made.run)
    assert "no contrast found" in panel.says.value and panel.numbers.value == before


def test_work_is_stopped_by_the_button_and_by_the_next_change(made, monkeypatch):
    panel, may, real = widgets.Panel(made.run).wait(), threading.Event(), sample.sample_batch
    monkeypatch.setattr(sample, "sample_batch", lambda *given: may.wait(60) and real(*given))
    panel.controls["off", "t1"].value = True
    panel.buttons["stop"].click()
    may.set()
    assert "Stopped" in panel.wait().says.value and panel.shown is None
    may.clear()
    panel.controls["off", "t2"].value = True
    panel.controls["off", "t1"].value = False  # before the first was made
    may.set()
    assert panel.wait().shown == panel.view() and panel.shown.off == ("t2",)
    assert panel.working.layout.display == "none" and not panel.says.value


def test_a_large_image_is_shown_after_one_step_first(made, monkeypatch):
    monkeypatch.setattr(state, "SLOW", SIZE)
    drawn, real = [], picture.draw
    monkeypatch.setattr(picture, "draw", lambda e, v, f: drawn.append(v.steps) or real(e, v, f))
    panel = widgets.Panel(made.run).wait()
    panel.controls["region"].value = "lesion"  # nothing to sample, so no preview
    panel.wait()
    assert drawn == [1, 0, 0]


def test_where_widgets_do_not_run_a_sentence_stands_for_them(made):
    panel = widgets.Panel(made.run).wait()
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == widgets.STILL and "application/vnd.jupyter.widget-view+json" in bundle
    assert "VBox(" not in json.dumps(bundle) and panel.canvas._data_url is None  # neither dead text nor bulk
