"""The ablations: each takes away what the paper says, and nothing else."""

import dataclasses

import pytest
import torch
from conftest import SMALL, some_slices

from mudiff.methods.base import build
from mudiff.training import profiles


@pytest.mark.parametrize("name", profiles.ABLATIONS)
def test_an_ablation_differs_from_the_full_model_in_its_own_fields_alone(name):
    full = dataclasses.asdict(profiles.settings("smoke", *profiles.ABLATED, "mudiff_full"))
    other = dataclasses.asdict(profiles.settings("smoke", *profiles.ABLATED, f"mudiff_{name}"))
    named = profiles.ABLATIONS[name] | {"variant": name}
    own = {k for k, value in named.items() if value != full[k]} if name != "full" else set()
    assert {k for k in full if full[k] != other[k]} == own
    assert own > {"variant"} or name in ("full", "lambda_c")  # smoke has the published game itself


def test_without_rho_the_first_prediction_tells_the_second_network_nothing():
    batch, z, t = some_slices(2), torch.zeros(2, 100), torch.tensor([0, 1])
    for name, same in {"abl3_caption": True, "abl3_text": False, "full": False}.items():
        method = build(profiles.settings("smoke", *profiles.ABLATED, f"mudiff_{name}", **SMALL))
        for step in range(2):  # the last layer starts at zero
            method.training_step(batch, step)
        a, b = (method.f2(batch.target, batch.conditions, t, z, x) for x in (batch.target, -batch.target))
        assert torch.equal(a, b) == same, name


def test_a_profile_with_an_ablation_budget_trains_the_full_model_with_it():
    for profile in profiles.PROFILES.values():
        runs = [m for _, _, methods in profile.jobs().values() for m in methods]
        names = {m.partition("_")[2] for m in runs if m.startswith("mudiff_")}
        assert names == set(profiles.ABLATIONS) - ({"full", "lambda_c"} if profile.full == "released" else set())
        reference = profiles.settings(profile.name, *profiles.ABLATED, "mudiff", profile.full)
        for name in set(profiles.ABLATIONS) - {*profiles.OF_CRITIC}:
            budget = profiles.settings(profile.name, *profiles.ABLATED, "mudiff", name)
            assert (budget.epochs, budget.batch_size) == (reference.epochs, reference.batch_size)
        runs = (profiles.settings(profile.name, *profiles.ABLATED, m) for m in ("mudiff", "mudiff_no_critic"))
        main, without = runs
        assert without == main.replace(variant="no_critic", weight_adversarial=0, weight_mask=0)


def test_the_demos_critic_begins_with_pytorchs_weights_and_the_published_game_with_the_codes():
    for name, scale in (("mudiff", 1.0), ("mudiff_lambda_c", 0.0)):
        weight = build(profiles.settings("demo", *profiles.ABLATED, name)).critic.blocks[3].conv2.weight
        assert weight.std().item() == pytest.approx(scale * (3 * weight[0].numel()) ** -0.5, rel=0.05, abs=1e-4)
