"""A run's folder: what loads and what is damaged."""

import pytest
import torch
from conftest import SMALL, refused, save_run
from safetensors.torch import load_file

from mudiff import cache, storage
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.training import runs


@pytest.fixture
def folder(tmp_path):
    """Return a run with the weights that training starts from."""
    return save_run(build(Settings(**SMALL)), tmp_path / "run")


def test_weights_load_after_a_new_field_and_a_new_recipe(folder, monkeypatch):
    values = storage.read_json(folder / "settings.json")
    values["settings"]["removed"] = "since then"
    del values["settings"]["order"]  # not yet there
    storage.write_json(folder / "settings.json", values)
    monkeypatch.setattr(cache, "RECIPE_VERSION", 99)
    method = runs.load(folder)
    first = build(Settings(**SMALL)).state_dict()
    assert all(torch.equal(value, method.state_dict()[k]) for k, value in first.items())


def test_sampling_needs_no_critic(tmp_path):
    method = build(Settings(**SMALL))
    assert runs.load(save_run(method, tmp_path / "sampled", without=("critic",))).f1 is not None
    refused(r"weights of other settings .* f1\.", runs.load, save_run(method, tmp_path / "damaged", without=("f1",)))


def test_what_cannot_be_loaded_is_named(folder, tmp_path):
    refused("no trained run here", runs.load, tmp_path)
    storage.write_json(folder / "settings.json", {"settings": SMALL | {"width": 8}})
    refused("weights of other settings", runs.load, folder)
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    refused(r"weights\.safetensors: no weights", runs.load, folder)
    (folder / "settings.json").write_text("{")
    refused(r"settings\.json", runs.load, folder)
    (folder / "state.pt").write_bytes(b"nothing")
    refused(r"state\.pt: no resume state", runs.read_state, folder)


def test_weights_that_are_not_finite_and_records_of_another_form_are_named(folder):
    weights = load_file(folder / "weights.safetensors")
    next(iter(weights.values())).view(-1)[0] = torch.nan
    runs.save_weights(folder / "weights.safetensors", weights)
    refused(r"weights\.safetensors: .* finite numbers", runs.load, folder)
    for value, says in (
        ([], "no valid JSON"),
        ({"settings": 1}, "'settings' is int"),
        ({"settings": {"width": {}}}, "width"),
    ):
        storage.write_json(folder / "settings.json", value)
        refused(rf"settings\.json: .*{says}", runs.load, folder)
    for value in ([1], {"step": 1}, torch.zeros(3)):
        torch.save(value, folder / "state.pt")
        refused(r"state\.pt: no resume state .*delete it", runs.read_state, folder)
    (folder / "log.jsonl").write_text('{"step": 1}\n{"epoch": 2}\n')
    refused(r"log\.jsonl: no log", runs.read_log, folder)


def test_a_line_of_the_log_that_a_crash_cut_off_is_left_out(folder):
    for step in (1, 2, 3):
        runs.append_log(folder, {"step": step})
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in runs.read_log(folder)] == [1, 2, 3]
    runs.cut_log(folder, 2)
    assert [line["step"] for line in runs.read_log(folder)] == [1, 2]
