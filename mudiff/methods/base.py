"""The interface of a method: what the training loop and the sampler need to know, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mudiff.errors import MudiffError
from mudiff.model.diffusion import Schedule, SliceNoise, to_device
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings

# Receives t, x_t and the predictions of x_0, x_p1 (of MU-Diff also x_p2), at each sampling step.
Callback = Callable[[dict[str, Any]], None]
Loss = tuple[Tensor, dict[str, Tensor]]  # what an optimiser minimises, and the log's values by name


@dataclass(frozen=True)
class Batch:
    """Some training slices."""

    target: Tensor  # (B, 1, H, W), x_0 in [-1, 1]
    conditions: Tensor  # (B, n, H, W), y_1 .. y_n in [-1, 1], in the order of the settings
    brain: Tensor  # (B, 1, H, W), True inside the brain
    seeds: Tensor  # (B,), one a slice for everything random in this step
    scenario: Scenario | None = None  # of target "any", where `conditions` hold all contrasts, also the target

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; the seeds stay where generators are made."""
        images = (to_device(x, device) for x in (self.target, self.conditions, self.brain))
        return Batch(*images, self.seeds, None if self.scenario is None else self.scenario.to(device))


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Freeze the network's weights inside the block; gradients still flow through it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


class LossModule(nn.Module):
    """One optimiser's parameters, and its loss as `forward`: DDP averages the gradients of what passes through."""

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        super().__init__()
        self.trained = nn.ParameterList(p for group in optimiser.param_groups for p in group["params"])

    def forward(self, loss: Callable[..., Loss], *inputs: Any) -> Loss:
        """Return ``loss(*inputs)``."""
        return loss(*inputs)


class Method(nn.Module, ABC):
    """A way to synthesise a contrast: networks, their optimisers, one training step, one sampler."""

    training_only: tuple[str, ...] = ()  # prefixes of weights that sampling does not need
    several_processes: bool = False  # whether several can train it: batch normalisation cannot be shared
    networks: tuple[str, ...] = ()  # what torch.compile can take: used in every step, no second derivative

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.optimisers: dict[str, torch.optim.Optimizer] = {}  # the loop sets their rates; may be empty
        self._distributed: dict[str, nn.Module] = {}  # in a dict they are no part of the weights

    @property
    def device(self) -> torch.device:
        """Where the method's numbers live."""
        return next(iter(self.state_dict().values())).device

    def _autocast(self) -> torch.autocast:
        mixed = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)

    def prepare_training(self) -> None:
        """Read what training needs besides the slices; a wrong setting is found here, before the first step."""

    def compile(self, **options: Any) -> None:
        """Compile the networks with torch.compile; needs a compiler and minutes before the first step."""
        if not self.networks:
            raise MudiffError(f"method {self.settings.method}: has nothing to compile; leave out --compile.")
        for network in filter(None, (getattr(self, name) for name in self.networks)):
            network.compile(**options)

    def distribute(self) -> None:
        """Average gradients over the processes of the run; the method is on its device by now."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            wrap = torch.nn.parallel.DistributedDataParallel
            self._distributed = {name: wrap(LossModule(o)) for name, o in self.optimisers.items()}

    def _minimise(self, name: str, loss_function: Callable[..., Loss], *inputs: Any) -> dict[str, Tensor]:
        """Take one step of an optimiser on ``loss_function(*inputs)``; returns the values, detached."""
        optimiser, distributed = self.optimisers[name], self._distributed.get(name)
        loss, values = distributed(loss_function, *inputs) if distributed else loss_function(*inputs)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {name: value.detach() for name, value in values.items()}

    @abstractmethod
    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Learn from one batch, after `step` earlier ones; returns name -> scalar loss, detached."""

    @abstractmethod
    def synthesize(
        self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None, scenario: Scenario | None = None
    ) -> Tensor:
        """Return the target (B, 1, H, W) of conditions (B, n, H, W), in [-1, 1], from one seed (B,) a slice alone.

        A run of target "any" takes the scenario of each slice; what it does not give has no influence.
        """


class Diffusion(Method):
    """A method that samples the target from noise, step by step."""

    several_processes = True
    schedule: Schedule

    @abstractmethod
    def predictions(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, noise: SliceNoise, scenario: Scenario | None = None
    ) -> tuple[Tensor, ...]:
        """Return each network's prediction of x_0, (B, 1, H, W) in [-1, 1], at steps t (B,)."""

    @torch.no_grad()  # in inference mode autocast would round the weights anew at each use
    def synthesize(
        self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None, scenario: Scenario | None = None,
        steps: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the target, (B, 1, H, W) in [-1, 1], after T steps of mutual sampling, Eqs. 30 to 33.

        `callback` gets at each step a dict of ``t`` (int), ``x_t``, ``x_p1`` and, of two networks, ``x_p2``. After
        fewer `steps` than T the mean of the predictions of x_0 is returned (X-2).
        """
        noise = SliceNoise(seeds, conditions.device)
        x = noise.normal(1, *conditions.shape[2:])  # x_T
        with self._autocast():  # one block for all steps: the weights are rounded once
            for step in reversed(range(self.schedule.steps)):
                t = torch.full((len(x),), step, device=x.device)
                predictions = self.predictions(x, conditions, t, noise, scenario)
                if callback is not None:
                    callback({"t": step, "x_t": x} | {f"x_p{j}": x_0 for j, x_0 in enumerate(predictions, start=1)})
                if steps is not None and step == self.schedule.steps - steps:
                    x = sum(predictions) / len(predictions)
                    break
                means = [self.schedule.posterior_mean(x_0, x, t) for x_0 in predictions]
                mean = sum(means) / len(means)  # Eq. 31
                x = self.schedule.posterior_sample(mean, t, noise.normal(*x.shape[1:]))  # Eq. 33
        return x.clamp(-1, 1)


def build(settings: Settings) -> Method:
    """Return the method that `settings` names, with weights drawn from its seed."""
    from mudiff.methods import ddpm, hinet, linear, mmgan, mudiff, pgan, pix2pix, syndiff

    kinds: dict[str, type[Method]] = {
        "pix2pix": pix2pix.Pix2Pix, "pgan": pgan.PGAN, "mmgan": mmgan.MMGAN, "hinet": hinet.HiNet,
        "ddpm": ddpm.DDPM, "syndiff": syndiff.SynDiff, "mudiff": mudiff.MUDiff, "linear": linear.Linear,
    }  # fmt: skip
    return kinds[settings.method](settings, torch.Generator().manual_seed(settings.seed))
