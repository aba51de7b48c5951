"""The processes of one run, which ``torchrun`` starts, and the GPU of a process.

Plain DistributedDataParallel: each process has all networks and an equal part of every batch, gradients are
averaged (`Method.distribute`), rank 0 alone validates and writes. When one fails, torchrun ends the others.
"""

import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from torch import Tensor, distributed

from mudiff import storage
from mudiff.errors import MudiffError
from mudiff.methods.base import Method

SECONDS_BETWEEN_TRIES = 1.0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that ``torchrun`` started inside the block; without it do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    # The others wait as long as rank 0 validates, or waits for the run's lock.
    distributed.init_process_group(timeout=timedelta(days=7))
    yield
    distributed.destroy_process_group()  # not after an error: it would wait for the others


def count() -> int:
    """Return the number of processes of this run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if count() > 1 else 0


def any_process(flag: bool) -> bool:
    """Return whether any process says so, once all have said."""
    return bool(average({"said": torch.tensor(float(flag))})["said"])


def barrier() -> None:
    """Wait until all processes are here."""
    any_process(False)


def average(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the means of scalars over the processes."""
    if count() == 1 or not losses:
        return losses
    means = torch.stack(list(losses.values())) / count()
    distributed.all_reduce(means)
    return dict(zip(losses, means.unbind(), strict=True))


def check(method: Method) -> None:
    """Refuse a method or a batch size that this number of processes cannot train."""
    name, size = method.settings.method, method.settings.batch_size
    if count() > 1 and not method.several_processes:
        raise MudiffError(f"method {name}: trains in one process only; start it without torchrun.")
    if size % count():
        advice = "choose a multiple (--set batch_size=...)"
        raise MudiffError(f"setting batch_size = {size}: does not split evenly over {count()} processes; {advice}.")


def own_part(order: np.ndarray, number: int, size: int) -> tuple[np.ndarray, range]:
    """Return this process's slices of a batch, and their places in it."""
    batch = order[number * size : (number + 1) * size]
    batch = np.concatenate([batch, order[: -len(batch) % count()]])  # the last one is filled until it splits
    share = len(batch) // count()
    places = range(rank() * share, (rank() + 1) * share)
    return batch[places.start : places.stop], places


@contextlib.contextmanager
def claimed_device(device: torch.device | None = None) -> Iterator[torch.device]:
    """Yield where to train: `device`; by default the CPU where torch sees no GPU, else a GPU.

    Under torchrun the GPU of ``LOCAL_RANK``; else the only one, or one of several that no other training of this
    user holds (a file lock each, until the block or the process ends), once there is one.
    """
    if device is not None or not torch.cuda.is_available():
        yield device or torch.device("cpu")
        return
    gpus, local = torch.cuda.device_count(), os.environ.get("LOCAL_RANK")
    if local is not None and int(local) >= gpus:
        raise MudiffError(f"LOCAL_RANK is {local}, but there are {gpus} GPUs: use --nproc-per-node {gpus}.")
    lock, index = (contextlib.nullcontext(), int(local or 0)) if local is not None or gpus == 1 else _free_gpu(gpus)
    with lock:
        torch.cuda.set_device(index)  # else torch opens a context on GPU 0 as well
        yield torch.device("cuda", index)


def _free_gpu(count: int) -> tuple[AcquireReturnProxy, int]:
    folder = Path(tempfile.gettempdir()) / f"mudiff-gpus-{os.getuid()}"
    with storage.clear_os_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    # A GPU is known by its UUID: an index means another GPU where CUDA_VISIBLE_DEVICES differs.
    names = [torch.cuda.get_device_properties(index).uuid for index in range(count)]
    for tries in itertools.count():
        for index, name in enumerate(names):
            with contextlib.suppress(Timeout):
                return FileLock(folder / f"{name}.lock").acquire(timeout=0), index
        if tries == 0:
            print(f"All {count} GPUs are held by other trainings of yours; waiting for one.", file=sys.stderr)
        time.sleep(SECONDS_BETWEEN_TRIES)
