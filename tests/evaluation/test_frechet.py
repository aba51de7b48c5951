"""The Frechet distance agrees with its closed form, and runs are compared as they should be."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from mudiff.analyses import segment
from mudiff.errors import MudiffError
from mudiff.evaluation import frechet

COUNT = 6  # slices per subject


class FakeSlices:
    """Three subjects; contrast c of slice i is noise around 0.1 (c + 1)."""

    contrasts = ("t1", "t1ce", "t2", "flair")
    image_size = 8

    def __init__(self, subjects=("a", "b", "c")):
        import pandas as pd

        self.subjects = list(subjects)
        self.index = pd.DataFrame({"subject": np.repeat(self.subjects, COUNT)})
        noise = np.random.default_rng(3).normal(0, 0.02, (len(self.index), 4, 8, 8))
        self.stack = (noise + 0.1 * np.arange(1, 5)[:, None, None]).astype(np.float32)

    def __len__(self):
        return len(self.index)

    def subject(self, name):
        return np.flatnonzero(self.index.subject == name)

    def images(self, indices, contrast):
        return self.stack[indices, self.contrasts.index(contrast)] * 2 - 1


class Means(nn.Module):
    """The mean of each channel, so that distances are known."""

    num_features, label = 4, "channel means"

    def forward(self, images):
        assert images.ndim == 4
        return images.mean(dim=(2, 3))


def write(slices, folder, change):
    """Write T1CE, changed by a function of the subject and the true images."""
    for subject in slices.subjects:
        true = slices.stack[slices.subject(subject), 1]
        np.save(folder / f"{subject}.npy", np.round(change(subject, true) * 65535).astype(np.uint16))
    return folder


def closed_form(real, synthetic):
    """Return the distance of two Gaussians with the moments of the samples, by scipy's matrix root."""
    from scipy.linalg import sqrtm

    (m, c), (n, d) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in (real, synthetic))
    return ((m - n) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)


# The distance


def test_agrees_with_the_closed_form_on_the_samples_moments(rng):
    a = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
    b = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5)
    found = frechet.frechet_distance(a, b)
    assert found.value == pytest.approx(closed_form(a, b), rel=1e-6) and found.value > 1
    assert found.images == 200 and found.features == "given features"
    assert frechet.frechet_distance(a, b, batch=7).value == pytest.approx(found.value, rel=1e-9)


def test_agrees_with_known_gaussians(rng):
    from scipy.linalg import sqrtm

    mean, other = np.array([0.0, 1, 2]), np.array([1.0, 1, 0])
    c = np.array([[2, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 0.5]])
    d = np.diag([0.5, 2, 1.0])
    exact = ((mean - other) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    a, b = (rng.multivariate_normal(m, s, 50_000) for m, s in ((mean, c), (other, d)))
    assert frechet.frechet_distance(a, b).value == pytest.approx(exact, rel=0.02)


def test_a_shift_costs_its_square_and_equal_sets_nothing(rng):
    a = rng.normal(size=(50, 4))
    shift = np.array([1.0, 2, 0, -2])
    assert frechet.frechet_distance(a, a + shift).value == pytest.approx(9, rel=1e-6)
    assert 0 <= frechet.frechet_distance(a, a[::-1].copy()).value < 1e-6


def test_few_images_give_a_finite_distance_that_is_too_large(rng):
    draw = lambda n: frechet.frechet_distance(rng.normal(size=(n, 40)), rng.normal(size=(n, 40))).value  # noqa: E731
    few, many = draw(20), draw(2000)  # 20 images of 40 features: the covariances are singular
    assert np.isfinite(few) and few > 10 * many > 0


def test_one_image_has_no_distance(rng):
    found = frechet.frechet_distance(rng.normal(size=(1, 3)), rng.normal(size=(9, 3)))
    assert np.isnan(found.value) and found.images == 1


def test_bad_arrays_are_refused(rng):
    a = rng.normal(size=(9, 3))
    bad = a.copy()
    bad[4, 1] = np.nan
    with pytest.raises(MudiffError, match="no finite numbers"):
        frechet.frechet_distance(a, bad)
    with pytest.raises(MudiffError, match="pass a network for images"):
        frechet.frechet_distance(rng.normal(size=(9, 4, 8, 8)), rng.normal(size=(9, 4, 8, 8)))
    with pytest.raises(MudiffError, match=r"\(9, 3\) and \(9, 2\)"):
        frechet.frechet_distance(a, a[:, :2])
    with pytest.raises(MudiffError, match="channels"):
        frechet.frechet_distance(a, a, Means())


def test_the_segmentation_network_is_used_in_evaluation_mode_and_left_as_it_was(rng):
    recipe = segment.Recipe(channels=(8, 16), residual_units=1)
    features = segment.Features(segment.build(recipe)).train()
    before = {k: v.clone() for k, v in features.state_dict().items()}
    a, b = (rng.random((10, 4, 16, 16), dtype=np.float32) for _ in range(2))
    found = frechet.frechet_distance(a, b, features, batch=3)
    assert all(torch.equal(v, before[k]) for k, v in features.state_dict().items())
    with torch.no_grad():
        x, y = (features.eval()(torch.from_numpy(s)).double().numpy() for s in (a, b))
    assert found.value == pytest.approx(frechet.frechet_distance(x, y).value, rel=1e-4)
    assert found.features == features.label and found.images == 10


# Runs


def test_only_the_synthetic_contrast_is_replaced(tmp_path):
    slices = FakeSlices()
    folder = write(slices, tmp_path, lambda subject, true: true + 0.1)
    found = frechet.of_run("smoke", slices, "t1ce", folder, Means())
    assert found == frechet.Distance(pytest.approx(0.01, rel=1e-2), 3 * COUNT, "channel means", 3)
    same = write(slices, tmp_path, lambda subject, true: true)
    assert frechet.of_run("smoke", slices, "t1ce", same, Means()).value < 1e-6


def test_a_part_of_the_slices_on_request(tmp_path):
    slices = FakeSlices()
    late = (np.arange(COUNT) > 1)[:, None, None]
    folder = write(slices, tmp_path, lambda subject, true: true + 0.1 * late * (subject == "b"))
    distance = lambda indices: frechet.of_run("smoke", slices, "t1ce", folder, Means(), indices)  # noqa: E731
    b = distance(slices.subject("b")[2:])
    assert b.value == pytest.approx(0.01, rel=1e-2) and b.images == COUNT - 2 and b.subjects == 1
    assert distance(slices.subject("b")[:2]).value < 1e-6
    assert distance(slices.subject("a")).value < 1e-6


def test_slices_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    slices = FakeSlices()
    folder = write(slices, tmp_path, lambda subject, true: true[:-1] if subject == "c" else true)
    with pytest.raises(MudiffError, match=r"subject c has synthetic slices \(5, 8, 8\)"):
        frechet.of_run("smoke", slices, "t1ce", folder, Means())
    (folder / "a.npy").unlink()
    with pytest.raises(MudiffError, match="03_sampling"):
        frechet.of_run("smoke", slices, "t1ce", folder, Means())


def test_the_profiles_own_network_by_default(tmp_path, monkeypatch):
    slices, asked = FakeSlices(), []
    network = segment.build(segment.Recipe(channels=(8, 16), residual_units=1))
    monkeypatch.setattr(segment, "train", lambda profile: asked.append(profile) or network)
    folder = write(slices, tmp_path, lambda subject, true: true)
    assert "16 features" in frechet.of_run("demo", slices, "t1ce", folder).features
    assert "16 features" in frechet.reference("paper", slices, "t1ce").features
    assert asked == ["demo", "paper"]


@pytest.mark.parametrize("names", ["abc", "abcd", "ab"])
def test_halves_share_no_subject_and_are_equally_large(names):
    slices = FakeSlices(names)
    sides = frechet.halves(slices)
    subjects = [set(slices.index.subject.iloc[side]) for side in sides]
    assert not subjects[0] & subjects[1] and subjects[0] | subjects[1] == set(names)
    assert [len(side) for side in sides] == [len(names) // 2 * COUNT] * 2
    assert all(len(set(side)) == len(side) for side in sides)


def test_the_reference_is_of_real_images_of_other_subjects():
    slices = FakeSlices()
    slices.stack[slices.subject("b")] += 0.1  # all four contrasts of the second half
    found = frechet.reference("smoke", slices, "t1ce", Means())
    assert found.value == pytest.approx(4 * 0.01, rel=0.05) and found.images == COUNT
    assert found.subjects == 1  # three subjects: two on one side, one on the other
    assert np.isnan(frechet.reference("smoke", FakeSlices("a"), "t1ce", Means()).value)


# Inception


def test_inception_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # as if it were not installed
    with pytest.raises(MudiffError, match="pip install torch-fidelity"):
        frechet.Inception(tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    with pytest.raises(MudiffError, match=r"weights.pth: no such file; fetch weights-inception"):
        frechet.Inception(tmp_path / "weights.pth")


@pytest.fixture
def inception(monkeypatch, tmp_path):
    """Stand in for the network of torch-fidelity: the mean of each channel, of bytes."""
    from torchmetrics.image import fid as theirs

    seen = []

    class Network(nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            if "bad" in feature_extractor_weights_path:
                raise RuntimeError("unexpected keys")

        def forward(self, x):
            seen.append(x)
            return x.float().mean(dim=(2, 3)) / 255

    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setattr(theirs, "NoTrainInceptionV3", Network)
    monkeypatch.setattr(frechet.Inception, "num_features", 3)
    for name in ("weights.pth", "bad.pth"):
        torch.save({"weight": torch.zeros(1)}, tmp_path / name)
    return seen


def test_inception_sees_the_synthetic_contrast_alone_in_three_channels(inception, tmp_path):
    slices = FakeSlices()
    folder = write(slices, tmp_path, lambda subject, true: true + 0.2)
    found = frechet.of_run("smoke", slices, "t1ce", folder, frechet.Inception(tmp_path / "weights.pth"))
    assert found.value == pytest.approx(3 * 0.04, rel=0.05) and found.features.startswith("Inception")
    first = inception[0]
    assert first.dtype == torch.uint8 and first.shape == (COUNT, 3, 8, 8)
    expected = torch.from_numpy(slices.stack[:COUNT, 1] * 255).round()
    assert torch.equal(first[:, 0].float(), expected) and torch.equal(first[:, 0], first[:, 2])


def test_a_file_that_holds_something_else_is_refused(inception, tmp_path):
    with pytest.raises(MudiffError, match=r"bad.pth: no Inception weights \(unexpected keys\)"):
        frechet.Inception(tmp_path / "bad.pth")


class Harmful:
    """What a pickle may hold: a call that is made when it is read."""

    def __reduce__(self):
        return (sys.modules["builtins"].print, ("read",))


def test_a_file_that_holds_more_than_tensors_is_not_read(inception, tmp_path, capsys):
    torch.save({"weight": Harmful()}, tmp_path / "weights.pth")
    with pytest.raises(MudiffError, match=r"weights.pth: no Inception weights"):
        frechet.Inception(tmp_path / "weights.pth")
    assert capsys.readouterr().out == ""
