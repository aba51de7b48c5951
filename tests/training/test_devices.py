"""The choice of device, with made-up GPUs and real processes."""

import itertools
import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from mudiff.errors import MudiffError
from mudiff.training import devices, runs

# Forked: each process is its own to the lock, and torch need not be imported again.
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def gpus(tmp_path, monkeypatch):
    """Return a function that lets torch see GPUs of these UUIDs."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(devices, "lock_folder", lambda: tmp_path / "locks")
    monkeypatch.setattr(devices, "SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr(devices, "_held", [])
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: seen.append(index))
    devices._claim_once.cache_clear()
    seen: list[int] = []

    def see(*uuids: str) -> list[int]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(uuids))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=uuids[i]))
        return seen

    yield see
    devices._claim_once.cache_clear()


def in_a_process(function, *arguments):
    process = PROCESSES.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def take(answers, seconds: float) -> None:
    """Claim a GPU, say which and when, and hold it for a while."""
    index = devices.default_device().index
    began = time.monotonic()
    if seconds > 60:
        answers.put((os.getpid(), index, began, None))
    time.sleep(seconds)
    answers.put((os.getpid(), index, began, time.monotonic()))


def test_without_a_gpu_it_is_the_cpu_and_with_one_that_one(gpus, tmp_path, monkeypatch):
    gpus()
    monkeypatch.setenv("LOCAL_RANK", "1")  # two processes of torchrun on the CPU
    assert devices.default_device() == torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK")
    gpus("a")
    assert runs.default_device() == torch.device("cuda")
    assert not (tmp_path / "locks").exists()  # nobody waits for the only GPU


def test_a_process_of_torchrun_takes_the_gpu_of_its_rank_and_no_lock(gpus, tmp_path, monkeypatch):
    current = gpus("a", "b", "c")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert devices.default_device() == torch.device("cuda:2")
    assert current == [2] and not (tmp_path / "locks").exists()


def test_more_processes_than_gpus_are_refused(gpus, monkeypatch):
    gpus("a")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(MudiffError, match="LOCAL_RANK is 1, but there are 1 GPUs: start torchrun with"):
        devices.default_device()


def test_a_process_keeps_its_gpu(gpus, tmp_path):
    current = gpus("a", "b")
    assert devices.default_device() == devices.default_device() == torch.device("cuda:0")
    assert current == [0, 0] and [path.name for path in (tmp_path / "locks").iterdir()] == ["a.lock"]


def test_six_processes_share_two_gpus(gpus):
    gpus("a", "b")
    answers = PROCESSES.Queue()
    processes = [in_a_process(take, answers, 0.15) for _ in range(6)]
    held = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert len({pid for pid, *_ in held}) == 6 and {index for _, index, *_ in held} == {0, 1}
    spans = sorted((index, began, ended) for _, index, began, ended in held)
    for (index, _, ended), (other, began, _) in itertools.pairwise(spans):
        assert index != other or ended <= began, spans
    first, second = sorted((began, ended) for _, _, began, ended in held)[:2]
    assert second[0] < first[1]  # side by side


def test_a_gpu_is_known_by_its_uuid_whatever_its_index(gpus):
    gpus("a", "b")
    assert devices.default_device().index == 0
    answers = PROCESSES.Queue()
    devices._claim_once.cache_clear()
    gpus("b", "a", "c")  # another process, with another CUDA_VISIBLE_DEVICES
    in_a_process(take, answers, 0).join()
    gpus("a", "c")
    in_a_process(take, answers, 0).join()
    assert [answers.get(timeout=30)[1] for _ in range(2)] == [0, 1]


def test_kill_9_frees_the_gpu_and_who_waits_is_told_so(gpus, capfd):
    gpus("a", "b")
    answers = PROCESSES.Queue()
    holders = [in_a_process(take, answers, 600) for _ in range(2)]
    index_of = {pid: index for pid, index, *_ in (answers.get(timeout=30) for _ in holders)}
    waiting = in_a_process(take, answers, 0)
    waiting.join(0.3)
    assert waiting.is_alive()
    os.kill(holders[1].pid, signal.SIGKILL)
    pid, index, *_ = answers.get(timeout=30)
    assert pid == waiting.pid and index == index_of[holders[1].pid]
    holders[0].kill()
    message = capfd.readouterr().err
    assert message.count("All 2 GPUs are claimed") == 1 and "CUDA_VISIBLE_DEVICES" in message


def test_a_lock_folder_that_cannot_be_written_is_named(gpus, tmp_path):
    (tmp_path / "locks").write_text("a file")
    gpus("a", "b")
    with pytest.raises(MudiffError, match=r"locks.* cannot be written"):
        devices.default_device()
