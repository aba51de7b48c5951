"""Formulations: the same numbers for hooks and the compiler."""

import pytest
import torch
from conftest import SMALL, refused, some_slices
from torch import nn

from mudiff.methods.base import Batch, build
from mudiff.model import generators, losses
from mudiff.settings import Settings


def drawn(method: str, **changes) -> nn.Module:
    """Return a method whose last layers do not start at zero, so that all weights have gradients."""
    made = build(Settings(**SMALL | {"method": method, "attention_at": 8, "steps": 4} | changes))
    generator = torch.Generator().manual_seed(0)
    for weight in made.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5, generator=generator)
    return made


def losses_and_gradients(method: nn.Module, batch: Batch) -> list[torch.Tensor]:
    """Return the predictions, the critic's logit, R1 (a second derivative) and all gradients."""
    n = len(batch.target)
    t, z = torch.tensor([0, 1, 3])[:n], torch.linspace(-2, 2, 100 * n).view(n, 100)
    predictions = method.predict(batch.target, batch.conditions, t, z)
    real = batch.target.clone().requires_grad_()
    [(logit, middle)] = method.judge([real], t, predictions[-1])
    penalty = losses.r1_penalty(logit, real)
    total = sum(p.square().mean() for p in predictions) + logit.mean() + penalty + middle.square().mean()
    weights = [w for name, w in method.named_parameters() if not name.startswith("attention.")]
    return [*predictions, logit, penalty, *torch.autograd.grad(total, weights)]


@pytest.mark.parametrize("method", ["mudiff", "syndiff"])
def test_networks_are_one_graph_for_the_compiler_and_keep_their_numbers(method):
    # Backend "eager" runs what the compiler was given as it is, so no compiler is needed.
    made, batch = drawn(method, width=4, image_size=8, attention_at=4), some_slices(2, size=8)
    expected = losses_and_gradients(made, batch)
    names, runs = set(made.state_dict()), []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        runs.append(graph)
        return graph

    made.compile(backend=backend, fullgraph=True)  # an error where the graph would break
    for value, plain in zip(losses_and_gradients(made, batch), expected, strict=True):
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


def test_methods_without_networks_for_the_compiler_say_so():
    refused("nothing to compile", build(Settings(method="linear")).compile)
