"""The ablations' scores and times, and several samples of a slice."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import lively, run_cells, save_run, write_synthetic

from mudiff import cache, paths
from mudiff.synthesis import sample
from mudiff.training import profiles, runs


def test_full_is_the_main_run_only_where_the_budgets_are_equal():
    assert profiles.ablation("smoke", "full").run_name == "brats_t1ce_mudiff"
    assert profiles.ablation("demo", "full").run_name == "brats_t1ce_mudiff_full"
    assert profiles.ablation("demo", "abl1").networks == "single"
    for steps in (1, 2, 8):
        assert profiles.ablation("paper", f"T{steps}").steps == steps


def test_scores_are_the_subjects_of_the_masked_protocol(lively_slices):
    name = profiles.ablation("smoke", "abl1").run_name
    write_synthetic(lively_slices, paths.synthetic("smoke", name), "t1ce", np.sqrt)
    cells = run_cells("11_ablations", "def score(", "def score(", profile="smoke", test=lively_slices)
    frame = cells["score"](["abl1"], "lesion")
    assert list(frame) == ["variant", "region", "subject", "psnr", "ssim", "mae"]
    assert list(frame.subject) == lively_slices.subjects and set(frame.variant) == {"abl1"}
    indices = lively_slices.subject("Brats18_1_1")
    truth, inside = (lively_slices.images(indices, "t1ce") + 1) / 2, lively_slices.lesion(indices) > 0
    assert frame.mae[0] == pytest.approx((np.sqrt(truth) - truth)[inside].mean(), rel=1e-3)


def test_seconds_name_the_device_that_they_were_measured_on(lively_slices, monkeypatch):
    """A figure made elsewhere from kept times must not call that machine its own."""

    def seconds():
        return run_cells("11_ablations", "timed = ", "cost = ", profile="smoke", test=lively_slices)["cost"]

    for variant, steps in {"T1": 1, "T2": 2, "full": 4, "T8": 8}.items():
        save_run(lively(steps=steps), paths.run("smoke", profiles.ablation("smoke", variant).run_name))
    monkeypatch.setattr("os.cpu_count", lambda: 77)
    frame = seconds()
    assert list(frame.variant) == ["T1", "T2", "full", "T8"] and (frame.seconds > 0).all()
    assert frame.device.str.contains("of 77 cores").all()
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    pd.testing.assert_frame_equal(seconds(), frame)
    other = lively(steps=1, seed=9)  # other weights are measured anew
    save_run(other, paths.run("smoke", profiles.ablation("smoke", "T8").run_name))
    assert seconds().device.str.contains("of 2 cores").all()


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
