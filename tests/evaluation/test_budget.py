"""What captions say of the training is what the runs' records say."""

import pandas as pd
import pytest

from mudiff import paths
from mudiff.data import datasets
from mudiff.evaluation import budget
from mudiff.evaluation import old_tables as tables
from mudiff.training import profiles

COLUMNS = ["dataset", "target", "method", "run"]


CLOSEST = ("syndiff", "mudiff", "linear")
RUNS = {("brats", "t1ce"): tuple(datasets.METHODS), ("brats", "t2"): CLOSEST, ("brats", "t1"): CLOSEST,
        ("isles", "t1"): CLOSEST}  # fmt: skip


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Write the records of some runs; return their rows."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    rows = []
    for (dataset, target), methods in RUNS.items():
        for method in methods:
            epochs = 6 if target == "t1ce" and method != "linear" else 1
            changes = {"epochs": epochs, "batch_size": 4} | ({"steps": 25} if method == "ddpm" else {})
            settings = profiles.settings("smoke", dataset, target, method, **changes)
            folder = paths.run("smoke", settings.run_name)
            paths.write_json(folder / "settings.json", {"settings": settings.to_dict()})
            paths.write_json(folder / "provenance.json", {"slices_seen": 480 * epochs, "data": dataset})
            rows.append((dataset, target, method, settings.run_name))
    return pd.DataFrame(rows, columns=COLUMNS)


def change(run, file, **values):
    path = paths.run("smoke", run) / file
    record = paths.read_json(path)
    (record["settings"] if file == "settings.json" else record).update(values)
    paths.write_json(path, record)


def test_equal_budgets_are_stated_once(trained):
    text = budget.words("smoke", trained)
    assert (
        "Within a task every method was trained on the same slices: 2,880 in 6 epochs (BraTS T1CE), "
        "480 in 1 epoch (BraTS T2, T1; ISLES T1); "
        "linear fit: each training slice once. Checkpoint of the best validation PSNR."
    ) in text
    assert "differ" not in text and "No record" not in text


def test_departures_from_the_published_methods_are_stated(trained):
    text = budget.words("smoke", trained)
    assert "pGAN was trained without its perceptual term (no VGG16 weights given)." in text
    assert "DDPM with 25 steps, published: 1000." in text
    closest = trained[~trained.method.isin(["pgan", "ddpm"])]
    assert "pGAN" not in budget.words("smoke", closest) and "DDPM" not in budget.words("smoke", closest)
    for row in trained[trained.method == "pgan"].itertuples():
        change(row.run, "settings.json", vgg16="vgg16.pth")
    for row in trained[trained.method == "ddpm"].itertuples():
        change(row.run, "settings.json", steps=1000)
    assert "pGAN" not in budget.words("smoke", trained) and "DDPM" not in budget.words("smoke", trained)


@pytest.mark.parametrize(
    "file, values, words",
    [
        ("provenance.json", {"slices_seen": 960}, "Pix2Pix 960 in 6 epochs, batch 4; pGAN 2,880 in 6"),
        ("settings.json", {"batch_size": 1}, "Pix2Pix 2,880 in 6 epochs, batch 1; pGAN 2,880"),
        ("provenance.json", {"data": "other"}, "batch 4, on unlike data."),
    ],
)
def test_unlike_budgets_are_never_called_equal(trained, file, values, words):
    change("brats_t1ce_pix2pix", file, **values)
    text = budget.words("smoke", trained)
    assert "Training budgets differ for BraTS T1CE: slices seen " in text and words in text
    assert "480 in 1 epoch (BraTS T2, T1; ISLES T1)" in text and "(BraTS T1CE)" not in text


def test_other_checkpoints_are_named(trained):
    change("brats_t1ce_mudiff", "settings.json", checkpoint="last")
    text = budget.words("smoke", trained)
    assert "Checkpoint of the best validation PSNR; after the last epoch for MU-Diff (BraTS T1CE)." in text
    only = trained[trained.run == "brats_t1ce_mudiff"]
    assert "Checkpoint after the last epoch." in budget.words("smoke", only)


def test_runs_without_a_record_are_named(trained):
    (paths.run("smoke", "isles_t1_mudiff") / "provenance.json").unlink()
    text = budget.words("smoke", trained)
    assert text.endswith("No record of the training of MU-Diff (ISLES T1).")


def test_captions_hold_the_budget_and_survive_latex(trained):
    rows = [
        row | {"region": "brain", "protocol": "masked", "unit": "subject", "metric": metric, "n": 2}
        | {"mean": 20.0, "sd": 1.0, "rank": 1, "paper": float("nan"), "fingerprint": "f"}
        for row in trained.to_dict("records") for metric in ("psnr", "ssim", "mae")
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    text = tables.caption(frame, "T", "smoke")
    assert text.endswith(budget.words("smoke", frame)) and "2,880" in text
    assert tables.latex(frame, text).isascii()
    assert "slices" not in tables.caption(frame.assign(run=None), "T", "smoke")


def test_learning_rates_are_stated_where_they_are_not_the_recipes(trained):
    assert "Learning rate" not in budget.words("smoke", trained)
    for row in trained.itertuples():
        change(row.run, "settings.json", learning_rate=2e-3, critic_learning_rate=5e-4)
    stated = "Learning rates of all small networks: 0.002, of critics 0.0005."
    assert stated in budget.words("smoke", trained)
    change("brats_t2_mudiff", "settings.json", learning_rate=1e-3)  # then they are not those of all
    assert "Learning rate" not in budget.words("smoke", trained)
