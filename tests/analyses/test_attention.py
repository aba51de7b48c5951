"""Attentive masks and adapter maps: zones, means over them, what is observed, and Figs. 5a and 5b."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LIVELY, lively, refused, run_cells, save_run
from matplotlib.text import Text

from mudiff import paths
from mudiff.analyses import attention
from mudiff.methods.base import build
from mudiff.model import critic
from mudiff.model.diffusion import SliceNoise, slice_seed
from mudiff.training import profiles

SIZE = LIVELY["image_size"]


def test_zones_are_disjoint_and_make_up_the_brain():
    labels, brain = np.zeros((3, SIZE, SIZE)), np.zeros((3, SIZE, SIZE), bool)
    brain[:, 4:28, 4:28] = True
    labels[0, 10:18, 12:20] = 4
    labels[2, 4:10, 10:16] = 1  # touches the edge of the brain
    found = attention.zones(labels, brain)
    assert (found.sum(axis=1) == brain).all()
    inside, rim, rest = found[0]
    assert np.argwhere(inside).min(axis=0).tolist() == [11, 13] and inside.sum() == 6 * 6
    assert rim.sum() == 10 * 10 - 6 * 6  # one pixel to either side
    assert rest[9 - 1, 12] and not rest[9, 12]
    assert (found[1, 2] == brain[1]).all() and not found[1, :2].any()
    assert found[2, 1].any()
    assert [attention.reach(size) for size in (32, 64, 128, 256, 512)] == [1, 1, 2, 3, 6]


def test_steps_are_those_of_training(lively_slices):
    method = lively()
    seen = list(attention.observe(method, lively_slices, [2]))
    assert [s.t for s in seen] == [0, 1, 2]
    assert seen[0].logits.shape == (1, 3) and seen[0].middles[0].shape == (1, method.critic.middle_width, 8, 8)
    again = attention.observe(method, lively_slices, [2])
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(seen, again, strict=True))
    # At t = 0 the true step is the truth, and the step back is the prediction (no noise and no x_t are left).
    row = lively_slices.index.iloc[2]
    noise = SliceNoise([slice_seed(0, "attention", row["subject"], row["slice"])], torch.device("cpu"))
    truth, t = torch.from_numpy(lively_slices.images([2], "t1ce"))[None], torch.zeros(1, dtype=torch.long)
    before = method.schedule.q_sample(truth, t, noise.normal(1, SIZE, SIZE))
    x_t = method.schedule.q_step(before, t, noise.normal(1, SIZE, SIZE))
    with torch.no_grad():
        judged = method.judge([truth, *seen[0].predictions], t, x_t)
    torch.testing.assert_close(seen[0].logits, torch.stack([logit for logit, _ in judged], dim=1))
    torch.testing.assert_close(seen[0].middles, [middle for _, middle in judged[1:]])


@torch.no_grad()
def test_maps_are_the_magnitudes_that_enter_and_leave_tau(lively_slices):
    method, heard = lively(), []
    tau = method.f2.contrast_adapter
    handle = tau.register_forward_hook(lambda _, given, out: heard.append((given[0], out)))
    seen = list(attention.observe(method, lively_slices, [2]))[1]
    handle.remove()
    for found, expected in zip((seen.adapted, seen.fused), heard[1], strict=True):
        torch.testing.assert_close(found, [b.abs().mean(dim=1) for b in expected])
    assert not tau._forward_hooks  # the hook is gone


def test_heads_are_the_masks_of_the_critic_and_draws_like_a_new_runs():
    method = lively()
    names, weight, bias = attention.heads(method, draws=50)
    assert names[:3] == ["channel_mean", "convolution", "draw 0"] and len(names) == 52
    middle = torch.randn(1, weight.shape[1], 4, 4, generator=torch.Generator().manual_seed(0))
    for k, layer in enumerate((None, method.attention)):
        by_head = torch.sigmoid(torch.einsum("c,bcyx->byx", weight[k], middle) + bias[k])
        torch.testing.assert_close(by_head, critic.attentive_mask(middle, 4, layer)[:, 0])
    drawn = weight[2:]
    assert len(drawn.unique(dim=0)) == 50 and not bias[2:].any()
    # The run's own convolution is one draw of the same distribution.
    assert drawn.std() == pytest.approx(method.attention.weight.std().item(), rel=0.35)
    assert attention.heads(lively(mask="channel_mean"), draws=2)[0] == ["channel_mean", "draw 0", "draw 1"]


def test_means_agree_with_masks_made_one_by_one(lively_slices):
    method, name = lively(pairs="chain"), lively_slices.subjects[1]
    means, logits = attention.measure(method, lively_slices, most=2)
    drawn = means[means.what == "mask"]
    assert drawn.subject.nunique() == 2  # the one without lesion is left out
    assert len(drawn) == (2 + attention.DRAWS) * 2 * 3 * 3 * 2
    assert set(means[means.name == "fused"].of) == {"flair", "t2"}  # the last begins no pair
    chosen = [i for i in attention.chosen_slices(lively_slices, 2) if lively_slices.index.subject[i] == name]
    assert len(chosen) == 2 and list(logits) == ["subject", "t", "real", "fake_1", "fake_2"]
    areas = attention.zones(lively_slices.lesion(chosen), lively_slices.brain(chosen))
    own = means[(means.subject == name) & (means.what != "control")].set_index(["name", "of", "t", "zone"])["mean"]
    for t, j, variant in ((0, 0, "channel_mean"), (2, 1, "convolution")):
        layer = attention.variants(method)[variant]
        middles = [list(attention.observe(method, lively_slices, [i]))[t].middles[j] for i in chosen]
        masks = np.stack([critic.attentive_mask(m, SIZE, layer).detach().numpy()[0, 0] for m in middles])
        for z, zone in enumerate(attention.ZONES):
            found = own[variant, str(j + 1), t, zone]
            assert found == pytest.approx(masks[areas[:, z]].mean(), rel=1e-4)
    every = attention.chosen_slices(lively_slices, 2)  # masks are those of the last step above
    others = [np.roll(every, len(every) // 2)[list(every).index(i)] for i in chosen]
    laid = attention.zones(lively_slices.lesion(others), lively_slices.brain(others)) & areas.any(axis=1)[:, None]
    control = means[(means.subject == name) & (means.what == "control")]
    control = control.set_index(["name", "of", "t", "zone"])["mean"]
    assert lively_slices.index.subject[others[0]] != name
    z = int(laid.any(axis=(0, 2, 3)).argmax())  # a zone that is there
    assert control["convolution", "2", 2, attention.ZONES[z]] == pytest.approx(masks[laid[:, z]].mean(), rel=1e-4)
    flair = (lively_slices.images(chosen, "flair") + 1) / 2
    assert own["image", "flair", 0, "lesion"] == pytest.approx(flair[areas[:, 0]].mean(), rel=1e-4)


def test_without_lesions_all_subjects_are_measured_everywhere(lively_slices, monkeypatch):
    monkeypatch.setattr(type(lively_slices), "lesion", lambda self, i: np.zeros((len(i), SIZE, SIZE), np.uint8))
    means, logits = attention.measure(lively(), lively_slices, most=1)
    assert set(means.zone) == {"elsewhere"} and means.subject.nunique() == logits.subject.nunique() == 3


def test_measurements_are_kept_until_the_weights_change(lively_slices, monkeypatch):
    folder = save_run(lively())
    first = attention.measured("smoke", folder, lively_slices, most=1)
    monkeypatch.setattr(attention, "measure", None)  # both tables are kept
    for before, again in zip(first, attention.measured("smoke", folder, lively_slices, most=1), strict=True):
        pd.testing.assert_frame_equal(before, again)
    save_run(lively(seed=5))
    with pytest.raises(TypeError):
        attention.measured("smoke", folder, lively_slices, most=1)


def test_runs_that_have_no_masks_are_refused(lively_slices):
    refused("no weights of the critic", attention.open_run, save_run(lively(), without=("critic.", "attention.")))
    other = build(profiles.settings("smoke", "brats", "t1ce", "linear"))
    refused("a run of linear", attention.open_run, save_run(other, paths.run("smoke", "brats_t1ce_linear")))


BRAIN, LESION = np.zeros((2, SIZE, SIZE), bool)
BRAIN[4:28, 4:28] = LESION[10:16, 10:16] = True


def index(*levels):
    return pd.MultiIndex.from_product(levels, names=["name", "of", "subject"])


SHOWN = {"brain": BRAIN, "means": pd.DataFrame(columns=["what", "name", "of"]), "here": "A", "profile": "smoke"}


def fig5a(folder, maps, lesion, ratios):
    given = SHOWN | {"maps": maps, "conditions": list(maps["image"]), "lesion": lesion, "ratios": ratios, "t": 0}
    return run_cells("08_attention", "def draw_map", 'publish(folder, "fig5a"', **given, folder=folder)["figure"]


def fig5b(folder, masks, lesion, changes):
    given = SHOWN | {"shown": masks, "images": dict.fromkeys(masks, BRAIN * 0.5), "lesion": lesion, "own": []}
    given |= {"changes": changes, "method": lively(target="t1ce"), "folder": folder}
    given["zone_dots"] = run_cells("08_attention", "def zone_dots", "def zone_dots")["zone_dots"]
    return run_cells("08_attention", "columns = 1 + len(shown[0])", 'publish(folder, "fig5b"', **given)["figure"]


def test_fig5a_shows_each_image_in_its_window_and_the_mean_ratio(rng, tmp_path):
    image = {c: rng.random((SIZE, SIZE)) for c in ("flair", "t1")}
    maps = {"image": image, "adapted": {c: a + 9 * ~BRAIN for c, a in image.items()}}
    maps["fused"] = {"flair": image["flair"]}  # the last condition may begin no pair
    ratios = pd.Series([1.0, 4.0] * 4, index(["image", "adapted"], ["flair", "t1"], ["A", "B"]))
    figure = fig5a(tmp_path, maps, LESION, ratios)
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.images[0].get_clim() for axis in shown[:2]] == [(0, 1)] * 2
    scales = {axis.images[0].get_clim() for axis in shown[2:]}
    assert len(scales) == 1 and max(scales)[1] <= 1  # one for all features, and what lies outside does not set it
    right = next(axis for axis in figure.axes if "lesion / elsewhere" in axis.get_xlabel())
    assert right.lines[1].get_xdata()[0] == pytest.approx(math.log(2))  # the geometric mean of 1 and 4


def test_fig5b_has_one_scale_for_all_masks_and_writes_their_ranges(rng, tmp_path):
    keys = [(1, "channel_mean"), (2, "channel_mean"), (1, "convolution"), (2, "convolution")]
    masks = {t: {key: 0.46 + 0.01 * rng.random((SIZE, SIZE)) for key in keys} for t in (2, 0)}
    names = ["channel_mean", "convolution", *(f"draw {k}" for k in range(8))]
    rows = index(names, ["1", "2"], ["A", "B"])
    changes = pd.DataFrame({"lesion": np.arange(40) / 100, "boundary": 0.0}, rows)
    figure = fig5b(tmp_path, masks, LESION, changes)
    assert [text.get_text() for text in figure.subfigs[0].axes[0].texts] == ["R", "L"]
    shown = [a for s in figure.subfigs for a in s.axes if a.images and " to " in a.get_xlabel()]
    assert len(shown) == 8 and {a.images[0].get_clim() for a in shown} == {(0.45, 0.55)}
    inside = masks[2][1, "channel_mean"][BRAIN]
    assert shown[0].get_xlabel() == f"{inside.min():.3f} to {inside.max():.3f}"
    draws = figure.subfigs[1].axes[1]
    found = {line.get_label(): line.get_xdata()[0] for line in draws.lines[:2]}
    assert found == pytest.approx({"channel mean": 0.015, "convolution": 0.055})
    assert sum(patch.get_height() for patch in draws.patches) == 8  # of the draws alone


def test_without_lesions_the_figures_say_so(rng, tmp_path):
    none = pd.DataFrame({"lesion": np.nan, "boundary": np.nan}, index(["channel_mean"], ["1"], ["A"]))
    masks, nothing = {0: {(1, "channel_mean"): rng.random((SIZE, SIZE))}}, np.zeros_like(LESION)
    figure = fig5b(tmp_path, masks, nothing, none)
    assert any("no lesion" in text.get_text() for text in figure.findobj(Text))
    maps = {kind: {"flair": rng.random((SIZE, SIZE))} for kind in attention.KINDS}
    figure = fig5a(tmp_path, maps, nothing, pd.Series([np.nan], index(["image"], ["flair"], ["A"])))
    assert any("no lesion" in text.get_text() for text in figure.findobj(Text))


@torch.no_grad()
def test_what_is_heard_of_f2_fits_its_equations(lively_slices):
    method = lively(steps=2)
    x, y, t = torch.zeros(1, 1, 32, 32), torch.rand(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)
    with attention.listen(method.f2) as heard:
        x_p1, _ = method.predict(x, y, t, torch.zeros(1, method.settings.latent))
    tau, style, (f_i, f_j, *_) = method.f2.contrast_adapter, method.f2.target_adapter(x_p1), heard["adapted"]
    modulated = method.f2.mapper.conditions[1].modulation(heard["before"][1], style)  # Eqs. 12 and 13
    fused = heard["z_b"][0] * tau.extract[0](heard["z_a"][0] * f_i) + (1 - heard["z_b"][0]) * f_j  # Eqs. 15 and 17
    torch.testing.assert_close((heard["after"][1], heard["fused"][0]), (modulated, fused))
