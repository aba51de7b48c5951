"""Several samples: their mean, their spread, and what it says of the error."""

import numpy as np
import pandas as pd
import pytest
import torch

from mudiff import paths
from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.synthesis import uncertainty
from mudiff.synthesis.uncertainty import Draws
from mudiff.training import runs


def drawn(samples: int, scale: float = 1.0, seed: int = 5) -> Draws:
    """Samples and a truth from one Gaussian per voxel; with `scale` the samples' spread is wrong by it."""
    rng = np.random.default_rng(seed)
    shape = (6, 32, 32)
    mean, sigma = rng.uniform(0.3, 0.7, shape), rng.uniform(0.01, 0.08, shape)
    lesion = np.zeros(shape, bool)
    lesion[:, 10:18, 10:18] = True
    sigma[lesion] *= 2
    truth = mean + sigma * rng.standard_normal(shape)
    stack = mean + scale * sigma * rng.standard_normal((samples, *shape))
    subject = np.repeat(["a", "b", "c"], 2)
    return Draws(subject, truth, mean + 0.2, stack, np.ones(shape, bool), lesion)


@pytest.mark.parametrize("samples", [4, 8, 64])  # few draws have a spread that is small by chance
def test_samples_from_the_truths_own_distribution_are_calibrated(samples):
    frame = uncertainty.calibration(drawn(samples))
    np.testing.assert_allclose(frame.error, frame.expected, rtol=0.16)
    assert frame.voxels.sum() == 6 * 32 * 32 and frame.sd.iloc[-1] > 1.3 * frame.sd.iloc[0]
    np.testing.assert_allclose(frame.expected, frame.sd * np.sqrt(1 + 2 / samples))


def test_samples_that_agree_too_much_are_found_out():
    draws = drawn(32, scale=0.25)
    frame = uncertainty.calibration(draws)
    assert (frame.error > 3 * frame.expected).all()
    assert "too sure" in uncertainty.in_words(uncertainty.by_subject(draws), frame)[0]
    honest = drawn(32)
    words = uncertainty.in_words(uncertainty.by_subject(honest), uncertainty.calibration(honest))
    assert "too sure" not in words[0]


def test_spread_marks_the_lesions_that_it_was_made_larger_in():
    frame = uncertainty.by_subject(drawn(32))
    assert list(frame.subject) == ["a", "b", "c"]
    assert (frame.lesion > 1.5 * frame.elsewhere).all() and (frame.auc > 0.7).all()
    assert (frame.correlation > 0.3).all()


def test_auc_counts_pairs():
    draws = drawn(2)
    spread = np.abs(draws.samples[0] - draws.samples[1])[:2]
    inside, outside = spread[draws.lesion[:2]], spread[~draws.lesion[:2]]
    expected = (inside[:, None] > outside[None]).mean()
    assert uncertainty.by_subject(draws).auc[0] == pytest.approx(expected)


def test_without_a_lesion_there_is_nothing_to_mark():
    draws = drawn(4)
    bare = Draws(draws.subject, draws.truth, draws.one_step, draws.samples, draws.brain, draws.lesion & False)
    frame = uncertainty.by_subject(bare)
    assert frame.auc.isna().all() and frame.correlation.notna().all()
    assert len(uncertainty.in_words(frame, uncertainty.calibration(bare))) == 2


def test_means_of_more_samples_are_closer_to_the_truth():
    frame = uncertainty.accuracy(drawn(8))
    assert list(frame.samples.unique()) == [0, 1, 2, 4, 8] and (frame.groupby("samples").size() == 3).all()
    psnr = frame.groupby("samples").psnr.mean()
    assert psnr[1] < psnr[2] < psnr[4] < psnr[8] and psnr[0] < psnr[1]


@pytest.fixture
def run(tmp_path, monkeypatch, write_subject):
    """A drawn network as a run, and prepared slices of two test subjects."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    splits = {"A": "train", "B": "test", "C": "test"}
    for name in splits:
        write_subject(tmp_path / "raw", f"Brats18_{name}_1")
    rows = [(f"Brats18_{name}_1", split, "") for name, split in splits.items()]
    manifest = pd.DataFrame(rows, columns=["subject", "split", "reason"])
    settings = Settings(
        image_size=64, slices=6, width=4, blocks=1, multipliers=(1, 2), embedding=8, latent=3, critic_width=4
    )
    prepared = paths.prepared("smoke", "brats")
    prepare.prepare(settings.preparation(), tmp_path / "raw", manifest, prepared, workers=1).check()
    method, folder = build(settings), tmp_path / "run"
    g = torch.Generator().manual_seed(1)
    for network in (method.f1, method.f2):  # its last layer starts at zero
        network.encoder_decoder.output.weight.data = torch.randn(1, 4, 3, 3, generator=g)
    folder.mkdir()
    paths.write_json(folder / "settings.json", {"settings": settings.to_dict()})
    runs.save_weights(folder / "weights.safetensors", method.state_dict(), settings)
    return folder, prepared


def test_drawn_samples_differ_are_kept_and_repeat(run, monkeypatch):
    draws = uncertainty.draw("smoke", *run, slices=2, samples=4)
    assert (
        draws.samples.shape == (4, 4, 64, 64)
        and list(draws.subject) == ["Brats18_B_1"] * 2 + ["Brats18_C_1"] * 2
    )
    assert not np.array_equal(*draws.samples[:2]) and not np.array_equal(draws.one_step, draws.samples[0])
    assert draws.lesion.any() and not (draws.lesion & ~draws.brain).all() and draws.truth.min() >= 0
    with monkeypatch.context() as patch:  # kept: nothing is drawn again
        patch.setattr(uncertainty, "_draw", None)
        again = uncertainty.draw("smoke", *run, slices=2, samples=4)
    np.testing.assert_array_equal(again.samples, draws.samples)
    fewer = uncertainty.draw("smoke", *run, slices=1, samples=4)
    assert len(fewer.truth) == 2
    with pytest.raises(MudiffError, match="4 samples or more"):
        uncertainty.draw("smoke", *run, slices=1, samples=3)


def test_the_picture_shows_truth_error_and_spread(run):
    draws = uncertainty.draw("smoke", *run, slices=2, samples=4)
    figure = uncertainty.picture(draws, uncertainty.calibration(draws), "t1ce", "smoke")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:5] == ["truth", "one sample", "mean", "error of mean", "SD"]
