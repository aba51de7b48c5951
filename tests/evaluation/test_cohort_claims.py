"""Claims on significance, unseen subjects, published values, data and cost are decided by stated rules."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mudiff import paths
from mudiff.evaluation import cohort_claims
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation.verdicts import FAILS, HOLDS, OPEN

SUBJECTS = [f"s{i}" for i in range(6)]


def test_significance_comes_from_its_table(tmp_path):
    index = itertools.product(("brain", "lesion"), ("t1ce", "flair", "t2", "t1"), ("psnr", "ssim", "mae"))
    table = pd.DataFrame(index, columns=["region", "target", "metric"]).assign(
        dataset="brats", unit="subject"
    )
    table["difference"], table["p"], table["p_holm"] = 1.0, 0.01, 0.2
    found = {row[1]: row for row in cohort_claims._significance(table)}
    assert len(found) == len(statistics.STATEMENTS)
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
        critic = {f"{part}.c": np.zeros(125_000) for part in ("critic", "attention") if method == "mudiff"}
        save_file(critic | {"a": np.zeros((size, 500_000)), "b": np.zeros(1)}, folder / "weights.safetensors")
    (cost,) = cohort_claims._cost("smoke")
    assert cost[-1] == OPEN and cost[3].startswith("MU-Diff 1.50 million and 0.25 million of the critic")
    assert cost[3].endswith("DDPM 1.00 million") and "no size of DDPM" in cost[4]
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
