"""What a piece of work costs by its shapes: operations, bytes moved, memory."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mudiff.methods.base import Batch, build
from mudiff.settings import Settings

PHASES = ("training", "sampling")
"""A whole training step without the R1 penalty (nine of ten are), and sampling with all T steps."""

FEW = 24
"""Steps of DDPM that are counted, and one more: 1000 are too many, and its noise schedule needs 21."""

ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q, k, v
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v)
    ),
}
"""The attention of CPUs, which torch's counter passes over; that of other devices it knows."""


@dataclass(frozen=True)
class Count:
    """Counts of one phase.

    Attributes
    ----------
    flops : float
        Floating-point operations per image; a multiplication with its addition is two.
    moved : float
        Bytes per image that would move if every operator read its inputs from memory once and wrote its
        outputs once: what a cache saves and what an operator reads twice are not in it.
    memory : float
        Largest number of bytes of the tensors alive at once, weights and optimiser included, for the batch.
    """

    flops: float
    moved: float
    memory: float


class Ledger(TorchDispatchMode):
    """Adds up the sizes of what every operator reads and writes, and of the tensors that live."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = self.live = self.peak = 0
        self.known: set[int] = set()

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) not in self.known:
            self.known.add(id(storage))
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run the operator and note it; views, questions about a tensor and empty ones move nothing."""
        result = function(*args, **(kwargs or {}))
        outputs = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        if outputs and not function.is_view and "empty" not in str(function):
            inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
            # An expanded tensor is no larger than what it lies in.
            self.moved += sum(min(x.nbytes, x.untyped_storage().nbytes()) for x in inputs + outputs)
        for tensor in outputs:
            self._note(tensor)
        return result


class Seeds(list):
    """Seeds of slices, which stay numbers where tensors have no values."""

    def tolist(self) -> list[int]:
        """Return them, as a tensor does."""
        return list(self)


SMALL = 64
"""Side of images up to which it is quicker to compute than to let torch check shapes without values."""


@contextlib.contextmanager
def _shapes(settings: Settings) -> Iterator[str]:
    """Make tensors of large sizes without values inside the block; yields the device to put them on."""
    if settings.image_size <= SMALL:
        yield "cpu"
    elif settings.precision == "float32":  # needs no autocast, which torch lacks for this device
        yield "meta"
    else:  # slower
        with FakeTensorMode():
            yield "cpu"


def some_images(settings: Settings, batch: int, device: torch.device | str) -> Batch:
    """Return uniform noise as training slices, all of it brain."""
    size, n = settings.image_size, len(settings.conditions)
    generator = torch.Generator().manual_seed(0)
    draw = lambda c: (torch.rand(batch, c, size, size, generator=generator) * 2 - 1).to(device)  # noqa: E731
    brain = torch.ones(batch, 1, size, size, dtype=torch.bool, device=device)
    return Batch(draw(1), draw(n), brain, Seeds(range(batch)))


def works(method: torch.nn.Module, images: Batch) -> dict[str, Callable[[], object]]:
    """Return what is done in each of the `PHASES`, with these images."""
    return {
        "training": lambda: method.training_step(images, 1),
        "sampling": lambda: method.synthesize(images.conditions, images.seeds),
    }


def count(
    settings: Settings, phase: str, batch: int = 1, make: Callable[[Settings], torch.nn.Module] = build
) -> Count:
    """Count one phase from shapes.

    Parameters
    ----------
    settings : Settings
        Method and sizes; of DDPM, whose steps are all alike, a few are counted.
    phase : str
        One of `PHASES`.
    batch : int
        Slices at a time; what is moved for the weights is shared by them.
    make : callable
        Makes the method.

    Returns
    -------
    Count
        Of a step after the first, which makes the optimisers' state.
    """
    # torch has no random numbers on the device without values, so none for dropout
    settings = settings.replace(dropout=0.0)
    if settings.method == "ddpm" and phase == "sampling" and settings.steps > FEW + 1:
        few, more = (count(settings.replace(steps=k), phase, batch, make) for k in (FEW, FEW + 1))
        steps = settings.steps - FEW
        flops, moved = (
            few.flops + steps * (more.flops - few.flops),
            few.moved + steps * (more.moved - few.moved),
        )
        return Count(flops, moved, more.memory)
    with _shapes(settings) as device:
        method = make(settings)
        method = method.to(device) if device == "meta" else method
        call = works(method, some_images(settings, batch, device))[phase]
        state = sum(x.nbytes for x in method.state_dict().values())
        with Ledger() as ledger:
            if phase == "training":
                call()
                ledger.moved = 0
            with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
                call()
    return Count(counter.get_total_flops() / batch, ledger.moved / batch, state + ledger.peak)
