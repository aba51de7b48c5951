"""Effects of the differences: the statistics, the notebook's metric steps, and a miniature of the trainings."""

import math
import re

import numpy as np
import pytest
from conftest import REPOSITORY, run_cells

from mudiff.analyses import effects
from mudiff.data import dataset
from mudiff.evaluation import metrics
from mudiff.methods.base import build
from mudiff.synthesis import sample
from mudiff.training import profiles, runs
from mudiff.workflow import register

NOTEBOOK = "13_paper_versus_code"

TINY = effects.Extent(
    (2, 1, 1), 1, 8.0, seeds=2, repeats=1, sizes=effects._SIZES | {"epochs": 1}, changes=("betas", "minmax"),
    images=2, steps=5, step_images=1,
)  # fmt: skip


compare = run_cells(NOTEBOOK, "def compare(", "def compare(")["compare"]


rescaled = run_cells(NOTEBOOK, "def rescaled(", "def rescaled(")["rescaled"]


def scoring():
    """Return the notebook's cells that score a training."""
    cells = run_cells(NOTEBOOK, "def psnr(", "def psnr(", profile="smoke")
    return run_cells(NOTEBOOK, "def rescaled(", "def of_training(", **cells)


def trainings():
    given = scoring() | {"chosen": effects.EXTENTS["smoke"], "compare": compare}
    return run_cells(NOTEBOOK, "names = chosen.changes", "of_trainings = ", **given)["of_trainings"]


def test_a_change_is_compared_with_the_same_seeds_and_with_the_spread_of_all():
    one = compare("A-2", "x", [1.0, 2.0, 3.0], [2.5], 4)
    assert (one["base"], one["changed"], one["difference"]) == (1.0, 2.5, 1.5)
    assert (one["n"], one["seeds"], one["repeats"]) == (4, 3, 1)
    # t(0.975, 2 degrees of freedom) = 4.30265; s = 1
    assert [one["high"] - 1.5, 1.5 - one["low"]] == pytest.approx([4.30265 * math.sqrt(2)] * 2, rel=1e-5)
    two = compare("A-2", "x", [1.0, 2.0, 3.0], [2.5, 3.5], 4)
    assert (two["base"], two["changed"]) == (1.5, 3.0)
    assert two["high"] - two["low"] == pytest.approx(2 * 4.30265, rel=1e-5)
    assert math.isnan(compare("A-2", "x", [1.0], [9.0], 4)["low"]), "one seed cannot tell"


def test_slices_return_to_the_scale_of_the_base(rng):
    signal = rng.uniform(0, 1, (3, 16, 16))
    own, common = 0.5 * signal, np.clip((signal - 0.1) / 0.8, 0, 1)
    guess, subjects = own + 0.01, np.array(["a", "a", "b"])
    result = rescaled(guess, own, common, subjects)
    np.testing.assert_allclose(result, np.clip((2 * guess - 0.1) / 0.8, 0, 1), atol=1e-6)
    assert rescaled(guess, own, own, subjects) is guess


def metric_effects(real, synthetic, brain, lesion):
    """Return the notebook's table of the metrics' effects, of other slices, with a row per change."""
    names = {"real": real, "synthetic": synthetic, "brain": brain, "lesion": lesion}
    return run_cells(NOTEBOOK, "def masked(", "of_metrics = ", **names)["of_metrics"].set_index("change")


def test_the_notebooks_steps_of_the_metrics_by_hand(rng):
    y, x = np.mgrid[:32, :32]
    brain = np.stack([(y - 16) ** 2 + (x - 16) ** 2 < 150] * 2)  # two heads with ramps inside, a lesion in the first
    real = (0.2 + 0.8 * (x + y) / 62) * brain
    synthetic = np.clip(real + 0.1 * rng.standard_normal(real.shape), 0, 1) * brain
    lesion = np.stack([(y - 16) ** 2 + (x - 12) ** 2 < 20, np.zeros((32, 32), bool)])
    frame = metric_effects(real, synthetic, brain, lesion)
    for region, mask in (("brain", brain[0]), ("lesion", lesion[0])):
        fill = mask.sum() / np.prod([np.ptp(places) + 1 for places in np.nonzero(mask)])  # of the box
        zeros = frame.loc[f"zeros around the {region} kept"]
        assert 0.5 < fill < 0.9 and zeros.difference == pytest.approx(-10 * np.log10(fill))
    hot, both = (frame.loc[f"{which}range of both images"] for which in ("a hot pixel: ", ""))
    lows = [min(x[m].min(), y[m].min()) for x, y, m in zip(real, synthetic, brain, strict=True)]
    assert hot.difference == pytest.approx(np.mean(20 * np.log10(2 - np.array(lows))), abs=1e-6)
    assert hot.base < both.base < hot.changed  # it is rewarded
    half = frame.loc["the truth itself at half brightness"]
    expected = [-10 * np.log10(np.mean((x[m] / 2) ** 2)) for x, m in zip(real, brain, strict=True)]
    assert half.base == pytest.approx(np.mean(expected)) and half.changed > 35 > 15 > half.base
    whole = frame.changed["protocol released as a whole, brain"]
    assert whole == pytest.approx(metrics.score_subject(real, synthetic, brain, "released")[1]["psnr"])
    assert frame.base["JPEG between, both images"] == pytest.approx(whole)
    assert (frame.difference.abs() > 1e-3).all() and frame.n["zeros around the lesion kept"] == 1
    darker = metric_effects(real, 0.5 * real, brain, np.zeros_like(lesion))
    assert len(darker) == len(frame) - 2 and not darker.index.str.contains("lesion").any()
    forgiven = ["each image in a window of its own", "8 bits, stretched image by image"]
    assert darker.difference[forgiven].min() > 20


def test_a_change_is_one_difference_of_the_register_and_what_changes_results_is_measured():
    known, base = {one.id: one for one in register.read()}, effects.base_settings("smoke")
    for name, (difference, _, fields) in effects.CHANGES.items():
        for field, value in fields.items():
            if name != "text":
                assert field in known[difference].fields and getattr(base, field) != value, name
        build(base.replace(**fields))
    important = {one.id for one in known.values() if one.severity == "results"}
    book = (REPOSITORY / f"notebooks/{NOTEBOOK}.ipynb").read_text(encoding="utf-8")
    measured = {change.id for change in effects.CHANGES.values()} | set(re.findall(r'\\"(F-\d+)\\", \\"', book))
    assert important - measured - {"E-1", "E-4"} == {"B-1", "B-2", "F-10"}


def test_the_base_is_released_and_the_whole_text_that_variant_but_for_their_size():
    for profile in effects.EXTENTS:
        base = effects.base_settings(profile)
        sizes = {name: getattr(base, name) for name in [*effects._SIZES, "epochs", "slices", "validate_every"]}
        assert base == profiles.settings("paper", "brats", "t1ce", "mudiff", **sizes)
        sizes["critic_blocks"] = 4
        text = base.replace(**effects.CHANGES["text"].fields)
        assert text == profiles.settings("paper", "brats", "t1ce", "mudiff", "text", **sizes)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """A project with the tiny cohort and its trainings, and their effects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUDIFF_ROOT", str(tmp_path_factory.mktemp("effects")))
        patch.setitem(effects.EXTENTS, "smoke", TINY)
        yield trainings()


def test_effects_are_measured_against_the_base_and_kept(miniature):
    place = effects.folder("smoke") / "trainings"
    assert {path.parent.name for path in place.glob("*/score.csv")} == {"base_0", "base_1", "betas_0", "minmax_0"}
    stamps = {path: path.stat().st_mtime_ns for path in place.glob("*/*")}
    assert trainings().equals(miniature)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert miniature.id.tolist() == ["A-2", "B-4", "B-4"]
    score = scoring()["of_training"]
    first, second = (score(place / f"base_{k}", "percentile") for k in (0, 1))
    own = score(place / "minmax_0", "minmax")
    assert first["psnr"] == first["own"] != second["psnr"] and own["psnr"] != own["own"]
    assert (miniature.base == first["psnr"]).all()
    assert miniature.changed.tolist()[1:] == [own["psnr"], own["own"]]
    reach = 12.7062 * np.std([first["psnr"], second["psnr"]], ddof=1) * math.sqrt(2)
    assert (miniature.high - miniature.difference).tolist() == pytest.approx([reach] * 3, rel=1e-4)


def test_trainings_differ_in_their_change_alone_and_are_scored_as_validation_does_it(miniature):
    from mudiff.training import loop

    place, score = effects.folder("smoke") / "trainings", scoring()["of_training"]
    base, changed, again = (runs.load(place / name) for name in ("base_0", "betas_0", "base_1"))
    assert changed.settings == base.settings.replace(beta1=0.1, beta2=0.2)
    assert again.settings == base.settings.replace(seed=base.settings.seed + 1)
    for name, normalisation in (("base_0", "percentile"), ("minmax_0", "minmax")):
        test = dataset.open_slices(effects.prepared("smoke", normalisation), "test")
        expected = loop.validation_psnr(runs.load(place / name), test)
        assert score(place / name, normalisation)["own"] == pytest.approx(expected, abs=1e-3)


def test_the_misprint_gives_one_grey_and_the_effects_of_sampling_are_kept_one_file_each(miniature, monkeypatch):
    cells = run_cells(NOTEBOOK, "run, chosen = ", "def evenly(", profile="smoke")
    assert cells["run"].name == "base_0" and "short trainings" in cells["words"]  # there is no run of the profile
    method, slices, index = cells["method"], cells["test"], cells["evenly"](5)
    assert slices.lesion(index).any(axis=(1, 2)).all() and len(index) == 1  # the one slice has a lesion
    before, real = method.schedule, (slices.images(index, "t1ce") + 1) / 2
    grey = metrics.masked_protocol(real[0], np.full_like(real[0], 0.5), slices.brain([0])[0])["psnr"]
    cells = run_cells(NOTEBOOK, "def psnr(", "of_sampling = ", **cells)
    printed, usual = (cells["sampled"](method, index, 2, changes).psnr for changes in ({"posterior": "printed"}, {}))
    assert printed.tolist() == pytest.approx([grey] * 2, abs=1e-4)
    assert method.schedule is before
    assert abs(usual - grey).min() > 1e-3
    measured = cells["of_sampling"]
    assert measured.id.tolist() == ["E-1", "E-4", "E-5"]
    assert measured.change[1] == "T = 5 with weights of T = 4" and (measured.seeds == 3).all()
    files = {path.name for path in (effects.folder("smoke") / "sampling").iterdir()}
    assert files == {"base_1.csv", "printed.csv", "steps_5.csv", "not_loaded.csv"}
    monkeypatch.setattr(sample, "sample_slices", None)  # kept
    again = run_cells(NOTEBOOK, "def psnr(", "of_sampling = ", **cells)
    assert again["of_sampling"].equals(measured)
