"""Which device a process computes on: the GPU that it was given, or one that it claims for itself.

A claim is a file lock per GPU in the user's temporary folder. The system drops it when the process ends,
however it ends, so nothing has to be cleaned up after a crash.
"""

import fcntl
import functools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch

from mudiff import paths
from mudiff.errors import MudiffError

SECONDS_BETWEEN_TRIES = 1.0
"""How often a process that waits looks for a free GPU."""

_held: list[IO[str]] = []  # open for as long as this process lives: closing a file would drop its lock


def default_device() -> torch.device:
    """Return the device of this process, the same one at every call.

    Without a GPU that is the CPU. Of the GPUs that torch sees (``CUDA_VISIBLE_DEVICES`` limits them, which
    SLURM sets and anybody may set), a process of ``torchrun`` has the one of its ``LOCAL_RANK``. Any other
    process takes the only one, or of several claims one that no other process of this user has claimed; it
    waits while there is none. The chosen GPU becomes torch's current one.

    Raises
    ------
    MudiffError
        If there are more processes of ``torchrun`` than GPUs, or the lock cannot be written.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count, rank = torch.cuda.device_count(), os.environ.get("LOCAL_RANK")
    if rank is None and count == 1:
        return torch.device("cuda")
    index = _claim_once() if rank is None else int(rank)
    if index >= count:
        raise MudiffError(
            f"LOCAL_RANK is {index}, but there are {count} GPUs: start torchrun with --nproc-per-node {count}."
        )
    torch.cuda.set_device(index)  # else torch opens a context on GPU 0 as well
    return torch.device("cuda", index)


@functools.cache
def _claim_once() -> int:
    # A GPU is known by its UUID: an index means another GPU where CUDA_VISIBLE_DEVICES differs.
    count = torch.cuda.device_count()
    return claim([str(torch.cuda.get_device_properties(index).uuid) for index in range(count)])


def lock_folder() -> Path:
    """Return the folder of the locks, which all checkouts of a user on this machine share."""
    return Path(tempfile.gettempdir()) / f"mudiff-gpus-{os.getuid()}"


def claim(names: Sequence[str]) -> int:
    """Claim one of several GPUs until this process ends; wait while others hold them all.

    Parameters
    ----------
    names : sequence of str
        A name of each GPU that is the same in all processes.

    Returns
    -------
    int
        Position in `names` of the first that was free.

    Raises
    ------
    MudiffError
        If the lock cannot be written.
    """
    told = False
    while True:
        for index, name in enumerate(names):
            if _lock(lock_folder() / f"{name}.lock"):
                return index
        if not told:
            print(
                f"All {len(names)} GPUs are claimed by other processes of yours; waiting for one. "
                "To name one yourself, set CUDA_VISIBLE_DEVICES.",
                file=sys.stderr,
            )
            told = True
        time.sleep(SECONDS_BETWEEN_TRIES)


def _lock(path: Path) -> bool:
    with paths.clear_os_errors(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _held.append(file)
    return True
