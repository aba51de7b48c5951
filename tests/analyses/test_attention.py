"""Attentive masks and adapter maps: zones, means over them, the test over subjects, and what is said of them."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import lesion as two_labels

from mudiff import paths
from mudiff.analyses import attention
from mudiff.analyses.attention import measurements, observation, panels, regions, words
from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.methods.base import build
from mudiff.model import critic
from mudiff.plots import old_style as style
from mudiff.settings import Settings
from mudiff.training import profiles, runs

SIZE = 32
SMALL = {
    "image_size": SIZE, "width": 8, "multipliers": (1, 2), "blocks": 1, "embedding": 16, "critic_width": 4,
    "critic_blocks": 4, "slices": 6, "batch_size": 3, "steps": 3,
}  # fmt: skip


def settings(**changes) -> Settings:
    return Settings().replace(**SMALL | changes)


def lively(**changes):
    """Return a method whose last layers are off zero, so that predictions and masks differ between places."""
    method = build(settings(**changes)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in (method.f1, method.f2):
            network.encoder_decoder.output.weight.normal_(0, 0.3, generator=generator)
    return method


@pytest.fixture
def prepared(cohort, tmp_path, monkeypatch, write_subject, rng):
    """Prepare three test subjects of profile smoke, the last without lesion, and a saved run."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    root, manifest = cohort
    write_subject(root, "Brats18_F_1")
    write_subject(root, "Brats18_G_1", seg=np.zeros((20, 26, 12), np.uint8))
    more = pd.DataFrame([(f"BraTS19_{n}_1", "test", "") for n in "FG"], columns=manifest.columns)
    folder = paths.prepared("smoke", "brats")
    prepare.prepare(settings().preparation(), root, pd.concat([manifest, more]), folder, workers=1).check()
    save(lively())
    return prepare.open_slices(folder, "test")


def save(method, without=()):
    folder = paths.run("smoke", "brats_t1ce_mudiff")
    runs.claim(folder, method.settings, "data")
    kept = {k: v for k, v in method.state_dict().items() if not k.startswith(tuple(without))}
    runs.save_weights(folder / "weights.safetensors", kept)
    return folder


# Zones


def test_zones_are_disjoint_and_make_up_the_brain():
    labels, brain = np.zeros((2, SIZE, SIZE)), np.zeros((2, SIZE, SIZE), bool)
    brain[:, 4:28, 4:28] = True
    labels[0, 10:18, 12:20] = 4
    found = attention.zones(labels, brain)
    assert (found.sum(axis=1) == brain).all()
    inside, rim, rest = found[0]
    assert np.argwhere(inside).min(axis=0).tolist() == [11, 13] and inside.sum() == 6 * 6
    assert rim.sum() == 10 * 10 - 6 * 6  # one pixel to either side
    assert rest[9 - 1, 12] and not rest[9, 12]
    assert (found[1, 2] == brain[1]).all() and not found[1, :2].any()


def test_the_boundary_keeps_to_the_brain_and_scales_with_the_image():
    labels, brain = np.zeros((1, SIZE, SIZE)), np.zeros((1, SIZE, SIZE), bool)
    brain[:, 4:28, 4:28] = True
    labels[:, 4:10, 10:16] = 1  # touches the edge of the brain
    rim = attention.zones(labels, brain)[0, 1]
    assert rim.any() and not (rim & ~brain[0]).any()
    assert [attention.reach(size) for size in (32, 64, 128, 256, 512)] == [1, 1, 2, 3, 6]


def test_weights_of_the_small_mask_give_the_mean_of_the_enlarged_one(rng):
    """Pins `native_weights` to the enlargement of `critic.attentive_mask`."""
    areas = rng.random((2, 3, SIZE, SIZE)) < 0.3
    middle = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    large = critic.attentive_mask(middle, SIZE, None)[:, 0].numpy()
    expected = [[large[b][areas[b, z]].sum() for z in range(3)] for b in range(2)]
    small = torch.sigmoid(middle.mean(dim=1, keepdim=True))
    found = (attention.native_weights(areas, 4) * small).sum(dim=(2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# The test over subjects


def test_sign_flips_count_every_pattern():
    values = [0.5, 1.0, -0.2, 0.9]
    patterns = np.array(list(itertools.product((1, -1), repeat=4)))
    means = (patterns * values).mean(axis=1)
    expected = np.mean(np.abs(means) >= abs(np.mean(values)) - 1e-12)
    assert attention.sign_flip(values) == pytest.approx(expected)
    assert expected not in (0, 1)
    assert attention.sign_flip([0.1] * 6) == pytest.approx(2 / 2**6) == regions.smallest_p(6)
    assert attention.sign_flip([-3.0, -1.0]) == pytest.approx(0.5)
    assert math.isnan(attention.sign_flip([1.0]))
    many = np.linspace(0.5, 1, 20)
    assert attention.sign_flip(many) == pytest.approx(regions.smallest_p(20))


def frame(values: dict) -> pd.DataFrame:
    """Return rows of variant "a": (subject, zone, network) -> mean."""
    rows = [("a", s, z, j, v) for (s, z, j), v in values.items()]
    return pd.DataFrame(rows, columns=["variant", "subject", "zone", "network", "mean"])


def test_contrasts_take_one_value_of_each_subject():
    values = {}
    for s, (low, high) in {"A": (0.4, 0.5), "B": (0.3, 0.6)}.items():
        for j, shift in ((1, 0.0), (2, 0.2)):
            values |= {(s, "lesion", j): high + shift, (s, "elsewhere", j): low}
    values |= {("C", "elsewhere", j): 0.9 for j in (1, 2)}  # no lesion: does not count
    found = attention.contrasts(frame(values), ["variant"]).iloc[0]
    assert found["n"] == 2 and found["value"] == pytest.approx((0.2 + 0.4) / 2)
    assert (found["lowest"], found["highest"]) == pytest.approx((0.2, 0.4))
    assert found["p"] == found["p_smallest"] == 0.5
    split = attention.contrasts(frame(values), ["variant", "network"])
    assert split.value.tolist() == pytest.approx([0.2, 0.4])
    ratio = attention.contrasts(frame(values), ["network"], ratio=True).value
    assert ratio[0] == pytest.approx(math.sqrt((0.5 / 0.4) * (0.6 / 0.3)))


def test_without_lesions_there_is_nothing_to_compare():
    rows = frame({("A", "elsewhere", 1): 0.5, ("B", "elsewhere", 1): 0.5})
    assert attention.contrasts(rows, ["variant"]).empty


# What is observed


def test_steps_are_those_of_training(prepared):
    method = lively()
    seen = attention.look(method, prepared, 2)
    assert [s.t for s in seen] == [0, 1, 2]
    first = seen[0]
    # At t = 0 the step back is the prediction itself (the posterior has no noise and no x_t there).
    for prediction, sample in zip(first.predictions, first.samples, strict=True):
        torch.testing.assert_close(sample, prediction)
    assert all(not torch.equal(s.samples[0], s.predictions[0]) for s in seen[1:])
    assert first.logits.shape == (1, 3) and first.middles[0].shape[1] == method.critic.middle_width
    again = attention.look(method, prepared, 2)
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(seen, again, strict=True))
    truth = torch.from_numpy(prepared.images([2], "t1ce"))[None]
    [(real, _)] = method.judge([truth], torch.zeros(1, dtype=torch.long), x_t_of(method, prepared, 2))
    torch.testing.assert_close(first.logits[:, 0], real)


def x_t_of(method, slices, index):
    """Return the first x_t of a slice, drawn as Eqs. 5 and 6 say."""
    from mudiff.model.diffusion import SliceNoise, slice_seed

    row = slices.index.iloc[index]
    noise = SliceNoise([slice_seed(0, "attention", row.subject, row.slice)], torch.device("cpu"))
    x_0, t = torch.from_numpy(slices.images([index], "t1ce"))[None], torch.zeros(1, dtype=torch.long)
    before = method.schedule.q_sample(x_0, t, noise.normal(1, SIZE, SIZE))
    return method.schedule.q_step(before, t, noise.normal(1, SIZE, SIZE))


def test_both_steps_back_have_noise_of_their_own(prepared):
    method = lively()
    seen = attention.look(method, prepared, 2)[1]
    rests = [s - method.schedule.mean_x0[1] * p for s, p in zip(seen.samples, seen.predictions, strict=True)]
    assert not torch.allclose(*rests, atol=1e-5)  # what is left is x_t, common to both, and the noise (C-3)


def test_maps_are_the_magnitudes_that_enter_and_leave_tau(prepared):
    method = lively()
    seen = attention.look(method, prepared, 2)[1]
    conditions = torch.stack(
        [torch.from_numpy(prepared.images([2], c)) for c in settings().conditions], dim=1
    )
    with torch.no_grad():
        vector = method.f2.target_adapter(seen.predictions[0])
        _, *styled = method.f2.mapper(conditions[:, :1], conditions, vector)
        fused = method.f2.contrast_adapter(styled)
    for found, expected in ((seen.adapted, styled), (seen.fused, fused)):
        assert len(found) == 3
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b.abs().mean(dim=1))
    assert not method.f2.contrast_adapter._forward_hooks  # the hook is gone


def test_heads_are_the_masks_of_the_critic_and_draws_like_a_new_runs():
    method = lively()
    names, weight, bias = attention.heads(method, draws=50)
    assert names == ("channel_mean", "convolution") == tuple(attention.variants_of(method))
    middle = torch.randn(1, weight.shape[1], 4, 4, generator=torch.Generator().manual_seed(0))
    for k, layer in enumerate((None, method.attention)):
        by_head = torch.sigmoid(torch.einsum("c,bcyx->byx", weight[k], middle) + bias[k])
        torch.testing.assert_close(by_head, critic.attentive_mask(middle, 4, layer)[:, 0])
    drawn = weight[2:]
    assert len(drawn.unique(dim=0)) == 50 and not bias[2:].any()
    # The run's own convolution is one draw of the same distribution: same bound, same spread.
    assert drawn.abs().max() <= math.sqrt(3) + 1e-6
    assert drawn.std() == pytest.approx(method.attention.weight.std().item(), rel=0.35)
    alone = attention.heads(lively(mask="channel_mean"), draws=3)
    assert alone[0] == ("channel_mean",) and len(alone[1]) == 4


# Measurements


def test_means_agree_with_masks_made_one_by_one(prepared):
    method = lively()
    m = attention.measure(method, prepared, most=2)
    subject = 1
    name = prepared.subjects[subject]
    chosen = [i for i in measurements.chosen_slices(prepared, 2) if prepared.index.subject[i] == name]
    assert len(chosen) == 2
    areas = attention.zones(prepared.lesion(chosen), prepared.brain(chosen))
    for t, j, k in ((0, 0, 0), (2, 1, 1)):
        layer = (None, method.attention)[k]
        masks = np.stack(
            [
                critic.attentive_mask(
                    attention.look(method, prepared, i)[t].middles[j], SIZE, layer
                ).detach().numpy()[0, 0]
                for i in chosen
            ]
        )  # fmt: skip
        expected = [masks[areas[:, z]].mean() for z in range(3)]
        np.testing.assert_allclose(m.masks[subject, j, t, k], expected, rtol=1e-4)
        rows = m.zone_means()
        row = rows[
            (rows.variant == m.variants[k]) & (rows.network == j + 1) & (rows.t == t) & (rows.subject == name)
        ]
        assert dict(zip(row.zone, row["mean"], strict=True))["boundary"] == pytest.approx(
            expected[1], rel=1e-4
        )
    flair = (prepared.images(chosen, "flair") + 1) / 2
    rows = m.map_means()
    own = rows[
        (rows["map"] == "image") & (rows.condition == "flair") & (rows.t == 0) & (rows.subject == name)
    ]
    assert own.set_index("zone")["mean"]["lesion"] == pytest.approx(flair[areas[:, 0]].mean(), rel=1e-4)


def test_subjects_without_lesion_are_left_out_and_fig5b_has_the_columns(prepared):
    m = attention.measure(lively(), prepared, most=2)
    rows = m.zone_means()
    assert list(rows.columns) == ["variant", "network", "t", "zone", "subject", "mean"]
    assert rows.subject.nunique() == 2 and len(rows) == 2 * 2 * 3 * 3 * 2
    assert m.drawn().shape == (observation.DRAWS, 2)
    assert "n = 2" in words.masks(m) and "0.5" in words.masks(m)
    assert f"Of {observation.DRAWS} untrained" in words.draws(m)


def test_the_spread_is_that_of_the_pixels(prepared):
    method = lively()
    m = attention.measure(method, prepared, most=1)
    (index,) = [
        i
        for i in measurements.chosen_slices(prepared, 1)
        if prepared.index.subject[i] == prepared.subjects[0]
    ]
    middle = attention.look(method, prepared, index)[0].middles[0]
    weights = attention.native_weights(prepared.brain([index])[None], middle.shape[-1])[0, 0].numpy()
    mask = torch.sigmoid(middle.mean(dim=1))[0].numpy()
    mean = np.average(mask, weights=weights)
    expected = math.sqrt(np.average((mask - mean) ** 2, weights=weights))
    assert m.spread[0, 0, 0, 0] == pytest.approx(expected, rel=1e-3) and expected > 0
    assert int(m.native) == SIZE // middle.shape[-1] == 4


def test_a_lesion_free_test_set_gives_maps_and_says_so(prepared, monkeypatch):
    monkeypatch.setattr(type(prepared), "lesion", lambda self, i: np.zeros((len(i), SIZE, SIZE), np.uint8))
    method = lively()
    m = attention.measure(method, prepared, most=1)
    assert len(m.logits) == len(prepared.subjects) == m.zone_means().subject.nunique()
    assert set(m.zone_means().zone) == {"elsewhere"}
    for say in (words.masks, words.draws, words.maps):
        assert say(m) == words.NO_LESION
    for draw in (attention.fig5a, attention.fig5b):
        assert "test subjects" in style.caption(draw(method, prepared, m, "smoke"))


def test_a_single_subject_has_no_p_value(prepared, monkeypatch):
    one = prepared.subjects[:1]
    monkeypatch.setattr(prepared, "subjects", one)
    monkeypatch.setattr(measurements, "chosen_slices", lambda slices, most: slices.subject(one[0])[1:4])
    m = attention.measure(lively(), prepared, most=3)
    assert attention.contrasts(m.zone_means(), ["variant"]).p.isna().all()
    assert "no P value" in words.masks(m) and "subjects have the same sign" not in words.draws(m)


def test_chosen_slices_have_lesions_and_are_spread(prepared):
    every = measurements.chosen_slices(prepared, 0)
    assert all(prepared.lesion([i]).any() for i in every)
    few = measurements.chosen_slices(prepared, 2)
    assert set(few) < set(every) and len(few) == 4 == len(set(few))


def test_the_critics_skill_is_read_from_its_logits():
    m = drawn_measurements()
    frame = m.discrimination()
    assert frame.auc_1.tolist() == [1.0, 0.5] and frame.auc_2.tolist() == [0.0, 0.5]
    third = math.log(0.5)  # the logit of 1/3
    assert frame.guess[0] == pytest.approx(math.log1p(math.exp(-third)) + 2 * math.log1p(math.exp(third)))
    assert frame.loss[1] == pytest.approx(3 * math.log(2))
    blind = dataclasses.replace(m, logits=np.full((8, 2, 3), third))
    assert "hardly better than chance" in words.critic(blind)
    assert "is no better than guessing" in words.critic(blind)
    sharp = dataclasses.replace(m, logits=np.tile([4.0, -4.0, -4.0], (8, 2, 1)))
    assert "right nearly always" in words.critic(sharp) and "below that of guessing" in words.critic(sharp)


def drawn_measurements(**changes) -> measurements.Measurements:
    """Return measurements by hand: two subjects, two steps, four draws."""
    logits = np.zeros((8, 2, 3))
    logits[:, 0] = np.array([0.0, -1.0, 1.0])
    names = [np.array(v) for v in (["A", "B"], ["flair", "t1"], ["channel_mean", "convolution"])]
    masks = np.full((2, 2, 2, 6, 3), 0.5)
    masks[:, :, :, 2:, 0] += np.array([0.1, -0.1, 0.2, 0.3])  # lesion
    masks[1, :, :, 5, 0] = 0.4  # the subjects disagree on the last draw
    spread = np.full((2, 2, 2, 2), 0.004)
    maps = np.ones((2, 2, 3, 2, 3))
    maps[:, :, 1, 0, 0] = 2.0
    given = dict(zip(("subjects", "conditions", "variants"), names, strict=True))
    given |= {"masks": masks, "spread": spread, "maps": maps, "logits": logits, "native": np.array(8)}
    return measurements.Measurements(**given | changes)


def test_sentences_follow_the_numbers():
    m = drawn_measurements()
    assert "75% of the draws all 2 subjects" in words.draws(m)
    assert "Of 4 untrained convolutions on the same features 75% make" in words.draws(m)
    assert words.flatness(m).endswith("They are nearly uniform.")
    assert words.flatness(drawn_measurements(spread=np.full((2, 2, 2, 2), 0.1))).endswith(
        "They are not uniform."
    )
    said = words.maps(m)
    assert "FLAIR: image 1.00" in said and "adapted feature 2.00" in said
    assert "concentrate most on the lesion are those of FLAIR" in said
    assert "8x8 pixels" in words.resolution(m, 64) and "finer than that" in words.resolution(m, 64)
    assert "no finer" in words.resolution(drawn_measurements(native=np.array(1)), 64)


# Kept results, figures, errors


def test_measurements_are_kept_until_the_weights_change(prepared, monkeypatch):
    folder = paths.run("smoke", "brats_t1ce_mudiff")
    first = attention.measured("smoke", folder, prepared, most=1)
    calls = []
    real = measurements.measure
    monkeypatch.setattr(measurements, "measure", lambda *a: calls.append(a) or real(*a))
    again = attention.measured("smoke", folder, prepared, most=1)
    assert not calls
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    attention.measured("smoke", folder, prepared, most=2)
    save(lively(seed=5))
    attention.measured("smoke", folder, prepared, most=2)
    assert len(calls) == 2
    monkeypatch.setattr(measurements, "RECIPE_VERSION", measurements.RECIPE_VERSION + 1)
    attention.measured("smoke", folder, prepared, most=2)
    assert len(calls) == 3
    (kept,) = paths.analysis("smoke", "attention").glob("*.npz")
    kept.write_bytes(b"damaged")
    attention.measured("smoke", folder, prepared, most=2)
    assert len(calls) == 4


def test_figures_show_the_maps_and_masks(prepared):
    method = lively()
    m = attention.measure(method, prepared, most=1)
    index = attention.example(prepared)
    area = (prepared.lesion(prepared.subject(prepared.subjects[0])) > 0).sum(axis=(1, 2))
    assert area[index] == area.max() > 0
    figure = attention.fig5b(method, prepared, m, "smoke", index)
    shown = [a for s in figure.subfigs for a in s.axes if len(a.images) == 2]
    assert len(shown) == 3 * 4
    brain = prepared.brain([index])[0]
    expected = critic.attentive_mask(
        attention.look(method, prepared, index)[0].middles[1], SIZE, method.attention
    )
    last = np.ma.filled(shown[3].images[1].get_array(), np.nan)  # t = 0, M_2, convolution
    np.testing.assert_allclose(last[brain], expected[0, 0].detach().numpy()[brain], rtol=1e-5)
    assert np.isnan(last[~brain]).all()
    assert "never trained (register C-1)" in style.caption(figure)
    maps = panels._relative_maps(method, prepared, index, 0)
    rest = attention.zones(prepared.lesion([index]), prepared.brain([index]))[0, 2]
    for group in maps.values():
        assert all(a[rest].mean() == pytest.approx(1, rel=1e-4) for a in group)
    assert "step t = 1 of 3" in style.caption(attention.fig5a(method, prepared, m, "smoke", index, t=1))


@pytest.mark.parametrize("t", [-1, 3])
def test_a_step_that_the_run_does_not_have_is_an_error(prepared, t):
    with pytest.raises(MudiffError, match=f"t = {t}: the run has the steps 0 to 2"):
        attention.fig5a(lively(), prepared, drawn_measurements(), "smoke", t=t)


def test_lines_over_the_draws_leave_out_the_subjects_that_the_bars_leave_out():
    from matplotlib.figure import Figure

    masks = drawn_measurements().masks.copy()
    masks[0, ..., :2, 0] = np.array([0.6, 0.4])  # the lesion of A, in both variants
    masks[1, ..., 0] = np.nan  # B has none ...
    masks[1, ..., 2] = 0.9  # ... and another level elsewhere
    axis = Figure().subplots()
    panels._draws(axis, drawn_measurements(masks=masks))
    found = {line.get_label(): line.get_xdata()[0] for line in axis.lines[:2]}
    assert found == pytest.approx({"channel mean": 0.1, "convolution": -0.1})


def test_a_run_without_convolution_or_with_fewer_pairs_is_drawn_too(prepared):
    method = lively(mask="channel_mean", pairs="chain")
    m = attention.measure(method, prepared, most=1)
    assert m.variants.tolist() == ["channel_mean"] and m.drawn().shape[0] == observation.DRAWS
    maps = m.map_means()
    assert set(maps[maps["map"] == "fused"].condition) == {"flair", "t2"}  # the last begins no pair
    assert "C-1" not in style.caption(attention.fig5b(method, prepared, m, "smoke"))
    attention.fig5a(method, prepared, m, "smoke")


def test_runs_that_have_no_masks_are_refused(prepared):
    with pytest.raises(MudiffError, match="no weights of the critic"):
        attention.open_run(save(lively(), without=("critic.", "attention.")))
    with pytest.raises(MudiffError, match="no trained run here"):
        attention.open_run(paths.run("smoke", "absent"))
    other = build(profiles.settings("smoke", "brats", "t1ce", "linear"))
    folder = paths.run("smoke", "brats_t1ce_linear")
    runs.claim(folder, other.settings, "data")
    runs.save_weights(folder / "weights.safetensors", other.state_dict())
    with pytest.raises(MudiffError, match="a run of linear"):
        attention.open_run(folder)


def test_lesion_labels_of_the_cohort_count_whole(prepared):
    """Guards the fixtures: both labels are lesion, so the zones are those of the whole tumour."""
    assert set(np.unique(two_labels())) == {0, 1, 4}
    index = attention.example(prepared)
    labels = prepared.lesion([index])
    found = attention.zones(labels, prepared.brain([index]))[0]
    assert (found[0] | found[1])[metrics.lesion_mask(labels)[0]].all() and found[0].any()
