"""Unseen cohorts are truly unseen; known and unseen stand side by side as Welch has it."""

import inspect
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import refused, run_cells, score_rows
from scipy import stats

from mudiff import paths, storage
from mudiff.analyses import cohorts
from mudiff.data import manifests, prepare
from mudiff.evaluation import metrics
from mudiff.phantoms import cohort as phantom
from mudiff.training import profiles


@pytest.fixture
def known(cohort, tmp_path, monkeypatch):
    """Prepare a BraTS cohort: A to C train, D val, E test."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    root, manifest = cohort
    prepared = paths.prepared("smoke", "brats")
    prepare.prepare(profiles.preparation("smoke", "brats"), root, manifest, prepared, workers=1)


@pytest.fixture
def others(tmp_path, write_subject):
    """A folder of four subjects that nobody trained on, and one with the id of subject A."""
    for name in ("BraTS2021_00000", "BraTS2021_00001", "BraTS2021_00002", "BraTS2021_00003", "Brats18_A_1"):
        write_subject(tmp_path / "others", name)
    return tmp_path / "others"


def test_subjects_of_a_folder_are_drawn_without_those_that_were_trained_on(known, others):
    found = cohorts.unseen("smoke", "brats", others, subjects=3)
    drawn = manifests.read_manifest("brats", paths.unseen("smoke", "brats") / "manifest.csv")
    assert set(drawn.split) == {"test"} and len(drawn) == 3
    assert all(name.startswith("BraTS2021_") for name in drawn.subject)
    assert found.slices().subjects == sorted(drawn.subject)
    assert found.words == "3 subjects of others"
    assert any("not in the manifest" in note for note in found.notes)
    assert len(cohorts.unseen("smoke", "brats", others).slices().subjects) == cohorts.SUBJECTS["smoke"]


def test_a_manifest_of_ones_own_decides_and_holds_test_subjects_alone(known, others, tmp_path):
    def unseen(rows):
        storage.write_text(tmp_path / "mine.csv", "subject,split\n" + rows)
        return cohorts.unseen("smoke", "brats", others, tmp_path / "mine.csv", subjects=9)

    assert unseen("BraTS2021_00003,test\nBraTS2021_00001,excluded\n").slices().subjects == ["BraTS2021_00003"]
    refused("BraTS2021_00001 is in split 'val'", unseen, "BraTS2021_00000,test\nBraTS2021_00001,val\n")
    refused("Brats18_A_1: in the training", unseen, "BraTS2021_00000,test\nBrats18_A_1,test\n")


def test_a_trained_subject_is_known_by_its_content_under_another_name(known, cohort, others):
    for file in (cohort[0] / "Brats18_D_1").iterdir():  # a validation subject
        name = file.name.replace("Brats18_D_1", "BraTS2021_00009")
        (others / "BraTS2021_00009").mkdir(exist_ok=True)
        shutil.copy(file, others / "BraTS2021_00009" / name)
    refused(r"^BraTS2021_00009: in the training or validation", cohorts.unseen, "smoke", "brats", others, subjects=5)


def test_impossible_wishes_are_refused(known, cohort, tmp_path, write_subject):
    refused("profile 'paper' works on real data", cohorts.unseen, "paper", "brats")
    refused("subjects = 0", cohorts.unseen, "smoke", "brats", cohort[0], subjects=0)
    write_subject(tmp_path / "all", "Brats18_A_1")
    refused("every subject was trained on", cohorts.unseen, "smoke", "brats", tmp_path / "all")


def test_phantoms_of_another_seed_and_scanner_by_default(known, monkeypatch, write_subject):
    asked = {}

    def write_cohort(dataset, folder, counts, **options):
        asked.update(options, counts=counts)
        for number in range(1, sum(counts) + 1):  # named as those of the training are
            write_subject(folder, f"Brats18_{'ABCDE'[number - 1]}_1")
        storage.write_text(folder / "manifest.csv", "subject,split\nBrats18_A_1,test\nBrats18_B_1,test\n")
        return folder / "manifest.csv"

    defaults = {k: p.default for k, p in inspect.signature(phantom.write_cohort).parameters.items()}
    monkeypatch.setattr(phantom, "write_cohort", write_cohort)
    found = cohorts.unseen("smoke", "brats")
    assert asked["counts"] == (0, 0, 2)
    assert asked["seed"] != defaults["seed"] and asked["scanner"] != defaults["scanner"]
    assert found.slices().subjects == ["Brats18_A_1", "Brats18_B_1"]
    assert "no patients" in found.words


def both_units(psnr):
    return pd.concat([score_rows({"mudiff": psnr}, unit=unit) for unit in ("subject", "slice")])


def changes_of(*groups):
    given = {"scores": dict(zip(("known", "unseen"), map(both_units, groups), strict=True))}
    return run_cells("12_generalisation", "def welch(", "keys, sides = ", **given)["changes"]


def test_changes_put_both_cohorts_side_by_side():
    known, unseen = [20.0, 22.0, 24.0], [18.0, 19.0]
    frame = changes_of(known, unseen)
    masked = frame[(frame.protocol == "masked") & (frame.metric == "psnr")].iloc[0]
    assert (masked.known, masked.unseen, masked.change) == (22, 18.5, -3.5)
    assert (masked.known_n, masked.unseen_n, masked.known_sd) == (3, 2, 2)
    expected = stats.ttest_ind(unseen, known, equal_var=False).confidence_interval(0.95)
    assert (masked.low, masked.high) == pytest.approx((expected.low, expected.high))
    slices = frame[frame.protocol == "released"]
    assert len(slices) == len(metrics.METRICS) and slices[["low", "high"]].isna().all(axis=None)


def test_no_interval_where_there_is_none():
    for few in (([1.0], [2.0, 3.0]), ([1.0, 1.0], [2.0, 2.0]), ([1.0, np.inf], [2.0, 3.0])):
        frame = changes_of(*few)
        assert frame[(frame.metric == "psnr")][["low", "high"]].isna().all(axis=None), few
