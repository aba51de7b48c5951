"""Statements: two rules, against numbers worked out by hand, and the record of notebook 14."""

import math

import numpy as np
import pytest

from mudiff.evaluation import claims

CLEAR, NOISY = [0.49, 0.50, 0.51, 0.50], [-1.6, 3.1, 0.9, 0.6]


def test_every_comparison_must_be_significant():
    """A mean of +0.75 dB that could as well be negative does not let "better than all" through."""
    found = claims.paired({"SynDiff": CLEAR, "Hi-Net": NOISY})
    assert found.verdict == claims.OPEN and found.detail == "2 of 2 comparisons; weakest: Hi-Net"
    assert found.value == pytest.approx(0.75) and found.low < 0 < found.high
    assert claims.paired({"SynDiff": CLEAR, "Hi-Net": CLEAR}).verdict == claims.SUPPORTED


def test_one_significant_loss_contradicts_after_holm():
    worse = [-v for v in CLEAR]
    assert claims.paired({"SynDiff": CLEAR, "Hi-Net": worse}).verdict == claims.CONTRADICTED
    barely = [-0.9, -0.3, -0.6, -0.5]  # P = 0.05 two-sided for one comparison, not for twenty
    one = claims.paired({"a": barely})
    many = claims.paired({"a": barely} | {f"b{k}": NOISY for k in range(19)})
    assert one.high < 0 and one.verdict == claims.CONTRADICTED
    assert many.detail.endswith("weakest: a") and many.verdict == claims.OPEN


def test_a_margin_moves_the_threshold_and_not_the_number():
    lost = [-0.2, -0.3, -0.25, -0.22]
    kept = claims.paired({"motion": lost}, margin=-1.0)
    assert kept.verdict == claims.SUPPORTED and kept.value == pytest.approx(np.mean(lost))
    assert claims.paired({"motion": lost}).verdict == claims.CONTRADICTED


def test_a_comparison_that_cannot_be_made_and_one_training_decide_nothing():
    for differences in ({}, {"a": [1.0]}, {"a": [math.nan, 2.0]}, {"a": [1.0, 1.0]}):
        found = claims.paired(differences)
        assert found.verdict == claims.OPEN and math.isnan(found.value)
    assert claims.paired({"SynDiff": CLEAR, "DDPM": [0.5]}).verdict == claims.OPEN
    assert claims.paired({"abl1": CLEAR}, trainings=True).verdict == claims.ONE_TRAINING


def test_numbers_without_subjects_have_a_margin():
    verdicts = {(0.8, True): claims.SUPPORTED, (0.52, True): claims.OPEN, (0.3, True): claims.CONTRADICTED}
    verdicts |= {(0.3, False): claims.SUPPORTED, (0.8, False): claims.CONTRADICTED, (math.nan, True): claims.OPEN}
    for (value, above), verdict in verdicts.items():
        assert claims.number(value, 0.5, 0.1, "of the pairs", above).verdict == verdict, (value, above)


def test_statements_are_kept_for_the_report(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    said = ("MU-Diff is better", "Table 1", claims.paired({"SynDiff": CLEAR, "Hi-Net": NOISY}))
    shown = claims.record("demo", "06_significance", [said])
    claims.record("demo", "07_mutual", [("CKA is low", "Fig. 2b", claims.number(0.4, 0.5, 0.0, "of pairs"))])
    everything = claims.read("demo")
    assert list(everything.notebook) == ["06_significance", "07_mutual"]
    assert list(claims.shown(everything, "demo").ours) == ["+0.75 [-2.31, +3.81] dB, n = 4", "0.4 of pairs"]
    assert list(shown.columns)[-1] == "direction on phantoms"
    assert list(claims.shown(everything, "paper").columns)[-1] == "verdict"
