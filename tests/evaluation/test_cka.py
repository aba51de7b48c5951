"""Centred kernel alignment: torch-cka against the definition, and what its wrapper guards against."""

import numpy as np
import pytest
import torch
from conftest import cka_by_definition, refused

from mudiff.evaluation import cka

BATCH = 8


def test_it_agrees_with_the_definition_and_leaves_nothing_behind(capfd):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3 * BATCH, 12, generator=g)
    # A large common part, as images have: without centring it drowns the differences in float32.
    layers = [torch.tanh(0.3 * x @ torch.randn(12, width, generator=g)) + 30 for width in (20, 6, 9, 31, 5)]
    parts = [layer.split(BATCH) for layer in layers]
    factors = [torch.cat([cka.factor(part) for part in split]) for split in parts]
    state = torch.get_rng_state()
    matrix = cka.alignment(torch.stack(factors[:2], dim=1), torch.stack(factors[2:], dim=1), BATCH)
    assert torch.equal(torch.get_rng_state(), state) and capfd.readouterr() == ("", "")
    assert matrix.shape == (2, 3) and np.ptp(matrix) > 0.05  # the layers do differ
    for i, j in np.ndindex(2, 3):
        expected = cka_by_definition(list(zip(parts[i], parts[2 + j], strict=True)))
        assert matrix[i, j] == pytest.approx(expected, abs=1e-5)


def test_too_few_slices_and_equal_slices_are_errors():
    few, many = torch.rand(3, 1, 8), torch.rand(20, 1, 8)
    for x, batch, says in ((few, 8, "4 or more"), (many, 3, "4 or more"), (0 * many, 8, "same features for all")):
        refused(says, cka.alignment, x, x + 1, batch)
