"""One training run in several processes, which ``torchrun`` starts.

Every process holds all networks and takes a part of each batch; torch's DistributedDataParallel averages the
gradients. Three things make that the run of one process with the joint batch: each part counts by its number
of images (`Part`), statistics over a batch are those of the joint one (`join`), and whatever happens to
one process happens to all (`together`, `agree`). With a single process everything here does nothing.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from mudiff.errors import MudiffError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for word of the others: while the first one validates, or waits for the run's lock."""

_words: Any = None  # for a few numbers on the CPU, whatever the device of the run


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that ``torchrun`` started inside the block; without it do nothing."""
    global _words
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group()  # gloo for numbers on the CPU, NCCL for those on GPUs
    _words = distributed.new_group(backend="gloo", timeout=PATIENCE)
    agreed = True
    try:
        with warnings.catch_warnings():
            # DDP copies gradients of convolutions in channels_last, and says so at the first one.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            yield
    except BaseException as error:
        agreed = isinstance(error, MudiffError | SystemExit)
        raise
    finally:
        _words = None
        if agreed:  # after an error of this process alone, to take leave could wait for the others
            distributed.destroy_process_group()


def count() -> int:
    """Return the number of processes of this run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if count() > 1 else 0


# What one process knows, all know --------------------------------------------------------------------------


def agree(word: int) -> list[int]:
    """Return the words of all processes, in their order, once all have given theirs."""
    if count() == 1:
        return [word]
    words = torch.zeros(count(), dtype=torch.int64)
    words[rank()] = word
    distributed.all_reduce(words, group=_words)
    return words.tolist()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """End all processes if one fails inside the block: that one with its error, the others without a word.

    The block must not wait for other processes.

    Raises
    ------
    SystemExit
        In the others, with the exit code that the error gives the one that failed.
    """
    failed = None
    try:
        yield
    except Exception as error:
        if count() == 1:
            raise
        failed = error
    codes = agree(0 if failed is None else 2 if isinstance(failed, MudiffError) else 1)
    if any(codes):
        first = next(place for place, code in enumerate(codes) if code)
        if failed is not None and rank() == first:
            raise failed
        raise SystemExit(codes[first])


def first(work: Callable[..., T], *arguments: Any) -> T | None:
    """Let the first process alone do some work while the others wait; they get None."""
    with together():
        return work(*arguments) if rank() == 0 else None


def first_says(question: Callable[[], bool]) -> bool:
    """Return the first process's answer in all processes."""
    return bool(agree(int(bool(first(question))))[0])


@contextlib.contextmanager
def first_holds(resource: contextlib.AbstractContextManager) -> Iterator[None]:
    """Hold a resource in the first process, for as long as all are inside the block."""
    with contextlib.ExitStack() as held:
        first(held.enter_context, resource)
        yield


# The joint batch -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """The images of the joint batch that this process takes.

    Attributes
    ----------
    places : range
        Where they stand in the joint batch. A process without one takes the first, which then does not count.
    whole : int
        Images of the joint batch.
    counts : bool
        Whether they count.
    """

    places: range
    whole: int
    counts: bool = True

    @property
    def rows(self) -> slice:
        """The places, to index a tensor with."""
        return slice(self.places.start, self.places.stop)

    def of(self, mean: Tensor) -> Tensor:
        """Return what a mean over these images adds to the mean over the joint batch."""
        if len(self.places) == self.whole and self.counts:
            return mean
        return mean * (len(self.places) / self.whole * self.counts)


_part: ContextVar[Part | None] = ContextVar("part", default=None)


def part_of(whole: int) -> Part:
    """Return this process's part of a batch; the sizes of the parts differ by one image at most."""
    start, stop = (-(-place * whole // count()) for place in (rank(), rank() + 1))
    return Part(range(start, stop), whole) if stop > start else Part(range(1), whole, counts=False)


@contextlib.contextmanager
def taking(part: Part) -> Iterator[None]:
    """Say that batches inside the block are such a part of a joint one."""
    before = _part.set(part)
    try:
        yield
    finally:
        _part.reset(before)


def share(loss: Tensor) -> Tensor:
    """Return this process's share in the loss of the joint batch, such that DDP's average is its gradient."""
    part = _part.get()
    return loss if part is None or count() == 1 else part.of(loss) * count()


def join(h: Tensor) -> Tensor:
    """Return the features of the joint batch.

    Gradients flow to the processes that the features come from, any number of times (R1 differentiates
    twice). All processes must call this, and differentiate what comes of it, in the same order.

    Parameters
    ----------
    h : Tensor (B, ...)
        This process's features.

    Returns
    -------
    Tensor (joint B, ...)
        With one process `h` itself.
    """
    part = _part.get()
    if part is None or count() == 1:
        return h
    padded = h.new_zeros(part.whole, *h.shape[1:])
    padded[part.rows] = h * part.counts
    joint = _Sum.apply(padded)
    # What does not count has no gradient: the image is not in the joint batch a second time.
    return joint if part.counts else joint.detach() + 0 * joint


def own(joint: Tensor) -> Tensor:
    """Return this process's rows of what was computed for the joint batch; with one process all."""
    part = _part.get()
    return joint if part is None or count() == 1 else joint[part.rows]


class _Sum(torch.autograd.Function):
    """The sum over all processes. It is its own adjoint: a gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the sum of all processes' x."""
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the sum of all processes' gradients."""
        return _Sum.apply(gradient)


def add_up(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums over all processes of scalars that all have, in one exchange."""
    if count() == 1 or not values:
        return values
    totals = torch.stack(list(values.values()))
    distributed.all_reduce(totals)
    return dict(zip(values, totals.unbind(), strict=True))


class Turn(nn.Module):
    """What DDP wraps: the parameters of one optimiser, and a `forward` that computes its loss.

    DDP averages the gradients of what passes through the `forward` of its module, and of nothing else.
    """

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        super().__init__()
        self.trained = nn.ParameterList(p for group in optimiser.param_groups for p in group["params"])

    def forward(self, loss: Callable[..., T], *arguments: Any) -> T:
        """Return ``loss(*arguments)``."""
        return loss(*arguments)


def averaged(optimiser: torch.optim.Optimizer) -> nn.Module:
    """Return a function that calls a loss so that its gradients become the average over all processes.

    Every parameter of the optimiser must have a part in the loss. All start from the first process's values.
    """
    return nn.parallel.DistributedDataParallel(Turn(optimiser), gradient_as_bucket_view=True)
