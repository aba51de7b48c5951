"""Claims are decided by the numbers, and by nothing that was not trained."""

import numpy as np
import pandas as pd
import pytest

from mudiff.data import datasets
from mudiff.evaluation import old_claims as claims

ALL = (*datasets.BASELINES, "mudiff", "linear")
MANY = "MU-Diff has the narrowest interquartile range in lesions in many tasks"
BEATS = "MU-Diff beats all six baselines in all three metrics: whole brain, {} on BraTS"


def scores(gains, subjects=6, noise=0.1, dataset="brats"):
    """Return scores in which methods are better than a subject's level by `gains`: target -> method -> dB."""
    rng = np.random.default_rng(0)
    levels = rng.normal(20, 3, subjects)
    rows = []
    for target, methods in gains.items():
        for subject, level in enumerate(levels):
            for method, gain in methods.items():
                keys = {"dataset": dataset, "target": target, "method": method, "subject": str(subject)}
                keys["protocol"] = "masked"
                for unit, number in [("subject", None), *(("slice", z) for z in range(5))]:
                    more = gain + rng.normal(0, noise)
                    quality = {"psnr": level + more, "ssim": 0.7 + more / 50, "mae": 0.1 - more / 500}
                    rows.append(keys | {"unit": unit, "slice": number} | quality)
    return pd.DataFrame(rows)


def leads(**gains):
    """Return every method at 0 dB, but for `gains`."""
    return dict.fromkeys(ALL, 0.0) | gains


NONE = scores({"t1ce": leads()}).iloc[:0]


def verdicts(brain, lesion=NONE):
    return claims.decide(brain, lesion).set_index("claim")["verdict"].to_dict()


def row(brain, claim, lesion=NONE):
    found = claims.decide(brain, lesion).set_index("claim").loc[claim]
    assert found.ndim == 1
    return found


@pytest.mark.parametrize("gain, verdict", [(2.0, claims.HOLDS), (-2.0, claims.FAILS), (0.0, claims.OPEN)])
def test_a_claim_holds_fails_or_stays_open(gain, verdict):
    found = verdicts(scores({"t1ce": leads(mudiff=gain)}))
    assert found[BEATS.format("T1CE")] == verdict
    assert found["MU-Diff beats a linear fit: whole brain, T1CE on BraTS"] == verdict


def test_the_best_baseline_of_each_metric_decides():
    frame = scores({"t1ce": leads(mudiff=2.0, hinet=3.0)})
    frame.loc[frame.method == "pgan", "mae"] -= 0.02
    found = row(frame, BEATS.format("T1CE"))
    assert found.verdict == claims.FAILS
    assert found.ours.startswith("PSNR -") and found.ours.count("(against Hi-Net)") == 2
    assert "MAE" in found.ours and "(against pGAN); n = 6 subjects" in found.ours
    assert (
        found["where"] == "Table 1" and found.tolerance == "95 % interval; to refute, corrected for 6 pairs"
    )
    assert row(frame, "MU-Diff beats a linear fit: whole brain, T1CE on BraTS").tolerance == "95 % interval"


def test_one_lost_metric_refutes():
    frame = scores({"t1ce": leads(mudiff=2.0)})
    frame.loc[frame.method == "ddpm", "mae"] -= 0.05
    assert row(frame, BEATS.format("T1CE")).verdict == claims.FAILS


def test_differences_are_paired_by_subject():
    """The subjects spread by 3 dB: an unpaired comparison could not see half a decibel."""
    assert row(scores({"t1ce": leads(mudiff=0.5)}), BEATS.format("T1CE")).verdict == claims.HOLDS


@pytest.mark.parametrize("gain, verdict", [(2.0, claims.OPEN), (-2.0, claims.FAILS)])
def test_with_a_part_of_the_baselines_a_claim_can_only_be_refuted(gain, verdict):
    found = row(scores({"t2": {"syndiff": 0.0, "mudiff": gain, "linear": 0.0}}), BEATS.format("T2"))
    assert found.verdict == verdict
    assert found.ours.startswith("only SynDiff, MU-Diff trained: PSNR")


def test_without_any_baseline_nothing_is_said():
    found = row(scores({"t2": {"mudiff": 1.0, "linear": 0.0}}), BEATS.format("T2"))
    assert (found.ours, found.verdict) == ("no scores", claims.OPEN)


def test_families_are_compared_by_their_closest_members():
    brain = scores({"t1ce": leads(syndiff=2.0, mudiff=3.0, pgan=1.0, ddpm=-2.0)})
    critic = row(brain, "Diffusion with a critic (SynDiff, MU-Diff) beats Pix2Pix and pGAN: T1CE on BraTS")
    assert critic.verdict == claims.HOLDS and critic.ours.count("(SynDiff against pGAN)") == 1
    assert verdicts(brain)["DDPM is worse than SynDiff and MU-Diff: T1CE on BraTS"] == claims.HOLDS
    good = scores({"t1ce": leads(syndiff=2.0, mudiff=-1.0), "t2": {"syndiff": 1.0, "mudiff": 2.0}})
    found = verdicts(good)
    assert found["DDPM is worse than SynDiff and MU-Diff: T1CE on BraTS"] == claims.FAILS
    assert "DDPM is worse than SynDiff and MU-Diff: T2 on BraTS" not in found  # there is no DDPM to judge


@pytest.mark.parametrize(
    "levels, verdict",
    [((0, 2, 3, 4), claims.HOLDS), ((3, 2, 5, 6), claims.FAILS), ((2, 2, 5, 6), claims.OPEN)],
)
def test_the_hardest_target_has_the_lowest_psnr(levels, verdict):
    targets = ("t1ce", "flair", "t2", "t1")
    brain = scores({t: {"mudiff": float(level)} for t, level in zip(targets, levels, strict=True)})
    (found,) = [r for r in claims.decide(brain, NONE).itertuples() if "hardest" in r.claim]
    assert found.verdict == verdict and "(FLAIR against T1CE)" in found.ours and "PSNR" in found.ours
    part = brain[brain.target != "t1"]
    (found,) = [r for r in claims.decide(part, NONE).itertuples() if "hardest" in r.claim]
    assert found.verdict == (claims.OPEN if verdict == claims.HOLDS else verdict)
    assert "only T1CE, T2, FLAIR trained" in found.ours


def test_boxes_are_compared_by_median_and_width():
    lesion = scores({"t1ce": leads(mudiff=4.0)}, subjects=24)
    # MU-Diff's values lie closer together than the others'.
    own = lesion.method == "mudiff"
    for metric in ("psnr", "ssim"):
        middle = lesion.loc[own, metric].mean()
        lesion.loc[own, metric] = middle + 0.1 * (lesion.loc[own, metric] - middle)
    median = row(NONE, "MU-Diff has a higher median in lesions than every baseline: T1CE on BraTS", lesion)
    width = row(
        NONE,
        "MU-Diff has a narrower interquartile range in lesions than every baseline: T1CE on BraTS",
        lesion,
    )
    assert median.verdict == width.verdict == claims.HOLDS
    assert "n = 120 slices of 24 subjects" in median.ours and median["where"] == "Supplementary Data 5"
    assert median.ours.startswith("median of PSNR +") and width.ours.startswith("range of PSNR -")
    swapped = lesion.replace({"method": {"mudiff": "hinet", "hinet": "mudiff"}})
    found = verdicts(NONE, swapped)
    each = [v for c, v in found.items() if "baseline" in c and ("median" in c or "range" in c)]
    assert each == [claims.FAILS] * 2
    assert found[MANY] == claims.OPEN  # five of the six tasks could still hold


def test_narrow_boxes_in_many_tasks_are_more_than_half_of_all():
    frames = []
    for target in ("t1ce", "t2", "flair", "t1"):
        frame = scores({target: leads(mudiff=4.0)}, subjects=24)
        own = frame.method == "mudiff"
        frame.loc[own, ["psnr", "ssim"]] = 0.1 * frame.loc[own, ["psnr", "ssim"]]
        frames.append(frame)
    found = row(NONE, MANY, pd.concat(frames))
    assert found.verdict == claims.HOLDS and found.ours == "4 of 6 tasks hold, 0 do not"
    assert row(NONE, MANY, pd.concat(frames[:3])).verdict == claims.OPEN
    lost = pd.concat(frames).replace({"method": {"mudiff": "hinet", "hinet": "mudiff"}})
    assert row(NONE, MANY, lost).verdict == claims.FAILS
    assert row(NONE, MANY, lost[lost.target.isin(("t1ce", "t2"))]).verdict == claims.OPEN


def test_infinite_and_undefined_slices_do_not_break_the_boxes():
    lesion = scores({"t1ce": leads(mudiff=4.0)})
    lesion.loc[lesion.index[7], "psnr"] = np.inf
    lesion.loc[lesion.slice == 2, ["psnr", "ssim", "mae"]] = np.nan
    found = row(NONE, "MU-Diff has a higher median in lesions than every baseline: T1CE on BraTS", lesion)
    assert "nan" not in found.ours and "24 slices" in found.ours
    lesion[["psnr", "ssim", "mae"]] = np.nan
    assert set(claims.decide(NONE, lesion)["verdict"]) == {claims.OPEN}


def test_two_subjects_decide_nothing():
    frame = claims.decide(*[scores({"t1ce": leads(mudiff=5.0)}, subjects=2)] * 2)
    assert set(frame["verdict"]) == {claims.OPEN} and len(frame) > 5
    compared = frame[(frame["ours"] != "no scores") & (frame["claim"] != MANY)]
    assert compared["ours"].str.contains("2 subjects").all() and len(compared) >= len(frame) - 2


def test_each_claim_names_its_place_in_the_paper():
    healthy = scores({"flair": leads(mudiff=1.0)}, dataset="healthy")
    frame = claims.decide(pd.concat([scores({"t1ce": leads()}), healthy]), scores({"t1ce": leads()}))
    places = frame.set_index("claim")["where"]
    assert places["MU-Diff beats all six baselines in all three metrics: lesions, T1CE on BraTS"] == "Table 2"
    name = "MU-Diff beats all six baselines in all three metrics: whole brain, FLAIR on Healthy"
    assert places[name].startswith('Supplementary Data 4b (the paper: "comparably better results"')
    assert "our stricter reading" in places[name]
    assert frame["claim"].is_unique and frame.notna().all().all() and (frame["where"] != "").all()
