"""Unseen cohorts are truly unseen; their scores, leads and pictures say what they should."""

import hashlib
import inspect
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import head, lesion, write_nifti

from mudiff import paths
from mudiff.analyses import cohorts, generalisation, supplements
from mudiff.data import datasets, prepare
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.phantoms import cohort as phantom
from mudiff.phantoms import signals
from mudiff.plots import old_style as style
from mudiff.training import profiles

WEIGHTS = hashlib.sha256(b"{}").hexdigest()  # of what stands in for weights
METHODS = {"t1ce": ("pgan", "mudiff", "linear"), "flair": ("mudiff", "linear")}


def synthesise(cohort, rng, chosen=METHODS):
    """Write noisy truths as the syntheses of a cohort, a weaker noise for the method that comes later."""
    slices = cohort.slices()
    for target, methods in chosen.items():
        for level, method in zip((0.3, 0.2, 0.1), methods, strict=False):
            folder = cohort.folder(target, method)
            folder.mkdir(parents=True)
            record = {"run": folder.name, "weights": WEIGHTS, "data": slices.info["data_hash"]}
            record |= {"split": "test", "seed": 0}
            paths.write_json(folder / "synthetic.json", record)
            for subject in slices.subjects:
                truth = (slices.images(slices.subject(subject), target) + 1) / 2
                noisy = np.clip(truth + level * rng.random(truth.shape), 0, 1)
                np.save(folder / f"{subject}.npy", np.round(noisy * 65535).astype(np.uint16))


@pytest.fixture
def known(cohort, tmp_path, monkeypatch, rng):
    """A prepared BraTS cohort (A to C train, D val, E test) with complete runs of `METHODS`."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    root, manifest = cohort
    prepared = paths.prepared("smoke", "brats")
    prepare.prepare(profiles.preparation("smoke", "brats"), root, manifest, prepared, workers=1).check()
    found = cohorts.known("smoke", "brats")
    synthesise(found, rng)
    for target, methods in METHODS.items():
        for method in methods:
            run = paths.run("smoke", found.folder(target, method).name)
            for name in ("provenance.json", "weights.safetensors"):
                paths.write_text(run / name, "{}")
    return found


@pytest.fixture
def others(tmp_path, write_subject):
    """A folder of four subjects that nobody trained on, and one with the id of subject A."""
    for name in ("BraTS2021_00000", "BraTS2021_00001", "BraTS2021_00002", "BraTS2021_00003", "Brats18_A_1"):
        write_subject(tmp_path / "others", name)
    return tmp_path / "others"


def manifest_of(tmp_path, text):
    paths.write_text(tmp_path / "mine.csv", "subject,split\n" + text)
    return tmp_path / "mine.csv"


def unseen_with_syntheses(others, rng, **options):
    found = cohorts.unseen("smoke", "brats", others, **options)
    synthesise(found, rng)
    return found


# The cohort


def test_an_unseen_cohort_has_a_folder_of_its_own():
    folder = paths.unseen("smoke", "brats")
    assert folder == paths.results("smoke") / "unseen" / "brats"
    assert folder.parent not in (paths.results("smoke") / "prepared", paths.results("smoke") / "phantoms")


def test_subjects_of_a_folder_are_drawn_without_those_that_were_trained_on(known, others):
    found = cohorts.unseen("smoke", "brats", others, subjects=3)
    drawn = prepare.read_manifest("brats", paths.unseen("smoke", "brats") / "manifest.csv")
    assert set(drawn.split) == {"test"} and len(drawn) == 3
    assert all(name.startswith("BraTS2021_") for name in drawn.subject)
    assert found.slices().subjects == sorted(drawn.subject)
    assert found.words == "3 subjects of others" and not found.phantoms
    assert any("not in the manifest" in note for note in found.notes)
    assert prepare.check(found.prepared, profiles.preparation("smoke", "brats"))
    again = cohorts.unseen("smoke", "brats", others, subjects=3)
    assert again.slices().subjects == found.slices().subjects
    assert (
        len(cohorts.unseen("smoke", "brats", others).slices().subjects) == cohorts.EXTENTS["smoke"].subjects
    )


def test_a_manifest_of_ones_own_decides(known, others, tmp_path):
    mine = manifest_of(tmp_path, "BraTS2021_00003,test\nBraTS2021_00001,excluded\n")
    assert cohorts.unseen("smoke", "brats", others, mine, subjects=9).slices().subjects == ["BraTS2021_00003"]


@pytest.mark.parametrize(
    "rows, message",
    [
        ("BraTS2021_00000,test\nBraTS2021_00001,val\n", "BraTS2021_00001 is in split 'val'"),
        ("BraTS2021_00000,test\nBrats18_A_1,test\n", "Brats18_A_1: in the training"),
    ],
)
def test_manifests_with_subjects_that_are_no_test_are_refused(known, others, tmp_path, rows, message):
    with pytest.raises(MudiffError, match=message):
        cohorts.unseen("smoke", "brats", others, manifest_of(tmp_path, rows))


def test_a_trained_subject_is_known_by_its_content_under_another_name(known, cohort, others):
    for file in (cohort[0] / "Brats18_D_1").iterdir():  # a validation subject
        name = file.name.replace("Brats18_D_1", "BraTS2021_00009")
        (others / "BraTS2021_00009").mkdir(exist_ok=True)
        shutil.copy(file, others / "BraTS2021_00009" / name)
    with pytest.raises(MudiffError, match=r"^BraTS2021_00009: in the training or validation"):
        cohorts.unseen("smoke", "brats", others, subjects=5)


def test_impossible_wishes_are_refused(known, cohort, tmp_path, write_subject):
    with pytest.raises(MudiffError, match="profile 'paper' works on real data"):
        cohorts.unseen("paper", "brats")
    assert cohorts.can_be_made("paper", "brats", tmp_path) and cohorts.can_be_made("demo", "brats")
    assert not cohorts.can_be_made("paper", "brats")
    with pytest.raises(MudiffError, match="subjects = 0"):
        cohorts.unseen("smoke", "brats", cohort[0], subjects=0)
    write_subject(tmp_path / "all", "Brats18_A_1")
    with pytest.raises(MudiffError, match="every subject was trained on"):
        cohorts.unseen("smoke", "brats", tmp_path / "all")


def test_phantoms_of_another_seed_and_scanner_by_default(known, monkeypatch, write_subject):
    asked = {}

    def write_cohort(dataset, folder, counts, **options):
        asked.update(options, counts=counts)
        for number in range(1, sum(counts) + 1):  # named as those of the training are
            write_subject(folder, f"Brats18_{'ABCDE'[number - 1]}_1")
        paths.write_text(folder / "manifest.csv", "subject,split\nBrats18_A_1,test\nBrats18_B_1,test\n")
        return folder / "manifest.csv"

    defaults = {k: p.default for k, p in inspect.signature(phantom.write_cohort).parameters.items()}
    monkeypatch.setattr(phantom, "write_cohort", write_cohort)
    found = cohorts.unseen("smoke", "brats")
    assert asked["counts"] == (0, 0, 2) and found.phantoms
    assert asked["seed"] != defaults["seed"] and asked["scanner"] != defaults["scanner"]
    assert found.slices().subjects == ["Brats18_A_1", "Brats18_B_1"]
    assert "no patients" in found.words


# Which runs


def test_only_what_is_trained_and_sampled_is_used(known):
    assert cohorts.trained("smoke", "brats") == METHODS
    assert cohorts.trained("smoke", "brats", "T1CE", ["linear", "ddpm"]) == {"t1ce": ("linear",)}
    (paths.run("smoke", "brats_flair_mudiff") / "provenance.json").unlink()
    (known.folder("t1ce", "pgan") / "synthetic.json").unlink()
    assert cohorts.trained("smoke", "brats") == {"t1ce": ("mudiff", "linear"), "flair": ("linear",)}
    with pytest.raises(MudiffError, match="no such run on brats"):
        cohorts.trained("smoke", "brats", ["t2"])
    with pytest.raises(MudiffError, match="no such run on isles"):
        cohorts.trained("smoke", "isles")


def test_extents_name_what_there_is():
    assert cohorts.EXTENTS.keys() == profiles.PROFILES.keys()
    for name, extent in cohorts.EXTENTS.items():
        runs = profiles.profile(name).runs
        assert extent.subjects > 0 and all(("brats", target) in runs for target in extent.targets)


def test_a_profile_can_afford_less_than_all(known, monkeypatch):
    monkeypatch.setitem(cohorts.EXTENTS, "smoke", cohorts.Extent(2, ("t1ce",)))
    assert cohorts.affordable("smoke", "brats") == {"t1ce": METHODS["t1ce"]}
    assert cohorts.affordable("smoke", "brats", ["flair"]) == {"flair": ("mudiff", "linear")}
    monkeypatch.setitem(cohorts.EXTENTS, "smoke", cohorts.Extent(2, ("t2",)))
    assert cohorts.affordable("smoke", "brats") == METHODS


# Scores


def test_an_unseen_cohort_is_scored_as_a_known_one(known, tmp_path):
    shutil.copytree(known.prepared, tmp_path / "copy/prepared")
    shutil.copytree(known.synthetic, tmp_path / "copy/synthetic")
    copied = cohorts.Cohort("smoke", "brats", tmp_path / "copy/prepared", tmp_path / "copy/synthetic", "copy")
    mine, theirs = cohorts.score(copied, METHODS), cohorts.score(known, METHODS)
    assert set(mine.region) == {"brain", "lesion"} and mine.psnr.notna().any()
    pd.testing.assert_frame_equal(mine[sorted(mine)], theirs[sorted(mine)], check_dtype=False)
    assert set(theirs) - set(mine) <= {"fingerprint"}


def scores(values, method="mudiff", protocol="masked"):
    """Scores of subjects; PSNR as given, SSIM and MAE made of it."""
    rows = [
        {"dataset": "brats", "target": "t1ce", "method": method, "region": "brain", "protocol": protocol}
        | {"unit": "subject" if protocol == "masked" else "slice", "subject": f"s{number}", "slice": None}
        | {"psnr": value, "ssim": value / 100, "mae": 1 / value, "run": f"brats_t1ce_{method}"}
        for number, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def both(values, method="mudiff"):
    return pd.concat([scores(values, method), scores(values, method, "released")], ignore_index=True)


def test_changes_put_both_cohorts_side_by_side():
    frame = generalisation.changes(both([20.0, 22.0, 24.0]), both([18.0, 19.0]))
    masked = frame[(frame.protocol == "masked") & (frame.metric == "psnr")].iloc[0]
    assert (masked.known, masked.unseen, masked.change) == (22, 18.5, -3.5)
    assert (masked.known_n, masked.unseen_n, masked.known_sd) == (3, 2, 2)
    # Welch by hand: variances 4 / 3 and 0.5 / 2, t of 2.6886 degrees of freedom
    freedom = (4 / 3 + 0.25) ** 2 / ((4 / 3) ** 2 / 2 + 0.25**2 / 1)
    from scipy import stats

    half = stats.t.ppf(0.975, freedom) * math.sqrt(4 / 3 + 0.25)
    assert (masked.low, masked.high) == pytest.approx((-3.5 - half, -3.5 + half))
    slices = frame[frame.protocol == "released"]
    assert len(slices) == len(metrics.METRICS) and slices[["low", "high"]].isna().all(axis=None)
    assert not {"rank", "paper"} & set(frame)


def test_methods_without_a_counterpart_are_left_out_of_the_changes():
    one = pd.concat([both([20.0, 21.0]), both([19.0, 18.0], "linear")], ignore_index=True)
    assert set(generalisation.changes(one, both([18.0, 19.0])).method) == {"mudiff"}


@pytest.mark.parametrize(
    "few", [[[1.0], [2.0, 3.0]], [[1.0, 1.0], [2.0, 2.0]], [[1.0, math.inf], [2.0, 3.0]]]
)
def test_no_interval_where_there_is_none(few):
    assert np.isnan(generalisation.welch(*few)).all()


def test_a_lead_is_free_of_hard_subjects():
    hard = np.array([0.0, 3.0, 6.0, 9.0])  # takes as much from every method
    known = pd.concat([scores(30 - hard), scores(28 - hard + [0, 0.1, 0, 0.1], "linear")], ignore_index=True)
    unseen = pd.concat([scores(25 - hard), scores(22 - hard + [0, 0.1, 0, 0.1], "linear")], ignore_index=True)
    row = generalisation.leads(known, unseen).iloc[0]
    assert (row.other, row.verdict) == ("linear", "grows")
    assert (row.known, row.unseen, row.change) == pytest.approx((1.95, 2.95, 1))
    assert 0.8 < row.low < 1 < row.high < 1.2
    assert "grows over Linear; shrinks over none" in generalisation.verdict(
        generalisation.leads(known, unseen)
    )
    assert generalisation.leads(unseen, known).iloc[0].verdict == "shrinks"
    assert generalisation.leads(known, known).iloc[0].verdict == "not decided"
    assert (generalisation.leads(known, unseen, "mae")[["known", "unseen"]] > 0).all(
        axis=None
    )  # less is better


def test_without_mudiff_there_is_no_lead():
    nobody = generalisation.leads(scores([20.0, 21.0], "linear"), scores([20.0, 21.0], "linear"))
    assert nobody.empty and "no run" in generalisation.verdict(nobody)


# Errors


def test_parts_add_up_to_the_error(rng):
    real, synthetic = rng.random(500), rng.random(500)
    parts = generalisation.error_parts(real, synthetic)
    assert sum(parts.values()) == pytest.approx(np.mean((real - synthetic) ** 2))
    assert all(value > 0 for value in parts.values())
    # the structure is what the least-squares fit leaves
    design = np.stack([synthetic, np.ones(500)], axis=1)
    left = np.linalg.lstsq(design, real, rcond=None)[1][0] / 500
    assert parts["structure"] == pytest.approx(left)


def test_each_part_has_its_own_cause(rng):
    real = rng.random(500)
    brighter = generalisation.error_parts(real, real + 0.1)
    assert brighter["brightness"] == pytest.approx(0.01) and brighter["structure"] == pytest.approx(
        0, abs=1e-12
    )
    flatter = generalisation.error_parts(real, real.mean() + 0.5 * (real - real.mean()))
    assert flatter["contrast"] == pytest.approx(0.25 * real.var()) and flatter["brightness"] < 1e-20
    grey = generalisation.error_parts(real, np.full(500, real.mean()))
    assert grey["structure"] == pytest.approx(real.var()) and grey["contrast"] == 0
    assert np.isnan(list(generalisation.error_parts(real[:0], real[:0]).values())).all()


def test_errors_agree_with_the_masked_psnr(known):
    frame = generalisation.errors({"known": known}, "t1ce", METHODS["t1ce"])
    scored = cohorts.score(known, {"t1ce": METHODS["t1ce"]})
    scored = scored[(scored.region == "brain") & (scored.protocol == "masked") & (scored.unit == "subject")]
    assert frame.psnr.tolist() == pytest.approx(scored.psnr.tolist())
    assert (frame.psnr_structure > frame.psnr).all()


# Table and pictures


def test_scanner_settings_are_those_of_the_phantoms():
    frame = supplements.scanner_settings("brats")
    assert (frame.known != frame.unseen).all()
    assert frame.loc[("T1", "TR (s)")].tolist() == ["0.55 to 0.75", "0.3 to 0.45"]
    assert len(frame) == sum(len(signals.SCANNERS[0][c]) for c in datasets.dataset("brats").contrasts)


def test_the_table_shows_both_cohorts_and_says_what_they_are(known, others, rng, tmp_path):
    chosen = {"t1ce": ("mudiff", "linear")}
    unseen = unseen_with_syntheses(others, rng, subjects=4)
    frame = generalisation.changes(cohorts.score(known, chosen), cohorts.score(unseen, chosen))
    text = supplements.caption(unseen, chosen)
    for words in (
        "Trained on: BraTS (patients)",  # so they count that are not the phantoms' own files
        "4 subjects of others",
        "profile smoke",
        "Trained, but not applied here: pGAN, FLAIR.",
    ):
        assert words.lower() in text.lower()
    assert "another scanner" not in text and "Other ranges" not in text
    supplements.write(frame, tmp_path / "supp3", text)
    page, tex, csv = ((tmp_path / f"supp3{suffix}").read_text() for suffix in (".md", ".tex", ".csv"))
    assert page.startswith(text) and "| T1CE, whole brain, masked (1 + 4 subjects) |" in page
    assert page.count("| MU-Diff |") == tex.count("MU-Diff &") == 4  # two regions, two protocols
    value = frame[(frame.method == "mudiff") & (frame.metric == "psnr")].iloc[0]
    assert f"| MU-Diff | {value.known:.2f} ± NA | {value.unseen:.2f} ± {value.unseen_sd:.2f} |" in page
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 4 and r"95 \%" in tex
    assert not set(tex) & set("±↑↓−")
    assert len(csv.splitlines()) == 1 + 2 * 2 * 2 * len(metrics.METRICS)
    pd.testing.assert_series_equal(pd.read_csv(tmp_path / "supp3.csv").unseen, frame.unseen, rtol=1e-5)


def test_captions_say_how_the_phantoms_differ(known):
    words = "2 generated phantoms of another scanner, no patients"
    unseen = cohorts.Cohort("smoke", "brats", known.prepared, known.synthetic, words, phantoms=True)
    text = supplements.caption(unseen, METHODS)
    assert words in text and "Other ranges of TR, TE, slice thickness" in text and "contrast agent" in text
    assert "not applied" not in text
    assert style.caption(supplements.supp3(unseen, METHODS)).count(words) == 1


def test_pictures_of_unseen_subjects(known, others, rng):
    unseen = unseen_with_syntheses(others, rng, subjects=2)
    one = supplements.supp3(unseen, {"t1ce": METHODS["t1ce"]})
    assert len(one.axes) == 2 * 4  # two subjects; truth and three methods
    every = supplements.supp3(unseen, METHODS)
    assert len(every.axes) == 2 * 4  # two targets; FLAIR has no pGAN
    assert len(every.axes[0].child_axes) == 1  # the lesion, enlarged
    row = supplements.examples(unseen, {"t1ce": METHODS["t1ce"]})[0]
    stack = next(cohorts.stacks(unseen, "t1ce", "mudiff"))
    slices = unseen.slices()
    place = (slices.lesion(slices.subject(stack.subject)) > 0).sum((1, 2)).argmax()
    assert np.array_equal(row.truth, stack.real[place])
    assert np.array_equal(row.synthetic["mudiff"], stack.synthetic[place])
    expected = metrics.masked_protocol(stack.real[place], stack.synthetic[place], stack.brain[place])["ssim"]
    assert row.ssim["mudiff"][0] == pytest.approx(expected)


def test_pictures_of_healthy_subjects_have_no_lesion(tmp_path, monkeypatch, rng):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    for subject in ("sub-01", "sub-02"):
        for name in ("T1w", "T2w", "FLAIR"):
            write_nifti(tmp_path / "raw" / subject / "anat" / f"{subject}_{name}.nii.gz", head(rng))
    listed = pd.DataFrame(
        [(s, "test", "") for s in ("sub-01", "sub-02")], columns=["subject", "split", "reason"]
    )
    folder = paths.prepared("smoke", "healthy")
    prepare.prepare(
        profiles.preparation("smoke", "healthy"), tmp_path / "raw", listed, folder, workers=1
    ).check()
    healthy, chosen = cohorts.known("smoke", "healthy"), {"flair": ("mudiff", "linear")}
    synthesise(healthy, rng, chosen)
    assert set(cohorts.score(healthy, chosen).region) == {"brain"}
    figure = supplements.supp4a(healthy, chosen)
    assert len(figure.axes) == 2 * 3 and not any(axis.child_axes for axis in figure.axes)
    assert "healthy" in style.caption(figure) and "Data: patients" in style.caption(figure)
    assert not any("SSIM$_T$" in axis.get_xlabel() for axis in figure.axes)
    assert lesion().any()  # the lesions of the other tests are real ones
