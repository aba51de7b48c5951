"""Motion in FLAIR: what is synthesised, kept and scored, and what is said of it."""

import dataclasses
import math
import shutil
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import head
from safetensors.torch import load_file
from scipy import stats

from mudiff import paths
from mudiff.analyses import robustness
from mudiff.data import motion, prepare
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.evaluation import old_tables as tables
from mudiff.methods import base
from mudiff.plots import old_style as style
from mudiff.synthesis import sample
from mudiff.training import profiles, runs

PAIR = ("mudiff", "linear")  # linear stands in for SynDiff: it is set to copy FLAIR


def settings(method):
    return profiles.settings("smoke", "brats", "t1ce", method)


def write_run(method, change=0.0):
    """Write a complete run of weights as drawn; `linear` gives FLAIR, a little brighter by `change`."""
    built = base.build(settings(method))
    if method == "linear":
        place = settings(method).conditions.index("flair")
        built.coefficients[place] = 1.0
        built.coefficients[-1] = change
    folder = paths.run("smoke", settings(method).run_name)
    paths.write_json(folder / "settings.json", {"settings": settings(method).to_dict()})
    paths.write_json(folder / "provenance.json", {"fingerprint": settings(method).fingerprint()})
    runs.save_weights(folder / "weights.safetensors", built.state_dict(), settings(method))


def sampled(method):
    name = settings(method).run_name
    prepared = paths.prepared("smoke", "brats")
    sample.synthesize_split(paths.run("smoke", name), prepared, "test", paths.synthetic("smoke", name))


@pytest.fixture
def raw(tmp_path, monkeypatch, write_subject, rng):
    """Two test subjects, prepared, T1CE of the second equal to FLAIR; their raw folder."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    # Faster than "smoke".
    for field, value in {"image_size": 16, "width": 4, "embedding": 8, "critic_blocks": 2}.items():
        monkeypatch.setitem(profiles.PROFILES["smoke"].overrides, field, value)
    splits = {"A": "train", "B": "val", "C": "test", "D": "test"}
    for name in splits:
        image = head(rng)
        write_subject(
            tmp_path / "raw", f"Brats18_{name}_1", t1ce=image if name == "D" else image[::-1], flair=image
        )
    rows = [(f"Brats18_{name}_1", split, "") for name, split in splits.items()]
    manifest = pd.DataFrame(rows, columns=["subject", "split", "reason"])
    prepared = paths.prepared("smoke", "brats")
    prepare.prepare(
        profiles.preparation("smoke", "brats"), tmp_path / "raw", manifest, prepared, workers=1
    ).check()
    return tmp_path / "raw"


@pytest.fixture
def trained(raw):
    """The runs of `PAIR` with their clean syntheses."""
    for method in PAIR:
        write_run(method)
        sampled(method)
    return raw


def study(raw, strengths=(2,), chosen=PAIR, **more):
    return robustness.study("smoke", raw, strengths, chosen, **more)


# What is there


def test_a_study_knows_its_subjects_strengths_and_movements(trained):
    found = study(trained, strengths=[3, 1, 1, 0])
    assert found.strengths == (1, 3) and list(found.files) == ["Brats18_C_1", "Brats18_D_1"]
    assert study(trained, None).strengths == robustness.STRENGTHS["smoke"]
    frame = found.parameters()
    assert len(frame) == 2 * 2 * (motion.MOVEMENTS + 1)
    drawn = motion.draw("Brats18_D_1", 3)
    mine = frame[(frame.subject == "Brats18_D_1") & (frame.strength == 3)]
    np.testing.assert_array_equal(mine.filter(like="degrees_"), [row[2] for row in motion.stretches(drawn)])
    other = study(trained, seed=5).movement("Brats18_D_1", 2)
    assert not np.isclose(other.degrees, found.movement("Brats18_D_1", 2).degrees).any()


def test_the_papers_choice_is_the_default():
    assert (robustness.DATASET, robustness.TARGET, robustness.CONTRAST) == ("brats", "t1ce", "flair")
    assert robustness.METHODS == ("mudiff", "syndiff")
    for profile in profiles.PROFILES:
        assert max(robustness.STRENGTHS[profile]) == 3
        assert set(robustness.METHODS) <= set(profiles.profile(profile).runs["brats", "t1ce"])


@pytest.mark.parametrize(
    "strengths, message",
    [
        ((4,), "strength 4 of motion: expected a number from 0"),
        ((0,), "none is above 0"),
        ((), "none is above 0"),
    ],
)
def test_strengths_without_a_meaning_are_refused(trained, strengths, message):
    with pytest.raises(MudiffError, match=message):
        study(trained, strengths)


def test_a_missing_run_names_its_command(trained):
    (paths.run("smoke", "brats_t1ce_mudiff") / "provenance.json").unlink()
    with pytest.raises(MudiffError, match="mudiff train --dataset brats --target t1ce --method mudiff"):
        study(trained)


def test_missing_syntheses_name_their_notebook(trained):
    (paths.synthetic("smoke", "brats_t1ce_linear") / "synthetic.json").unlink()
    with pytest.raises(MudiffError, match="no synthetic test slices; make them with notebook 03"):
        robustness.synthesise(study(trained))


def test_missing_raw_volumes_are_named(trained):
    with pytest.raises(MudiffError, match=r"phantoms.*raw volumes not found.*pass data_root"):
        study(None)
    file = trained / "Brats18_D_1/Brats18_D_1_flair.nii.gz"
    file.rename(file.with_name("elsewhere.nii.gz"))
    with pytest.raises(MudiffError, match="has no FLAIR of test subject Brats18_D_1; pass data_root"):
        study(trained)
    shutil.copy(trained / "Brats18_C_1/Brats18_C_1_flair.nii.gz", file)
    with pytest.raises(MudiffError, match="is another file than the FLAIR that was prepared"):
        study(trained)


# Syntheses


def test_flair_alone_moves_and_the_noise_stays(trained, monkeypatch):
    """Without motion every synthesis is that of the clean data, bit for bit."""
    monkeypatch.setattr(motion, "move", lambda volume, affine, movement: volume)
    found = study(trained)
    assert robustness.synthesise(found) == 2 * 2 * 6  # methods, subjects, slices
    for method in PAIR:
        for subject in found.files:
            clean, moved = (np.load(found.folder(method, s) / f"{subject}.npy") for s in (0, 2))
            np.testing.assert_array_equal(clean, moved)


def test_what_is_synthesised_comes_from_the_moved_volume(trained):
    found = study(trained, strengths=(1, 3))
    robustness.synthesise(found)
    for subject, file in found.files.items():
        for strength in found.strengths:
            moved = motion.moved_slices(
                profiles.preparation("smoke", "brats"), file, motion.draw(subject, strength)
            )
            np.testing.assert_array_equal(np.load(found.folder("flair", strength) / f"{subject}.npy"), moved)
            made = sample.read_synthetic(found.folder("linear", strength), subject)  # copies FLAIR
            np.testing.assert_allclose(made, moved / 65535, atol=1e-4)
        images = [sample.read_synthetic(found.folder("mudiff", s), subject) for s in (0, 1, 3)]
        assert not any(np.array_equal(images[a], images[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_syntheses_are_kept_and_only_what_is_missing_is_made(trained):
    found = study(trained, chosen=["linear"])
    assert robustness.synthesise(found) == 12 and robustness.synthesise(found) == 0
    (found.folder("linear", 2) / "Brats18_C_1.npy").unlink()
    assert robustness.synthesise(found) == 6
    assert robustness.synthesise(study(trained, (1, 2), ["linear"])) == 12  # strength 2 is there


def test_other_weights_and_movements_make_them_anew(trained):
    found = study(trained, chosen=["linear"])
    robustness.synthesise(found)
    first = np.load(found.folder("linear", 2) / "Brats18_C_1.npy")
    flair = np.load(found.folder("flair", 2) / "Brats18_C_1.npy")
    write_run("linear", change=0.1)
    assert robustness.synthesise(found) == 12
    second = np.load(found.folder("linear", 2) / "Brats18_C_1.npy")
    assert second.astype(float).mean() > first.astype(float).mean()
    np.testing.assert_array_equal(np.load(found.folder("flair", 2) / "Brats18_C_1.npy"), flair)
    assert robustness.synthesise(dataclasses.replace(found, seed=7)) == 12
    assert not np.array_equal(np.load(found.folder("flair", 2) / "Brats18_C_1.npy"), flair)


# Scores


def test_scores_are_those_of_the_clean_masks_and_target(trained):
    found = study(trained, strengths=(1, 3))
    robustness.synthesise(found)
    frame = robustness.score(found)
    assert list(frame) == ["method", "strength", "region", "subject", "psnr", "ssim", "mae"]
    assert (
        len(frame) == 2 * 3 * 2 * 2
        and not frame.duplicated(["method", "strength", "region", "subject"]).any()
    )
    clean = tables.score_runs("smoke", "lesion", runs=[("brats", "t1ce")], methods=PAIR)
    clean = clean[(clean.protocol == "masked") & (clean.unit == "subject")].set_index(["method", "subject"])
    slices = found.slices()
    for row in frame[frame.region == "lesion"].itertuples():
        if row.strength == 0:
            assert row.psnr == clean.loc[(row.method, row.subject), "psnr"]
            continue
        indices = slices.subject(row.subject)
        made = sample.read_synthetic(found.folder(row.method, row.strength), row.subject)
        real = (slices.images(indices, "t1ce") + 1) / 2
        _, whole = metrics.score_subject(real, made, slices.lesion(indices), "masked")
        assert (row.psnr, row.ssim, row.mae) == tuple(whole[m] for m in ("psnr", "ssim", "mae"))
    chosen = frame[(frame.method == "linear") & (frame.region == "brain") & (frame.subject == "Brats18_D_1")]
    copied = chosen.set_index("strength").mae  # it copies FLAIR, which equals T1CE of this subject
    assert copied[0] < 1e-4 and min(copied[1], copied[3]) > 0.01


def test_without_lesions_there_is_the_brain_alone(trained):
    masks = paths.prepared("smoke", "brats") / "test"
    for file in masks.glob("*.masks.npy"):
        array = np.load(file)
        array[:, 1] = 0
        np.save(file, array)
    found = study(trained, chosen=["linear"])
    robustness.synthesise(found)
    frame = robustness.score(found)
    assert set(frame.region) == {"brain"} and frame.mae.notna().all()
    figure = robustness.fig4b(frame, "smoke")
    assert len(figure.axes) == 3 and "The test subjects have no lesions." in style.caption(figure)
    assert len(robustness.fig4a(found).axes) == 2 * 4 + 1


def made_up(ours, others, subjects=5, region="brain", name="syndiff"):
    """Scores that fall by `ours` and `others` dB (a list, one per subject) at strength 3, from 20 dB."""
    rows = []
    for method, loss in (("mudiff", ours), (name, others)):
        for number in range(subjects):
            for strength in (0.0, 3.0):
                psnr = 20.0 + number - (loss[number] if strength else 0)
                rows.append(
                    {"method": method, "strength": strength, "region": region, "subject": f"s{number}"}
                    | {"psnr": psnr, "ssim": psnr / 100, "mae": 1 / psnr}
                )
    return pd.DataFrame(rows)


def row(frame, quantity, metric="psnr", strength=3.0, method=None):
    chosen = frame[(frame.quantity == quantity) & (frame.metric == metric) & (frame.strength == strength)]
    chosen = chosen if method is None else chosen[chosen.method == method]
    assert len(chosen) == 1
    return chosen.iloc[0]


OURS, OTHERS = [0.1, 0.2, 0.3, 0.2, 0.2], [1.5, 2.0, 2.5, 1.8, 2.2]


def test_losses_are_paired_within_subjects():
    frame = robustness.losses(made_up(OURS, OTHERS))
    mine = row(frame, "loss", method="mudiff")
    half = stats.t.ppf(0.975, 4) * np.std(OURS, ddof=1) / math.sqrt(5)
    assert (mine["mean"], mine.low, mine.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert mine.n == 5
    spared = row(frame, "spared")
    differences = np.subtract(OTHERS, OURS)
    assert spared["mean"] == pytest.approx(differences.mean())
    assert spared.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert row(frame, "lead")["mean"] == pytest.approx(differences.mean())  # both start equal
    assert row(frame, "lead", strength=0.0)["mean"] == 0
    assert row(frame, "loss", "mae", method="syndiff")["mean"] > 0  # a higher MAE is a loss too
    assert set(frame[frame.strength == 0].quantity) == {"lead"}


def test_infinite_and_undefined_scores_are_left_out_with_their_pair():
    scores = made_up(OURS, OTHERS)
    scores.loc[(scores.subject == "s0") & (scores.method == "mudiff"), "psnr"] = [math.inf, 20.0]
    scores.loc[(scores.subject == "s1") & (scores.method == "syndiff"), "psnr"] = math.nan
    frame = robustness.losses(scores)
    assert [row(frame, "loss", method=m).n for m in ("mudiff", "syndiff")] == [4, 4]
    assert row(frame, "spared").n == 3 and row(frame, "loss", "ssim", method="mudiff").n == 5


@pytest.mark.parametrize(
    "ours, others, said",
    [
        (OURS, OTHERS, ["MU-Diff loses 0.20 dB PSNR (0.11 to 0.29), **kept** within 1 dB",
                        "SynDiff loses 2.00 dB PSNR (1.53 to 2.47), **lost** more than 1 dB",
                        "with these weights **MU-Diff loses less** (loss of SynDiff minus loss of MU-Diff 1.80 "]),
        (OTHERS, OURS, ["MU-Diff loses 2.00 dB PSNR (1.53 to 2.47), **lost** more than 1 dB",
                        "with these weights **SynDiff loses less** (loss of SynDiff minus loss of MU-Diff −1.80 "]),
        ([-0.1, -0.2, -0.3, -0.2, -0.2], OURS,
         ["MU-Diff gains 0.20 dB PSNR (loss −0.29 to −0.11), **kept** within 1 dB"]),
        ([0, 0.5, 1, 1.5, 2], [0.1, 0.4, 1.1, 1.4, 2],
         ["whether that is within 1 dB is not decided", "which of the two loses less is not decided (loss"]),
    ],
)  # fmt: skip
def test_the_verdict_says_what_was_kept_and_who_loses_less(ours, others, said):
    text = robustness.verdict(robustness.losses(made_up(ours, others)))
    assert text.startswith("* Whole brain, severe motion: ") and text.count("\n") == 0
    for words in said:
        assert words in text


def test_who_loses_less_is_corrected_for_the_number_of_comparisons():
    """Alone the brain decides (P = 0.03); beside lesions where nothing differs it does not (0.06)."""
    ours, others = [0.0] * 5, [0.1, 0.9, 0.5, 0.2, 0.7]
    brain = made_up(ours, others)
    alone = robustness.losses(brain)
    p = row(alone, "spared").p
    assert 0.025 < p < 0.05
    assert (
        f"**MU-Diff loses less** (loss of SynDiff minus loss of MU-Diff 0.48 dB, 0.06 to 0.90; Holm's P = {p:.3f})"
        in (robustness.verdict(alone))
    )
    lesion = made_up([0.1, 0.5, 0.2, 0.4, 0.3], [0.2, 0.4, 0.3, 0.3, 0.3], region="lesion")
    text = robustness.verdict(robustness.losses(pd.concat([brain, lesion])))
    assert "loses less**" not in text and f"0.90; Holm's P = {2 * p:.3f})" in text


def test_other_code_makes_them_anew(trained, monkeypatch, tmp_path):
    found = study(trained, chosen=["linear"])
    assert robustness.synthesise(found) == 12 and robustness.synthesise(found) == 0
    module = sys.modules[robustness.Study.__module__]  # the package's name `study` is the function
    monkeypatch.setattr(module, "settings", types.SimpleNamespace(RECIPE_VERSION=-1))
    assert robustness.synthesise(found) == 12
    other = tmp_path / "motion.py"
    other.write_text("another\n")
    monkeypatch.setattr(motion, "__file__", str(other))
    assert robustness.synthesise(found) == 12 and robustness.synthesise(found) == 0


def test_one_subject_gives_means_without_intervals():
    scores = made_up([0.5], [0.7], subjects=1)
    frame = robustness.losses(scores)
    assert frame.low.isna().all() and row(frame, "loss", method="mudiff")["mean"] == pytest.approx(0.5)
    text = robustness.verdict(frame)
    assert "MU-Diff loses 0.50 dB PSNR (no interval: 1 subject)" in text and "kept" not in text
    figure = robustness.fig4b(scores, "smoke")
    assert "1 test subject." in style.caption(figure) and "no intervals" in style.caption(figure)


# Figures


def test_fig4b_draws_subjects_and_means():
    scores = pd.concat([made_up(OURS, OTHERS), made_up(OTHERS, OURS, region="lesion")])
    figure = robustness.fig4b(scores, "smoke")
    assert len(figure.axes) == 6
    axis = figure.axes[0]
    assert axis.get_title(loc="left") == "Whole brain" and axis.get_ylabel() == "PSNR (dB)"
    means = [bars.lines[0].get_ydata().astype(float) for bars in axis.containers]
    np.testing.assert_allclose(means, [[22, 21.8], [22, 20.0]])
    heights = axis.containers[0].lines[2][0].get_segments()[0][:, 1]
    half = stats.t.ppf(0.975, 4) * np.std([20, 21, 22, 23, 24], ddof=1) / math.sqrt(5)
    np.testing.assert_allclose(heights, [22 - half, 22 + half])
    assert len(axis.lines) >= 2 * 5
    assert [t.get_text().split("\n")[1] for t in figure.axes[3].get_xticklabels()] == ["0", "10"]
    assert "5 test subjects" in style.caption(figure) and "95 % intervals" in style.caption(figure)
    assert "can overlap" in style.caption(figure)


def test_fig4a_shows_the_slice_with_the_largest_lesion(trained):
    found = study(trained, strengths=(1, 3))
    robustness.synthesise(found)
    figure = robustness.fig4a(found)
    grid = np.array(figure.axes[: 3 * 6]).reshape(3, 6)
    slices = found.slices()
    indices = slices.subject("Brats18_C_1")
    place = int((slices.lesion(indices) > 0).sum(axis=(1, 2)).argmax())
    shown = lambda axis: axis.images[0].get_array()  # noqa: E731
    truth = (slices.images(indices, "t1ce")[place] + 1) / 2
    np.testing.assert_allclose(shown(grid[0, 1]), truth)
    moved = sample.read_synthetic(found.folder("flair", 3), "Brats18_C_1")[place]
    np.testing.assert_allclose(shown(grid[2, 0]), moved)
    made = sample.read_synthetic(found.folder("mudiff", 3), "Brats18_C_1")[place]
    np.testing.assert_allclose(shown(grid[2, 2]), made)
    brain = slices.brain(indices)[place]
    np.testing.assert_allclose(shown(grid[2, 3]), np.where(brain, np.abs(made - truth), 0))
    score = metrics.masked_protocol(truth, made, brain)["psnr"]
    assert grid[2, 2].get_xlabel() == f"{score:.1f} dB"
    assert [axis.get_title() for axis in grid[0]] == [
        "FLAIR",
        "true T1CE",
        "MU-Diff",
        "error",
        "Linear",
        "error",
    ]
    assert [axis.get_ylabel() for axis in grid[:, 0]] == ["no motion", "mild motion", "severe motion"]
    assert "mild 2° and 2 mm; severe 10° and 10 mm" in style.caption(figure)


def test_both_figures_are_written_with_their_tables(trained, tmp_path):
    found = study(trained, chosen=["linear"])
    robustness.synthesise(found)
    frame = robustness.score(found)
    figures = robustness.write(found, frame, tmp_path / "out")
    assert set(figures) == {"fig4a", "fig4b"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"{name}{suffix}" for name in figures for suffix in (".png", ".svg", ".csv")
    }
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "out/fig4b.csv", float_precision="round_trip"), frame, check_dtype=False
    )
    again = pd.read_csv(tmp_path / "out/fig4a.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(again, found.parameters(), check_dtype=False)


def test_runs_stand_as_they_were(trained):
    """The fixture's linear run copies FLAIR; if it did not, the tests above would show nothing."""
    weights = load_file(paths.run("smoke", "brats_t1ce_linear") / "weights.safetensors")["coefficients"]
    assert torch.count_nonzero(weights) == 1
