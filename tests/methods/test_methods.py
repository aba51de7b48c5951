"""The training step and the sampler of MU-Diff, and the linear floor."""

import numpy as np
import pytest
import torch
from conftest import SMALL, lively, some_slices

from mudiff.methods.base import Batch, build
from mudiff.settings import Settings
from mudiff.training import profiles

FIELDS = SMALL | {"width": 8, "steps": 4}
VARIATIONS = [
    {}, {"mask": "channel_mean"}, {"mask": "trained"}, {"mask_detached": True}, {"detach_first": True},
    {"critic_real_weight": 2.0}, {"reduction": "sum"}, {"r1_gamma": 0.0}, {"beta1": 0.1, "beta2": 0.2},
    {"precision": "bfloat16"}, *(v for k, v in profiles.ABLATIONS.items() if k not in ("full", "lambda_c")),
]  # fmt: skip


def two_steps(**change):
    """Train, and return the method, the weights that it began with, and the last losses."""
    method = build(Settings(**FIELDS | change))
    before, state = {k: v.clone() for k, v in method.named_parameters()}, torch.random.get_rng_state()
    for step in range(2):  # step 0 lifts the last layer of each residual branch off zero
        values = method.training_step(some_slices(3), step)
    assert torch.equal(state, torch.random.get_rng_state())  # nothing is drawn from the global state
    return method, before, values


@pytest.mark.parametrize("change", VARIATIONS, ids=str)
def test_every_parameter_learns_in_one_step_or_two_and_each_departure_changes_the_result(change):
    method, before, values = two_steps(**change)
    still = [k for k, v in method.named_parameters() if torch.equal(v, before[k])]
    masks, critic = ("weight_mask" not in change and "networks" not in change), "weight_adversarial" not in change
    # C-1: only "trained" moves the attention convolution.
    untrained = () if change.get("mask") in ("trained", "channel_mean") else ("attention.",)
    assert [k for k in still if not k.startswith(untrained if critic else ("critic.", "attention."))] == []
    assert all(torch.isfinite(v) for v in values.values())
    assert ("critic" in values) == critic and ("mask" in values) == masks
    assert all(p.requires_grad for p in method.critic.parameters())
    released, *_ = two_steps()
    same = [torch.equal(v, released.get_parameter(k)) for k, v in method.named_parameters() if k.startswith("f1.")]
    assert all(same) == (not change)


def test_first_network_learns_from_the_second_unless_cut():
    def first_gradient(**change) -> float:
        method, batch = lively(**change), some_slices(3, size=32)
        _, x_p2 = method.predict(batch.target, batch.conditions, torch.zeros(3).long(), torch.zeros(3, 100))
        x_p2.sum().backward()
        return sum(p.grad.abs().sum().item() for p in method.f1.parameters() if p.grad is not None)

    assert first_gradient() > 0
    assert first_gradient(detach_first=True) == 0


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
    empty = torch.full((1, 3, 16, 16), -1.0)
    assert (method.synthesize(empty, torch.zeros(1)) == -1).all()
