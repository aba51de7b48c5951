"""Mutual learning: layers and CKA, tau, predictions apart and together, and their figures."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHAPE, head

from mudiff import paths
from mudiff.analyses import mutual
from mudiff.analyses.mutual import predictions, similarity
from mudiff.data import prepare as data
from mudiff.errors import MudiffError
from mudiff.evaluation import cka, metrics
from mudiff.methods.base import build
from mudiff.plots import old_style as style
from mudiff.settings import Settings
from mudiff.synthesis import sample
from mudiff.training import runs

SMALL = {
    "image_size": 16, "slices": 6, "width": 4, "multipliers": (1, 2), "blocks": 1, "embedding": 16,
    "attention_at": 8, "critic_width": 4, "critic_blocks": 2,
}  # fmt: skip
NO_LESION = np.zeros(SHAPE, np.uint8)


def drawn(**changes):
    """Return a method with random weights of ordinary size, so that its networks answer to their inputs."""
    method = build(Settings(**SMALL | changes)).eval()
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=g)
    return method


def write_run(method, prepared, name="brats_t1ce_mudiff"):
    folder = paths.run("smoke", name)
    runs.claim(folder, method.settings, data.check(prepared, method.settings.preparation()))
    runs.save_weights(folder / "weights.safetensors", method.state_dict(), method.settings)
    return folder


@pytest.fixture
def prepare(tmp_path, monkeypatch, write_subject, rng):
    """Prepare a cohort with the given test subjects, each with or without a lesion."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))

    def make(tests):
        splits = {"A": "train", "B": "val"} | dict.fromkeys(tests, "test")
        for name in splits:
            given = {} if tests.get(name, True) else {"seg": NO_LESION}
            write_subject(tmp_path / "raw", f"Brats18_{name}_1", flair=head(rng), **given)
        rows = [(f"Brats18_{name}_1", split, "") for name, split in splits.items()]
        manifest = pd.DataFrame(rows, columns=["subject", "split", "reason"])
        prepared = paths.prepared("smoke", "brats")
        data.prepare(Settings(**SMALL).preparation(), tmp_path / "raw", manifest, prepared, workers=1).check()
        return prepared

    return make


@pytest.fixture
def trained(prepare):
    """A run with three test subjects, the last without lesion."""
    write_run(drawn(), prepare({"C": True, "D": True, "E": False}))
    return mutual.open_run("smoke")


# The run


def test_a_missing_run_says_how_to_make_it(prepare):
    prepare({"C": True})
    with pytest.raises(MudiffError, match="mudiff train"):
        mutual.open_run("smoke")


@pytest.mark.parametrize("changes", [{"method": "syndiff"}, {"networks": "single"}], ids=str)
def test_a_run_without_a_pair_is_refused(prepare, changes):
    write_run(build(Settings(**SMALL | changes)), prepare({"C": True}))
    with pytest.raises(MudiffError, match="no pair of networks"):
        mutual.open_run("smoke")


# Layers and their alignment


@pytest.mark.parametrize("blocks, multipliers, attention", [(1, (1, 2), 8), (2, (1, 1, 2), 0)])
def test_layers_are_named_alike_and_stand_in_the_order_of_the_computation(blocks, multipliers, attention):
    method = drawn(blocks=blocks, multipliers=multipliers, attention_at=attention)
    levels, called = len(multipliers), []
    for network in (method.f1, method.f2):
        layers = mutual.layers(network)
        names = [layer.name for layer in layers]
        assert len(set(names)) == len(names)
        parts = [layer.part for layer in layers]
        assert parts == sorted(parts, key=similarity.PARTS.index)
        assert parts.count("encoder") == levels * blocks + (levels - 1) + 3
        assert parts.count("decoder") == levels * (blocks + 1) + (levels - 1) + (attention == 8)
        for layer in layers[1:]:
            layer.module.register_forward_hook(lambda *_, name=layer.name: called.append(name))
    x, y, z = torch.randn(2, 1, 16, 16), torch.randn(2, 3, 16, 16), torch.randn(2, 100)
    method.f2(x, y, torch.zeros(2).long(), z, method.f1(x, y, torch.zeros(2).long(), z))
    assert called == [*names[1:], *names[1:]]


def test_both_networks_get_the_same_inputs(trained):
    method, slices = trained.method, trained.slices
    t = 1
    packed = similarity.inputs(method, slices, [3, 14], t)
    x_t, x_p1, y, steps, z = similarity._unpack(packed, 3, 16)
    assert (steps == t).all() and not torch.equal(z[0], z[1])
    for k, contrast in enumerate(method.settings.conditions):
        assert torch.allclose(y[:, k], torch.from_numpy(slices.images([3, 14], contrast)))
    x_0 = torch.from_numpy(slices.images([3, 14], "t1ce"))[:, None]
    noise = (x_t - method.schedule.sqrt_alpha_bar[t + 1] * x_0) / method.schedule.sigma[t + 1]  # Eq. 6
    assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.15
    with torch.no_grad():
        assert torch.allclose(x_p1, method.f1(x_t, y, steps, z), atol=1e-6)
        x_p2 = method.f2(x_t, y, steps, z, x_p1)
        first, second = (similarity.layer_features(method, f)(packed) for f in (method.f1, method.f2))
    assert torch.allclose(first[-1], cka.factor(x_p1), atol=1e-6)
    assert torch.allclose(second[-1], cka.factor(x_p2), atol=1e-6)
    assert torch.equal(packed, similarity.inputs(method, slices, [3, 14], t))
    alone = similarity.inputs(method, slices, [14], t)  # a slice's inputs do not depend on the others
    assert torch.allclose(packed[1], alone[0], atol=1e-5)


def test_features_of_a_layer_are_those_that_flow_on():
    method = drawn()
    x, y, z = torch.randn(5, 1, 16, 16), torch.randn(5, 3, 16, 16), torch.randn(5, 100)
    t, h = torch.zeros(5).long(), method.f1.encoder_decoder
    kept = {}
    h.encoder[1].register_forward_pre_hook(lambda _, given: kept.update({"down 1": given[0]}))
    h.decoder[0].register_forward_pre_hook(lambda _, given: kept.update({"mid 2": given[0]}))
    h.decoder[1].register_forward_pre_hook(lambda _, given: kept.update({"up 2": given[0]}))
    h.middle1.register_forward_pre_hook(lambda _, given: kept.update({"enc 2.1": given[0]}))
    h.decoder[0].up.register_forward_pre_hook(lambda _, given: kept.update({"att 2": given[0]}))
    packed = similarity.pack(x, x, y, t, z)
    with torch.no_grad():
        features = similarity.layer_features(method, method.f1)(packed)
    found = dict(zip([layer.name for layer in mutual.layers(method.f1)], features, strict=True))
    for name, value in kept.items():
        assert torch.allclose(found[name], cka.factor(value), atol=1e-6), name
    assert not any(layer.module._forward_hooks for layer in mutual.layers(method.f1))


def test_comparison_is_the_definition_on_the_networks_features(trained):
    method = trained.method
    frame = mutual.compare(method, trained.slices, 2, count=18)
    assert set(frame.t) == {2} and set(frame.slices) == {16}  # one batch; two slices do not fill another
    assert len(frame) == 1 + 6**2 + 6**2 + 1
    chosen = np.random.default_rng(0).permutation(len(trained.slices))[:16]
    packed = similarity.inputs(method, trained.slices, chosen, 2)
    x_t, x_p1, y, t, z = similarity._unpack(packed, 3, 16)
    raw = {}
    for name, network in (("f1", method.f1), ("f2", method.f2)):
        layer = {layer.name: layer for layer in mutual.layers(network)}["dec 1.2"]
        handle = layer.module.register_forward_hook(lambda *a, name=name: raw.update({name: a[2]}))
        with torch.no_grad():
            network(x_t, y, t, z, *((x_p1,) if name == "f2" else ()))
        handle.remove()
    ours = mutual.matrix(frame, "decoder").loc["dec 1.2", "dec 1.2"]
    assert ours == pytest.approx(cka.reference([(raw["f1"], raw["f2"])]), abs=1e-5)
    assert 0 < ours < 0.999
    assert len(mutual.diagonal(frame)) == 14


def test_alike_batches_hold_neighbours(trained, monkeypatch):
    seen = []
    real = similarity.inputs
    monkeypatch.setattr(similarity, "BATCH", 6)
    monkeypatch.setattr(similarity, "inputs", lambda *a: seen.append(a[2]) or real(*a))
    for alike in (False, True):
        mutual.compare(trained.method, trained.slices, 0, alike=alike)
    heights = [trained.slices.index["slice"].to_numpy()[chosen] for chosen in seen]
    assert np.ptp(heights[0].reshape(3, 6), axis=1).mean() > 2
    assert np.ptp(heights[1].reshape(3, 6), axis=1).max() == 1
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(18))


def test_steps_are_compared_once_and_the_control_has_random_weights(trained, monkeypatch):
    after = mutual.compare_steps(trained, [0, 3], count=6)
    before = mutual.compare_steps(trained, [0], count=6, untrained=True)
    pd.testing.assert_frame_equal(after[after.t == 3], mutual.compare(trained.method, trained.slices, 3, 6).set_axis(
        after.index[after.t == 3]))  # fmt: skip
    fresh = build(trained.method.settings).eval()
    pd.testing.assert_frame_equal(before, mutual.compare(fresh, trained.slices, 0, 6))
    assert not np.allclose(before.cka, after[after.t == 0].cka, atol=0.01)
    monkeypatch.setattr("mudiff.analyses.mutual.trained.compare", None)  # everything below is kept
    pd.testing.assert_frame_equal(mutual.compare_steps(trained, [0, 3], count=6), after)
    pd.testing.assert_frame_equal(mutual.compare_steps(trained, [0], count=6, untrained=True), before)
    with pytest.raises(TypeError):
        mutual.compare_steps(trained, [0, 3], count=7)


def test_too_few_slices_or_an_unknown_step_are_errors(trained):
    for count in (3, 0, -1):
        with pytest.raises(MudiffError, match=f"{max(count, 0)} slices .* 4 or more"):
            mutual.compare(trained.method, trained.slices, 0, count=count)
    with pytest.raises(MudiffError, match="steps 0 to 3"):
        mutual.compare(trained.method, trained.slices, 4)


def made_up(value):
    """Return a frame of six layers per part; `value(part, i, j)` is the CKA."""
    rows = [
        {
            "part": part,
            "f1": f"{part} {i}",
            "f2": f"{part} {j}",
            "cka": value(part, i, j),
            "t": 0,
            "slices": 16,
        }
        for part in ("encoder", "decoder")
        for i in range(6)
        for j in range(6)
    ]
    return pd.DataFrame(rows)


def test_the_statements_hold_where_they_should():
    def as_in_the_paper(part, i, j):
        return 0.2 + 0.04 * (i + j) if part == "encoder" else 0.9 - 0.08 * (i + j)

    assert list(mutual.statements(made_up(as_in_the_paper)).holds) == ["yes"] * 8
    turned = mutual.statements(made_up(lambda *a: 1 - as_in_the_paper(*a)))
    assert list(turned.holds) == ["no"] * 8


def test_statements_tell_counterparts_from_all_pairs():
    found = (
        mutual.statements(made_up(lambda part, i, j: float(i == j))).set_index(["statement", "layers"]).ours
    )
    assert found["Most encoder values are below 0.55", "counterparts"].startswith("0%")
    assert found["Most encoder values are below 0.55", "all pairs"].startswith("83%")  # 30 of 36
    high = "Many values of the initial decoder layers are above 0.7"
    assert found[high, "all pairs"].startswith("50%")  # the first two layers: 2 of 4
    assert found[high, "counterparts"].startswith("100%")


# Tau


@pytest.mark.parametrize("changes", [{}, {"gates": "pair"}, {"pairs": "chain"}, {"target": "flair"}], ids=str)
def test_tau_taken_apart_gives_what_tau_gives(changes):
    method = drawn(**changes)
    adapter = method.f2.contrast_adapter
    y, x_p1 = torch.randn(2, 3, 16, 16), torch.randn(2, 1, 16, 16)
    steps = mutual.tau_steps(method, y, x_p1)
    assert [step["pair"] for step in steps] == adapter.pairs
    for k, step in enumerate(steps):
        assert torch.allclose(
            step["fused"], step["z_b"] * step["f_ij"] + (1 - step["z_b"]) * step["f_j"], atol=1e-5
        )
        assert torch.allclose(step["f_ij"], adapter.extract[k](step["z_a"] * step["f_i"]), atol=1e-5)
        assert step["z_a"].min() > 0 and step["z_a"].max() < 1 and not torch.equal(step["z_a"], step["z_b"])
    entering = []  # f_c of Eq. 18
    method.f2.encoder_decoder.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    method.f2(x_p1, y, torch.zeros(2, dtype=torch.long), torch.zeros(2, method.settings.latent), x_p1)
    assert torch.allclose(entering[0][:, 4:], torch.cat([step["fused"] for step in steps], dim=1), atol=1e-5)
    styled = mutual.tau_steps(method, y, -x_p1)
    assert not torch.allclose(styled[0]["f_i"], steps[0]["f_i"])  # rho sees x^{p1}


def test_tau_without_rho_is_taken_apart_too():
    steps = mutual.tau_steps(
        drawn(target_adaptation=False), torch.randn(1, 3, 16, 16), torch.randn(1, 1, 16, 16)
    )
    assert len(steps) == 3


def test_a_run_without_tau_is_an_error():
    with pytest.raises(MudiffError, match="no contrast-aware adapter"):
        mutual.tau_steps(
            drawn(contrast_adaptation=False), torch.randn(1, 3, 16, 16), torch.randn(1, 1, 16, 16)
        )


# Predictions


def test_the_result_is_the_average_of_both_predictions(trained):
    indices = trained.slices.subject("Brats18_D_1")
    found = mutual.predict(trained.method, trained.slices, indices)
    assert np.allclose(found["mutual"], (found["f1"] + found["f2"]) / 2, atol=1e-6)
    assert np.abs(found["f1"] - found["f2"]).max() > 0.05
    assert np.allclose(
        found["mutual"], sample.sample_slices(trained.method, trained.slices, indices), atol=1e-6
    )
    steps = mutual.trace(trained.method, trained.slices, indices[:1])
    assert [step["t"] for step in steps] == [3, 2, 1, 0]
    assert torch.allclose(steps[-1]["result"], (steps[-1]["x_p1"] + steps[-1]["x_p2"]) / 2, atol=1e-6)


def test_predictions_are_kept_until_the_weights_change(trained, monkeypatch):
    folder = mutual.collect(trained)
    subject = "Brats18_C_1"
    stored = np.load(folder / "f1" / f"{subject}.npy")
    expected = mutual.predict(trained.method, trained.slices, trained.slices.subject(subject))
    assert stored.dtype == np.uint16
    assert np.allclose(sample.read_synthetic(folder / "f1", subject), expected["f1"], atol=1e-5)

    calls = []
    real = predictions.predict
    monkeypatch.setattr(predictions, "predict", lambda *a: calls.append(a) or real(*a))
    mutual.collect(trained)
    assert calls == []
    (folder / "f2" / f"{subject}.npy").unlink()
    mutual.collect(trained)
    assert len(calls) == 1
    monkeypatch.setattr(predictions, "code", lambda: ["changed"])
    mutual.collect(trained)
    assert len(calls) == 4
    monkeypatch.setattr("mudiff.analyses.mutual.trained.RECIPE_VERSION", -1)
    mutual.collect(mutual.open_run("smoke"))
    assert len(calls) == 7
    other = drawn()
    with torch.no_grad():
        other.f1.encoder_decoder.output.bias += 0.5
    write_run(other, paths.prepared("smoke", "brats"))
    mutual.collect(mutual.open_run("smoke"))
    assert len(calls) == 10
    assert not np.array_equal(np.load(folder / "f1" / f"{subject}.npy"), stored)


def test_scores_are_those_of_the_masked_protocol(trained):
    scores = mutual.scores(trained)
    assert list(scores.columns) == ["prediction", "region", "subject", "psnr", "ssim", "mae"]
    assert len(scores) == 3 * 2 * 3
    indices = trained.slices.subject("Brats18_D_1")
    truth = (trained.slices.images(indices, "t1ce") + 1) / 2
    image = sample.read_synthetic(mutual.collect(trained) / "f2", "Brats18_D_1")
    for region, mask in (
        ("brain", trained.slices.brain(indices)),
        ("lesion", trained.slices.lesion(indices)),
    ):
        expected = metrics.score_subject(truth, image, mask, "masked")[1]
        row = scores[
            (scores.prediction == "f2") & (scores.region == region) & (scores.subject == "Brats18_D_1")
        ]
        assert row[["psnr", "ssim", "mae"]].iloc[0].to_dict() == pytest.approx(expected)
    free = scores[(scores.region == "lesion") & (scores.subject == "Brats18_E_1")]
    assert len(free) == 3 and free.mae.isna().all()
    pd.testing.assert_frame_equal(mutual.scores(trained), scores)  # from the file


def test_tables_are_computed_again_when_what_they_depend_on_changes(trained):
    calls = []

    def compute():
        calls.append(1)
        return pd.DataFrame({"value": [0.1, math.nan]})

    for settings in ({"t": 0}, {"t": 0}, {"t": 1}):
        table = mutual.kept(trained, "table", compute, **settings)
    assert len(calls) == 2
    pd.testing.assert_frame_equal(table, pd.DataFrame({"value": [0.1, math.nan]}))


@pytest.mark.parametrize("network", [1, 2])
def test_a_network_alone_follows_its_own_predictions(trained, network):
    method, slices = trained.method, trained.slices
    indices = slices.subject("Brats18_C_1")[:2]
    alone = sample.sample_slices(mutual.alone(method, network), slices, indices)
    common = mutual.predict(method, slices, indices)
    assert not np.allclose(alone, common[f"f{network}"], atol=1e-3)  # the other no longer steers
    real = method.predict

    def twice(*arguments):
        return (real(*arguments)[network - 1],) * 2

    method.predict = twice  # both terms of Eq. 31 are the one network's
    assert np.allclose(alone, sample.sample_slices(method, slices, indices), atol=1e-6)
    del method.predict
    assert np.allclose(mutual.predict(method, slices, indices)["mutual"], common["mutual"])


def test_alone_scores_are_on_the_same_slices(trained):
    scores = mutual.alone_scores(trained, every=2)
    assert set(scores.prediction) == {"f1", "f2", "mutual", "f1 alone", "f2 alone"}
    indices = trained.slices.subject("Brats18_C_1")[::2]
    truth = (trained.slices.images(indices, "t1ce") + 1) / 2
    image = sample.sample_slices(mutual.alone(trained.method, 2), trained.slices, indices)
    row = scores[(scores.prediction == "f2 alone") & (scores.region == "brain")].iloc[0]
    assert row.mae == pytest.approx(
        metrics.score_subject(truth, image, trained.slices.brain(indices))[1]["mae"]
    )


@pytest.mark.parametrize("every", [0, -2])
def test_slices_are_not_skipped_by_less_than_one(trained, every):
    with pytest.raises(MudiffError, match=f"every = {every}: .* 1 .all. or more"):
        mutual.alone_scores(trained, every=every)
    assert not (trained.folder / "predictions").exists()  # said before anything is sampled


def test_the_average_gains_by_disagreement(trained):
    found = mutual.disagreement(trained)
    assert len(found) == 5  # three brains, two lesions
    assert np.allclose(found.mutual, found.single - found.gain, rtol=1e-4)
    assert (found.gain > 1e-5).all()
    mae = mutual.scores(trained).set_index(["prediction", "region", "subject"]).psnr
    for row in found.itertuples():
        assert row.mutual == pytest.approx(10 ** (-mae["mutual", row.region, row.subject] / 10), rel=1e-4)
    assert np.allclose(found.ratio**2, 4 * found.gain / found.single)


# Figures


def texts(figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_fig2b_names_layers_and_writes_values(trained):
    frame = mutual.compare(trained.method, trained.slices, 0)
    figure = mutual.fig2b(frame, "smoke")
    encoder, decoder, _ = figure.axes
    assert [label.get_text() for label in encoder.get_xticklabels()] == list(
        mutual.matrix(frame, "encoder").columns
    )
    assert [label.get_text() for label in decoder.get_yticklabels()] == list(
        mutual.matrix(frame, "decoder").index
    )
    value = mutual.matrix(frame, "decoder").iloc[0, 5]
    (written,) = [t.get_text() for t in decoder.texts if t.get_position() == (5, 0)]
    assert written == f"{value:.2f}"
    assert encoder.images[0].get_clim() == decoder.images[0].get_clim() == (0, 1)
    assert "t = 0 of the code, 1 of the paper" in style.caption(figure) and "16 test slices" in style.caption(
        figure
    )


def test_depth_draws_each_step(trained):
    frame = pd.concat([mutual.compare(trained.method, trained.slices, t, count=6) for t in (0, 3)])
    figure = mutual.depth({"trained": frame, "untrained": frame}, "smoke")
    assert [line.get_label() for line in figure.axes[1].lines[:2]] == ["t = 0", "t = 3"]
    assert np.allclose(figure.axes[0].lines[1].get_ydata(), mutual.diagonal(frame[frame.t == 3]).cka)


def test_fig2c_composes_its_three_parts(trained):
    for epoch in (1, 2):
        runs.append_log(
            trained.run, {"step": epoch, "epoch": epoch, "loss/supervised_1": 0.5, "loss/critic": 1.9}
        )
    figure = mutual.fig2c(trained)
    words = texts(figure)
    assert all(f"Eq. {number})" in words for number in (13, 14, 15, 16, 17, 22, 26, 27, 29))
    assert "i: FLAIR\ni + 1: T2" in words or "i: T2\ni + 1: FLAIR" in words
    assert words.count("not in the log") == 2  # adversarial and mask
    assert all(f"t = {t}" in words for t in (4, 3, 2, 1))
    images = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    steps = mutual.trace(trained.method, trained.slices, mutual.example_slice(trained, "Brats18_C_1"))
    last = ((steps[-1]["x_p1"] + steps[-1]["x_p2"]) / 2)[0, 0].numpy() / 2 + 0.5
    assert any(image.shape == last.shape and np.allclose(image, last) for image in images)


def test_fig2c_without_tau_is_an_error(prepare):
    write_run(drawn(contrast_adaptation=False), prepare({"C": True}))
    with pytest.raises(MudiffError, match="no contrast-aware adapter"):
        mutual.fig2c(mutual.open_run("smoke"))


def test_fig5c_shows_differences_and_zooms_lesions(trained):
    figure = mutual.fig5c(trained, ["Brats18_C_1", "Brats18_E_1"])
    rows = np.array([axis for axis in figure.axes if axis.images], dtype=object).reshape(-1, 7)
    assert len(rows) == 3  # head and lesion of C, head of E
    truth, *images = (axis.images[0].get_array() for axis in rows[0])
    assert np.allclose(images[3], images[0] - truth) and np.allclose(images[5], images[2] - truth)
    for axis in rows.ravel():  # no view beyond the image
        for low, high in (sorted(axis.get_xlim()), sorted(axis.get_ylim())):
            assert -0.5 <= low < high <= 15.5
    assert abs(np.subtract(*rows[1, 0].get_xlim())) < abs(np.subtract(*rows[0, 0].get_xlim()))


def test_fig5d_draws_subjects_means_and_paired_differences(trained):
    scores = mutual.scores(trained)
    figure = mutual.fig5d(scores, "smoke")
    assert len(figure.axes) == 6
    brain = scores[scores.region == "brain"].pivot(index="subject", columns="prediction", values="psnr")
    drawn_lines = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == 3]
    assert np.allclose(drawn_lines, brain[["f1", "f2", "mutual"]])
    change = (brain.mutual - brain.f1).mean()
    assert f"{change:+.2f}".replace("-", "−") in figure.axes[0].get_xlabel()
    assert "3 subjects" in style.caption(figure)


def test_one_subject_without_lesion_gives_reduced_figures(prepare):
    write_run(drawn(), prepare({"C": False}))
    trained = mutual.open_run("smoke")
    scores = mutual.scores(trained)
    figure = mutual.fig5d(scores, "smoke")
    assert len(figure.axes) == 3 and "[" not in figure.axes[0].get_xlabel()
    assert "no interval" in style.caption(figure) and "No test subject has a lesion" in style.caption(figure)
    assert len([axis for axis in mutual.fig5c(trained).axes if axis.images]) == 7
    assert set(mutual.disagreement(trained).region) == {"brain"}
    assert mutual.compare(trained.method, trained.slices, 0).slices.iloc[0] == 6
