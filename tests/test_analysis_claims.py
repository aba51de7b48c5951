"""Claims on the analyses are decided by the notebooks' CSV files, by stated rules, in both directions."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mudiff import analysis_claims, analysis_rules, artefacts, cohort_claims, paths, stats, verdicts
from mudiff.errors import MudiffError
from mudiff.verdicts import FAILS, HOLDS, OPEN

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


def cka(value):
    """Return CKA values of four layers by four, `value` of part and the two places."""
    return pd.DataFrame(
        [
            {
                "part": part,
                "f1": f"{part}{i}",
                "f2": f"{part}{j}",
                "cka": value(part, i, j),
                "t": 1,
                "slices": 8,
            }
            for part, i, j in itertools.product(("encoder", "decoder"), range(4), range(4))
        ]
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
        "100% of 16 values of 1 step, median 0.50",
        "mean CKA 0.10 in the first third, 0.50 in the last",
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
    cka(lambda *place: np.nan).to_csv(tmp_path / "fig2b.csv", index=False)
    assert only(tmp_path, "below 0.55").ours == "no scores"
    assert only(tmp_path, "The first encoder layers").verdict == OPEN


@pytest.mark.parametrize("gain, verdict", [(1.0, HOLDS), (-1.0, FAILS), (0.0, OPEN)])
def test_the_mutual_prediction_against_the_better_network(tmp_path, gain, verdict):
    gains = {("mutual", r): gain for r in ("brain", "lesion")} | {("f2", r): 0.0 for r in ("brain", "lesion")}
    gains |= {("f1", r): -4.0 for r in ("brain", "lesion")}
    frame(["prediction", "region"], gains).to_csv(tmp_path / "fig5d.csv", index=False)
    found = rows(tmp_path, "mutual prediction")
    assert list(found.verdict) == [verdict] * 2 and found.ours.str.contains("against F2").all()


def test_masks_on_the_boundary(tmp_path):
    rng = np.random.default_rng(0)
    records = [
        {"variant": v, "network": n, "t": t, "zone": z, "subject": s}
        | {"mean": rng.normal(0.5, 0.005) + 0.1 * (z == "boundary") * (-1) ** (v == "convolution" and n == 2)}
        for v, n, t, z, s in itertools.product(
            analysis_claims.MASKS, (1, 2), range(4), ("lesion", "boundary", "elsewhere"), SUBJECTS
        )
    ]  # fmt: skip
    pd.DataFrame(records).to_csv(tmp_path / "fig5b.csv", index=False)
    assert only(tmp_path, "over the channels, as in the text").verdict == HOLDS
    found = only(tmp_path, "convolution, as in the code")  # one of the two networks lost
    assert found.verdict == FAILS and "M1 +0.1" in found.ours and "M2 -0.0" in found.ours


@pytest.mark.parametrize("more, verdict", [(0.2, HOLDS), (-0.2, FAILS), (0.0, OPEN)])
def test_features_of_flair_in_lesions(tmp_path, more, verdict):
    rng = np.random.default_rng(0)
    index = itertools.product(
        ("image", "adapted"), ("flair", "t1"), range(4), ("lesion", "elsewhere"), SUBJECTS
    )
    table = pd.DataFrame(index, columns=["map", "condition", "t", "zone", "subject"])
    asked = (table["map"] == "adapted") & (table.condition == "flair") & (table.zone == "lesion")
    table["mean"] = 1 + more * asked + rng.normal(0, 0.02, len(table))
    table.to_csv(tmp_path / "fig5a.csv", index=False)
    assert only(tmp_path, "Features of FLAIR").verdict == verdict


def test_the_tasks_are_those_of_the_segmentation():
    from mudiff import segmentation

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


def test_significance_comes_from_its_table(tmp_path):
    index = itertools.product(("brain", "lesion"), ("t1ce", "flair", "t2", "t1"), ("psnr", "ssim", "mae"))
    table = pd.DataFrame(index, columns=["region", "target", "metric"]).assign(
        dataset="brats", unit="subject"
    )
    table["difference"], table["p"], table["p_holm"] = 1.0, 0.01, 0.2
    found = {row[1]: row for row in cohort_claims._significance(table)}
    assert len(found) == len(stats.STATEMENTS)
    (brain,) = [row for words, row in found.items() if words.startswith("BraTS, whole brain")]
    assert (
        brain[-1] == HOLDS
        and brain[-2] == "P < 0.05 over subjects; with Holm's correction: cannot be decided"
    )
    assert {row[-1] for words, row in found.items() if words.startswith("ISLES")} == {OPEN}
    assert {row[3] for row in cohort_claims._significance(None)} == {
        "significance.csv is not there; notebook 06_significance makes it"
    }


def unseen(change, lead, width=0.2, methods=("hinet", "mudiff")):
    """Return a table like that of notebook 12; MU-Diff changes, and leads on the unseen, by so many dB."""
    rows = []
    for method, (metric, size) in itertools.product(
        methods, {"psnr": 1.0, "ssim": 0.02, "mae": -0.002}.items()
    ):
        ends = sorted((size * (change - width), size * (change + width)))
        rows.append(
            {"dataset": "brats", "target": "t1ce", "method": method, "region": "brain", "protocol": "masked"}
            | {"unit": "subject", "metric": metric, "known_n": 6, "unseen_n": 4}
            | {"unseen": 0.5 + size * lead * (method == "mudiff"), "unseen_sd": abs(size) / 10}
            | {"change": size * change, "low": ends[0], "high": ends[1]}
        )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("change, kept", [(-0.5, HOLDS), (-6.0, FAILS), (-0.9, OPEN)])
@pytest.mark.parametrize("lead, best", [(-3.0, FAILS), (0.01, OPEN), (3.0, OPEN)])
def test_unseen_subjects(change, kept, lead, best):
    found = list(cohort_claims._unseen(unseen(change, lead)))
    assert [row[-1] for row in found] == [kept, best]  # one of six baselines: no lead can hold
    assert f"PSNR {change:+.2f} dB" in found[0][3] and "n = 6 known and 4 unseen" in found[0][3]
    every = unseen(change, lead, methods=("mudiff", *cohort_claims.tasks.BASELINES))
    assert list(cohort_claims._unseen(every))[1][-1] == (HOLDS if lead == 3.0 else best)
    assert len(list(cohort_claims._unseen(None))) == 2


@pytest.mark.parametrize("off, verdict", [(0.4, HOLDS), (1.5, FAILS)])
def test_published_values_are_no_measure_for_phantoms(off, verdict):
    known = cohort_claims.tables.reference_values().iloc[0]
    table = pd.DataFrame(
        [
            {"dataset": known.dataset, "target": known.target, "method": "mudiff", "metric": m}
            | {"mean": known[m] + off * (m == "psnr")}
            for m in ("psnr", "ssim", "mae")
        ]
    )
    found = list(cohort_claims._published(table, ""))
    assert found[0][-1] == verdict and {row[-1] for row in found[1:]} == {OPEN}
    found = list(cohort_claims._published(table, "these are phantoms"))
    assert found[0][-1] == OPEN and found[0][-2].endswith("these are phantoms")


def test_the_released_lists_decide_the_splits(tmp_path, monkeypatch):
    found = list(cohort_claims._splits())
    assert [row[-1] for row in found] == [HOLDS, FAILS, OPEN]
    assert found[1][3] == "20, 2, 5 in the released lists"
    assert found[2][3] == "the lists leave out 30; 30 are of the source 2013, which has 30 in all"
    for name in ("brats", "isles"):
        (tmp_path / f"{name}.csv").write_text("subject,split\na,train\nb_2013_1,excluded\n")
    monkeypatch.setattr(paths, "manifests", lambda: tmp_path)
    assert [row[-1] for row in cohort_claims._splits()] == [FAILS] * 3


def test_background_and_cost_are_measured_on_a_run(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    assert [row[3] for row in (*cohort_claims._background("smoke"), *cohort_claims._cost("smoke"))] == [
        "no scores"
    ] * 2
    for method, size in (("mudiff", 3), ("ddpm", 2)):
        folder = paths.run("smoke", f"brats_t1ce_{method}")
        folder.mkdir(parents=True)
        save_file({"a": np.zeros((size, 500_000)), "b": np.zeros(1)}, folder / "weights.safetensors")
    (cost,) = cohort_claims._cost("smoke")
    assert cost[-1] == HOLDS and cost[3].startswith("MU-Diff 1.50 million, DDPM 1.00 million")
    rng = np.random.default_rng(0)
    real = np.zeros((3, 16, 16))
    real[:, 4:12, 4:12] = rng.uniform(0.2, 1, (3, 8, 8))
    stacks = [
        cohort_claims.cohorts.Stack(s, real, np.clip(real + 0.1 * level * (real > 0), 0, 1), real > 0)
        for s, level in zip(SUBJECTS, np.linspace(0.5, 1.5, 6), strict=True)
    ]
    monkeypatch.setattr(cohort_claims.cohorts, "stacks", lambda *_: iter(stacks))
    file = paths.synthetic("smoke", "brats_t1ce_mudiff") / "synthetic.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    (background,) = cohort_claims._background("smoke")
    assert background[-1] == HOLDS and background[3].startswith("PSNR +6.0")  # a quarter of the area: 6 dB


def test_claims_beyond_data_give_a_reason():
    assert len(cohort_claims.BEYOND) >= 10
    assert all(words and where and why for words, where, why in cohort_claims.BEYOND)


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
