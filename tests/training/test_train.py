"""Training: resume, kill -9, SIGTERM, locks, other settings, damaged and full disks; sampling."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from safetensors.torch import load_file

from mudiff import cache, paths
from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.settings import Settings
from mudiff.synthesis import sample
from mudiff.training import runs, train

CPU = torch.device("cpu")


def fit(folder: Path, prepared: Path, **changes) -> dict[str, torch.Tensor]:
    train.train(Settings(**SMALL | changes), prepared, folder, device=CPU, progress=False, save_seconds=0)
    return load_file(folder / "weights.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_what_the_contract_says(prepared, tmp_path):
    fit(tmp_path / "run", prepared)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "settings.json", "log.jsonl", "weights.safetensors", "last.safetensors", "provenance.json",
    }  # fmt: skip
    record = paths.read_json(tmp_path / "run/provenance.json")
    assert record["slices_seen"] == 3 * 12 and record["steps"] == 9 and record["seconds"] > 0
    log = runs.read_log(tmp_path / "run")
    assert [line["step"] for line in log] == sorted(line["step"] for line in log)
    best = max(line["validation/psnr"] for line in log if "validation/psnr" in line)
    assert record["best_validation_psnr"] == pytest.approx(best)
    method = runs.load(tmp_path / "run")
    slices = prepare.open_slices(prepared, "val")
    assert train.validation_psnr(method, slices) == pytest.approx(best, abs=1e-4)


class PulledPlugError(Exception):
    pass


@pytest.mark.parametrize(
    "change", [{}, {"ema_decay": 0.9, "order": "shuffled"}, {"method": "linear"}], ids=str
)
def test_resumed_and_uninterrupted_runs_are_bit_identical(change, prepared, tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole", prepared, **change)
    original = train.Trainer.take_step
    taken = []

    def fails_now_and_then(self):
        taken.append(self.step)
        if len(taken) % 4 == 0:
            raise PulledPlugError
        original(self)

    monkeypatch.setattr(train.Trainer, "take_step", fails_now_and_then)
    for _ in range(20):
        try:
            parts = fit(tmp_path / "parts", prepared, **change)
            break
        except PulledPlugError:
            continue
    assert len(taken) > 9  # it was interrupted
    assert equal(whole, parts)
    steps = [line["step"] for line in runs.read_log(tmp_path / "parts")]
    assert steps == [line["step"] for line in runs.read_log(tmp_path / "whole")]


_SCRIPT = """
import sys, torch
from pathlib import Path
from mudiff.training import train
from mudiff.training.profiles import Settings
settings = Settings.from_dict({settings!r})
print("start", flush=True)
train.train(settings, Path({prepared!r}), Path({folder!r}), device=torch.device("cpu"), save_seconds=0)
"""


def start(prepared: Path, folder: Path, **changes) -> subprocess.Popen:
    values = Settings(**SMALL | changes).to_dict()
    code = _SCRIPT.format(settings=values, prepared=str(prepared), folder=str(folder))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert process.stdout.readline() == b"start\n"
    return process


def wait_for(path: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.005)


def test_kill_9_at_any_moment_then_the_same_command(prepared, tmp_path):
    changes = {"epochs": 6}
    environment_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = fit(tmp_path / "whole", prepared, **changes)
    finally:
        torch.set_num_threads(environment_threads)
    folder = tmp_path / "run"
    for delay in (0.0, 0.03):
        process = start(prepared, folder, **changes)
        wait_for(folder / "state.pt")
        time.sleep(delay)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    process = start(prepared, folder, **changes)
    assert process.wait() == 0
    assert equal(load_file(folder / "weights.safetensors"), whole)
    assert not list(folder.glob("state.pt"))


def test_sigterm_saves_and_exits_143(prepared, tmp_path):
    folder = tmp_path / "run"
    process = start(prepared, folder, epochs=1000)
    wait_for(folder / "state.pt")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert runs.read_state(folder)["step"] > 0


def test_a_complete_run_is_left_alone_and_other_settings_move_it_aside(prepared, tmp_path):
    folder = tmp_path / "run"
    fit(folder, prepared)
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    fit(folder, prepared)
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    fit(folder, prepared, seed=1)
    aside = [p for p in tmp_path.iterdir() if p.name.startswith("run.")]
    assert len(aside) == 1 and (aside[0] / "weights.safetensors").stat().st_mtime_ns == before


def test_a_run_whose_settings_are_lost_is_not_taken_for_another(prepared, tmp_path):
    folder = tmp_path / "run"
    fit(folder, prepared)
    (folder / "settings.json").unlink()
    fit(folder, prepared, seed=1)
    assert equal(load_file(folder / "weights.safetensors"), fit(tmp_path / "other", prepared, seed=1))
    assert len([p for p in tmp_path.iterdir() if p.name.startswith("run.")]) == 1


def test_a_full_disk_while_a_checkpoint_is_written_loses_nothing(prepared, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    saved = torch.save
    calls = []

    def full(value, file):
        calls.append(1)
        if len(calls) == 3:
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved(value, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(MudiffError, match="disk is full"):
        fit(folder, prepared)
    assert runs.read_state(folder)["step"] == 2  # the state before is whole
    assert not list(folder.glob(".tmp*"))
    monkeypatch.setattr(torch, "save", saved)
    assert equal(fit(folder, prepared), fit(tmp_path / "other", prepared))


def test_damaged_files_are_named(prepared, tmp_path):
    folder = tmp_path / "run"
    fit(folder, prepared)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(MudiffError, match=r"weights\.safetensors"):
        runs.load(folder)
    weights.write_bytes(whole)
    values = paths.read_json(folder / "settings.json")
    values["settings"]["width"] = 8
    paths.write_json(folder / "settings.json", values)
    with pytest.raises(MudiffError, match="other settings"):
        runs.load(folder)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/state.pt").write_bytes(b"nothing")
    with pytest.raises(MudiffError, match="damaged"):
        runs.read_state(tmp_path / "broken")


def test_slices_of_other_settings_are_refused(prepared, tmp_path):
    with pytest.raises(MudiffError, match="image_size"):
        fit(tmp_path / "run", prepared, image_size=32)


def test_schedule_and_order_follow_the_settings():
    settings = Settings(epochs=10)
    assert train.learning_rate(1e-3, settings, 0) == pytest.approx(1e-3)
    assert train.learning_rate(1e-3, settings, 5) == pytest.approx((1e-3 + 1e-5) / 2)
    assert train.learning_rate(1e-3, settings.replace(schedule="constant"), 9) == 1e-3
    linear = settings.replace(schedule="linear", constant_part=0.4)
    rates = [train.learning_rate(6e-4, linear, epoch) for epoch in (0, 4, 5, 9)]
    assert rates == pytest.approx([6e-4, 6e-4, 5e-4, 1e-4])
    fixed = [train.epoch_order(20, settings, epoch) for epoch in range(2)]
    assert (fixed[0] == fixed[1]).all() and sorted(fixed[0]) == list(range(20))
    drawn = [train.epoch_order(20, settings.replace(order="shuffled"), epoch) for epoch in range(2)]
    assert (drawn[0] != drawn[1]).any() and sorted(drawn[1]) == list(range(20))


def test_validation_is_the_masked_protocol_per_subject(prepared, tmp_path):
    fit(tmp_path / "run", prepared, validation_slices=0)
    method, slices = runs.load(tmp_path / "run"), prepare.open_slices(prepared, "val")
    everything = np.arange(len(slices))
    synthetic = sample.sample_slices(method, slices, everything)
    real = (slices.images(everything, "t1ce") + 1) / 2
    expected = metrics.masked_protocol(real, synthetic, slices.brain(everything))["psnr"]
    assert train.validation_psnr(method, slices) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", ["pgan", "hinet", "ddpm"])  # dropout; running statistics; averaged weights
def test_a_baseline_resumes_bit_for_bit(method, prepared, tmp_path, monkeypatch):
    changes = {
        "image_size": 16,
        "width": 4,
        "critic_blocks": 2,
        "method": method,
        "dropout": 0.5 * (method == "pgan"),
    }
    changes |= {"ema_decay": 0.9 * (method == "ddpm"), "steps": 25 if method == "ddpm" else 4}
    whole = fit(tmp_path / "whole", prepared, **changes)
    take_step = train.Trainer.take_step

    def stop_at_five(self):
        if self.step == 5:
            raise KeyboardInterrupt
        take_step(self)

    monkeypatch.setattr(train.Trainer, "take_step", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", prepared, **changes)
    monkeypatch.setattr(train.Trainer, "take_step", take_step)
    assert equal(whole, fit(tmp_path / "cut", prepared, **changes))


def test_settings_that_cannot_be_trained_displace_no_run(prepared, tmp_path):
    kept = fit(tmp_path / "run", prepared, method="pgan", critic_blocks=2)
    for change in ({"vgg16": str(tmp_path / "none.pth")}, {"critic_blocks": 3}):
        with pytest.raises(MudiffError):
            fit(tmp_path / "run", prepared, **{"method": "pgan", "critic_blocks": 2} | change)
    assert equal(kept, load_file(tmp_path / "run" / "weights.safetensors"))
    assert [path.name for path in tmp_path.glob("run*")] == ["run"]


def test_a_training_that_diverges_is_an_error_and_leaves_no_weights(prepared, tmp_path):
    with pytest.raises(MudiffError, match=r"no number at step .* lower learning_rate"):
        fit(tmp_path / "run", prepared, method="pgan", critic_blocks=2, learning_rate=1e30)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_weights_load_after_a_new_field_and_a_new_recipe(prepared, tmp_path, monkeypatch):
    weights = fit(tmp_path / "run", prepared)
    values = paths.read_json(tmp_path / "run/settings.json")
    values["settings"] |= {"removed": "since then"}
    del values["settings"]["order"]  # not yet there
    paths.write_json(tmp_path / "run/settings.json", values)
    monkeypatch.setattr(cache, "RECIPE_VERSION", 99)
    assert equal(runs.load(tmp_path / "run").state_dict(), weights)
