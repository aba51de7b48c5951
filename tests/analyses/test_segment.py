"""The segmentation network sees what it should, learns, is kept, and its Dice is right."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHAPE, head
from torch import nn

from mudiff import paths
from mudiff.analyses import segment
from mudiff.analyses.segment import training
from mudiff.data import prepare as data
from mudiff.errors import MudiffError
from mudiff.training import profiles

TINY = segment.Recipe(channels=(8, 16), residual_units=1, epochs=6, batch_size=4, learning_rate=2e-2)


def tumour(labels=(2, 1, 4), shape=SHAPE):
    """Return three slabs side by side, one per label; the first is the largest."""
    mask = np.zeros(shape, np.uint8)
    for start, stop, label in ((5, 9, labels[0]), (9, 12, labels[1]), (12, 15, labels[2])):
        mask[start:stop, 9:17, 4:8] = label
    return mask


@pytest.fixture
def prepare(tmp_path, write_subject, rng, monkeypatch):
    """Write and prepare a cohort: ``prepare(train=[mask, ...], val=[...], test=[...])``; FLAIR shows the labels."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))

    def write(**masks):
        rows = []
        for split, name in itertools.chain.from_iterable(
            ((split, f"Brats18_{split}{i}_1") for i in range(len(group))) for split, group in masks.items()
        ):
            mask = masks[split][int(name[-3])]
            flair = (0.2 * head(rng) + 250.0 * mask).astype(np.int16)
            write_subject(tmp_path / "raw", name, flair=flair, seg=mask)
            rows.append((name, split, ""))
        manifest = pd.DataFrame(rows, columns=["subject", "split", "reason"])
        folder = paths.prepared("smoke", "brats")
        data.prepare(profiles.preparation("smoke", "brats"), tmp_path / "raw", manifest, folder, 1).check()
        return folder

    return write


@pytest.fixture
def prepared(prepare):
    return prepare(train=[tumour(), tumour()], val=[tumour()], test=[tumour()])


@pytest.fixture
def trainings(monkeypatch):
    """Count the epochs that are trained."""
    calls, real = [], training._epoch
    monkeypatch.setattr(training, "_epoch", lambda *args: calls.append(args[3]) or real(*args))
    return calls


# Inputs, masks and Dice


def test_labels_of_all_years_become_classes():
    assert segment.classes(np.array([[0, 1, 2], [3, 4, 0]])).tolist() == [[0, 1, 2], [3, 3, 0]]


def test_images_have_the_caches_order_and_one_scale(prepared):
    slices = data.open_slices(prepared, "train")
    indices = np.array([2, 8])
    mine = np.full((2, 64, 64), 0.25, np.float32)
    stack = segment.images(slices, indices, {"t2": mine})
    assert stack.shape == (2, 4, 64, 64) and stack.dtype == np.float32
    assert slices.contrasts == ("t1", "t1ce", "t2", "flair")
    assert np.array_equal(stack[:, 2], mine)
    for place, contrast in ((0, "t1"), (1, "t1ce"), (3, "flair")):
        assert np.allclose(stack[:, place] * 2 - 1, slices.images(indices, contrast), atol=1e-6)
    real = segment.images(slices, indices)
    assert real.min() == 0 and 0.9 < real.max() <= 1  # as synthetic slices are read


def test_synthetic_slices_must_fit_the_real_ones(prepared, tmp_path):
    slices = data.open_slices(prepared, "test")
    (name,) = slices.subjects
    count = len(slices.subject(name))
    np.save(tmp_path / f"{name}.npy", np.full((count, 64, 64), 65535, np.uint16))
    assert (segment.synthetic(slices, tmp_path, name) == 1).all()
    np.save(tmp_path / f"{name}.npy", np.zeros((count - 1, 64, 64), np.uint16))
    with pytest.raises(MudiffError, match=rf"synthetic slices \({count - 1}, 64, 64\)"):
        segment.synthetic(slices, tmp_path, name)


def test_dice_by_hand():
    truth = np.zeros((2, 2, 3), np.uint8)
    truth[0, 0] = (1, 1, 2)
    truth[1, 0] = (1, 0, 0)
    predicted = np.zeros_like(truth)
    predicted[0, 0] = (1, 2, 2)
    predicted[1, 1] = (0, 0, 3)  # a class that the truth does not have
    found = segment.dice(predicted, truth)
    assert list(found) == ["whole", "necrotic", "oedema", "enhancing"]
    assert found["whole"] == pytest.approx(2 * 3 / (4 + 4))  # over the stack; the mean of slices is 0.43
    assert found["necrotic"] == pytest.approx(2 * 1 / (1 + 3))
    assert found["oedema"] == pytest.approx(2 * 1 / (2 + 1))
    assert np.isnan(found["enhancing"])
    assert segment.dice(truth, truth)["whole"] == 1 and segment.dice(0 * truth, truth)["whole"] == 0
    assert all(np.isnan(list(segment.dice(truth, 0 * truth).values())))
    assert segment.invented(predicted, truth) == dict.fromkeys(segment.REGIONS) | {"enhancing": 1}
    assert list(segment.invented(truth, 0 * truth).values()) == [4, 3, 1, 0]


def test_prediction_does_not_depend_on_the_batch(rng):
    network = segment.build(TINY).eval()
    inputs = rng.random((5, 4, 32, 32), dtype=np.float32)
    predicted = segment.predict(network, inputs, batch=2)
    assert np.array_equal(predicted, segment.predict(network, inputs, batch=5))
    with torch.no_grad():
        assert np.array_equal(predicted, network(torch.from_numpy(inputs)).argmax(1).numpy())
    assert predicted.dtype == np.uint8 and len(np.unique(predicted)) > 1
    assert segment.predict(network, inputs[:0]).shape == (0, 32, 32)


# The network


def test_weights_follow_from_the_seed_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    first, again = segment.build(TINY), segment.build(TINY)
    other = segment.build(segment.Recipe(channels=(8, 16), residual_units=1, seed=7))
    assert torch.equal(before, torch.get_rng_state())
    assert segment.fingerprint(first) == segment.fingerprint(again) != segment.fingerprint(other)


def test_features_are_the_bottleneck_averaged_over_positions(rng):
    network = segment.build(segment.RECIPES["smoke"]).eval()
    seen = {}
    bottom = network.model[1].submodule[1].submodule  # three levels: the third is the bottom
    bottom.register_forward_hook(lambda module, x, y: seen.update(y=y))
    features = segment.Features(network)
    x = torch.from_numpy(rng.random((3, 4, 32, 32), dtype=np.float32))
    with torch.no_grad():
        network(x)
        expected = seen["y"].mean(dim=(2, 3))
        assert torch.allclose(features(x), expected) and expected.shape == (3, features.num_features)
    assert features.num_features == 32 and seen["y"].shape[2:] == (8, 8) and "32 features" in features.label
    assert "three of them real" in features.label


# Training


def test_it_learns_and_keeps_the_best_epoch(prepared):
    slices = data.open_slices(prepared, "val")
    network = segment.train("smoke", TINY, progress=False)
    log = segment.history("smoke")
    assert len(log) == TINY.epochs and log.chosen.sum() == 1
    assert log.loss.iloc[-1] < 0.7 * log.loss.iloc[0]
    best = log.dice[log.chosen].item()
    assert best == log.dice.max() > 0.5
    scores = segment.score(network, slices)
    assert scores.dice[scores.region == "whole"].mean() == pytest.approx(best)
    assert not network.training


def test_the_weights_are_those_of_the_best_epoch(prepared, monkeypatch):
    reached, seen = iter([0.3, 0.7, 0.5, 0.7, 0.6, 0.1]), []

    def whole(network, slices):
        seen.append(segment.fingerprint(network))
        return next(reached)

    monkeypatch.setattr(training, "_whole", whole)
    network = segment.train("smoke", TINY, progress=False)
    assert len(set(seen)) == 6 and segment.fingerprint(network) == seen[1]
    assert segment.history("smoke").chosen.tolist() == [False, True, False, False, False, False]


def test_a_finished_network_is_kept_until_recipe_or_data_change(prepared, prepare, trainings):
    first = segment.train("smoke", TINY, progress=False)
    assert len(trainings) == TINY.epochs
    again = segment.train("smoke", TINY, progress=False)
    assert len(trainings) == TINY.epochs
    assert segment.fingerprint(first) == segment.fingerprint(again)
    file = segment.folder("smoke") / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])  # damaged
    repeated = segment.train("smoke", TINY, progress=False)
    assert len(trainings) == 2 * TINY.epochs
    assert segment.fingerprint(repeated) == segment.fingerprint(first)  # bit by bit
    segment.train("smoke", segment.Recipe(channels=(8, 16), residual_units=1, epochs=1), progress=False)
    assert len(trainings) == 2 * TINY.epochs + 1
    prepare(train=[tumour()], val=[tumour()], test=[tumour()])
    segment.train("smoke", segment.Recipe(channels=(8, 16), residual_units=1, epochs=1), progress=False)
    assert len(trainings) == 2 * TINY.epochs + 2


def test_an_interrupted_training_starts_anew(prepared, monkeypatch):
    real = training._epoch
    calls = []

    def stop(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        segment.train("smoke", TINY, progress=False)
    assert not (segment.folder("smoke") / "weights.safetensors").exists()
    network = segment.train("smoke", TINY, progress=False)
    assert len(calls) == 3 + TINY.epochs and not network.training


def test_test_subjects_are_not_looked_at(prepared, monkeypatch):
    opened, real = [], data.open_slices
    monkeypatch.setattr(
        data, "open_slices", lambda folder, split: opened.append(split) or real(folder, split)
    )
    segment.train("smoke", TINY, progress=False)
    assert set(opened) == {"train", "val"}


def test_an_epoch_has_all_slices_with_tumour_and_some_without(rng):
    ill, free = np.arange(10), np.arange(10, 40)
    recipe = segment.Recipe(healthy=0.5)
    first, second = (training._chosen(ill, free, recipe, rng) for _ in range(2))
    for chosen in (first, second):
        assert len(chosen) == len(set(chosen)) == 15 and set(ill) <= set(chosen)
    assert set(first) != set(second) and list(first) != sorted(first)


def test_images_and_masks_are_mirrored_together(prepared, monkeypatch):
    import monai.losses

    slices = data.open_slices(prepared, "train")
    order = np.flatnonzero(slices.lesion(np.arange(len(slices))).any(axis=(1, 2)))
    seen = []

    class Loss:
        def __init__(self, **options):
            assert options["softmax"] and options["to_onehot_y"]

        def __call__(self, x, y):
            seen.append((x.detach()[:, 0], y[:, 0]))
            return x.mean()

    monkeypatch.setattr(monai.losses, "DiceCELoss", Loss)
    network = nn.Conv2d(4, 1, 1)  # passes FLAIR on
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 0, 0, 1]).reshape(1, 4, 1, 1)), network.bias.zero_()
    frozen = torch.optim.SGD(network.parameters(), lr=0.0)
    recipe = segment.Recipe(batch_size=len(order))
    training._epoch(network, frozen, slices, order, recipe, np.random.default_rng(0))
    ((x, y),) = seen
    flair = torch.from_numpy(segment.images(slices, order)[:, 3])
    truth = torch.from_numpy(segment.classes(slices.lesion(order))).long()
    same = (x == flair).flatten(1).all(1)
    turned = (x == flair.flip(2)).flatten(1).all(1)
    assert 0 < same.sum() < len(order) and (same | turned).all() and not (same & turned).any()
    assert torch.equal(y, torch.where(turned[:, None, None], truth.flip(2), truth))


def test_without_tumours_there_is_nothing_to_learn(prepare):
    prepare(train=[0 * tumour()], val=[tumour()], test=[tumour()])
    with pytest.raises(MudiffError, match="no training subject has a tumour"):
        segment.train("smoke", TINY, progress=False)
    assert not (segment.folder("smoke") / "weights.safetensors").exists()
    with pytest.raises(MudiffError, match="no segmentation network yet"):
        segment.history("smoke")


def test_without_tumours_in_validation_the_last_epoch_counts(prepare):
    prepare(train=[tumour()], val=[0 * tumour()], test=[tumour()])
    segment.train("smoke", TINY, progress=False)
    log = segment.history("smoke")
    assert log.dice.isna().all() and log.chosen.tolist() == [False] * (TINY.epochs - 1) + [True]


@pytest.mark.parametrize("labels", [(2, 3, 4), (2, 1, 7)])
def test_labels_of_other_conventions_are_refused(prepare, labels):
    prepare(train=[tumour(labels)], val=[tumour()], test=[tumour()])
    with pytest.raises(MudiffError, match=r"Brats18_train0_1: the mask has labels .*; expected 1"):
        segment.train("smoke", TINY, progress=False)


@pytest.mark.parametrize("labels", [(2, 3, 4), (2, 1, 5)])
def test_labels_of_test_subjects_are_checked_too(prepare, labels):
    folder = prepare(train=[tumour()], val=[tumour()], test=[tumour(), tumour(labels)])
    slices = data.open_slices(folder, "test")
    assert np.array_equal(
        segment.truth(slices, slices.subjects[0]),
        segment.classes(slices.lesion(slices.subject(slices.subjects[0]))),
    )
    with pytest.raises(MudiffError, match=r"Brats18_test1_1: the mask has labels .*; expected 1"):
        segment.score(segment.build(TINY).eval(), slices)


def test_newer_names_of_labels_are_the_same_classes(prepare):
    folder = prepare(train=[tumour((2, 1, 3))], val=[tumour()], test=[tumour()])
    slices = data.open_slices(folder, "train")
    assert set(np.unique(segment.classes(slices.lesion(np.arange(len(slices)))))) == {0, 1, 2, 3}
    assert training._areas(slices).max() > 0


def test_a_loss_that_is_no_number_is_an_error(prepared, monkeypatch):
    monkeypatch.setattr(training, "_epoch", lambda *args: float("nan"))
    with pytest.raises(MudiffError, match="the loss is no number in epoch 0"):
        segment.train("smoke", TINY, progress=False)


def test_every_profile_has_a_recipe_that_its_slices_can_be_halved_for():
    assert segment.RECIPES.keys() == profiles.PROFILES.keys()
    for name, recipe in segment.RECIPES.items():
        size = profiles.preparation(name, "brats").image_size
        assert size % 2 ** (len(recipe.channels) - 1) == 0
