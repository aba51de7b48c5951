"""The interface of a method: what the training loop and the sampler need to know, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from mudiff.errors import MudiffError
from mudiff.model.diffusion import to_device
from mudiff.settings import Settings
from mudiff.training import processes

Callback = Callable[[dict[str, Tensor]], None]
"""Receives ``t``, ``x_t`` and the prediction of x_0, ``x_p1`` (of MU-Diff also ``x_p2``), at each sampling step."""

Loss = tuple[Tensor, dict[str, Tensor]]
"""What an optimiser minimises, and the values of the log: name -> scalar."""


@dataclass(frozen=True)
class Batch:
    """Some training slices.

    Attributes
    ----------
    target : Tensor (B, 1, H, W)
        x_0 in [-1, 1].
    conditions : Tensor (B, n, H, W)
        y_1 .. y_n in [-1, 1], in the order of the settings.
    brain : Tensor (B, 1, H, W)
        True inside the brain.
    seeds : Tensor (B,)
        One seed a slice for everything random in this step.
    """

    target: Tensor
    conditions: Tensor
    brain: Tensor
    seeds: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; the seeds stay where generators are made."""
        moved = {f.name: to_device(getattr(self, f.name), device) for f in fields(self)}
        return Batch(**moved | {"seeds": self.seeds})


@contextmanager
def resting(network: nn.Module) -> Iterator[None]:
    """Leave the weights of a network as they are: what it computes inside the block gives them no gradient."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


class Method(nn.Module, ABC):
    """A way to synthesise a contrast: networks, their optimisers, one training step, one sampler.

    Attributes
    ----------
    settings : Settings
        What it was built from.
    optimisers : dict of str to Optimizer
        Name -> optimiser; empty for a method that solves in closed form. The loop sets their learning
        rates to the schedule, so a method only steps them.
    training_only : tuple of str
        Prefixes of weights that sampling does not need.
    networks : tuple of str
        Attributes that torch.compile can take: what runs in every step, and has no second derivative.
    several_processes : bool
        Whether a training step on the parts of a batch, one in each process, is that on the whole batch.
    """

    training_only: tuple[str, ...] = ()
    several_processes: bool = False
    networks: tuple[str, ...] = ()

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        # A dict, so that they are no part of the weights; empty with one process.
        self._averaged: dict[str, nn.Module] = {}

    @property
    def device(self) -> torch.device:
        """Where the method's numbers live."""
        return next(iter(self.state_dict().values())).device

    def _autocast(self) -> AbstractContextManager:
        """Return the context in which networks run: mixed precision where the settings ask for it."""
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def prepare_training(self) -> None:
        """Read what training needs besides the slices; a wrong setting is found here, before the first step."""

    def compile(self, **options: Any) -> None:
        """Let torch.compile fuse the steps of the networks; numbers stay the same up to rounding.

        That needs a compiler (Triton on a GPU, a C++ compiler on the CPU) and minutes before the first step.
        The critic is left out: the R1 penalty is a second derivative, which compiled code has not.

        Parameters
        ----------
        **options
            Of `torch.compile`.

        Raises
        ------
        MudiffError
            If the method names no networks for it.
        """
        if not self.networks:
            raise MudiffError(f"method {self.settings.method}: has nothing to compile; leave out --compile.")
        for name in self.networks:
            network = getattr(self, name)
            if network is not None:
                network.compile(**options)

    def distribute(self) -> None:
        """Share the training among the processes of the run; the method is on its device by now."""
        if processes.count() > 1:
            self._averaged = {name: processes.averaged(o) for name, o in self.optimisers.items()}

    def _minimise(self, name: str, loss_function: Callable[..., Loss], *inputs: Any) -> dict[str, Tensor]:
        """Take one step of an optimiser on ``loss_function(*inputs)``; returns the values, detached."""
        optimiser, averaged = self.optimisers[name], self._averaged.get(name)
        loss, values = averaged(loss_function, *inputs) if averaged else loss_function(*inputs)
        optimiser.zero_grad(set_to_none=True)
        processes.share(loss).backward()
        optimiser.step()
        return {name: value.detach() for name, value in values.items()}

    @abstractmethod
    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Learn from one batch.

        Parameters
        ----------
        batch : Batch
            The slices.
        step : int
            Steps taken so far.

        Returns
        -------
        dict of str to Tensor
            Name -> scalar loss, detached.
        """

    @abstractmethod
    def synthesize(self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None) -> Tensor:
        """Return the target, (B, 1, H, W) in [-1, 1].

        Parameters
        ----------
        conditions : Tensor (B, n, H, W)
            The other contrasts in [-1, 1].
        seeds : Tensor (B,)
            One seed a slice: a slice's result depends on nothing else.
        callback : callable, optional
            Called at each step of methods that have steps.
        """
