"""The segmentation network sees what it should, learns, is kept, and its Dice is right."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHAPE, head, prepare_subjects, refused
from torch import nn

from mudiff.analyses import unet
from mudiff.data import dataset
from mudiff.training import profiles

TINY = unet.Recipe(channels=(8, 16), residual_units=1, epochs=6, batch_size=4, learning_rate=2e-2)


def tumour(labels=(2, 1, 4)):
    """Return three slabs side by side, one per label; the first is the largest."""
    mask = np.zeros(SHAPE, np.uint8)
    for start, stop, label in ((5, 9, labels[0]), (9, 12, labels[1]), (12, 15, labels[2])):
        mask[start:stop, 9:17, 4:8] = label
    return mask


@pytest.fixture
def cohort(tmp_path, write_subject, rng, monkeypatch):
    """``cohort(train=[mask, ...], val=[...])``; FLAIR shows the labels."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    shown = lambda mask: {"flair": (0.2 * head(rng) + 250.0 * mask).astype(np.int16), "seg": mask}  # noqa: E731
    return lambda **masks: prepare_subjects(
        write_subject, [(split, shown(mask)) for split, group in masks.items() for mask in group]
    )


@pytest.fixture
def prepared(cohort):
    return cohort(train=[tumour(), tumour()], val=[tumour()])


def weights(network):
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


def test_dice_by_hand():
    true = np.array([[[1, 1, 2], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]], np.uint8)
    predicted = np.array([[[1, 2, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 3]]], np.uint8)  # 3 is not in the truth
    found = unet.dice(predicted, true)
    assert list(found.region) == ["whole", "necrotic", "oedema", "enhancing"]
    # Over the stack; the mean of slices would be 0.43 of the whole.
    expected = [2 * 3 / (4 + 4), 2 * 1 / (1 + 3), 2 * 1 / (2 + 1), np.nan]
    assert found.dice.tolist() == pytest.approx(expected, nan_ok=True)
    assert found.invented[:3].isna().all() and found.invented[3] == 1
    assert unet.dice(true, 0 * true).invented.tolist() == [4, 3, 1, 0]


def test_features_are_the_bottleneck_averaged_over_positions(rng):
    network, seen = unet.build(unet.RECIPES["smoke"]).eval(), {}
    bottom = network.model[1].submodule[1].submodule  # three levels: the third is the bottom
    bottom.register_forward_hook(lambda module, x, y: seen.update(y=y))
    features = unet.Features(network)
    x = torch.from_numpy(rng.random((3, 4, 32, 32), dtype=np.float32))
    with torch.no_grad():
        network(x)
        assert torch.allclose(features(x), seen["y"].mean(dim=(2, 3)))
    assert features.num_features == 32 and "32 features" in features.label


def test_a_network_learns_and_is_kept_until_recipe_or_data_change(cohort, prepared, monkeypatch):
    epochs, real, state = [], unet._epoch, torch.get_rng_state()
    monkeypatch.setattr(unet, "_epoch", lambda *args: epochs.append(len(args[3])) or real(*args))
    network = unet.train("smoke", TINY)  # there is no test split
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the global state
    assert epochs == [12] * TINY.epochs  # eight slices with tumour, half as many without
    log = pd.read_csv(unet.folder("smoke") / "training.csv")
    assert len(log) == TINY.epochs and log.chosen.sum() == 1 and not network.training
    assert log.loss.iloc[-1] < 0.7 * log.loss.iloc[0]
    assert log.dice[log.chosen].item() == log.dice.max() > 0.5
    scores = unet.score(network, dataset.open_slices(prepared, "val"))
    assert scores.dice[scores.region == "whole"].mean() == pytest.approx(log.dice.max())
    first = weights(network)
    assert torch.equal(weights(unet.train("smoke", TINY)), first) and len(epochs) == 6
    file = unet.folder("smoke") / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])  # damaged
    assert torch.equal(weights(unet.train("smoke", TINY)), first) and len(epochs) == 12  # bit by bit
    short = unet.Recipe(channels=(8, 16), residual_units=1, epochs=1)
    unet.train("smoke", short)
    cohort(train=[tumour()], val=[0 * tumour()])
    unet.train("smoke", short)
    assert len(epochs) == 14
    log = pd.read_csv(unet.folder("smoke") / "training.csv")
    assert log.dice.isna().all() and log.chosen.tolist() == [True]  # without tumours the last epoch counts
    cohort(train=[0 * tumour()], val=[tumour()])
    refused("no training subject has a tumour", unet.train, "smoke", short)


def test_images_and_masks_are_mirrored_together(prepared, monkeypatch):
    import monai.losses

    slices = dataset.open_slices(prepared, "train")
    order, seen = np.flatnonzero(unet.ill(slices)), []
    loss = lambda x, y: (seen.append((x.detach()[:, 0], y[:, 0])), x.mean())[1]  # noqa: E731
    monkeypatch.setattr(monai.losses, "DiceCELoss", lambda **options: loss)
    network = nn.Conv2d(4, 1, 1)  # passes FLAIR on
    network.weight.data, network.bias.data = torch.eye(4)[3].reshape(1, 4, 1, 1), torch.zeros(1)
    frozen = torch.optim.SGD(network.parameters(), lr=0.0)
    unet._epoch(network, frozen, slices, order, len(order), np.random.default_rng(0))
    ((x, y),) = seen
    flair = torch.from_numpy(unet.images(slices, order)[:, 3])
    true = torch.from_numpy(np.minimum(slices.lesion(order), 3)).long()
    same, turned = ((x == f).flatten(1).all(1) for f in (flair, flair.flip(2)))
    assert 0 < same.sum() < len(order) and (same | turned).all() and not (same & turned).any()
    assert torch.equal(y, torch.where(turned[:, None, None], true.flip(2), true))


@pytest.mark.parametrize("labels", [(2, 1, 4), (2, 1, 3)])
def test_labels_of_all_years_are_classes_and_others_are_refused(cohort, labels):
    slices = dataset.open_slices(cohort(train=[tumour(labels)], val=[tumour(labels)]), "train")
    assert set(np.unique(unet.truth(slices, slices.subjects[0]))) == {0, 1, 2, 3}
    cohort(train=[tumour((2, 1, 7))], val=[tumour()])
    refused(r"Brats18_0_1: the mask has labels .*; expected 1", unet.train, "smoke", TINY)


def test_every_profile_has_a_recipe_that_its_slices_can_be_halved_for():
    assert unet.RECIPES.keys() == profiles.PROFILES.keys()
    for name, recipe in unet.RECIPES.items():
        assert profiles.preparation(name, "brats").image_size % 2 ** (len(recipe.channels) - 1) == 0
