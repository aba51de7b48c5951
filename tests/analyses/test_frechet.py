"""The Frechet distance: whose features it compares, and the files of weights that it takes."""

import sys

import numpy as np
import pytest
import torch
from conftest import refused, run_cells, write_synthetic
from torch import nn
from torchmetrics.image import fid


class Means(nn.Module):
    """The mean of each channel, so that distances are known."""

    def __init__(self):
        super().__init__()
        self.none = nn.Parameter(torch.zeros(0))

    def forward(self, images):
        return images.mean(dim=(2, 3))


def stack(slices):
    """Return all contrasts of all slices, (N, C, S, S) in [0, 1]."""
    every = np.arange(len(slices))
    return np.stack([(slices.images(every, contrast) + 1) / 2 for contrast in slices.contrasts], axis=1)


def cells(slices=None):
    """Return the functions of notebook 11."""
    return run_cells("11_ablations", "def features(", "def read_inception(", test=slices, target="t1ce", torch=torch)


def test_features_are_of_the_runs_slices_and_the_distance_is_that_of_gaussians(lively_slices, tmp_path):
    folder = write_synthetic(lively_slices, tmp_path / "run", "t1ce", lambda true: 0.2 + true**2)
    synthetic = stack(lively_slices)
    synthetic[:, 1] = np.minimum(0.2 + synthetic[:, 1] ** 2, 1)  # the second contrast
    features, distance = (cells(lively_slices)[name] for name in ("features", "distance"))
    real, found = (features(Means(), made) for made in (None, folder))
    np.testing.assert_allclose(found, synthetic.mean(axis=(2, 3)), atol=1e-4)
    doubled = real.mean(dim=0).square().sum() + real.var(dim=0).sum()  # mean and root of the covariance, doubled
    assert distance(real, 2 * real) == pytest.approx(doubled.item(), rel=1e-3)
    assert distance(real, found) > 1e-3 and 0 <= distance(real, real) < 1e-6
    assert np.isnan(distance(real[:1], real))  # there is no covariance of one image


@pytest.fixture
def inception(monkeypatch, tmp_path):
    """Stand in for the network of torch-fidelity: the mean of each channel, of bytes."""
    seen = []

    class Network(Means):
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            if "bad" in feature_extractor_weights_path:
                raise RuntimeError("unexpected keys")
            if "without" in feature_extractor_weights_path:
                raise ModuleNotFoundError  # as torchmetrics does without torch-fidelity

        def forward(self, x):
            seen.append(x)
            return super().forward(x.float()) / 255

    monkeypatch.setattr(fid, "NoTrainInceptionV3", Network)
    for name in ("weights.pth", "bad.pth", "without.pth"):
        torch.save({"weight": torch.zeros(1)}, tmp_path / name)
    return seen


def test_inception_sees_the_synthetic_contrast_alone_in_three_channels(inception, lively_slices, tmp_path):
    folder, names = (
        write_synthetic(lively_slices, tmp_path / "run", "t1ce", lambda true: true / 2),
        cells(lively_slices),
    )
    names["features"](names["read_inception"](tmp_path / "weights.pth"), folder)
    first = inception[0]
    assert first.dtype == torch.uint8 and first.shape == (6, 3, 32, 32)
    expected = torch.from_numpy(stack(lively_slices)[:6, 1] / 2 * 255).round()
    assert torch.equal(first[:, 0].float(), expected) and torch.equal(first[:, 0], first[:, 2])


class Harmful:
    def __reduce__(self):  # what a pickle may hold: a call that is made when it is read
        return (sys.modules["builtins"].print, ("read",))


def test_a_file_that_holds_something_else_is_refused_and_not_run(inception, tmp_path, capsys):
    torch.save({"weight": Harmful()}, tmp_path / "weights.pth")
    read = cells()["read_inception"]
    refused("bad.pth: no Inception weights .*unexpected keys", read, tmp_path / "bad.pth")
    refused("weights.pth: no Inception weights", read, tmp_path / "weights.pth")
    refused("no Inception weights .*file not found.*fetch weights-inc", read, tmp_path / "none.pth")
    refused("pip install torch-fidelity", read, tmp_path / "without.pth")
    assert capsys.readouterr().out == ""
