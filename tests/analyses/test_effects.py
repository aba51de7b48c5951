"""Effects of the differences: the statistics, the metric steps by hand, and a miniature of the trainings."""

import dataclasses
import io
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from mudiff.analyses import effects
from mudiff.analyses.effects import cohort, common, images, sampling, show, training
from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.methods.base import build
from mudiff.plots import old_style as style
from mudiff.training import profiles, runs
from mudiff.workflow import register

TINY = cohort.Extent(
    (2, 1, 1), 1, 8.0, 2, 1, cohort._SIZES | {"epochs": 1}, ("betas", "minmax", "second", "both"), 2, 5, 1
)


# Verdicts


def test_a_change_is_compared_with_the_same_seeds_and_with_the_spread_of_all():
    one = common.compare("A-2", "x", [1.0, 2.0, 3.0], [2.5])
    # t(0.975, 2 degrees of freedom) = 4.30265; s = 1
    assert one.spread == pytest.approx(4.30265 * math.sqrt(2), rel=1e-5)
    assert (one.base, one.changed, one.difference) == (1.0, 2.5, 1.5)
    assert (one.verdict, one.repeats) == (common.WITHIN, "3 / 1 training seeds")
    two = common.compare("A-2", "x", [1.0, 2.0, 3.0], [2.5, 3.5])
    assert (two.base, two.changed, two.spread) == (1.5, 3.0, pytest.approx(4.30265, rel=1e-5))
    assert common.compare("A-2", "x", [1.0, 2.0, 3.0], [7.2]).verdict == common.BEYOND
    assert common.compare("A-2", "x", [1.0, 2.0, 3.0], [-5.2]).verdict == common.BEYOND
    assert common.compare("A-2", "x", [1.0, 2.0, 3.0], [-4.9]).verdict == common.WITHIN


@pytest.mark.parametrize("n, m", [(4, 1), (4, 4), (5, 3)])
def test_another_seed_alone_leaves_the_band_in_one_of_twenty_cases_at_most(rng, n, m):
    draws = rng.normal(size=(3000, n + m))
    beyond = [common.compare("A-2", "x", d[:n], d[n:]).verdict == common.BEYOND for d in draws]
    assert 0.02 < np.mean(beyond) < 0.06


def test_one_seed_cannot_tell_and_equal_images_need_none():
    assert common.compare("A-2", "x", [1.0], [9.0]).verdict == common.UNKNOWN
    assert common.paired("B-1", "x", [1.0], [9.0]).verdict == common.UNKNOWN
    assert common.Effect("F-1", "x", 1.0, 9.0).verdict == common.EXACT


def test_scores_of_the_same_weights_are_compared_in_pairs():
    one = common.paired("B-1", "x", [10.0, 20.0, 30.0], [11.0, 21.1, 30.9])
    assert one.difference == pytest.approx(1.0)
    assert one.spread == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-4)
    assert (one.verdict, one.repeats) == (common.EXCLUDES, "3 pairs of scores")
    assert common.paired("B-1", "x", [1.0, 2.0, 3.0], [2.0, 1.5, 3.2]).verdict == common.INCLUDES


def test_crossed_trainings_part_the_shift_from_the_images():
    """Site 2 is 3 dB harder for all weights, and a site not trained at costs 1 dB."""
    at_1, at_2 = ([20.0, 21.0, 22.0], [15.9, 17.0, 18.1]), ([18.5], [16.5])
    shift = common.crossed("B-1", "x", (at_1[0], at_2[1]), (at_1[1], at_2[0]))
    images_of_2 = common.crossed("B-1", "x", (at_1[0], at_2[0]), (at_1[1], at_2[1]))
    assert shift.difference == pytest.approx((-4 + 2) / 2)
    assert images_of_2.difference == pytest.approx((-4 - 2) / 2)
    assert (shift.base, shift.changed) == pytest.approx(((21 + 16.5) / 2, (17 + 18.5) / 2))
    # s of the differences -4.1, -4, -3.9 is 0.1
    assert shift.spread == pytest.approx(4.30265 * 0.1 * math.sqrt(1 / 3 + 1) / 2, rel=1e-4)
    assert (shift.verdict, shift.repeats) == (common.EXCLUDES, "3 + 1 pairs of scores")
    assert common.crossed("B-1", "x", ([1.0], [1.0]), ([9.0], [9.0])).verdict == common.UNKNOWN


def test_intervals_of_crossed_trainings_leave_out_the_truth_in_one_of_twenty_cases(rng):
    draws = rng.normal(size=(3000, 5))  # the differences of 4 seeds and of 1; the truth is 0
    verdicts = [common.crossed("B-1", "x", (np.zeros(4), np.zeros(1)), (d[:4], d[4:])).verdict for d in draws]
    assert 0.03 < np.mean([verdict == common.EXCLUDES for verdict in verdicts]) < 0.07


def test_results_are_kept_for_their_key(tmp_path, monkeypatch):
    calls = []
    ask = lambda key: common.kept(tmp_path / "a" / "b.json", key, lambda: calls.append(1) or len(calls))  # noqa: E731
    assert [ask({"k": 1}), ask({"k": 1}), ask({"k": 2}), ask({"k": 2})] == [1, 1, 2, 2]
    monkeypatch.setattr(common, "RECIPE_VERSION", common.RECIPE_VERSION + 1)
    assert [ask({"k": 2}), ask({"k": 2})] == [3, 3]
    monkeypatch.setattr(common, "code", lambda: "another")
    assert [ask({"k": 2}), ask({"k": 2})] == [4, 4]


def test_the_code_of_effects_and_metrics_is_part_of_the_key(tmp_path, monkeypatch):
    package = tmp_path / "effects"
    package.mkdir()
    ruler = tmp_path / "metrics.py"
    for file in (ruler, package / "common.py", package / "images.py"):
        file.write_text("x")
    monkeypatch.setattr(common, "__file__", str(package / "common.py"))
    monkeypatch.setattr(common.metrics, "__file__", str(ruler))
    found = {common.code.__wrapped__()}
    for file in (ruler, package / "images.py"):
        file.write_text("y")
        found.add(common.code.__wrapped__())
    assert len(found) == 3


def test_psnr_is_pooled_per_subject(rng):
    real = np.full((3, 8, 8), 0.5)
    error = np.array([0.1, 0.3, 0.2])[:, None, None]
    brain = np.ones((3, 8, 8), bool)
    brain[0, :4] = False
    value = common.subject_psnr(real, real + error, brain, np.array(["a", "a", "b"]))
    pooled = (32 * 0.01 + 64 * 0.09) / 96
    assert value == pytest.approx(np.mean([-10 * np.log10(pooled), -10 * np.log10(0.04)]))


# Metrics


@pytest.fixture
def slices(rng):
    """Two heads with ramps inside, their syntheses, the brain and a lesion in the first."""
    y, x = np.mgrid[:32, :32]
    brain = np.stack([(y - 16) ** 2 + (x - 16) ** 2 < 150] * 2)
    real = (0.2 + 0.8 * (x + y) / 62) * brain
    synthetic = np.clip(real + 0.1 * rng.standard_normal(real.shape), 0, 1) * brain
    lesion = np.zeros_like(brain)
    lesion[0] = (y - 16) ** 2 + (x - 12) ** 2 < 20
    return real, synthetic, brain, lesion


def found(slices, name):
    return next(one for one in images.metric_effects(*slices) if one.name == name)


def test_zeros_kept_are_worth_the_part_of_the_box_that_is_filled(slices):
    real, synthetic, brain, lesion = slices
    for region, mask, count in (("brain", brain, 2), ("lesion", lesion, 1)):
        rows, columns = np.nonzero(mask[0])
        fill = mask[0].sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
        one = found(slices, f"zeros around the {region} kept")
        assert 0.5 < fill < 0.9
        assert one.difference == pytest.approx(-10 * np.log10(fill))
        assert one.repeats == f"{count} slices"
        plain = [metrics.masked_protocol(*trio)["psnr"] for trio in zip(real, synthetic, mask, strict=True)]
        assert one.base == pytest.approx(np.mean(plain[:count]))


def test_a_hot_pixel_is_rewarded_by_the_range_of_both_images(slices):
    one = found(slices, "a hot pixel: range of both images")
    real, _, brain, _ = slices
    lows = [min(x[m].min(), y[m].min()) for x, y, m in zip(real, slices[1], brain, strict=True)]
    assert one.difference == pytest.approx(np.mean(20 * np.log10(images.HOT - np.array(lows))), abs=1e-6)
    plain = found(slices, "range of both images")
    assert one.base < plain.base and one.changed > plain.base


def test_half_brightness_is_forgiven(slices):
    one = found(slices, "the truth itself at half brightness")
    real, _, brain, _ = slices
    expected = [-10 * np.log10(np.mean((x[m] / 2) ** 2)) for x, m in zip(real, brain, strict=True)]
    assert one.base == pytest.approx(np.mean(expected))
    assert one.changed > 35 > 15 > one.base


def test_windows_of_their_own_forgive_gain(slices):
    real, _, brain, lesion = slices
    one = found((real, 0.6 * real, brain, lesion), "each image in a window of its own")
    assert one.difference > 30


def test_eight_bits_stretch_each_image(slices):
    real, _, brain, lesion = slices
    one = found((real, 0.5 * real, brain, lesion), "8 bits, stretched image by image")
    assert one.changed > one.base + 20


def test_the_whole_protocol_is_the_one_of_the_tables(slices):
    real, synthetic, brain, _ = slices
    one = found(slices, "protocol released as a whole, brain")
    _, scores = metrics.score_subject(real, synthetic, brain, "released")
    assert one.changed == pytest.approx(scores["psnr"])
    jpeg = found(slices, "JPEG between, both images")
    assert jpeg.base == pytest.approx(one.changed) and abs(jpeg.difference) > 1e-3


def test_jpeg_rings_into_the_background(slices):
    image = metrics.to_uint8(slices[0][0])
    after = effects.jpeg(image)
    assert after.dtype == np.uint8 and after.shape == image.shape
    assert (after[image == 0] > 0).mean() > 0.02
    assert np.abs(after.astype(int) - image).mean() < 8
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")  # as the released code does, without a quality
    assert np.array_equal(after, np.asarray(Image.open(file)))


def test_a_region_that_no_slice_has_is_left_out(slices):
    real, synthetic, brain, lesion = slices
    without = images.metric_effects(real, synthetic, brain, np.zeros_like(lesion))
    assert not [one for one in without if "lesion" in one.name]
    assert len(without) == len(images.metric_effects(*slices)) - 2
    assert all(one.verdict == common.EXACT for one in without)


# What is changed


def test_a_change_is_one_difference_of_the_register():
    known = {one.id: one for one in register.read()}
    base = training.base_settings("demo")
    for name, change in training.CHANGES.items():
        if name == "text":
            continue
        assert set(change.fields) <= set(known[change.id].fields), name
        for field, value in change.fields.items():
            assert getattr(base, field) != value, name
        if not change.fields:
            assert change.site != "first", name


def test_the_base_is_released_but_for_its_size():
    for profile in cohort.EXTENTS:
        base = training.base_settings(profile)
        differs = {
            name for name, value in profiles.settings("paper", "brats", "t1ce", "mudiff").to_dict().items()
            if getattr(base, name) != value
        }  # fmt: skip
        assert differs <= set(cohort._SIZES) | {"epochs", "slices", "validate_every"}
        assert base.seed == training.FIRST_SEED and base.validate_every == base.epochs


def test_the_whole_text_is_the_variant_of_that_name():
    base = training.base_settings("demo")
    changed = base.replace(**training.CHANGES["text"].fields)
    chosen = cohort.extent("demo").sizes | {
        "slices": base.slices, "validate_every": base.epochs, "critic_blocks": 4
    }  # fmt: skip
    assert changed == profiles.settings("paper", "brats", "t1ce", "mudiff", "text", **chosen)


def test_every_changed_setting_can_be_trained():
    base = training.base_settings("smoke")
    batch = None
    for name, change in training.CHANGES.items():
        settings = base.replace(**change.fields)
        if batch is None:
            from conftest import some_slices

            batch = some_slices(1, size=settings.image_size)
        losses = build(settings).training_step(batch, 0)
        assert all(torch.isfinite(value) for value in losses.values()), name


def test_what_changes_results_is_measured_or_said_not_to_be():
    important = {one.id for one in register.read() if one.severity == "results"}
    measured = {change.id for change in training.CHANGES.values()} | {step.id for step in images.STEPS}
    measured |= {"B-1", "E-1", "E-4"}  # made by the functions below
    book = (Path(__file__).parents[2] / "notebooks" / "13_paper_versus_code.ipynb").read_text(
        encoding="utf-8"
    )
    unmeasured = important - measured
    assert unmeasured == {"F-10"}
    assert "**Not measured**, though marked: F-10" in book


def test_profiles_train_changes_that_exist():
    for profile in profiles.PROFILES:
        assert set(cohort.extent(profile).changes) <= set(training.CHANGES)
    assert not cohort.extent("paper").changes and cohort.extent("paper").steps == 1000
    with pytest.raises(MudiffError, match="smoke, demo, paper"):
        cohort.extent("tiny")


def test_slices_return_to_the_scale_of_the_base(rng):
    signal = rng.uniform(0, 1, (3, 16, 16))
    own = 0.5 * signal
    common_scale = np.clip((signal - 0.1) / 0.8, 0, 1)
    subjects = np.array(["a", "a", "b"])
    guess = own + 0.01
    result = training.rescaled(guess, own, common_scale, subjects)
    np.testing.assert_allclose(result, np.clip((2 * guess - 0.1) / 0.8, 0, 1), atol=1e-6)
    assert training.rescaled(guess, own, own, subjects) is guess


# A miniature of the whole


@pytest.fixture(scope="module")
def miniature(tmp_path_factory) -> Path:
    """Set a project with the tiny cohort and its trainings; undone at the end of the module."""
    root = tmp_path_factory.mktemp("effects")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUDIFF_ROOT", str(root))
        patch.setitem(cohort.EXTENTS, "smoke", TINY)
        (root / "data_manifests").symlink_to(Path(__file__).parents[2] / "data_manifests")
        training.training_effects("smoke")
        yield root


def test_both_sites_see_the_same_brains_and_are_mixed_by_turns(miniature):
    root = cohort.folder("smoke") / "phantoms"
    name = "PhantomBraTS_{0:03d}/PhantomBraTS_{0:03d}_{1}.nii.gz"
    load = lambda site, number, what: nibabel.load(root / site / name.format(number, what)).get_fdata()  # noqa: E731
    for number in range(1, 5):
        assert np.array_equal(load("first", number, "seg"), load("second", number, "seg"))
        assert not np.array_equal(load("first", number, "t1ce"), load("second", number, "t1ce"))
        origin = "second" if number % 2 else "first"
        assert np.array_equal(load("both", number, "t1ce"), load(origin, number, "t1ce"))


def test_effects_are_measured_against_the_base_and_kept(miniature):
    folder = cohort.folder("smoke") / "trainings"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "base_0",
        "base_1",
        "betas_0",
        "both_0",
        "minmax_0",
        "second_0",
    ]
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/*") if path.name != "lock"}
    measured = training.training_effects("smoke")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    scores = {name: training.train_one("smoke", name) for name in ("base", "minmax", "second", "both")}
    second = training.train_one("smoke", "base", 1)
    assert second != scores["base"]
    by_name = {one.name: one for one in measured}
    assert [one.id for one in measured] == ["A-2", "B-4", "B-4", "B-1", "B-1", "B-1", "B-2", "B-2"]
    assert all(one.base == scores["base"]["first"] for one in measured[:3])
    both_seeds = [scores["base"]["first"], second["first"]]
    assert by_name["one way: trained at site 1, tested at 2"].base == pytest.approx(np.mean(both_seeds))
    assert measured[0].spread == pytest.approx(12.7062 * np.std(both_seeds, ddof=1) * math.sqrt(2), rel=1e-4)
    assert by_name["min-max, on the base's scale"].changed == scores["minmax"]["first"]
    assert (
        by_name["min-max, each on its own scale"].changed
        == scores["minmax"]["own"]
        != scores["minmax"]["first"]
    )
    there = np.mean([scores["base"]["second"], second["second"]])
    one_way = by_name["one way: trained at site 1, tested at 2"]
    assert one_way.changed == pytest.approx(there) and one_way.interval
    away = scores["second"]
    assert away["first"] != scores["base"]["first"]
    shift, harder = by_name["both ways: site not trained at"], by_name["both ways: images of site 2"]
    assert shift.base == pytest.approx((np.mean(both_seeds) + away["second"]) / 2)
    assert shift.changed == pytest.approx((there + away["first"]) / 2)
    assert harder.base == pytest.approx((np.mean(both_seeds) + away["first"]) / 2)
    assert shift.difference + harder.difference == pytest.approx(one_way.difference)
    mixed = by_name["both sites trained, tested at site 2"]
    assert (mixed.base, mixed.changed) == (scores["base"]["second"], scores["both"]["second"])
    one_site = by_name["both sites trained, tested at site 1 alone"]
    assert one_site.base == pytest.approx((scores["both"]["first"] + scores["both"]["second"]) / 2)
    assert (one_site.changed, one_site.verdict) == (scores["both"]["first"], common.UNKNOWN)


def test_trainings_differ_in_their_change_alone(miniature):
    base = runs.load(cohort.folder("smoke") / "trainings" / "base_0").settings
    changed = runs.load(cohort.folder("smoke") / "trainings" / "betas_0").settings
    again = runs.load(cohort.folder("smoke") / "trainings" / "base_1").settings
    assert changed == base.replace(beta1=0.1, beta2=0.2)
    assert again == base.replace(seed=base.seed + 1)
    score = training.train_one("smoke", "base")
    assert score["own"] == score["first"]


@pytest.mark.parametrize("name, normalisation", [("base", "percentile"), ("minmax", "minmax")])
def test_trainings_are_scored_as_validation_does_it(miniature, name, normalisation):
    from mudiff.training import train

    method = runs.load(cohort.folder("smoke") / "trainings" / f"{name}_0")
    test = prepare.open_slices(cohort.prepared("smoke", "first", normalisation), "test")
    score = training.train_one("smoke", name)["own"]
    assert score == pytest.approx(train.validation_psnr(method, test), abs=1e-3)


def test_without_a_run_of_the_profile_the_base_is_sampled(miniature):
    source = sampling.source("smoke")
    assert source.run.name == "base_0" and "short trainings" in source.words
    assert source.prepared == cohort.prepared("smoke")


def test_the_misprint_gives_one_grey_and_the_process_is_put_back(miniature):
    source = sampling.source("smoke")
    method, slices = runs.load(source.run), prepare.open_slices(source.prepared, "test")
    before = method.schedule
    real = (slices.images([0], "t1ce") + 1) / 2
    grey = metrics.masked_protocol(real[0], np.full_like(real[0], 0.5), slices.brain([0])[0])["psnr"]
    assert sampling.psnr_with(method, slices, np.array([0]), posterior="printed") == pytest.approx(
        grey, abs=1e-4
    )
    assert method.schedule is before
    assert abs(sampling.psnr_with(method, slices, np.array([0])) - grey) > 1e-3


def test_sampling_effects_are_kept_one_file_each(miniature):
    measured = sampling.sampling_effects("smoke")
    assert [one.id for one in measured] == ["E-1", "E-4", "E-5"]
    assert measured[1].name == "T = 5 with weights of T = 4"
    assert all(one.repeats == f"{sampling.SEEDS} / 1 sampler seeds" for one in measured)
    files = cohort.folder("smoke") / "sampling"
    assert {path.name for path in files.iterdir()} == {
        "base_1.json", "printed.json", "steps_5.json", "not_loaded.json"
    }  # fmt: skip
    assert sampling.sampling_effects("smoke") == measured


def test_random_layers_disagree(miniature):
    masks = effects.random_masks("smoke", 3)
    assert masks.shape == (3, 32, 32) and 0 < masks.min() < masks.max() < 1
    assert not np.allclose(masks[0], masks[1], atol=1e-3)
    assert np.array_equal(masks, effects.random_masks("smoke", 3))


def test_slices_with_lesions_are_preferred(miniature):
    slices = prepare.open_slices(cohort.prepared("smoke"), "train")

    class Some:
        def __len__(self):
            return 6

        def lesion(self, indices):
            return np.isin(indices, (1, 4))[:, None, None] * np.ones((1, 2, 2))

        def brain(self, indices):
            return np.isin(indices, (0, 1, 3, 4))[:, None, None] * np.ones((1, 2, 2), bool)

    assert sampling.chosen_slices(Some(), 5).tolist() == [1, 4]
    Some.lesion = lambda self, indices: np.zeros((6, 2, 2))
    assert sampling.chosen_slices(Some(), 2).tolist() == [0, 4]
    assert len(sampling.chosen_slices(slices, 1)) == 1


def test_the_picture_shows_every_effect(miniature):
    measured = [*effects.source_metric_effects("smoke"), *sampling.sampling_effects("smoke")]
    measured += training.training_effects("smoke")
    figure = effects.forest(measured, "smoke")
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "Metrics", "Sampling", "Training, architecture, data"
    ]  # fmt: skip
    labels = [tick.get_text() for axis in figure.axes for tick in axis.get_yticklabels()]
    assert sorted(labels) == sorted(f"{one.id}: {one.name}" for one in measured)
    words = style.caption(figure)
    assert "phantoms" in words and "Profile smoke" in words and "5 steps" in words
    assert "of the sampler in panel Sampling" in words and "interval of the mean difference" in words
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"spread of the seeds", "interval of a paired difference"} < set(entries)
    assert set(entries) >= {one.verdict for one in measured}
    frame = effects.frame(measured)
    assert len(frame) == len(measured) and set(frame.group) == {"metrics", "sampling", "training", "data"}


# Words


ROWS = [
    common.Effect("A-5", "no R1", 20.0, 19.5, 0.4, "4 / 1"),
    common.Effect("A-2", "betas", 20.0, 20.3, 0.4, "4 / 1"),
    common.Effect("A to D", "text", 20.0, 20.0, math.inf, "1 / 1"),
    common.Effect("D-2", "pair", 20.0, 18.0, 0.4, "4 / 1"),
    common.Effect("F-4", "range", 20.0, 26.0),
    common.Effect("B-1", "shift", 20.0, 19.0, 0.5, "4 pairs", interval=True),
    common.Effect("B-2", "alone", 20.0, 20.1, 0.5, "4 pairs", interval=True),
]


def test_tables_show_effect_spread_and_verdict():
    lines = effects.table(ROWS).splitlines()[2:]
    assert lines[0] == "| A-5 | no R1 | 20.00 | 19.50 | **−0.50** | ± 0.40 | 4 / 1 | beyond the spread |"
    assert lines[1] == "| A-2 | betas | 20.00 | 20.30 | +0.30 | ± 0.40 | 4 / 1 | within the spread |"
    assert lines[2].endswith("| +0.00 | – | 1 / 1 | one seed, no spread |")
    assert lines[4].endswith("| +6.00 | – |  | exact |")
    assert lines[5].endswith("| **−1.00** | ± 0.50 | 4 pairs | interval excludes 0 |")
    assert lines[6].endswith("| +0.10 | ± 0.50 | 4 pairs | interval includes 0 |")


def test_groups_follow_the_register_in_order():
    assert [one.id for one in effects.of(ROWS, "training", "architecture")] == ["A-2", "A-5", "A to D", "D-2"]
    assert [show.group(one) for one in ROWS[:5]] == [
        "training",
        "training",
        "training",
        "architecture",
        "metrics",
    ]
    assert set(show.GROUPS) < {name for name, _ in register.CHAPTERS.values()}


def test_sentences_count_what_is_beyond():
    assert effects.words(ROWS[:5]) == (
        "2 of 3 effects are beyond the spread of the training seeds; the largest is D-2, pair, with −2.0 dB."
    )
    assert effects.words(ROWS[1:2]) == "0 of 1 effects are beyond the spread of the training seeds."
    assert effects.words(ROWS[4:5]) == "None of these effects has a spread to be compared with."
    assert effects.words(ROWS[5:]) == (
        "1 of 2 paired differences have an interval that excludes 0; the largest is B-1, shift, with −1.0 dB."
    )
    assert effects.words(ROWS[1:2] + ROWS[6:]).count(".") == 2
    drawn = common.compare("E-1", "misprint", [20.0, 20.1], [9.0], "sampler")
    assert effects.words([drawn]).startswith("1 of 1 effects are beyond the spread of the sampler's seeds; ")


def test_limits_hold_bands_around_zero_and_intervals_around_marks():
    band, interval = ROWS[0], ROWS[5]
    assert show._limits([band]) == pytest.approx((-0.5, 0.4))
    assert show._limits([interval]) == pytest.approx((-1.5, 0.03))


def test_the_base_in_words():
    assert "32 pixels" in effects.base_words("demo") and "base with 4 seeds" in effects.base_words("demo")
    assert "40 steps on 8 phantoms" in effects.base_words("demo")
    assert "learning rates 0.002 and 0.0005 (published: 0.00016 and 0.0001)" in effects.base_words("demo")
    assert dataclasses.asdict(ROWS[0])["spread"] == 0.4
