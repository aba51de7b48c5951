"""Training: schedules, validation, resume, kill -9, SIGTERM, other settings, damaged files and full disks."""

import contextlib
import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, refused
from safetensors.torch import load_file

from mudiff import cache, storage
from mudiff.data import dataset
from mudiff.methods.base import build
from mudiff.settings import Settings
from mudiff.training import loop, runs

CPU = torch.device("cpu")


def fit(folder: Path, prepared: Path, **changes) -> dict[str, torch.Tensor]:
    loop.train(Settings(**SMALL | changes), prepared, folder, device=CPU, progress=False, save_seconds=0)
    return load_file(folder / "weights.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_what_the_contract_says(prepared, tmp_path):
    folder = tmp_path / "run"
    fit(folder, prepared)
    names = {"settings.json", "log.jsonl", "weights.safetensors", "provenance.json"}
    assert {path.name for path in folder.iterdir()} == names
    record = storage.read_json(folder / "provenance.json")
    assert record["slices_seen"] == 3 * 12 and record["steps"] == 9 and record["seconds"] > 0
    log = runs.read_log(folder)
    assert [line["step"] for line in log] == sorted(line["step"] for line in log)
    best = max(line["validation/psnr"] for line in log if "validation/psnr" in line)
    assert record["best_validation_psnr"] == best
    slices = dataset.open_slices(prepared, "val")
    assert loop.validation_psnr(runs.load(folder), slices) == pytest.approx(best, abs=1e-4)


RESUMED = [
    {}, {"ema_decay": 0.9, "order": "shuffled", "checkpoint": "last"}, {"method": "linear"}, {"method": "hinet"},
    {"target": "any"}, {"target": "any", "method": "mmgan", "levels": 3, "curriculum": 0.5},
    {"method": "pgan", "dropout": 0.5}, {"method": "ddpm", "ema_decay": 0.9, "steps": 25},
]  # fmt: skip


def test_the_curriculum_goes_from_one_missing_contrast_to_all_but_one(prepared):
    slices = dataset.open_slices(prepared, "train")
    settings = Settings(**SMALL | {"target": "any", "method": "mmgan", "levels": 3, "epochs": 6, "curriculum": 0.5})
    per_epoch = math.ceil(len(slices) / settings.batch_size)

    def fewest(epoch: float) -> int:
        steps = range(round(epoch * per_epoch), round((epoch + 1) * per_epoch))
        batches = [loop.make_batch(slices, np.arange(len(slices)), settings, step) for step in steps]
        return min(int(batch.scenario.given.sum(dim=1).min()) for batch in batches)

    assert [fewest(epoch) for epoch in (0, 1, 2, 3, 5)] == [3, 2, 1, 1, 1]
    batch = loop.make_batch(slices, np.arange(5), settings, 20)
    for k, target in enumerate(batch.scenario.target):  # the truth of the target that was drawn
        assert torch.equal(batch.target[k, 0], torch.from_numpy(slices.images([k], slices.contrasts[target])[0]))


@pytest.mark.parametrize("change", RESUMED, ids=str)
def test_resumed_and_uninterrupted_runs_are_bit_identical(change, prepared, tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole", prepared, **change)
    read, taken = loop.make_batch, []

    def fails_now_and_then(slices, indices, settings, step, places):
        taken.append(step)
        if len(taken) % 4 == 0:
            raise KeyboardInterrupt
        return read(slices, indices, settings, step, places)

    monkeypatch.setattr(loop, "make_batch", fails_now_and_then)
    for _ in range(5):  # a complete run is left alone
        with contextlib.suppress(KeyboardInterrupt):
            parts = fit(tmp_path / "parts", prepared, **change)
    assert len(taken) > 9  # it was interrupted
    assert equal(whole, parts)
    logs = [runs.read_log(tmp_path / name) for name in ("whole", "parts")]
    assert [line | {"seconds": 0} for line in logs[0]] == [line | {"seconds": 0} for line in logs[1]]


_SCRIPT = """
import torch
from pathlib import Path
from mudiff.settings import Settings
from mudiff.training import loop
settings = Settings.from_dict({settings!r})
print("start", flush=True)
loop.train(settings, Path({prepared!r}), Path({folder!r}), device=torch.device("cpu"), save_seconds=0)
"""


def start(prepared: Path, folder: Path, **changes) -> subprocess.Popen:
    values = Settings(**SMALL | changes).to_dict()
    code = _SCRIPT.format(settings=values, prepared=str(prepared), folder=str(folder))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen([sys.executable, "-c", code], **options)
    assert process.stdout.readline() == b"start\n"
    return process


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.005)


def test_kill_9_at_any_moment_then_the_same_command(prepared, tmp_path):
    whole = fit(tmp_path / "whole", prepared, epochs=6)  # in one thread, as all tests
    folder = tmp_path / "run"
    for delay in (0.0, 0.03):
        process = start(prepared, folder, epochs=6)
        wait_for(folder / "state.pt")
        time.sleep(delay)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start(prepared, folder, epochs=6).wait() == 0
    assert equal(load_file(folder / "weights.safetensors"), whole)
    assert not list(folder.glob("state.pt"))


def test_sigterm_saves_and_exits_143_and_who_waits_for_the_run_says_so(prepared, tmp_path):
    folder = tmp_path / "run"
    first = start(prepared, folder, epochs=1000)
    wait_for(folder / "state.pt")
    second = start(prepared, folder, epochs=1000)
    assert b"another process trains this run" in second.stderr.readline()
    second.kill()
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 143
    assert runs.read_state(folder)["step"] > 0


def aside(folder: Path) -> list[Path]:
    return [path for path in folder.parent.iterdir() if path.name.startswith(f"{folder.name}.")]


def test_a_complete_run_is_left_alone_and_others_move_it_aside(prepared, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    fit(folder, prepared)
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    values = storage.read_json(folder / "settings.json")
    del values["settings"]["order"]  # written before there was such a field
    storage.write_json(folder / "settings.json", values)
    fit(folder, prepared)
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    fit(folder, prepared, seed=1)
    (old,) = aside(folder)
    assert (old / "weights.safetensors").stat().st_mtime_ns == before
    old.rename(tmp_path / "first")
    (folder / "settings.json").unlink()
    assert not runs.matches(folder, Settings(**SMALL | {"seed": 1}), "data")
    runs.claim(folder, Settings(**SMALL), "data")
    assert aside(folder) and runs.matches(folder, Settings(**SMALL), "data")
    assert not runs.matches(folder, Settings(**SMALL), "other data")
    monkeypatch.setattr(cache, "RECIPE_VERSION", 99)
    assert not runs.matches(folder, Settings(**SMALL), "data")


def test_settings_that_cannot_be_trained_displace_no_run_and_leave_no_weights(prepared, tmp_path):
    kept = fit(tmp_path / "run", prepared, method="pgan")
    for change in ({"vgg16": str(tmp_path / "none.pth")}, {"critic_blocks": 3}):
        refused("VGG16|image_size", fit, tmp_path / "run", prepared, **{"method": "pgan"} | change)
    assert equal(kept, load_file(tmp_path / "run" / "weights.safetensors"))
    assert not aside(tmp_path / "run")
    diverges = ({"learning_rate": 1e30}, r"no number at step .* lower learning_rate")
    for change, says in (({"image_size": 32}, "image_size"), diverges):
        refused(says, fit, tmp_path / "other", prepared, method="pgan", **change)
    assert not list((tmp_path / "other").glob("*.safetensors"))


def test_a_full_disk_while_a_checkpoint_is_written_loses_nothing(prepared, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    saved, calls = torch.save, iter(range(3))

    def full(value, path):
        if next(calls) == 2:
            path.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved(value, path)

    monkeypatch.setattr(torch, "save", full)
    refused("disk is full", fit, folder, prepared)
    assert runs.read_state(folder)["step"] == 2  # the state before is whole
    assert not list(folder.glob(".tmp*"))
    monkeypatch.setattr(torch, "save", saved)
    assert equal(fit(folder, prepared), fit(tmp_path / "other", prepared))


def test_schedule_and_order_follow_the_settings():
    settings = Settings(epochs=10)
    assert loop.learning_rate(1e-3, settings, 0) == pytest.approx(1e-3)
    assert loop.learning_rate(1e-3, settings, 5) == pytest.approx((1e-3 + 1e-5) / 2)
    assert loop.learning_rate(1e-3, settings.replace(schedule="constant"), 9) == 1e-3
    linear = settings.replace(schedule="linear", constant_part=0.4)
    rates = [loop.learning_rate(6e-4, linear, epoch) for epoch in (0, 4, 5, 9)]
    assert rates == pytest.approx([6e-4, 6e-4, 5e-4, 1e-4])
    for order in ("fixed", "shuffled"):
        first, second = (loop.epoch_order(20, settings.replace(order=order), epoch) for epoch in range(2))
        assert (first == second).all() == (order == "fixed") and sorted(second) == list(range(20))


def test_the_average_is_that_of_its_definition_and_leaves_the_critic_out():
    method = build(Settings(**SMALL))
    average = loop.WeightAverage(method, 0.9)
    weights = {name: value.clone() for name, value in method.state_dict().items()}
    expected = weights
    for step in range(20):
        with torch.no_grad():
            for value in method.state_dict().values():
                value.add_(1)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {k: decay * v + (1 - decay) * (weights[k] + step + 1) for k, v in expected.items()}
        average.update(step)
    present = {name: value.clone() for name, value in method.state_dict().items()}
    with average.applied():
        for name, value in method.state_dict().items():
            if name.startswith(("critic.", "f1.")):
                torch.testing.assert_close(value, (present if name.startswith("critic.") else expected)[name])
    assert equal(method.state_dict(), present)
