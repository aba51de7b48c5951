"""Networks, critic, schedule and losses against values of the released code on seeded weights."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REFERENCE, SMALL, refused
from reference import critic_keys, needs, seeded_weights, wave
from torch.nn import functional

from mudiff.methods.base import build
from mudiff.model import layers, losses
from mudiff.model.critic import Critic, attentive_mask, minibatch_std
from mudiff.model.diffusion import Schedule
from mudiff.model.layers import fir_down, fir_up
from mudiff.settings import Settings
from mudiff.synthesis import released

needs_reference = needs("released_outputs.npz")


@pytest.fixture(scope="module")
def reference():
    return np.load(REFERENCE / "released_outputs.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def keys():
    return json.loads((REFERENCE / "released_state_dict_keys.json").read_text())


def close(values: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(values.numpy(), expected, rtol=0, atol=tolerance)


@needs_reference
@pytest.mark.parametrize(("size", "batch"), [(64, 4), (256, 1)])
def test_predictions_logit_and_mask_are_the_released_ones(size, batch, keys, reference):
    critic, attention, own = Critic(Settings()), torch.nn.Conv2d(512, 1, 1), keys["image_size_256"]
    released.fill(critic_keys(critic), seeded_weights(own["critic"]), "critic")
    attention.load_state_dict(seeded_weights(own["attention_conv"]))
    shapes = keys[f"image_size_{size}"]
    f1, f2 = released.load_networks(*(seeded_weights(shapes[f"generator_{j}"]) for j in (1, 2)))
    x_t, y, *conditions = (wave((batch, 1, size, size), p) for p in (0.1, 2.2, 0.7, 1.2, 1.7))
    conditions, t, z = torch.cat(conditions, dim=1), torch.arange(batch) % 4, wave((batch, 100), 0.3)
    with torch.inference_mode():
        x_p1 = f1(x_t, conditions, t, z)
        x_p2 = f2(x_t, conditions, t, z, x_p1)
        logit, middle = critic(y, t, x_t)
        mask = attentive_mask(middle, size, attention)
    found = {"prediction_1": x_p1, "prediction_2": x_p2, "critic_logit": logit, "attention_mask": mask}
    for name, values in (found | {"critic_mid_features_mean": middle.mean(dim=(2, 3))}).items():
        close(values, reference[f"s{size}_{name}"], 1e-4)


@needs_reference
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_schedule_is_the_released_one(steps, reference):
    schedule = Schedule.variance_preserving(Settings(steps=steps))
    names = {"mean_x0": "posterior_mean_coef1", "mean_xt": "posterior_mean_coef2", "sigma": "sigma_cum"}
    names |= {"betas": "betas", "variance": "posterior_variance", "sqrt_alpha_bar": "sqrt_alpha_bar"}
    for ours, theirs in names.items():
        close(getattr(schedule, ours), reference[f"T{steps}_{theirs}"], 1e-5)


@needs_reference
def test_a_wrong_released_file_is_refused(keys, tmp_path):
    shapes = keys["image_size_64"]
    first, second = seeded_weights(shapes["generator_1"]), seeded_weights(shapes["generator_2"])
    (tmp_path / "text.pth").write_text("not weights")
    for wrong, words in (
        ({k: v for k, v in first.items() if k != "z_transform.1.bias"}, "1 keys are missing"),
        (first | {"extra": torch.zeros(1)}, "1 are unknown"),
        (first | {"all_modules.2.conv1.bias": torch.zeros(3)}, "has shape"),
        ({"weight": torch.zeros(3)}, "no released first generator"),
        (tmp_path / "absent.pth", "file not found"),
        (tmp_path / "text.pth", r"text.pth: no published weights \("),
    ):
        refused(words, released.load_networks, wrong, second)


@pytest.mark.parametrize("up", [False, True])
def test_resampling_is_the_filter_of_its_definition_up_to_the_second_derivative(up):
    resample, convolve = (fir_up, functional.conv_transpose2d) if up else (fir_down, functional.conv2d)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    expected = convolve(x, 4 * kernel if up else kernel, stride=2, padding=1, groups=3)
    torch.testing.assert_close(resample(x), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(resample, x) and torch.autograd.gradgradcheck(resample, x)


@pytest.mark.parametrize("batch", range(1, 10))
def test_minibatch_std_takes_any_batch_and_equals_its_definition(batch):
    h = torch.randn(batch, 3, 2, 2, generator=torch.Generator().manual_seed(batch))
    out, groups = minibatch_std(h), -(-batch // 4)
    assert torch.equal(out[:, :3], h)
    for k in range(batch):
        expected = np.sqrt(h[k % groups :: groups].numpy().var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(out[k, 3].numpy(), expected, rtol=1e-5)


def test_initial_weights_are_spread_as_the_released_ones():
    # networks.md, "Initialisation": variance scale / fan, uniform.
    method = build(Settings(image_size=64, width=32, embedding=128, critic_width=32))
    h = method.f2.encoder_decoder
    block, attention, critic = h.encoder[0].blocks[0], h.middle_attention, method.critic
    average = lambda w: (w.shape[0] + w.shape[1]) / 2 * w[0, 0].numel()  # noqa: E731
    out = lambda w: w.shape[0] * w[0, 0].numel()  # noqa: E731
    tau, mappers, judge = method.f2.contrast_adapter, (method.f1.mapper, method.f2.mapper), critic.blocks[1]
    expected = [
        (1, average, block.conv1, block.shortcut, block.time, h.time.linear2, tau.gate_a[0], tau.extract[0]),
        (1, average, mappers[0].noisy.conv2),
        (0.1, average, attention.query, attention.key, attention.value),
        (1, out, h.latent.linears[0], block.norm1.modulation.linear, mappers[1].conditions[0].modulation.linear),
        (1 / 3, lambda w: w.shape[1], method.f2.target_adapter.linear),  # PyTorch's default
        (1, out, judge.conv1, judge.shortcut, judge.time, critic.time.linear1, critic.input, critic.final),
        (1, out, critic.output, method.attention),
        (1e-10, out, judge.conv2),
        (1e-10, average, block.conv2, h.output, attention.output),
    ]
    for scale, fan, layer in ((scale, fan, layer) for scale, fan, *given in expected for layer in given):
        sd, count = layer.weight.square().mean().sqrt().item(), layer.weight.numel()
        largest = layer.weight.abs().max().item() / (sd * 3**0.5)  # 1: the bound of a uniform distribution
        assert sd == pytest.approx((scale / fan(layer.weight)) ** 0.5, rel=2 / count**0.5), layer
        assert abs(largest - 1) < 20 / count + 3 / count**0.5, layer


def test_initialisation_is_seeded_with_gammas_of_one_and_biases_of_zero():
    a, b = build(Settings(**SMALL)), build(Settings(**SMALL))
    for (name, p), (_, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert torch.equal(p, q)
        if name.endswith("modulation.linear.bias"):
            assert (p.chunk(2)[0] == 1).all() and not p.chunk(2)[1].any()
        elif name.endswith("bias"):
            assert p.any() == ("target_adapter.linear" in name)  # PyTorch's default has a bias


def test_forward_steps_compose_to_the_marginal():
    schedule = Schedule.variance_preserving(Settings())
    x_0, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    x, variance = x_0, 0.0
    for t in range(4):
        step = torch.tensor([t])
        x = schedule.q_step(x, step, zero)
        variance = variance * (1 - schedule.betas[t]) + schedule.betas[t]
        assert torch.allclose(x, schedule.q_sample(x_0, step + 1, zero), atol=1e-6)
        assert torch.allclose(variance.sqrt(), schedule.sigma[t + 1], atol=1e-6)


def test_sum_reduction_is_the_inner_product_of_the_text():
    x, p = torch.zeros(2, 1, 3, 3), torch.full((2, 1, 3, 3), 0.5)
    assert losses.supervised_loss(x, p).item() == pytest.approx(0.5)
    assert losses.supervised_loss(x, p, "sum").item() == pytest.approx(4.5)
    m = torch.full_like(x, 0.25)
    mean, total = losses.mask_loss(x, x, m, m), losses.mask_loss(x, x, m, m, "sum")
    assert mean.item() == pytest.approx(2 * 0.25 * np.log(2), rel=1e-5)
    assert total.item() == pytest.approx(9 * mean.item(), rel=1e-5)


def test_each_equation_stands_once_where_it_is_computed():
    folder = Path(layers.__file__).parent
    lines = [line for file in sorted(folder.glob("*.py")) for line in file.read_text().splitlines()]
    found = [int(n) for line in lines for n in re.findall(r"Eq\. (\d+)", line.partition("#")[2])]
    training = {20, 21, 23, 24, 25}  # of Algorithm 1, in methods/mudiff.py
    assert sorted(found) == sorted(set(range(1, 34)) - training)
    assert sum(len(re.findall(r"Eq\. \d", line)) for line in lines) == len(found)  # none in a docstring
    algorithm = (folder.parent / "methods" / "mudiff.py").read_text()
    assert all(len(re.findall(rf"Eq\. {n}\b", algorithm)) == 1 for n in training)
