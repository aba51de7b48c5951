"""Settings: what their fields take, and that each of them counts."""

import dataclasses
import json

import pytest
from conftest import refused

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


WRONG = {  # what is said -> field and value
    "expected a value of type int": [("width", "x"), ("width", 2.5), ("epochs", True), ("epochs", "1e999")],
    "expected a value of type bool": [("mapper_skip", "maybe")],
    "multipliers": [("multipliers", "1,a"), ("multipliers", "(" * 999), ("multipliers", (0, 1))],
    "choose one of cosine": [("schedule", "steps")],
    "choose one of convolution": [("mask", "none")],
    "choose one of pix2pix": [("method", "gan")],
    "choose one of t1ce": [("target", "dwi")],
    "plain name": [("variant", "../x")],
    "must be above 0": [("steps", 0)],
    "at most": [("critic_blocks", 1e30)],
    "below 1": [("constant_part", 1.0)],
    "at least 0": [("ema_decay", -0.5)],
    "weight_mask|finite": [("weight_mask", float("nan"))],
    "multiples? of 4": [("width", 6), ("image_size", 30)],
    "even": [("embedding", 33)],
    "2 or more": [("levels", 1)],
    "beta_max": [("beta_max", -5.0)],
    "negative": [("validation_slices", -1)],
    "seed": [("seed", 2**63)],
    "pgan alone": [("vgg16", "vgg16.pth")],
    "unknown": [("speed", 1)],
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_values_are_named(words):
    for field, value in WRONG[words]:
        refused(words, Settings().replace, **{field: value})


def test_command_line_texts_become_values():
    for name, text, value in [
        ("epochs", "3", 3), ("multipliers", "1,2", (1, 2)), ("multipliers", "4", (4,)), ("beta1", "0.1", 0.1),
        ("critic_minibatch_std", "false", False), ("image_size", "1e2", 100), ("seed", f"{2**53 + 1}", 2**53 + 1),
    ]:  # fmt: skip
        assert getattr(Settings().replace(**{name: text}), name) == value
