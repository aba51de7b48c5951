"""Mutual learning: layers and CKA, predictions apart and averaged, and their figures."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LIVELY, cka_by_definition, lively, refused, run_cells, save_run

from mudiff.analyses import mutual
from mudiff.evaluation import cka, metrics
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.synthesis import sample

NOTEBOOK = "07_mutual_learning"
NAMES = {"f_1": "F1", "f_2": "F2", "profile": "smoke"}


def opened():
    """Return what the notebook has after it has opened the run: method, slices and more."""
    return run_cells(NOTEBOOK, "runs.load(", "runs.load(", profile="smoke")


@pytest.fixture
def trained(lively_slices):
    """A run with three test subjects, the last without lesion."""
    save_run(lively())
    return opened()


def predicting(opened):
    """Return the notebook's `predictions` and `truth_of`, of what is opened."""
    return run_cells(NOTEBOOK, "def predicted(", "def truth_of(", **opened)


@pytest.mark.parametrize("blocks, multipliers, attention", [(1, (1, 2), 16), (2, (1, 1, 2), 0)])
def test_layers_are_named_alike_and_stand_in_the_order_of_the_computation(blocks, multipliers, attention):
    method = lively(blocks=blocks, multipliers=multipliers, attention_at=attention)
    levels, called = len(multipliers), []
    for network in (method.f1, method.f2):
        layers = mutual.layers(network)
        names = [layer.name for layer in layers]
        assert len(set(names)) == len(names)
        parts = [layer.part for layer in layers]
        assert parts == sorted(parts, key=["input", "encoder", "decoder", "output"].index)
        assert parts.count("encoder") == levels * blocks + (levels - 1) + 3
        assert parts.count("decoder") == levels * (blocks + 1) + (levels - 1) + (attention == 16)
        for layer in layers[1:]:
            layer.module.register_forward_hook(lambda *_, name=layer.name: called.append(name))
    x, y, z = torch.randn(2, 1, 32, 32), torch.randn(2, 3, 32, 32), torch.randn(2, 100)
    method.f2(x, y, torch.zeros(2).long(), z, method.f1(x, y, torch.zeros(2).long(), z))
    assert called == [*names[1:], *names[1:]]


@torch.no_grad()
def test_features_of_a_layer_are_those_that_flow_on():
    h, kept = (method := lively()).f1.encoder_decoder, {}
    following = {"f_c": h, "down 1": h.encoder[1], "mid 2": h.decoder[0], "up 2": h.decoder[1]}
    following |= {"enc 2.1": h.middle1, "att 2": h.decoder[0].up}
    for name, module in following.items():
        module.register_forward_pre_hook(lambda _, given, name=name: kept.update({name: given[0]}))
    given = torch.randn(5, 1, 32, 32), torch.randn(5, 3, 32, 32), torch.zeros(5).long(), torch.randn(5, 100)
    features = mutual.layer_features(method.f1, *given)
    found = dict(zip([layer.name for layer in mutual.layers(method.f1)], features.unbind(1), strict=True))
    kept["x^p"] = method.f1(*given)
    for name, value in kept.items():
        assert torch.allclose(found[name], cka.factor(value), atol=1e-5), name
    assert not any(layer.module._forward_hooks for layer in mutual.layers(method.f1))


def test_inputs_are_those_of_training_and_depend_on_their_slice_alone(trained):
    method, slices, t = trained["method"], trained["slices"], 1
    x_t, y, steps, z = mutual.inputs(method, slices, np.array([3, 14]), t)
    assert (steps == t).all() and not torch.equal(z[0], z[1])
    images = [slices.images([3, 14], contrast) for contrast in method.settings.conditions]
    assert torch.allclose(y, torch.from_numpy(np.stack(images, axis=1)))
    x_0 = torch.from_numpy(slices.images([3, 14], "t1ce"))[:, None]
    noise = (x_t - method.schedule.sqrt_alpha_bar[t + 1] * x_0) / method.schedule.sigma[t + 1]  # Eq. 6
    assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.15
    assert torch.equal(x_t[1], mutual.inputs(method, slices, np.array([14]), t)[0][0])


def test_comparison_is_the_definition_on_the_networks_features(trained):
    method, slices = trained["method"], trained["slices"]
    frame = mutual.compare(method, slices, [2], count=18)
    assert set(frame.t) == {2} and set(frame.slices) == {16}  # one batch; two slices do not fill another
    assert len(frame) == 1 + 6**2 + 6**2 + 1
    chosen = np.random.default_rng(0).permutation(len(slices))[:16]
    given = mutual.inputs(method, slices, chosen, 2)
    raw = {}
    for name, network in (("f1", method.f1), ("f2", method.f2)):
        block = network.encoder_decoder.decoder[-1].blocks[1]
        block.register_forward_hook(lambda *a, name=name: raw.update({name: a[2]}))
    with torch.no_grad():
        method.f2(*given, method.f1(*given))
    ours = frame[(frame.f1 == "dec 1.2") & (frame.f2 == "dec 1.2")].cka.item()
    assert ours == pytest.approx(cka_by_definition([(raw["f1"], raw["f2"])]), abs=1e-5)
    assert 0.001 < abs(ours) < 0.999  # the estimator may be negative


def test_steps_are_compared_once_and_the_control_has_random_weights(trained, monkeypatch):
    method, slices, given = trained["method"], trained["slices"], trained | {"step": 1, "count": 6}
    cells = run_cells(NOTEBOOK, "mutual.compare", "mutual.compare", **given)
    after, before = cells["frame"], cells["control"]
    assert list(after.t.unique()) == list(before.t.unique()) == [0, 1, 2]
    once = mutual.compare(method, slices, [2], 6)
    pd.testing.assert_frame_equal(after[after.t == 2].reset_index(drop=True), once)
    fresh = build(method.settings).eval()
    pd.testing.assert_frame_equal(before, mutual.compare(fresh, slices, range(3), 6))
    monkeypatch.setattr(mutual, "layer_features", None)  # everything below is kept
    again = run_cells(NOTEBOOK, "mutual.compare", "mutual.compare", **given)
    pd.testing.assert_frame_equal(again["frame"], after)
    with pytest.raises(TypeError):
        run_cells(NOTEBOOK, "mutual.compare", "mutual.compare", **given | {"count": 7})


def test_numbers_out_of_range_and_runs_without_a_pair_are_refused(trained):
    method, slices = trained["method"], trained["slices"]
    refused("CKA of 3 slices: it takes 4 or more", mutual.compare, method, slices, [0], count=3)
    refused("steps 0 to 2", mutual.compare, method, slices, [3])
    save_run(build(Settings(**LIVELY | {"networks": "single"})))
    refused("no pair of networks", opened)


def test_the_result_is_the_average_of_both_predictions_and_is_kept(trained, monkeypatch):
    predictions = predicting(trained)["predictions"]
    found = predictions("Brats18_2_1")
    assert np.allclose(found["mutual"], (found["f1"] + found["f2"]) / 2, atol=2e-5)  # 16 bits
    assert np.abs(found["f1"] - found["f2"]).max() > 0.05
    method, slices = trained["method"], trained["slices"]
    here = slices.subject("Brats18_2_1")
    assert np.allclose(found["mutual"], sample.sample_slices(method, slices, here), atol=1e-5)
    monkeypatch.setattr(sample, "sample_slices", None)
    assert np.array_equal(predicting(trained)["predictions"]("Brats18_2_1")["f1"], found["f1"])
    save_run(lively(seed=8))
    with pytest.raises(TypeError):  # of other weights they are computed anew
        predicting(opened())["predictions"]("Brats18_2_1")


def test_scores_are_those_of_the_masked_protocol(trained):
    method, slices, name = trained["method"], trained["slices"], "Brats18_2_1"
    cells = run_cells(NOTEBOOK, "def score(", "def score(", **predicting(trained) | {"every": 2})
    scores = cells["scores"]
    assert list(scores.columns) == ["prediction", "region", "subject", "psnr", "ssim", "mae"]
    assert len(scores) == 3 * 2 * 3
    here = slices.subject(name)[::2]
    apart = run_cells(NOTEBOOK, "def alone(", "def alone(", **cells)["own"]
    assert set(apart.prediction) == {"f1", "f2", "mutual", "f1 alone", "f2 alone"}
    truth, masks = (slices.images(here, "t1ce") + 1) / 2, {"brain": slices.brain(here), "lesion": slices.lesion(here)}
    found = apart[apart.subject == name].set_index(["prediction", "region"])[["psnr", "ssim", "mae"]]
    images, predict = {"f2": cells["predictions"](name)["f2"][::2]}, method.predict
    for j in (1, 2):  # alone, both terms of Eq. 31 are the network's own
        method.predict = lambda *given, j=j: (predict(*given)[j - 1],) * 2
        images[f"f{j} alone"] = sample.sample_slices(method, slices, here)
    for prediction, image in images.items():
        for region, mask in masks.items():
            expected = metrics.score_subject(truth, image, mask, "masked")[1]
            assert found.loc[prediction, region].to_dict() == pytest.approx(expected, nan_ok=True)
    free = scores[(scores.region == "lesion") & (scores.subject == "Brats18_3_1")]
    assert len(free) == 3 and free.mae.isna().all()


def test_fig2b_names_layers_writes_values_and_compares_with_before_training(trained, tmp_path):
    frame = mutual.compare(trained["method"], trained["slices"], [0])
    given = NAMES | {"frame": frame, "control": frame.assign(cka=0.5), "step": 0, "n": 16, "parts": frame.t == 0}
    cells = run_cells(NOTEBOOK, "def heat_map", 'publish(folder, "fig2b"', **given, folder=tmp_path)
    figure = cells["figure"]
    _, decoder, lines = (axis for axis in figure.axes if axis.get_label() != "<colorbar>")
    wide = cells["matrix"](frame, "decoder")
    assert [label.get_text() for label in decoder.get_yticklabels()] == list(wide.index)
    (written,) = [t.get_text() for t in decoder.texts if t.get_position() == (5, 0)]
    assert written == f"{wide.iloc[0, 5]:.2f}"
    assert np.allclose(lines.lines[0].get_ydata(), frame[frame.f1 == frame.f2].cka)
    assert np.allclose(lines.lines[1].get_ydata(), 0.5)


def test_fig2c_shows_gates_on_their_scale_features_on_one_and_a_critic_that_guesses(rng, tmp_path):
    brain = np.zeros((16, 16), bool)
    brain[4:12, 4:12] = True
    maps = {key: rng.random((16, 16)) for key in ("f_i", "f_j", "f_ij", "f_w", "z_a", "z_b")}
    maps["f_w"] = maps["f_w"] + 99 * ~brain  # the frame of the padding decides no scale
    log = pd.DataFrame({"epoch": [1, 2], "loss/supervised_1": 0.5, "loss/critic": 1.9})
    step = {"t": 0, "x_t": rng.random((16, 16)), "mean": rng.random((16, 16))}
    first = {"t": 1, "x_t": step["x_t"], "mean": np.full((16, 16), 0.5)}
    given = NAMES | {"log": log, "shown": [first, step], "truth": rng.random((16, 16)), "brain": brain}
    given |= {"names": [("T1", "T2")], "maps": [maps], "target": "t1ce", "what": "Subject A", "folder": tmp_path}
    figure = run_cells(NOTEBOOK, "def draw_tau", 'publish(folder, "fig2c"', **given)["figure"]
    limits = [axis.images[0].get_clim() for axis in figure.axes if axis.images][:6]
    assert len(set(limits[:4])) == 1 and -limits[0][0] == limits[0][1] < 1 and limits[4:] == [(0, 1)] * 2
    errors = [axis.images[0].get_array() for axis in figure.axes if "MAE" in axis.get_title()]
    np.testing.assert_array_equal(errors[1], step["mean"] - 0.5)  # after the first step, what a step changes
    critic = next(axis for axis in figure.axes if "Eq. 27" in axis.get_title())
    assert critic.get_ylim()[0] == 0 and critic.lines[-1].get_ydata()[0] == pytest.approx(1.9095, abs=1e-4)


@pytest.mark.parametrize("subjects", ["AB", "A"])
def test_fig5d_draws_paired_differences(rng, subjects, tmp_path):
    names = ["prediction", "region", "subject"]
    keys = pd.MultiIndex.from_product([["f1", "f2", "mutual"], ["brain", "lesion"], list(subjects)], names=names)
    scores = pd.DataFrame(rng.random((len(keys), 3)), keys, ["psnr", "ssim", "mae"]).reset_index()
    scores.loc[scores.region == "lesion", ["psnr", "ssim", "mae"]] = np.nan
    given = NAMES | {"scores": scores, "folder": tmp_path}
    figure = run_cells(NOTEBOOK, "regions = [", 'publish(folder, "fig5d"', **given)["figure"]
    assert len(figure.axes) == 3 and "No test subject has a lesion" in figure.get_label()
    mae = scores[scores.region == "brain"].pivot(index="subject", columns="prediction", values="mae")
    expected = mae.f1 - mae.mutual  # right of 0 the mutual one is better
    assert np.allclose(figure.axes[2].lines[0].get_xdata(), expected)
