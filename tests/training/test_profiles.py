"""Settings, profiles and variants."""

import dataclasses
import json

import pytest
import torch

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.methods import Batch, build
from mudiff.training import profiles


def test_released_settings_are_the_authors_training_command():
    settings = profiles.settings("paper", "brats", "T1CE", "mudiff")
    expected = {
        "epochs": 30, "batch_size": 3, "beta1": 0.5, "beta2": 0.9, "learning_rate": 1.6e-4,
        "critic_learning_rate": 1e-4, "final_learning_rate": 1e-5, "r1_gamma": 1.0, "r1_interval": 10,
        "weight_supervised": 0.5, "weight_mask": 0.1, "weight_adversarial": 1.0, "steps": 4,
        "beta_min": 0.1, "beta_max": 20.0, "ema_decay": 0.0, "order": "fixed", "image_size": 256, "slices": 80,
    }  # fmt: skip
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.conditions == ("flair", "t2", "t1") and settings.run_name == "brats_t1ce_mudiff"
    assert profiles.settings("paper", "healthy", "flair", "mudiff").slices == 100


def test_every_field_is_part_of_the_fingerprint():
    base = profiles.Settings()
    other = {
        "dataset": "open_ms", "target": "t1", "method": "linear", "variant": "text", "networks": "single",
        "multipliers": (1, 2),
        "normalisation": "minmax", "gates": "pair", "pairs": "chain", "gated_term": "concatenation",
        "mapper_activation": "relu", "mapper_normalises": "input", "posterior": "printed", "reduction": "sum",
        "mask": "trained", "mask_noise": "shared", "order": "shuffled", "precision": "bfloat16",
        "checkpoint": "last", "schedule": "linear", "vgg16": "vgg16.pth",
    }  # fmt: skip
    prints = {base.fingerprint()}
    for field in dataclasses.fields(base):
        value = getattr(base, field.name)
        step = {bool: lambda v: not v, int: lambda v: v + 4, float: lambda v: v + 0.05}.get(type(value))
        needs = {"method": "pgan"} if field.name == "vgg16" else {}
        changed = base.replace(**{field.name: other.get(field.name) or step(value)} | needs)
        prints.add(changed.fingerprint())
        assert profiles.Settings.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    assert len(prints) == 1 + len(dataclasses.fields(base))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": "x"}, "expected a value of type int"),
        ({"width": 2.5}, "expected a value of type int"),
        ({"width": 6}, "multiples of 4"),
        ({"mapper_skip": "maybe"}, "expected a value of type bool"),
        ({"schedule": "steps"}, "choose one of cosine"),
        ({"constant_part": 1.0}, "below 1"),
        ({"vgg16": "vgg16.pth"}, "only method pgan"),
        ({"epochs": True}, "expected a value of type int"),
        ({"mask": "none"}, "choose one of convolution"),
        ({"image_size": 30}, "multiple of 4"),
        ({"steps": 0}, "must be above 0"),
        ({"beta1": 1.0}, "below 1"),
        ({"ema_decay": -0.5}, "below 1"),
        ({"beta_max": -5.0}, "beta_max"),
        ({"weight_mask": float("nan")}, "finite"),
        ({"validation_slices": -1}, "negative"),
        ({"multipliers": (0, 1)}, "multipliers"),
        ({"embedding": 33}, "even"),
        ({"speed": 1}, "unknown"),
    ],
)
def test_wrong_values_are_named(change, words):
    with pytest.raises(MudiffError, match=words):
        profiles.Settings().replace(**change)


def test_command_line_texts_become_values():
    settings = profiles.Settings().replace(
        epochs="3", multipliers="1,2", critic_minibatch_std="false", beta1="0.1", image_size="1e2"
    )
    assert (settings.epochs, settings.multipliers, settings.critic_minibatch_std) == (3, (1, 2), False)
    assert (settings.beta1, settings.image_size) == (0.1, 100)


def test_the_text_variant_differs_in_what_the_register_says_and_learns():
    settings = profiles.settings("smoke", "brats", "t1ce", "mudiff", "text")
    released = profiles.settings("smoke", "brats", "t1ce", "mudiff")
    differing = {k for k, v in settings.to_dict().items() if released.to_dict()[k] != v}
    assert differing == {"variant", *profiles.TEXT} and settings.run_name == "brats_t1ce_mudiff_text"
    method = build(settings)
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 1, 64, 64, generator=g), torch.rand(2, 3, 64, 64, generator=g)
    batch = Batch(x, y, torch.ones_like(x) > 0, torch.arange(2))
    values = method.training_step(batch, 0)
    assert values.keys() >= {"critic", "supervised_1", "supervised_2", "mask"} and "r1" not in values
    assert method.synthesize(y, torch.arange(2)).shape == x.shape


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_profiles_hold_runs_that_exist(name):
    profile = profiles.profile(name)
    for dataset, target in profile.runs:
        for method in profile.runs[dataset, target]:
            settings = profiles.settings(name, dataset, target, method)
            assert settings.preparation() == profiles.preparation(name, dataset)
            assert target not in settings.conditions
            assert {target, *settings.conditions} <= set(datasets.dataset(dataset).contrasts)
