"""Formulations chosen for speed against the plain ones: the same numbers up to rounding."""

import copy
import math

import pytest
import torch
from conftest import some_slices
from torch import nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.methods import Batch, build, syndiff
from mudiff.model import critic as critics
from mudiff.model import generators, layers, losses
from mudiff.settings import Settings

SMALL = {
    "image_size": 16, "width": 8, "multipliers": (1, 2), "blocks": 1, "embedding": 16, "critic_width": 4,
    "critic_blocks": 2, "attention_at": 8,
}  # fmt: skip


def drawn(method: str, **changes) -> nn.Module:
    """Return a method whose last layers do not start at zero, so that all weights have gradients."""
    made = build(Settings(**SMALL | {"method": method} | changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                spread = weight[0].numel() ** -0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
    return made


def losses_and_gradients(method: nn.Module, batch: Batch | None = None) -> list[torch.Tensor]:
    """Return the predictions, the critic's logit, R1 (a second derivative) and all gradients."""
    batch = some_slices(3) if batch is None else batch
    n = len(batch.target)
    t, z = torch.tensor([0, 1, 3])[:n], torch.linspace(-2, 2, 100 * n).view(n, 100)
    predictions = method.predict(batch.target, batch.conditions, t, z)
    real = batch.target.clone().requires_grad_()
    logit, middle = method.judge(real, t, predictions[-1])
    penalty = losses.r1_penalty(logit, real)
    total = sum(p.square().mean() for p in predictions) + logit.mean() + penalty + middle.square().mean()
    weights = [w for name, w in method.named_parameters() if not name.startswith("attention.")]
    return [*predictions, logit, penalty, *torch.autograd.grad(total, weights)]


def assert_same(values: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for value, plain in zip(values, expected, strict=True):
        assert (value - plain).abs().max() <= 1e-5 * max(1.0, plain.abs().max().item())
    assert sum(plain.abs().max() > 1e-3 for plain in expected) > len(expected) / 2


@pytest.mark.parametrize("method", ["mudiff", "syndiff"])
def test_channels_last_changes_no_number(method, monkeypatch):
    made = drawn(method)
    values = losses_and_gradients(made)
    for module in (critics, generators, syndiff):
        monkeypatch.setattr(module, "channels_last", lambda x: x)
    assert_same(values, losses_and_gradients(made))


@pytest.mark.parametrize("method", ["mudiff", "syndiff"])
def test_every_wide_convolution_gets_channels_last_on_the_cpu(method):
    made, seen = drawn(method), []

    def look(layer: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
        if layer.kernel_size == (3, 3) and inputs[0].shape[1] > 1:
            seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for layer in made.modules():
        if isinstance(layer, nn.Conv2d) and layer is not made.critic.final:  # that one sees a few pixels
            layer.register_forward_pre_hook(look)
    losses_and_gradients(made)
    assert len(seen) > 10 and all(seen)


RESAMPLING = {
    layers.fir_up: lambda x, k: F.conv_transpose2d(x, 4 * k, stride=2, padding=1, groups=x.shape[1]),
    layers.fir_down: lambda x, k: F.conv2d(x, k, stride=2, padding=1, groups=x.shape[1]),
}


@pytest.mark.parametrize("resample", RESAMPLING, ids=lambda f: f.__name__)
def test_resampling_is_the_filter_of_its_definition_up_to_the_second_derivative(resample):
    taps = torch.tensor(layers.FIR, dtype=torch.float64) / 8
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    expected = RESAMPLING[resample](x, kernel)
    torch.testing.assert_close(resample(x), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(resample, x) and torch.autograd.gradgradcheck(resample, x)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    both = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (resample(x), expected)]
    torch.testing.assert_close(*both, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_resampling_keeps_the_number_format_and_the_memory_format(kind):
    x = torch.randn(2, 8, 6, 6).to(kind).to(memory_format=torch.channels_last)
    for resample in RESAMPLING:
        made = resample(x)
        assert made.dtype == kind and made.is_contiguous(memory_format=torch.channels_last)


def test_the_critic_judges_several_candidates_as_it_judges_each():
    made, batch = drawn("mudiff"), some_slices(6)  # six images: two groups of the minibatch statistic
    t = torch.arange(6) % 4
    candidates = [batch.target, batch.conditions[:, :1], -batch.target]
    together = made.judge_each(candidates, t, batch.target)
    for candidate, (logit, middle) in zip(candidates, together, strict=True):
        assert_same([logit, middle], list(made.judge(candidate, t, batch.target)))


def test_attention_is_the_softmax_of_its_definition():
    layer, generator = layers.SelfAttention(8), torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 5, 6, generator=generator, requires_grad=True)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    h = layer.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
    scores = layer.query(h) @ layer.key(h).transpose(1, 2) / math.sqrt(8)
    expected = layer.output(scores.softmax(dim=2) @ layer.value(h)).transpose(1, 2).reshape(x.shape)
    expected = (x + expected) / math.sqrt(2)
    made = layer(x)
    inputs = [x, *layer.parameters()]
    both = [[out, *torch.autograd.grad(out.square().mean(), inputs)] for out in (made, expected)]
    assert_same(*both)


def test_fused_adam_takes_the_steps_of_plain_adam():
    fused = build(Settings(**SMALL))
    plain = copy.deepcopy(fused)
    before = [weight.clone() for weight in fused.parameters()]
    for made, kind in ((fused, True), (plain, False)):
        for optimiser in made.optimisers.values():
            (group,) = optimiser.param_groups
            assert group["fused"]
            group["fused"] = kind
            generator = torch.Generator().manual_seed(0)
            for _ in range(3):
                for weight in group["params"]:
                    weight.grad = torch.randn(weight.shape, generator=generator)
                optimiser.step()
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    moved = [not torch.equal(a, b) for a, b in zip(fused.parameters(), before, strict=True)]
    assert sum(moved) == len(moved) - 2  # all but the attention convolution, which nothing trains (C-1)


@pytest.mark.parametrize("method", ["mudiff", "syndiff"])
def test_networks_are_one_graph_for_the_compiler_and_keep_their_numbers(method):
    # Backend "eager" runs what the compiler was given as it is, so no compiler is needed.
    made, batch = drawn(method, width=4, image_size=8, attention_at=4), some_slices(2, size=8)
    values = losses_and_gradients(made, batch)
    names, runs = set(made.state_dict()), []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        runs.append(graph)
        return graph

    made.compile(backend=backend, fullgraph=True)  # an error where the graph would break
    assert_same(values, losses_and_gradients(made, batch))
    assert len(runs) == len(made.networks) and set(made.state_dict()) == names


@pytest.mark.parametrize("method", ["mudiff", "syndiff"])
def test_what_is_overwritten_without_gradients_is_not_needed_again(method):
    made, batch = drawn(method), some_slices(3)
    t, z = torch.tensor([0, 1, 3]), torch.linspace(-2, 2, 300).view(3, 100)
    expected = made.predict(batch.target, batch.conditions, t, z)
    with torch.no_grad():
        features = made.condition_features(batch.conditions)
        for _ in range(2):  # the features of the conditions serve all T steps
            again = made.predict(batch.target, batch.conditions, t, z, features)
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_sampling_in_bfloat16_rounds_each_weight_once():
    made, batch = build(Settings(**SMALL | {"precision": "bfloat16"})), some_slices(2)
    with torch.profiler.profile(record_shapes=True) as seen:
        made.synthesize(batch.conditions, batch.seeds)
    shape = list(made.f1.encoder_decoder.middle1.conv1.weight.shape)
    layers_of_it = [w for w in [*made.f1.parameters(), *made.f2.parameters()] if list(w.shape) == shape]
    casts = [e for e in seen.events() if e.name == "aten::_to_copy" and e.input_shapes[:1] == [shape]]
    assert len(casts) == len(layers_of_it)


def test_methods_without_networks_for_the_compiler_say_so():
    with pytest.raises(MudiffError, match="nothing to compile"):
        build(Settings(method="linear")).compile()
