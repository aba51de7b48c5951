"""Several processes: two train as one does, rank 0 alone writes; and which GPU a training takes."""

import contextlib
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import SMALL, refused
from safetensors.torch import load_file
from torch import distributed

from mudiff import storage
from mudiff.settings import Settings
from mudiff.training import loop, processes, runs

CPU = torch.device("cpu")
# Without statistics over the batch: those of a process are of its own part.
ALONE = SMALL | {"batch_size": 4, "critic_minibatch_std": False}
written: list[str] = []


def begin(rank: int) -> None:
    """Be the process `rank` of two."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    sys.addaudithook(note_writing)


def note_writing(event: str, arguments: tuple) -> None:
    """Note every path that this process opens for writing, makes, renames or removes."""
    changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
    if changes or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        written.append(str(arguments[0]))


def ending(port: int, function: Callable, arguments: tuple) -> tuple[int, tuple[str, Any]]:
    """Call a function in a process of two; return its rank, how it ended, and its value or message."""
    os.environ["MASTER_PORT"] = str(port)
    try:
        end = "returned", function(*arguments)
    except BaseException as error:
        end = type(error).__name__, error.code if isinstance(error, SystemExit) else str(error)
    return int(os.environ["RANK"]), end


@pytest.fixture(scope="module")
def pair() -> Iterator[Callable[..., list[tuple[str, Any]]]]:
    """``pair(function, *arguments)`` calls it in two processes, slow to start, and returns what each did.

    They meet as under torchrun, in a store that listens before they start: no other program can take its port.
    """
    stores = []
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        both = [stack.enter_context(context.Pool(1, begin, (rank,))) for rank in range(2)]

        def call(function: Callable, *arguments: Any) -> list[tuple[str, Any]]:
            stores.append(distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
            ended = queue.Queue()
            for one in both:
                one.apply_async(ending, (stores[-1].port, function, arguments), callback=ended.put)
            ends = []
            try:
                for patience in (600, 120):  # the second ends soon after the first
                    ends.append(ended.get(timeout=patience))
            except queue.Empty:
                stack.close()  # no other test waits for them
                pytest.fail(f"of two processes these have ended: {ends}")
            return [end for _, end in sorted(ends)]

        yield call


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_batch_splits_evenly_and_nothing_is_left_out(count, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: count)
    order, seen = np.arange(21)[::-1], []
    for number in range(3):  # batches of 8, 8 and 5, the last one filled from the start of the order
        parts = []
        for rank in range(count):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            parts.append(processes.own_part(order, number, 8))
        assert len({len(indices) for indices, _ in parts}) == 1
        indices = [index for own, _ in parts for index in own]
        assert [place for _, places in parts for place in places] == list(range(len(indices)))
        seen += indices
    assert seen[:21] == order.tolist() and seen[21:] == order[: -21 % count].tolist()


def fit(folder: Path, prepared: Path, changes: dict, stopped: bool = False) -> list[str]:
    """Train, until the last process gets SIGTERM or whole; return which files below the run's parent were written."""
    del written[:]
    read = loop.make_batch

    def make_batch(slices, indices, settings, step, places):
        if stopped and step == 1 and processes.rank() == processes.count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(slices, indices, settings, step, places)

    with mock.patch.object(loop, "make_batch", make_batch):
        loop.train(Settings(**ALONE | changes), prepared, folder, device=CPU, progress=False, save_seconds=0)
    return [path for path in written if path.startswith(str(folder.parent))]


def assert_close(folder: Path, other: Path) -> None:
    """Check that two runs are the same but for the rounding of float32."""
    weights, expected = (load_file(run / "weights.safetensors") for run in (folder, other))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5)
    for line, theirs in zip(runs.read_log(folder), runs.read_log(other), strict=True):
        assert line == pytest.approx(theirs | {"seconds": line["seconds"]}, rel=1e-4)


CHANGES = [{}, {"mask": "trained", "reduction": "sum"}, {"method": "syndiff"}, {"method": "ddpm", "steps": 25}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_two_processes_train_as_one_does_on_the_joint_batch(change, pair, prepared, tmp_path):
    changes = {"epochs": 2, "validate_every": 2, "r1_interval": 4} | change  # R1 at the first step and the fifth
    fit(tmp_path / "one", prepared, changes)
    (ended, files), other = pair(fit, tmp_path / "two", prepared, changes)
    assert ended == "returned", files
    assert files and other == ("returned", [])  # rank 0 alone writes
    assert_close(tmp_path / "two", tmp_path / "one")
    penalised = any("loss/r1" in line for line in runs.read_log(tmp_path / "two"))
    assert penalised == (change.get("method") != "ddpm")


def test_one_process_goes_on_with_what_two_began_and_the_other_way_round(pair, prepared, tmp_path):
    changes = {"epochs": 2, "ema_decay": 0.9, "order": "shuffled", "r1_interval": 2}
    fit(tmp_path / "whole", prepared, changes)
    assert pair(fit, tmp_path / "2-1", prepared, changes, True) == [("SystemExit", 143)] * 2
    assert runs.read_state(tmp_path / "2-1")["step"] == 2
    fit(tmp_path / "2-1", prepared, changes)
    assert_close(tmp_path / "2-1", tmp_path / "whole")

    with pytest.raises(SystemExit):
        fit(tmp_path / "1-2", prepared, changes, stopped=True)
    assert [ended for ended, _ in pair(fit, tmp_path / "1-2", prepared, changes)] == ["returned"] * 2
    assert_close(tmp_path / "1-2", tmp_path / "whole")
    before = (tmp_path / "1-2/weights.safetensors").stat().st_mtime_ns
    assert [ended for ended, _ in pair(fit, tmp_path / "1-2", prepared, changes)] == ["returned"] * 2
    assert (tmp_path / "1-2/weights.safetensors").stat().st_mtime_ns == before  # a complete run is left alone


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 3}, "batch_size = 3: does not split evenly over 2 processes"),
        ({"method": "pgan"}, "method pgan: trains in one process only"),
        ({"learning_rate": 1e30, "critic_learning_rate": 1e30}, "training has diverged"),
    ],
)
def test_what_several_processes_cannot_train_is_one_clear_error(changes, words, pair, prepared, tmp_path):
    for ended, message in pair(fit, tmp_path / "run", prepared, changes):
        assert ended == "MudiffError" and words in message
    assert not (tmp_path / "run/weights.safetensors").exists()


def test_torchrun_trains_a_run_and_prints_it_once(prepared, tmp_path):
    project = tmp_path / "project"
    settings = [f"--set={k}={v}" for k, v in (SMALL | {"epochs": 1, "batch_size": 4}).items()]
    slices = Settings(**SMALL).preparation().fingerprint()
    storage.write_text(project / "results/smoke/prepared/none", "")
    prepared.rename(project / f"results/smoke/prepared/brats-{slices}")
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 -m mudiff train"
    command += " --dataset brats --target T1CE --profile smoke --device cpu"
    environment = os.environ | {"MUDIFF_ROOT": str(project), "OMP_NUM_THREADS": "1"}
    options = {"env": environment, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([sys.executable, *command.split(), *settings], **options)
    assert done.returncode == 0, done.stderr
    run = project / "results/smoke/runs/brats_t1ce_mudiff"
    assert done.stdout.splitlines() == [str(run)]
    assert storage.read_json(run / "provenance.json")["processes"] == 2 and runs.is_complete(run)


# The GPU of a process, with made-up GPUs and real processes
@pytest.fixture
def see(tmp_path, monkeypatch) -> Callable[..., list[int]]:
    """Return a function that lets torch see GPUs of these UUIDs, and notes which become the current one."""
    current: list[int] = [0]
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(processes.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])

    def see(*uuids: str) -> list[int]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(uuids))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=uuids[i]))
        return current

    return see


def claimed() -> torch.device:
    with processes.claimed_device() as device:
        return device


def test_without_a_choice_nothing_is_claimed(see, tmp_path, monkeypatch):
    see()
    assert claimed() == CPU
    see("a")
    assert claimed() == torch.device("cuda:0")
    current = see("a", "b", "c")
    with processes.claimed_device(CPU) as device:
        assert device == CPU
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert claimed() == torch.device("cuda:2") and current[-1] == 2
    monkeypatch.setenv("LOCAL_RANK", "3")
    refused("LOCAL_RANK is 3, but there are 3 GPUs", claimed)
    assert runs.default_device() == torch.device("cuda:2")  # who only looks claims none
    assert list(tmp_path.iterdir()) == []


def test_trainings_share_the_gpus_by_uuid_and_give_them_back(see, tmp_path, monkeypatch):
    current = see("a", "b")
    with processes.claimed_device() as first:
        assert first == torch.device("cuda:0") and current[-1] == 0
        see("b", "a")  # another process, with another CUDA_VISIBLE_DEVICES
        with processes.claimed_device() as second:
            assert second == torch.device("cuda:0")  # that is b
        see("a", "b")
        with processes.claimed_device() as third:
            assert third == torch.device("cuda:1") == runs.default_device()
    assert claimed() == torch.device("cuda:0")
    monkeypatch.setattr(os, "getuid", lambda: "other")
    (tmp_path / "mudiff-gpus-other").write_text("a file")
    refused(r"mudiff-gpus.* cannot be written", claimed)


def hold(pipe: Any, seconds: float) -> None:
    with processes.claimed_device() as device:
        pipe.send(device.index)
        time.sleep(seconds)


def test_kill_9_frees_the_gpu_and_who_waits_is_told_so(see, capfd):
    see("a", "b")
    forked = multiprocessing.get_context("fork")  # the made-up GPUs are there, too
    mine, theirs = forked.Pipe()
    held = {}
    for _ in range(2):
        process = forked.Process(target=hold, args=(theirs, 600), daemon=True)
        process.start()
        held[mine.recv()] = process
    assert set(held) == {0, 1}
    waiting = forked.Process(target=hold, args=(theirs, 0), daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive() and not mine.poll()
    held[1].kill()
    assert mine.poll(30) and mine.recv() == 1
    held[0].kill()
    assert capfd.readouterr().err.count("All 2 GPUs are held") == 1
