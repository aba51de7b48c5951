"""Several samples of a slice, and whether their spread is that of the errors."""

import numpy as np
import pytest
import torch
from conftest import lively, run_cells, save_run

from mudiff import cache, paths
from mudiff.synthesis import sample
from mudiff.training import runs


def test_the_first_sample_is_the_synthesis_and_one_step_the_first_prediction(lively_slices, monkeypatch):
    run = save_run(lively(), paths.run("smoke", "brats_t1ce_mudiff"))
    monkeypatch.setattr(sample, "BATCH", 3)  # one step comes from several batches
    given = {"profile": "smoke", "cohort": "brats", "target": "t1ce", "test": lively_slices, "torch": torch}
    given |= {"kept": cache.kept, "file_hash": cache.file_hash, "sample_slices": sample.sample_slices}
    given |= {"per_subject": 2, "samples": 4}
    drawn = run_cells("11_ablations", "def draw(", "stack, one_step = ", **given)
    rows, stack = drawn["chosen"], drawn["stack"]
    assert stack.shape == (4, 6, 32, 32) and drawn["one_step"].shape == (6, 32, 32)
    method, seen = runs.load(run), []
    expected = sample.sample_slices(method, lively_slices, rows, 0, callback=seen.append)
    np.testing.assert_allclose(stack[0], expected, atol=1e-5)
    first = [(step["x_p1"] + step["x_p2"]) / 2 for step in seen if step["t"] == 2]
    expected = (torch.cat(first)[:, 0].clamp(-1, 1) + 1) / 2
    np.testing.assert_allclose(drawn["one_step"], expected, atol=1e-5)
    assert not np.array_equal(*stack[:2])
    monkeypatch.setattr(runs, "default_device", None)  # kept: nothing is drawn again
    again = run_cells("11_ablations", "def draw(", "stack, one_step = ", **given)
    np.testing.assert_array_equal(again["stack"], stack)


@pytest.mark.parametrize("samples", [4, 8, 64])  # few draws have a spread that is small by chance
def test_samples_from_the_truths_own_distribution_are_calibrated_and_too_sure_ones_found_out(samples):
    names = {"truth": np.zeros((6, 32, 32)), "brain": np.ones((6, 32, 32), bool), "samples": samples}
    book = run_cells("11_ablations", "def calibration(", "def calibration(", **names)
    honest = book["calibration"](np.array(book["draws"]), book["one_more"], names["brain"])
    np.testing.assert_allclose(honest.error, honest.expected, rtol=0.16)
    np.testing.assert_allclose(honest.expected, honest.sd * np.sqrt(1 + 2 / samples))
    assert honest.sd.iloc[-1] > 1.3 * honest.sd.iloc[0] and len(honest) == 10
    assert (book["found"].error > 2.5 * book["found"].expected).all()  # a quarter of the spread
