"""Claims on the analyses are decided by the notebooks' CSV files, by stated rules, in both directions."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mudiff.errors import MudiffError
from mudiff.evaluation import analysis_claims, analysis_rules, verdicts
from mudiff.evaluation.verdicts import FAILS, HOLDS, OPEN
from mudiff.workflow import artefacts

SUBJECTS = [f"s{i}" for i in range(6)]
LEVELS = np.linspace(-3, 3, len(SUBJECTS))  # dB: far more than the differences between methods


def frame(columns, gains, seed=0):
    """Return scores of each entry of `gains` (values of `columns` -> dB above the subject's level)."""
    rng = np.random.default_rng(seed)
    rows = []
    for keys, gain in gains.items():
        keys = keys if isinstance(keys, tuple) else (keys,)
        for subject, level in zip(SUBJECTS, LEVELS, strict=True):
            more = gain + rng.normal(0, 0.05)
            quality = {"psnr": 20 + level + more, "ssim": 0.7 + more / 50, "mae": 0.1 - more / 500}
            rows.append(dict(zip(columns, keys, strict=True)) | {"subject": subject} | quality)
    return pd.DataFrame(rows)


def rows(folder, words):
    found = analysis_claims.decide(folder)
    return found[found.claim.str.contains(words, regex=False)]


def only(folder, words):
    (found,) = rows(folder, words).itertuples()
    return found


def cka(value, slices=32):
    """Return CKA values of four layers by four, `value` of part and the two places; those of t = 1 are no use."""
    places = itertools.product(("encoder", "decoder"), (0, 1), range(4), range(4))
    return pd.DataFrame(
        {"part": part, "f1": f"{part}{i}", "f2": f"{part}{j}", "t": t, "slices": slices}
        | {"cka": value(part, i, j) if t == 0 else 0.6}
        for part, t, i, j in places
    )


def test_every_claim_names_a_csv_that_some_notebook_writes():
    for claim in analysis_claims.CLAIMS:
        for artefact in claim.artefact.split():
            assert ".csv" in artefacts.ARTEFACTS[artefact].suffixes
        assert claim.words and claim.where and claim.group
    assert {artefact for claim in analysis_claims.CLAIMS for artefact in claim.artefact.split()} == {
        *("fig2b", "fig4b", "fig4c", "fig5a", "fig5b", "fig5d", "fig5e", "fig5f", "fig5g", "fig5h")
    }


def test_without_files_nothing_is_decided_and_the_notebook_is_named(tmp_path):
    found = analysis_claims.decide(tmp_path)
    assert set(found.verdict) == {OPEN} and len(found) == len(analysis_claims.CLAIMS) > 30
    assert found.claim.is_unique and list(found) == verdicts.COLUMNS
    assert "fig4b.csv is not there; notebook 09_motion_robustness makes it" in set(found.ours)


def test_layers_as_the_paper_found_them_and_the_other_way_round(tmp_path):
    def value(part, i, j):
        early = i < 2 and j < 2
        return {"encoder": 0.1 if early else 0.5, "decoder": 0.8 if early else 0.3}[part]

    cka(value).to_csv(tmp_path / "fig2b.csv", index=False)
    found = rows(tmp_path, "").set_index("where").loc["Results, mutually learned representation; Fig. 2b"]
    assert list(found.verdict) == [HOLDS] * 4
    assert list(found.ours[:2]) == [
        "100% of 16 values, median 0.50; t = 0, 32 slices",
        "mean 0.10 in the first third, 0.50 in the last; t = 0, 32 slices",
    ]
    assert found.ours.iloc[2].startswith("100% of 4 values")
    assert found.tolerance.str.startswith("one run").all()
    cka(lambda *place: 0.9 - value(*place)).to_csv(tmp_path / "fig2b.csv", index=False)
    found = rows(tmp_path, "").set_index("where").loc["Results, mutually learned representation; Fig. 2b"]
    assert list(found.verdict) == [HOLDS, FAILS, FAILS, FAILS]  # 0.8 and 0.4 (12 of 16): still mostly low


def test_numbers_without_an_interval_stay_open_at_the_threshold(tmp_path):
    cka(lambda part, i, j: 0.5 if (i + j) % 2 else 0.6).to_csv(tmp_path / "fig2b.csv", index=False)
    assert only(tmp_path, "below 0.55").verdict == OPEN
    assert only(tmp_path, "The first encoder layers").verdict == OPEN
    table = cka(lambda *place: np.nan)
    for empty in (table, table[table.t == 1]):
        empty.to_csv(tmp_path / "fig2b.csv", index=False)
        assert only(tmp_path, "below 0.55").ours == "no scores"
        assert only(tmp_path, "The first encoder layers").ours == "no scores"


def test_cka_of_few_slices_decides_nothing(tmp_path):
    for slices, verdict in ((32, HOLDS), (31, OPEN), (4, OPEN)):
        cka(lambda *place: 0.1, slices).to_csv(tmp_path / "fig2b.csv", index=False)
        found = only(tmp_path, "below 0.55")
        assert found.verdict == verdict and f"{slices} slices" in found.ours
    assert "close to noise" in found.tolerance


def test_the_report_and_notebook_07_say_the_same_of_the_layers(tmp_path):
    from mudiff.analyses import mutual

    values = np.random.default_rng(0).random((2, 4, 4))
    table = cka(lambda part, i, j: values[int(part == "decoder"), i, j])
    table.to_csv(tmp_path / "fig2b.csv", index=False)
    said = mutual.statements(table[table.t == 0])
    said = said[said.layers == "all pairs"].ours.str.removesuffix(" of them")
    found = rows(tmp_path, "").query("group == 'Mutual learning'").ours[:4]
    assert len(said) == 4 and len(set(said)) == 4
    assert all(ours.startswith(words) for words, ours in zip(said, found, strict=True))


@pytest.mark.parametrize("gain, verdict", [(1.0, HOLDS), (-1.0, FAILS), (0.0, OPEN)])
def test_the_mutual_prediction_against_the_better_network(tmp_path, gain, verdict):
    gains = {("mutual", r): gain for r in ("brain", "lesion")} | {("f2", r): 0.0 for r in ("brain", "lesion")}
    gains |= {("f1", r): -4.0 for r in ("brain", "lesion")}
    frame(["prediction", "region"], gains).to_csv(tmp_path / "fig5d.csv", index=False)
    found = rows(tmp_path, "mutual prediction")
    assert list(found.verdict) == [verdict] * 2 and found.ours.str.contains("against F2").all()


def masks(folder, boundary, lesion=0.0, noise=0.001):
    """Write masks that are higher than elsewhere by so much; `boundary` of each network."""
    rng = np.random.default_rng(0)
    more = {"lesion": (lesion, lesion), "boundary": boundary, "elsewhere": (0.0, 0.0)}
    index = itertools.product(analysis_claims.MASKS, (1, 2), range(4), more, SUBJECTS)
    table = pd.DataFrame(index, columns=["variant", "network", "t", "zone", "subject"])
    gains = [more[zone][network - 1] for zone, network in zip(table.zone, table.network, strict=True)]
    table["mean"] = 0.5 + np.array(gains) + rng.normal(0, noise, len(table))
    table.to_csv(folder / "fig5b.csv", index=False)
    return table


@pytest.mark.parametrize(
    "boundary, lesion, verdict, ours",
    [
        ((0.1, 0.1), 0.0, HOLDS, "M1 +0.1"),
        ((0.1, -0.1), 0.0, FAILS, "M2 -0.1"),  # one of the two networks lost
        ((0.05, 0.05), 0.1, FAILS, "(against lesion)"),  # above the rest, but the core is the peak
        ((0.01, 0.01), 0.0, OPEN, "M1 +0.0"),  # surely higher, but nearly uniform
        ((0.0001, 0.0001), 0.01, OPEN, "(against lesion)"),
        ((-0.01, -0.01), 0.0, OPEN, "M1 -0.0"),
    ],
)
def test_masks_on_the_boundary(tmp_path, boundary, lesion, verdict, ours):
    masks(tmp_path, boundary, lesion)
    found = only(tmp_path, "over the channels, as in the text")
    assert found.verdict == verdict and ours in found.ours
    assert "within 0.02 of equal: open" in found.tolerance


def test_small_masks_are_not_written_as_zero(tmp_path):
    masks(tmp_path, (0.00012, 0.00012), noise=0)
    assert "M1 +0.00012, M2 +0.00012" in only(tmp_path, "over the channels, as in the text").ours


@pytest.mark.parametrize("gain", [0.1, -0.1])
def test_an_untrained_convolution_decides_nothing(tmp_path, gain):
    table = masks(tmp_path, (gain, gain))
    found = only(tmp_path, "convolution, as in the code")
    assert found.verdict == OPEN and f"M1 {gain:+.0g}"[:7] in found.ours and "register C-1" in found.tolerance
    table[table.zone != "lesion"].to_csv(tmp_path / "fig5b.csv", index=False)
    assert set(rows(tmp_path, "The masks M1 and M2").ours) == {"no scores"}


@pytest.mark.parametrize("more, verdict", [(0.2, HOLDS), (-0.2, FAILS), (0.0, OPEN)])
@pytest.mark.parametrize("bright", [1.0, 1.5])
def test_features_of_flair_in_lesions(tmp_path, more, verdict, bright):
    """A lesion that is bright in the image is as bright in any features; what counts is how much `more`."""
    rng = np.random.default_rng(0)
    index = itertools.product(
        ("image", "adapted", "fused"), ("flair", "t1"), range(4), ("lesion", "elsewhere"), SUBJECTS
    )
    table = pd.DataFrame(index, columns=["map", "condition", "t", "zone", "subject"])
    lesion = (table.condition == "flair") & (table.zone == "lesion")
    asked = lesion & (table["map"] == "adapted") & (table.t == 0)
    table["mean"] = 1 + (bright - 1) * lesion + more * asked + rng.normal(0, 0.01, len(table))
    table.to_csv(tmp_path / "fig5a.csv", index=False)
    found = only(tmp_path, "Features of FLAIR")
    assert found.verdict == verdict and "less that of the image" in found.tolerance
    assert f"is {bright + more:.1f}"[:6] in found.ours or verdict == OPEN
    dark = (table.subject == SUBJECTS[0]) & (table["map"] == "image") & (table.zone == "lesion")
    table.assign(mean=table["mean"].mask(dark, 0)).to_csv(tmp_path / "fig5a.csv", index=False)
    assert "n = 5 subjects" in only(tmp_path, "Features of FLAIR").ours
    for missing in (table["map"] != "image", table.zone != "lesion"):
        table[missing].to_csv(tmp_path / "fig5a.csv", index=False)
        assert only(tmp_path, "Features of FLAIR").ours == "no scores"


def test_the_tasks_are_those_of_the_segmentation():
    from mudiff.analyses import segmentation

    assert [task for task, replaced in segmentation.TASKS.items() if replaced] == [*analysis_rules.TASKS]
    assert segmentation.TASKS[analysis_rules.T1CE_TASK] == ("t1ce",)


def motion(mudiff, syndiff):
    """Return scores at strengths 0, 1, 2; each method loses so many dB by the strongest."""
    gains = {
        (method, strength, region): -loss * strength / 2
        for (method, loss), strength, region in itertools.product(
            [("mudiff", mudiff), ("syndiff", syndiff)], (0, 1, 2), ("brain", "lesion")
        )
    }
    return frame(["method", "strength", "region"], gains)


@pytest.mark.parametrize(
    "losses, decided",
    [
        ((0.2, 0.8), (HOLDS, HOLDS, HOLDS)),
        ((1.5, 0.2), (FAILS, FAILS, FAILS)),
        ((0.99, 1.0), (OPEN, OPEN, OPEN)),
    ],
)
def test_motion_is_judged_at_its_strongest(tmp_path, losses, decided):
    motion(*losses).to_csv(tmp_path / "fig4b.csv", index=False)
    for words, verdict in zip(
        ("keeps its scores", "beats SynDiff when", "cost MU-Diff less"), decided, strict=True
    ):
        assert list(rows(tmp_path, words).verdict) == [verdict] * 2, words
    kept = rows(tmp_path, "keeps its scores")
    assert kept.tolerance.str.contains("at most 1 dB, 0.05 SSIM, 0.01 MAE worse").all()
    assert kept.ours.str.contains(f"PSNR -{losses[0]:.0f}"[:6], regex=False).all()


def dice(mudiff, syndiff=0.75, tasks=analysis_rules.TASKS, t1ce=None):
    rng = np.random.default_rng(1)
    means = {("complete", "real"): 0.85} | {(t, "syndiff"): syndiff for t in tasks}
    means |= {(t, "mudiff"): mudiff for t in tasks}
    means |= {(analysis_rules.T1CE_TASK, "mudiff"): t1ce} if t1ce else {}
    return pd.DataFrame(
        [
            {"task": t, "method": m, "region": r, "subject": s}
            | {"dice": mean - 0.5 * (r != "whole") * (m == "mudiff") + level / 50 + rng.normal(0, 0.004)}
            for (t, m), mean in means.items()
            for r in ("whole", "enhancing")
            for s, level in zip(SUBJECTS, LEVELS, strict=True)
        ]
    )  # fmt: skip


def test_segmentation_of_synthetic_images(tmp_path):
    dice(0.83, t1ce=0.88).to_csv(tmp_path / "fig4c.csv", index=False)
    assert list(rows(tmp_path, "than with SynDiff's images").verdict) == [HOLDS] * 6
    close = only(tmp_path, 'is close to "complete"')
    assert close.verdict == HOLDS and close.ours.startswith("6 of 6 tasks are close, 0 are not: A +0.0")
    assert only(tmp_path, "surpasses").verdict == HOLDS
    dice(0.7).to_csv(tmp_path / "fig4c.csv", index=False)
    assert list(rows(tmp_path, "than with SynDiff's images").verdict) == [FAILS] * 6
    assert only(tmp_path, 'is close to "complete"').verdict == FAILS
    assert only(tmp_path, "surpasses").verdict == FAILS
    dice(0.83, tasks="ABC").to_csv(tmp_path / "fig4c.csv", index=False)
    assert only(tmp_path, 'is close to "complete"').verdict == OPEN  # three of six are not more than half
    assert list(rows(tmp_path, "than with SynDiff's images").verdict) == [HOLDS] * 3 + [OPEN] * 3


@pytest.mark.parametrize(
    "gains, decided",
    [((0.0, 2.0, 2.5), (HOLDS, HOLDS)), ((0.0, 1.0, 4.0), (HOLDS, FAILS)), ((1.0, 0.0, 0.0), (FAILS, FAILS))],
)
def test_four_steps_are_better_than_two_and_enough(tmp_path, gains, decided):
    levels = {(t, r): gain for t, gain in zip((2, 4, 8), gains, strict=True) for r in ("brain", "lesion")}
    table = frame(["steps", "region"], levels)
    table["seconds"] = table.steps / 10
    table.to_csv(tmp_path / "fig5e.csv", index=False)
    assert list(rows(tmp_path, "better than T = 2").verdict) == [decided[0]] * 2
    assert list(rows(tmp_path, "T = 4 is enough").verdict) == [decided[1]] * 2
    assert rows(tmp_path, "T = 4 is enough").ours.str.endswith("0.20, 0.40, 0.80 s a slice").all()
    table[table.steps < 8].to_csv(tmp_path / "fig5e.csv", index=False)
    assert set(rows(tmp_path, "T = 4 is enough").ours) == {"no scores"}


@pytest.mark.parametrize(
    "fids, verdict",
    [((10, 20, 1, 2), HOLDS), ((20, 10, 2, 1), FAILS), ((10, 20, 2, 1), OPEN), ((19, 20, 1, 2), OPEN)],
)
def test_all_feature_networks_must_agree_on_the_critic(tmp_path, fids, verdict):
    names = list(itertools.product(("inception", "critic"), ("full", "no_critic")))
    table = pd.DataFrame(names, columns=["features", "variant"]).assign(images=48, fid=fids)
    more = pd.DataFrame([{"variant": "real_halves", "features": "critic", "images": 2, "fid": 0.1}])
    pd.concat([table, more]).to_csv(tmp_path / "fig5f.csv", index=False)
    found = only(tmp_path, "lowers the FID")
    assert found.verdict == verdict and "(48 images)" in found.ours and found.tolerance.startswith("one run")
    table[table.variant == "full"].to_csv(tmp_path / "fig5f.csv", index=False)
    assert only(tmp_path, "lowers the FID").verdict == OPEN


def test_each_part_is_judged_in_its_own_region(tmp_path):
    gains = {"full": 1.0, "abl1": 0.0, "abl2": 2.0, "abl3_text": 1.0, "abl3_caption": 0.0}
    frame(["variant"], gains).to_csv(tmp_path / "fig5h.csv", index=False)
    found = rows(tmp_path, "The full model is better than").iloc[5:]
    assert found.claim.str.endswith("lesions").all()
    assert list(found.verdict) == [HOLDS, FAILS, OPEN, HOLDS, OPEN]
    assert found.ours.iloc[4] == "no scores"  # abl4 is not in the file
    brain = rows(tmp_path, "The full model is better than").iloc[:5]
    assert brain.ours.str.contains("11_ablations").all()


@pytest.mark.parametrize("lesions, verdict", [(2.0, HOLDS), (0.2, FAILS), (1.0, OPEN)])
def test_parts_matter_more_in_lesions(tmp_path, lesions, verdict):
    variants = {"abl1": 0.0, "abl4": -1.0, "no_critic": 50.0}
    frame(["variant"], variants | {"full": 0.5}).to_csv(tmp_path / "fig5g.csv", index=False)
    assert "fig5h.csv is not there" in only(tmp_path, "more within lesions").ours
    more = {"abl1": 0.0, "abl4": -1.0, "full": lesions - 0.5}
    frame(["variant"], more, seed=2).to_csv(tmp_path / "fig5h.csv", index=False)
    found = only(tmp_path, "more within lesions")
    assert found.verdict == verdict and "n = 6 subjects" in found.ours
    frame(["variant"], {"full": 0.5}).to_csv(tmp_path / "fig5g.csv", index=False)
    frame(["variant"], {"full": 0.5}).to_csv(tmp_path / "fig5h.csv", index=False)
    assert only(tmp_path, "more within lesions").ours == "no scores"


def test_a_file_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "fig5g.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MudiffError, match=r"fig5g\.csv: no .* run notebook 11_ablations again"):
        analysis_claims.decide(tmp_path)
    (tmp_path / "fig5g.csv").write_text("")
    with pytest.raises(MudiffError, match=r"fig5g\.csv: cannot be read"):
        analysis_claims.decide(tmp_path)


def test_the_closest_of_many_must_lose_clearly():
    """Of six subjects, 2.57 standard errors bound the 95 % interval, and 4.2 the one widened for six pairs."""
    assert [verdicts.judge("", [-3.0], 6, pairs)[-1] for pairs in (1, 6)] == [FAILS, OPEN]
    assert verdicts.judge("", [-4.5], 6, 6)[-1] == FAILS
    assert [verdicts.judge("", [sign, 9.0], 6, 6)[-1] for sign in (2.5, 2.6)] == [OPEN, HOLDS]


def test_many_counts_what_is_missing():
    assert verdicts.most([HOLDS] * 4 + [FAILS] * 2) == HOLDS
    assert verdicts.most([HOLDS] * 3 + [FAILS] * 3) == FAILS  # half is not more than half
    assert verdicts.most([HOLDS] * 3 + [FAILS] * 2, 6) == OPEN
    assert verdicts.most([], 6) == OPEN


def test_the_summary_adds_up():
    rows = [("B", "1", HOLDS), ("A", "2", FAILS), ("B", "3", OPEN), ("B", "4", HOLDS)]
    decided = pd.DataFrame(rows, columns=["group", "claim", "verdict"])
    table = verdicts.tally(decided)
    assert list(table.index) == ["B", "A", "all"] and list(table.loc["all"]) == [2, 1, 1, 4]
    assert list(table.loc["B"]) == [2, 0, 1, 3]
    assert verdicts.summary(decided) == (
        "Of 4 claims, 2 hold, 1 do not, and 1 cannot be decided on these data."
    )
