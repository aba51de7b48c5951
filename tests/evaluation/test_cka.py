"""Centred kernel alignment: torch-cka against the definition, and what its wrapper guards against."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mudiff.errors import MudiffError
from mudiff.evaluation import cka

BATCH, COUNT = 8, 27  # three full batches, and three slices left over


@pytest.fixture
def inputs() -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    # A large common part, as images have: without centring it drowns the differences in float32.
    return torch.randn(COUNT, 12, generator=g) + 30


def models() -> tuple[nn.Sequential, nn.Sequential]:
    """Return a small pair of networks with different widths."""
    g = torch.Generator().manual_seed(2)
    pair = (
        nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6)),
        nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 31)),
    )
    for parameter in (p for model in pair for p in model.parameters()):
        nn.init.normal_(parameter, generator=g, std=0.3)
    return pair


def features(model: nn.Sequential) -> cka.Features:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for layer in model:
            x = layer(x)
            found.append(cka.factor(x))
        return found

    return run


def batches(first: cka.Features, second: cka.Features, inputs: torch.Tensor, i: int, j: int) -> list:
    full = inputs[: len(inputs) // BATCH * BATCH].split(BATCH)
    return [(first(part)[i], second(part)[j]) for part in full]


def test_it_agrees_with_the_definition_and_leaves_out_the_last_batch(inputs):
    first, second = models()
    matrix = cka.alignment(features(first), features(second), (3, 3), inputs, BATCH)
    assert matrix.shape == (3, 3) and np.ptp(matrix) > 0.05  # the layers do differ

    def layers(model: nn.Sequential) -> cka.Features:  # in float64, without `factor`
        return lambda x: [model.double()[: k + 1](x.double()).detach() for k in range(3)]

    for i, j in np.ndindex(3, 3):
        expected = cka.reference(batches(layers(first), layers(second), inputs, i, j))
        assert matrix[i, j] == pytest.approx(expected, abs=1e-5)


def test_plain_torch_cka_gives_the_same_numbers(inputs):
    """The wrapper changes how torch-cka is fed, not what it computes; without the common part both are exact."""
    from torch.utils.data import DataLoader, TensorDataset
    from torch_cka import CKA

    first, second = models()
    data = inputs - 30
    wrapped = cka.alignment(features(first), features(second), (3, 3), data, BATCH)
    names = ["0", "1", "2"]
    loader = DataLoader(TensorDataset(data), BATCH, drop_last=True)
    plain = CKA(first, second, "first", "second", names, names)
    with torch.no_grad():
        plain.compare(loader, loader)
    assert np.allclose(wrapped, plain.hsic_matrix.numpy(), atol=1e-5)


def test_hsic_is_unbiased_and_the_biased_one_is_not():
    """Of independent features the mean of HSIC_1 is zero."""
    g = torch.Generator().manual_seed(3)
    values, biased = [], []
    for _ in range(600):
        x, y = torch.randn(6, 3, generator=g).double(), torch.randn(6, 2, generator=g).double()
        k, l = x @ x.T, y @ y.T  # noqa: E741
        values.append(float(cka.hsic(k, l)))
        centre = torch.eye(6).double() - 1 / 6
        biased.append(float(torch.trace(k @ centre @ l @ centre)) / 25)
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error and min(values) < 0
    assert np.mean(biased) > 10 * error


def test_hsic_is_the_definition_written_with_sums():
    """The inner product of U-centred matrices (Szekely and Rizzo 2014) is the same estimator."""
    g = torch.Generator().manual_seed(4)
    n = 7
    grams = [(x := torch.randn(n, 4, generator=g).double()) @ x.T for _ in range(2)]
    off = 1 - torch.eye(n).double()

    def centred(a: torch.Tensor) -> torch.Tensor:
        a = a * off
        rows = a.sum(dim=1) / (n - 2)
        return (a - rows[:, None] - rows[None] + a.sum() / ((n - 1) * (n - 2))) * off

    expected = (centred(grams[0]) * centred(grams[1])).sum() / (n * (n - 3))
    assert float(cka.hsic(*grams)) == pytest.approx(float(expected), rel=1e-10)


def test_a_layer_is_like_itself_and_like_its_rotations_and_multiples(inputs):
    g = torch.Generator().manual_seed(5)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=g)).Q
    stretched = torch.diag(torch.linspace(0.1, 4, 12))

    def variants(x: torch.Tensor) -> list[torch.Tensor]:
        return [cka.factor(v) for v in (x, x @ rotation, 7 * x, x - 100, x @ stretched)]

    same = cka.alignment(lambda x: [cka.factor(x)], variants, (1, 5), inputs, BATCH)[0]
    assert np.allclose(same[:4], 1, atol=1e-5)
    assert same[4] < 0.99  # any other linear map does change it


def test_features_of_any_shape_keep_their_gram_matrix():
    g = torch.Generator().manual_seed(6)
    for shape in ((5, 3, 4, 4), (5, 2)):
        x = torch.randn(*shape, generator=g)
        small = cka.factor(x)
        centred = (x - x.mean(dim=0)).flatten(1)
        assert small.shape[1] <= 5
        assert torch.allclose(small @ small.T, centred @ centred.T, atol=1e-4)


def test_it_leaves_nothing_behind(inputs, capfd):
    first, _ = models()
    first.train()
    state = torch.get_rng_state()
    cka.alignment(features(first), features(first), (3, 3), inputs, BATCH)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.training and not any(module._forward_hooks for module in first.modules())
    assert torch.is_grad_enabled()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("count, batch", [(3, 8), (20, 3)])
def test_too_few_slices_are_an_error(inputs, count, batch):
    first, second = models()
    with pytest.raises(MudiffError, match="4 or more"):
        cka.alignment(features(first), features(second), (3, 3), inputs[:count], batch)


def test_few_slices_are_one_batch(inputs):
    first, second = models()
    assert np.array_equal(
        cka.alignment(features(first), features(second), (3, 3), inputs[:5], BATCH),
        cka.alignment(features(first), features(second), (3, 3), inputs[:5], 5),
    )


def test_a_layer_without_differences_is_an_error(inputs):
    with pytest.raises(MudiffError, match="same features for all slices"):
        cka.alignment(lambda x: [torch.zeros(len(x), 2)], lambda x: [x], (1, 1), inputs, BATCH)


def test_few_slices_are_said_to_be_few():
    assert cka.caution(32) == cka.caution(64) == ""
    assert "a minibatch of 4 has 2 degrees of freedom" in cka.caution(4)
    assert cka.caution(64, batch=4).endswith("minibatches: 16; the values are close to noise.")
    assert cka.caution(16).endswith(
        "16 has 104 degrees of freedom, minibatches: 1; the values are uncertain."
    )


def test_degrees_of_freedom_are_those_of_what_hsic_sees():
    """HSIC_1 is a bilinear form of symmetric matrices; its rank is the number of what it can tell apart."""
    for n in (4, 5, 8):
        rows, columns = torch.triu_indices(n, n)
        basis = torch.zeros(len(rows), n, n, dtype=torch.float64)
        for unit, i, j in zip(basis, rows, columns, strict=True):
            unit[i, j] = unit[j, i] = 1
        form = torch.stack([torch.stack([cka.hsic(a, b) for b in basis]) for a in basis])
        assert f"has {torch.linalg.matrix_rank(form)} degrees" in cka.caution(n)
