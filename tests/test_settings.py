"""Settings: what their fields take, and what a settings.json of another version means."""

import dataclasses
import json

import pytest

from mudiff.errors import MudiffError
from mudiff.settings import Settings


def test_every_field_is_part_of_the_fingerprint():
    base = Settings()
    other = {
        "dataset": "open_ms", "target": "t1", "method": "linear", "variant": "text", "networks": "single",
        "multipliers": (1, 2), "normalisation": "minmax", "gates": "pair", "pairs": "chain", "reduction": "sum",
        "mapper_activation": "relu", "mapper_normalises": "input", "posterior": "printed", "mask": "trained",
        "order": "shuffled", "precision": "bfloat16", "checkpoint": "last", "schedule": "linear",
        "vgg16": "vgg16.pth", "critic_weights": "default",
    }  # fmt: skip
    prints = {base.fingerprint()}
    for field in dataclasses.fields(base):
        value = getattr(base, field.name)
        step = {bool: lambda v: not v, int: lambda v: v + 4, float: lambda v: v + 0.05}.get(type(value))
        needs = {"method": "pgan"} if field.name == "vgg16" else {}
        changed = base.replace(**{field.name: other.get(field.name) or step(value)} | needs)
        prints.add(changed.fingerprint())
        assert Settings.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    assert len(prints) == 1 + len(dataclasses.fields(base))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": "x"}, "expected a value of type int"),
        ({"width": 2.5}, "expected a value of type int"),
        ({"epochs": True}, "expected a value of type int"),
        ({"epochs": "1e999"}, "expected a value of type int"),
        ({"mapper_skip": "maybe"}, "expected a value of type bool"),
        ({"multipliers": "1,a"}, "multipliers"),
        ({"schedule": "steps"}, "choose one of cosine"),
        ({"mask": "none"}, "choose one of convolution"),
        ({"method": "gan"}, "choose one of pix2pix"),
        ({"target": "dwi"}, "choose one of t1ce"),
        ({"variant": "../x"}, "plain name"),
        ({"steps": 0}, "must be above 0"),
        ({"critic_blocks": 1e30}, "at most"),
        ({"multipliers": "(" * 999}, "multipliers"),
        ({"constant_part": 1.0}, "below 1"),
        ({"ema_decay": -0.5}, "at least 0"),
        ({"weight_mask": float("nan")}, "weight_mask|finite"),
        ({"width": 6}, "multiples of 4"),
        ({"image_size": 30}, "multiple of 4"),
        ({"embedding": 33}, "even"),
        ({"multipliers": (0, 1)}, "multipliers"),
        ({"levels": 1}, "2 or more"),
        ({"beta_max": -5.0}, "beta_max"),
        ({"validation_slices": -1}, "negative"),
        ({"seed": 2**63}, "seed"),
        ({"vgg16": "vgg16.pth"}, "pgan alone"),
        ({"speed": 1}, "unknown"),
    ],
)
def test_wrong_values_are_named(change, words):
    with pytest.raises(MudiffError, match=words):
        Settings().replace(**change)


def test_command_line_texts_become_values():
    for name, text, value in [
        ("epochs", "3", 3), ("multipliers", "1,2", (1, 2)), ("multipliers", "4", (4,)), ("beta1", "0.1", 0.1),
        ("critic_minibatch_std", "false", False), ("image_size", "1e2", 100), ("seed", f"{2**53 + 1}", 2**53 + 1),
    ]:  # fmt: skip
        assert getattr(Settings().replace(**{name: text}), name) == value


def test_settings_of_another_version_are_read():
    values = Settings(width=8).to_dict() | {"gone": 3}
    del values["order"]  # not yet there
    assert Settings.from_dict(values) == Settings(width=8)
