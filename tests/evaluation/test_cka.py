"""Centred kernel alignment: torch-cka against the definition, and what its wrapper guards against."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import cka_by_definition, refused
from torch import nn

from mudiff.evaluation import cka

BATCH, COUNT = 8, 27  # three full batches, and three slices left over


def network(seed: int, *widths: int) -> list[nn.Module]:
    g = torch.Generator().manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(widths)]
    for parameter in (p for layer in layers for p in layer.parameters()):
        nn.init.normal_(parameter, generator=g, std=0.3)
    return layers


def features(layers: list[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    return [x := layer(x) for layer in layers]


def factors(layers: list[nn.Module], x: torch.Tensor, batch: int = BATCH) -> torch.Tensor:
    """Return (N, L, B), as `alignment` takes it."""
    parts = [torch.stack([cka.factor(f) for f in features(layers, part)], dim=1) for part in x.split(batch)]
    return torch.cat([part for part in parts if len(part) == batch])


@pytest.fixture
def inputs() -> torch.Tensor:
    # A large common part, as images have: without centring it drowns the differences in float32.
    return torch.randn(COUNT, 12, generator=torch.Generator().manual_seed(1)) + 30


def test_it_agrees_with_the_definition_and_leaves_nothing_behind(inputs, capfd):
    first, second = network(2, 12, 20, 6), network(3, 12, 9, 31, 5)
    state = torch.get_rng_state()
    with torch.no_grad():
        matrix = cka.alignment(factors(first, inputs), factors(second, inputs), BATCH)
    assert torch.equal(torch.get_rng_state(), state) and capfd.readouterr() == ("", "")
    assert matrix.shape == (2, 3) and np.ptp(matrix) > 0.05  # the layers do differ
    batches = inputs.double()[:24].split(BATCH)  # the last three slices do not fill one
    for layer in (*first, *second):
        layer.double().requires_grad_(False)
    for i, j in np.ndindex(2, 3):
        expected = cka_by_definition([(features(first, x)[i], features(second, x)[j]) for x in batches])
        assert matrix[i, j] == pytest.approx(expected, abs=1e-5)


def test_too_few_slices_and_equal_slices_are_errors():
    few, many = torch.rand(3, 1, 8), torch.rand(20, 1, 8)
    for x, batch, says in ((few, 8, "4 or more"), (many, 3, "4 or more"), (0 * many, 8, "same features for all")):
        refused(says, cka.alignment, x, x + 1, batch)
