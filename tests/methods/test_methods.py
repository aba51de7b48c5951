"""The training step and the sampler of MU-Diff, the linear floor, and the numbers for hooks and the compiler."""

import numpy as np
import pytest
import torch
from conftest import SMALL, refused, some_slices, unmoved
from torch import nn

from mudiff.methods.base import Batch, build
from mudiff.model import generators
from mudiff.settings import Settings
from mudiff.training import profiles

FIELDS = SMALL | {"width": 8, "steps": 4}
VARIATIONS = [
    {}, {"mask": "channel_mean"}, {"mask": "trained"}, {"mask_detached": True}, {"detach_first": True},
    {"critic_real_weight": 2.0}, {"reduction": "sum"}, {"r1_gamma": 0.0}, {"beta1": 0.1, "beta2": 0.2},
    {"precision": "bfloat16"}, *(v for k, v in profiles.ABLATIONS.items() if k not in ("full", "lambda_c")),
]  # fmt: skip


@pytest.mark.parametrize("change", VARIATIONS, ids=str)
def test_every_parameter_learns_in_one_step_or_two_and_each_departure_changes_the_result(change):
    method, released = (build(Settings(**FIELDS | given)) for given in (change, {}))
    still, values = unmoved(method, some_slices(3), 2)  # step 0 lifts the last layer of each branch off zero
    unmoved(released, some_slices(3), 2)
    masks, critic = ("weight_mask" not in change and "networks" not in change), "weight_adversarial" not in change
    # C-1: only "trained" moves the attention convolution.
    untrained = () if change.get("mask") in ("trained", "channel_mean") else ("attention.",)
    assert [k for k in still if not k.startswith(untrained if critic else ("critic.", "attention."))] == []
    assert ("critic" in values) == critic and ("mask" in values) == masks
    assert all(p.requires_grad for p in method.critic.parameters())
    same = [torch.equal(v, released.get_parameter(k)) for k, v in method.named_parameters() if k.startswith("f1.")]
    assert all(same) == (not change)


@pytest.mark.parametrize(("networks", "count"), [("mutual", 2), ("single", 1)])
def test_callback_sees_every_step_and_the_average_is_the_sample(networks, count):
    y, seen, method = some_slices(2).conditions, [], build(Settings(**FIELDS, networks=networks))
    for step in range(3):
        method.training_step(some_slices(3), step)
    x = method.synthesize(y, torch.tensor([1, 2]), seen.append)
    assert [step["t"] for step in seen] == [3, 2, 1, 0]
    # At t = 0 the posterior mean is the prediction itself: Eq. 31 averages both networks.
    predictions = [value for name, value in seen[-1].items() if name.startswith("x_p")]
    assert len(predictions) == count and torch.allclose(x, sum(predictions) / count, atol=1e-5)
    assert x.shape == (2, 1, 16, 16) and x.abs().max() <= 1


def test_without_rho_the_first_prediction_tells_the_second_network_nothing():
    batch, z, t = some_slices(2), torch.zeros(2, 100), torch.tensor([0, 1])
    for name, same in {"abl3_caption": True, "abl3_text": False, "full": False}.items():
        method = build(profiles.settings("smoke", *profiles.ABLATED, f"mudiff_{name}", **SMALL))
        for step in range(2):  # the last layer starts at zero
            method.training_step(batch, step)
        a, b = (method.f2(batch.target, batch.conditions, t, z, x) for x in (batch.target, -batch.target))
        assert torch.equal(a, b) == same, name


def test_the_demos_critic_begins_with_pytorchs_weights_and_the_published_game_with_the_codes():
    for name, scale in (("mudiff", 1.0), ("mudiff_lambda_c", 0.0)):
        weight = build(profiles.settings("demo", *profiles.ABLATED, name)).critic.blocks[3].conv2.weight
        assert weight.std().item() == pytest.approx(scale * (3 * weight[0].numel()) ** -0.5, rel=0.05, abs=1e-4)


def test_linear_is_least_squares_whatever_the_batches():
    batch = some_slices(6)
    batch.brain[:] = batch.target > -0.4  # a linear fit of the rest has a constant of its own
    y, x = (images.movedim(1, -1)[batch.brain[:, 0]].numpy() for images in (batch.conditions, batch.target))
    expected = np.linalg.lstsq(np.column_stack([y, np.ones(len(y))]), x[:, 0], rcond=None)[0]
    for size in (1, 4, 6):
        method = build(Settings(**FIELDS, method="linear"))
        for step, start in enumerate(range(0, 6, size)):
            parts = (values[start : start + size] for values in vars(batch).values() if values is not None)
            method.training_step(Batch(*parts), step)
        np.testing.assert_allclose(method.coefficients.numpy(), expected, atol=1e-6)
    refused("nothing to compile", method.compile)
    empty = torch.full((1, 3, 16, 16), -1.0)
    assert (method.synthesize(empty, torch.zeros(1)) == -1).all()


def drawn(method: str, **changes) -> nn.Module:
    """Return a method whose last layers do not start at zero, so that all weights have gradients."""
    made = build(Settings(**SMALL | {"method": method, "attention_at": 8, "steps": 4} | changes))
    generator = torch.Generator().manual_seed(0)
    for weight in made.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5, generator=generator)
    return made


@pytest.mark.parametrize("method", ["mudiff", "syndiff"])
def test_networks_are_one_graph_for_the_compiler_and_keep_their_numbers(method):
    # Backend "eager" runs what the compiler was given as it is, so no compiler is needed.
    made, batch = drawn(method, width=4, image_size=8, attention_at=4), some_slices(2, size=8)
    names, runs = set(made.state_dict()), []

    def numbers() -> list[torch.Tensor]:  # predictions and gradients
        t, z = torch.tensor([0, 1]), torch.linspace(-2, 2, 200).view(2, 100)
        predictions = made.predict(batch.target, batch.conditions, t, z)
        weights = [weight for name in made.networks for weight in getattr(made, name).parameters()]
        return [*predictions, *torch.autograd.grad(sum(p.square().mean() for p in predictions), weights)]

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        runs.append(graph)
        return graph

    expected = numbers()
    made.compile(backend=backend, fullgraph=True)  # an error where the graph would break
    for value, plain in zip(numbers(), expected, strict=True):
        assert (value - plain).abs().max() <= 1e-5 * max(1.0, plain.abs().max().item())
    assert sum(plain.abs().max() > 1e-3 for plain in expected) > len(expected) / 2
    assert len(runs) == len(made.networks) and set(made.state_dict()) == names


def test_hooks_in_sampling_see_every_gate_and_tensors_that_nothing_changes_afterwards():
    made, batch, kept, gates = drawn("mudiff"), some_slices(2), [], []

    def keep(module: nn.Module, inputs: tuple, output: torch.Tensor | list) -> None:
        tensors = [output] if isinstance(output, torch.Tensor) else output
        kept.extend((tensor, tensor.clone()) for tensor in tensors)

    for module in (*made.f1.modules(), *made.f2.modules()):
        if not isinstance(module, generators.EncoderLevel):  # gives a list of lists
            module.register_forward_hook(keep)
    tau = made.f2.contrast_adapter
    for gate in (*tau.gate_a, *tau.gate_b):
        gate.register_forward_hook(lambda module, *_: gates.append(module))
    made.synthesize(batch.conditions, batch.seeds)
    assert all(torch.equal(tensor, copy) for tensor, copy in kept)
    assert len(kept) > 400 and gates == [
        gate for _ in range(4) for pair in zip(tau.gate_a, tau.gate_b, strict=True) for gate in pair
    ]
