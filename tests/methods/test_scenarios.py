"""Any subset of contrasts in, any missing one out: scenarios, and the methods that take them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, refused, some_slices, unmoved

from mudiff.data import datasets
from mudiff.methods.base import Batch, Method, build
from mudiff.model.scenario import Scenario, subsets
from mudiff.settings import Settings

NAMES = datasets.dataset("brats").contrasts
ANY = SMALL | {"target": "any", "width": 8, "embedding": 16, "levels": 3}


def any_slices(seeds: range | list[int]) -> Batch:
    """Return a batch of all four contrasts with a scenario per seed."""
    batch, scenario = some_slices(len(seeds), 4), Scenario.draw(seeds, 4)
    return replace(batch, target=scenario.pick(batch.conditions), scenario=scenario)


def trained(method: str) -> Method:
    """Take three steps; all parameters learn from them, of MU-Diff without any gradient of a missing contrast."""
    made, batch = build(Settings(**ANY, method=method, mask="trained")), any_slices(range(6))
    if method == "mudiff":
        hidden = batch.conditions.masked_fill(batch.scenario.missing(), torch.nan)
        batch = replace(batch, conditions=hidden)
    assert unmoved(made, batch, 3)[0] == []
    return made.eval()


def test_subsets_and_scenarios_are_all_that_there_are():
    assert len(subsets(4)) == 14 and len(subsets(3)) == 6 and len(subsets(4, 1)) == 4
    drawn = Scenario.draw(range(4000), 4)
    assert not drawn.given[torch.arange(4000), drawn.target].any() and drawn.given.any(dim=1).all()
    counts = Counter((*map(tuple, drawn.given.tolist()),))
    assert len(counts) == 14 and min(counts.values()) > 4000 / 14 * 0.75  # equally likely
    assert len(set(zip(map(tuple, drawn.given.tolist()), drawn.target.tolist(), strict=True))) == 28
    assert (Scenario.draw(range(99), 4, 1).given.sum(dim=1) == 3).all()
    again = Scenario.draw(reversed(range(4000)), 4)  # each by its own seed, whatever the order
    assert torch.equal(again.given.flip(0), drawn.given) and torch.equal(again.target.flip(0), drawn.target)


def test_what_is_no_scenario_is_named():
    assert Scenario.of(NAMES, ("t1", "flair"), "t2", 8).given.is_contiguous()  # else it cannot be pinned for a GPU
    refused("T2 is made from: there are none", Scenario.of, NAMES, (), "t2", 2)
    refused("T2 is among them", Scenario.of, NAMES, ("t1", "t2"), "t2", 2)
    refused("contrast 'dwi' is unknown", Scenario.of, NAMES, ("t1", "dwi"), "t2", 2)
    refused("choose one of t1, t1ce, t2, flair", Scenario.of, NAMES, ("t1",), "dwi", 2)
    refused("target any is for methods mudiff, mmgan, linear", Settings, target="any", method="ddpm")


@pytest.mark.parametrize("method", datasets.ANY_METHODS)
def test_missing_contrasts_have_no_influence_and_the_order_of_a_batch_has_none(method):
    made, batch, seeds = trained(method), any_slices(range(8)), torch.arange(8)
    x = made.synthesize(batch.conditions, seeds, scenario=batch.scenario)
    assert x.shape == (8, 1, 16, 16) and torch.isfinite(x).all()
    other = batch.conditions.masked_fill(batch.scenario.missing(), torch.nan)
    assert torch.equal(made.synthesize(other, seeds, scenario=batch.scenario), x)
    changed = batch.conditions.masked_fill(~batch.scenario.missing(), 0.3)
    assert (made.synthesize(changed, seeds, scenario=batch.scenario) != x).flatten(1).any(dim=1).all()
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    moved = Scenario(*(part[order] for part in batch.scenario))
    again = made.synthesize(batch.conditions[order], seeds[order], scenario=moved)
    assert torch.allclose(again, x[order], atol=1e-6)


def test_linear_fits_each_subset_by_least_squares():
    made, batch = build(Settings(**ANY, method="linear")), any_slices(range(6))
    made.training_step(batch, 0)
    y = batch.conditions.movedim(1, -1).flatten(0, 2).double().numpy()
    for target, given in ((0, [1, 2, 3]), (3, [1]), (2, [0, 3])):
        design = np.column_stack([y[:, given], np.ones(len(y))])
        fitted = design @ np.linalg.lstsq(design, y[:, target], rcond=None)[0]
        scenario = Scenario.of(NAMES, [NAMES[i] for i in given], NAMES[target], 6)
        x = made.synthesize(batch.conditions, batch.seeds, scenario=scenario)
        assert np.allclose(x.flatten(), np.clip(fitted, -1, 1), atol=1e-5)


def test_mmgan_counts_the_missing_contrasts_alone():
    made, batch = build(Settings(**ANY, method="mmgan")), any_slices(range(6))
    stack = made.generate(batch.conditions, batch.scenario)
    missing = batch.scenario.missing().expand_as(stack)
    assert torch.equal(stack[~missing], batch.conditions[~missing])
    loss = made.generator_losses(batch, stack)["supervised"].item()
    error = (stack - batch.conditions).abs()[missing].mean().item()
    assert loss == pytest.approx(made.settings.weight_supervised * error, rel=1e-5)
    made.judge = lambda *_: torch.ones(6, 4, 3, 3)  # takes every contrast for a true one
    labelled = made.critic_losses(batch, stack)["critic"].item()
    assert labelled == pytest.approx(batch.scenario.missing().float().mean().item() / 2)
