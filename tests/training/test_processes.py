"""Several processes: two reach the losses and weights of one, only the first writes, and all end together."""

import contextlib
import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMALL, some_slices
from safetensors.torch import load_file
from test_train import CPU

from mudiff import paths
from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, build
from mudiff.model.critic import minibatch_std
from mudiff.settings import Settings
from mudiff.training import processes as distributed
from mudiff.training import runs, train
from mudiff.training.processes import Part

# In float64 nothing but rounding is left between one process and two: 2e-16 was measured.
TOLERANCE = 1e-13


# Two processes that live for all tests of this file, since each takes seconds to start -------------------------


def serve(rank: int, calls: Any) -> None:
    """Run the functions that come through a pipe, as the process `rank` of two."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    sys.addaudithook(note_writing)
    while True:
        function, arguments, os.environ["MASTER_PORT"] = calls.recv()
        try:
            calls.send(("returned", function(*arguments)))
        except BaseException as error:
            calls.send((type(error).__name__, error.code if isinstance(error, SystemExit) else str(error)))


class Pair:
    """``pair(function, *arguments)`` calls it in both and returns what each did: (how it ended, value)."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(2)]
        self.ends = [mine for mine, _ in pipes]
        self.processes = [
            context.Process(target=serve, args=(rank, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()

    def __call__(self, function: Callable, *arguments: Any) -> list[tuple[str, Any]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for end in self.ends:
            end.send((function, arguments, port))
        for end in self.ends:
            assert end.poll(120), "a process hangs"
        return [end.recv() for end in self.ends]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    both = Pair()
    yield both
    for process in both.processes:
        process.kill()


# The training step -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Compute everything in float64, also what asks for float32."""
    kept = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = kept


def per_process(h):
    return h


def not_summed(ctx, gradient):
    return gradient


def unweighted(loss):
    return loss


def not_averaged(optimiser):
    return distributed.Turn(optimiser)


FAULTS = {
    "statistics of each process": [(distributed, "join", per_process), (distributed, "own", per_process)],
    "gradients of the statistics stay where they are": [(distributed._Sum, "backward", staticmethod(not_summed))],
    "parts of unequal size count alike": [(distributed, "share", unweighted)],
    "gradients are not averaged": [(distributed, "averaged", not_averaged)],
}  # fmt: skip


def take_steps(change: dict, batches: list[tuple[int, int]], fault: str | None = None) -> tuple:
    """Train on joint batches, (step, size) each; return weights, losses and names without a gradient."""
    faults = FAULTS[fault] if fault else []
    kept = [(owner, name, vars(owner)[name]) for owner, name, _ in faults]
    for owner, name, broken in faults:
        setattr(owner, name, broken)
    try:
        with distributed.joined(), in_float64():
            method, losses = build(Settings(**SMALL | change)), []
            method.distribute()
            for step, size in batches:
                whole, part = some_slices(size), distributed.part_of(size)
                images = (x[part.rows] for x in (whole.target, whole.conditions, whole.brain, whole.seeds))
                with distributed.taking(part):
                    values = method.training_step(Batch(*images), step)
                joint = distributed.add_up({name: part.of(value) for name, value in values.items()})
                losses.append({name: value.item() for name, value in joint.items()})
            trained = [p for o in method.optimisers.values() for g in o.param_groups for p in g["params"]]
            return method.state_dict(), losses, sum(p.grad is None for p in trained)
    finally:
        for owner, name, whole in kept:
            setattr(owner, name, whole)


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


STEPS = [
    (0, 4),
    (1, 3),
    (2, 8),
    (10, 1),
    (11, 5),
]  # R1 at 0 and 10; split evenly, unevenly, one process without


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({}, STEPS),
        ({"mask": "trained", "mask_detached": True}, STEPS[:2]),  # a weight that no gradient reaches
        ({"method": "syndiff"}, STEPS[:2]),
        ({"method": "ddpm", "steps": 25, "width": 8}, STEPS[:2]),
    ],
    ids=str,
)
def test_two_processes_reach_the_losses_and_weights_of_one(change, steps, pair):
    (ended, first), (_, second) = pair(take_steps, change, steps)
    assert ended == "returned", first
    weights, losses, without_gradient = take_steps(change, steps)
    assert difference(first[0], second[0]) == 0 and first[1] == second[1]
    assert difference(first[0], weights) < TOLERANCE
    for found, expected in zip(first[1], losses, strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE)
    assert ("r1" in losses[0]) == (change.get("method") != "ddpm")
    assert without_gradient == 0  # DDP would wait for it
    start, _, _ = take_steps(change, [])
    assert difference(start, weights) > 1e-4  # far more than the tolerance


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_exchange_between_processes_is_seen(fault, pair):
    steps = [(0, 3)]
    (ended, first), _ = pair(take_steps, {}, steps, fault)
    assert ended == "returned", first
    assert difference(first[0], take_steps({}, steps)[0]) > 1e6 * TOLERANCE


def derivatives(h: torch.Tensor, parts: list[Part] | None) -> list[torch.Tensor]:
    """Return statistics, and what R1 computes of such: a gradient and the gradient of its square."""
    with distributed.joined():
        part = parts[distributed.rank()] if parts else distributed.part_of(len(h))
        with distributed.taking(part):
            own = h[part.rows].clone().requires_grad_()
            statistics = minibatch_std(own)[:, -1:]
            (gradient,) = torch.autograd.grad(statistics.exp().sum(), own, create_graph=True)
            penalty = gradient.square().sum() * part.counts
            return [x.detach() for x in (statistics, gradient, *torch.autograd.grad(penalty, own))]


ALL_IN_THE_FIRST = [Part(range(2), 2), Part(range(1), 2, counts=False)]


@pytest.mark.parametrize(
    ("count", "parts"), [(3, None), (4, None), (5, None), (8, None), (9, None), (2, ALL_IN_THE_FIRST)]
)
def test_groups_of_the_minibatch_statistics_cross_the_processes(count, parts, pair):
    h = torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(count))
    expected = derivatives(h, None)
    outcomes = pair(derivatives, h, parts)
    assert [ended for ended, _ in outcomes] == ["returned", "returned"], outcomes
    found = [values for _, values in outcomes]
    own = [expected[0][part.rows] for part in parts] if parts else expected[0].tensor_split([-(-count // 2)])
    for values, there in zip(found, own, strict=True):
        torch.testing.assert_close(values[0], there)
    counted = found[:1] if parts else found
    for k in (1, 2):
        torch.testing.assert_close(torch.cat([values[k] for values in counted]), expected[k])
    assert expected[2].abs().max() > 1e-3


# A whole run -------------------------------------------------------------------------------------------------

written: list[str] = []


def note_writing(event: str, arguments: tuple) -> None:
    """Note every path that this process opens for writing, makes, renames or removes."""
    changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
    opens = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if changes or opens:
        written.append(str(arguments[0]))


def fit(folder: Path, prepared: Path, changes: dict, wrong: Callable | None = None) -> list[str]:
    """Train; return which files below the run's parent were written. `wrong` runs before each step.

    Only validation writes to the log, so that a state holds losses that no line has yet.
    """
    del written[:]
    take_step, log = train.Trainer.take_step, train.Trainer.log

    def first_something(trainer: train.Trainer) -> None:
        wrong(trainer)
        take_step(trainer)

    train.Trainer.log = lambda trainer: None
    if wrong is not None:
        train.Trainer.take_step = first_something
    try:
        train.train(Settings(**SMALL | changes), prepared, folder, device=CPU, progress=False, save_seconds=0)
    finally:
        train.Trainer.take_step, train.Trainer.log = take_step, log
    return [path for path in written if path.startswith(str(folder.parent))]


def sigterm_in_the_second(trainer: train.Trainer) -> None:
    if trainer.step == 1 and distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def unreadable_in_the_second(trainer: train.Trainer) -> None:
    if trainer.step == 2 and distributed.rank() == 1:
        trainer.slices._open = damaged


def damaged(name: str) -> None:
    raise MudiffError(f"{name}: cannot be read")


def full_disk_in_the_first(trainer: train.Trainer) -> None:
    if trainer.step == 2 and distributed.rank() == 0:
        trainer._save = no_space


def no_space() -> None:
    with paths.clear_os_errors(Path("state.pt")):
        raise OSError(errno.ENOSPC, "No space left on device")


def stop_at_four(trainer: train.Trainer) -> None:
    if trainer.step == 4:
        raise KeyboardInterrupt


def close(folder: Path, other: Path) -> None:
    """Check that two runs are the same but for the rounding of float32: 6e-8 in weights, 4e-7 in losses."""
    for name in ("weights.safetensors", "last.safetensors"):
        assert difference(load_file(folder / name), load_file(other / name)) < 1e-6
    for line, expected in zip(runs.read_log(folder), runs.read_log(other), strict=True):
        assert line == pytest.approx(expected | {"seconds": line["seconds"]}, rel=1e-5)


CHANGES = {"epochs": 2, "ema_decay": 0.9, "order": "shuffled", "r1_interval": 2}


def test_one_process_goes_on_with_what_two_began_and_the_other_way_round(pair, prepared, tmp_path):
    fit(tmp_path / "whole", prepared, CHANGES)
    outcomes = pair(fit, tmp_path / "2-1", prepared, CHANGES, sigterm_in_the_second)
    assert outcomes == [("SystemExit", 143)] * 2
    assert runs.read_state(tmp_path / "2-1")["step"] == 2
    fit(tmp_path / "2-1", prepared, CHANGES)
    close(tmp_path / "2-1", tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "1-2", prepared, CHANGES, stop_at_four)
    (ended, files), other = pair(fit, tmp_path / "1-2", prepared, CHANGES)
    assert ended == "returned", files
    assert files and other == ("returned", [])  # only the first process writes
    close(tmp_path / "1-2", tmp_path / "whole")
    before = (tmp_path / "1-2/weights.safetensors").stat().st_mtime_ns
    assert [ended for ended, _ in pair(fit, tmp_path / "1-2", prepared, CHANGES)] == ["returned"] * 2
    assert (tmp_path / "1-2/weights.safetensors").stat().st_mtime_ns == before  # a complete run is left alone


@pytest.mark.parametrize(
    ("changes", "wrong", "place", "words"),
    [
        ({"image_size": 32}, None, 0, "image_size"),
        ({"method": "pgan", "critic_blocks": 2}, None, 0, "method pgan: trains in one process only"),
        ({"learning_rate": 1e30, "critic_learning_rate": 1e30}, None, 0, "training has diverged"),
        ({}, full_disk_in_the_first, 0, "disk is full"),
        ({}, unreadable_in_the_second, 1, "cannot be read"),
    ],
)  # fmt: skip
def test_an_error_in_one_process_ends_both_and_is_told_once(
    changes, wrong, place, words, pair, prepared, tmp_path
):
    outcomes = pair(fit, tmp_path / "run", prepared, changes, wrong)
    ended, message = outcomes.pop(place)
    assert ended == "MudiffError" and words in message
    assert outcomes == [("SystemExit", 2)]
    assert not (tmp_path / "run/weights.safetensors").exists()


def test_a_damaged_state_ends_both(pair, prepared, tmp_path):
    pair(fit, tmp_path / "run", prepared, {}, sigterm_in_the_second)
    (tmp_path / "run/state.pt").write_bytes(b"nothing")
    (ended, message), second = pair(fit, tmp_path / "run", prepared, {})
    assert ended == "MudiffError" and "state.pt: damaged" in message and second == ("SystemExit", 2)


def check_gpus(uuids: list[str]) -> None:
    kept = torch.cuda.get_device_properties
    torch.cuda.get_device_properties = lambda _: SimpleNamespace(uuid=uuids[int(os.environ["RANK"])])
    try:
        with distributed.joined():
            train._check_gpus(torch.device("cuda"))
    finally:
        torch.cuda.get_device_properties = kept


def test_two_processes_do_not_share_a_gpu(pair):
    assert pair(check_gpus, ["a", "b"]) == [("returned", None)] * 2
    (ended, message), second = pair(check_gpus, ["a", "a"])
    assert ended == "MudiffError" and "would share a GPU" in message and second == ("SystemExit", 2)


def test_torchrun_trains_a_run_and_prints_it_once(prepared, tmp_path):
    project = tmp_path / "project"
    changes = Settings(**SMALL | {"epochs": 1}).to_dict().items() - Settings().to_dict().items()
    settings = [f"--set={k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in changes]
    slices = Settings(**SMALL).preparation().fingerprint()
    paths.write_text(project / "results/smoke/prepared/none", "")
    prepared.rename(project / f"results/smoke/prepared/brats-{slices}")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "mudiff", "train", "--dataset", "brats", "--target", "T1CE", "--profile", "smoke"),
            *("--device", "cpu", *settings),
        ],
        env=os.environ | {"MUDIFF_ROOT": str(project), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = project / "results/smoke/runs/brats_t1ce_mudiff"
    assert done.stdout.splitlines() == [str(run)]
    assert paths.read_json(run / "provenance.json")["processes"] == 2
    assert runs.is_complete(run)


@pytest.mark.parametrize("processes", range(1, 6))
def test_the_parts_are_the_batch(processes, monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: processes)
    for whole in range(1, 10):
        parts = []
        for rank in range(processes):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(distributed.part_of(whole))
        counted = [part for part in parts if part.counts]
        assert [place for part in counted for place in part.places] == list(range(whole))
        assert len(counted) == min(processes, whole)
        assert max(len(p.places) for p in counted) - min(len(p.places) for p in counted) <= 1
