"""What the one-pass baselines share: adversarial training, the patch critic, dropout, initialisation."""

from abc import abstractmethod
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, Callback, Method
from mudiff.model.diffusion import slice_seed
from mudiff.settings import Settings

Drop = Callable[[Tensor], Tensor]
"""Dropout with its own random numbers in training, the identity in sampling."""


def keep(h: Tensor) -> Tensor:
    """Return `h`: no dropout."""
    return h


class Adversarial(Method):
    """A generator that maps the conditions to the target in one pass, and a critic of its images.

    Subclasses set `generator` and `critic`, call `_finish`, and give the two losses. Both take a training
    step on each batch; `critic_first` says in which order.
    """

    training_only = ("critic.",)
    critic_first = True
    generator: nn.Module
    critic: nn.Module

    def _finish(self, generator: torch.Generator) -> None:
        """Draw the weights and make the optimisers."""
        initialise_normal(self, generator)
        settings = self.settings
        rates = {"generator": settings.learning_rate, "critic": settings.critic_learning_rate}
        self.optimisers = {
            name: torch.optim.Adam(
                getattr(self, name).parameters(), lr=rate, betas=(settings.beta1, settings.beta2)
            )
            for name, rate in rates.items()
        }

    @abstractmethod
    def generate(self, conditions: Tensor, drop: Drop) -> Tensor:
        """Return what the generator makes of the conditions, the target (B, 1, H, W) in its first channel."""

    @abstractmethod
    def critic_losses(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms that the critic minimises; `made` carries no gradient."""

    @abstractmethod
    def generator_losses(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms that the generator minimises."""

    def _update(self, name: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        optimiser.step()
        return {term: value.detach() for term, value in terms.items()}

    def _critic_step(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            terms = self.critic_losses(batch, made.detach())
        return self._update("critic", terms)

    def _generator_step(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        self.critic.requires_grad_(False)  # its weights rest; gradients flow through it
        with self._autocast():
            terms = self.generator_losses(batch, made)
        values = self._update("generator", terms)
        self.critic.requires_grad_(True)
        return values

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of the critic and one of the generator on the same generated images."""
        with self._autocast():
            made = self.generate(batch.conditions, dropout(self.settings.dropout, batch.seeds, self.device))
        turns = [self._critic_step, self._generator_step]
        values: dict[str, Tensor] = {}
        for turn in turns if self.critic_first else turns[::-1]:
            values |= turn(batch, made)
        return values

    @torch.inference_mode()
    def synthesize(self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None) -> Tensor:
        """Return the target, (B, 1, H, W) in [-1, 1]; nothing in it is random, so `seeds` are not used."""
        training = self.training
        self.eval()  # in training, BatchNorm would mix the images of a batch, and remember them
        with self._autocast():
            x = self.generate(conditions, keep)[:, :1].float().clamp(-1, 1)
        self.train(training)
        return x


def dropout(p: float, seeds: Tensor, device: torch.device) -> Drop:
    """Return dropout with probability `p` whose random numbers follow from the batch's seeds."""
    if p == 0:
        return keep
    # On the network's own device: masks of feature maps are too large to draw slice by slice and move.
    seed = slice_seed("dropout", *seeds.tolist())
    generator = torch.Generator(device=device).manual_seed(seed)

    def drop(h: Tensor) -> Tensor:
        """Return `h` with a part of its values set to zero and the others scaled up."""
        kept = torch.rand(h.shape, generator=generator, device=h.device) >= p
        return h * kept / (1 - p)

    return drop


def initialise_normal(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights from N(0, 0.02), normalisation scales from N(1, 0.02), and set biases to zero.

    Isola et al. 2017, section 6.2; the other baselines took it over.
    """
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter):
            continue
        mean = 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0
        with torch.no_grad():
            weight.copy_(torch.empty(weight.shape).normal_(mean, 0.02, generator=generator))
            if layer.bias is not None:
                layer.bias.zero_()


def leaky(h: Tensor) -> Tensor:
    """Return LeakyReLU(h) with slope 0.2, the activation of every critic here."""
    return F.leaky_relu(h, 0.2)


def check_multiple(settings: Settings, factor: int, least: int, network: str) -> None:
    """Check that a network can take the image size.

    Raises
    ------
    MudiffError
        If the size is no multiple of `factor` or below `least`.
    """
    if settings.image_size % factor or settings.image_size < least:
        needed = f"a multiple of {factor}, at least {least}" if factor > 1 else f"at least {least}"
        raise MudiffError(f"setting image_size = {settings.image_size}: {network} needs {needed} pixels.")


class ImageNorm(nn.BatchNorm2d):
    """BatchNorm with the statistics of each image alone, in training and in sampling.

    That is what BatchNorm does at the batch of one that Pix2Pix was published with. So neither the common
    batch size changes the method nor the batch a result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)

    def forward(self, h: Tensor) -> Tensor:
        """Return h (B, C, H, W), each channel of each image normalised, then scaled and shifted."""
        return F.instance_norm(h, weight=self.weight, bias=self.bias, eps=self.eps)


class PatchCritic(nn.Module):
    """The 70x70 PatchGAN: one logit for each overlapping patch (Isola et al. 2017).

    `critic_blocks` convolutions of stride 2, then two of stride 1, all 4x4.

    Parameters
    ----------
    inputs : int
        Channels of conditions and image together.
    settings : Settings
        `critic_width` and `critic_blocks`.
    norm : callable
        `ImageNorm`, or ``nn.InstanceNorm2d``, which has no scale and shift.
    """

    def __init__(self, inputs: int, settings: Settings, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        halvings = settings.critic_blocks
        check_multiple(settings, 1, 3 * 2**halvings, f"a patch critic of {halvings} halvings")
        widths = [settings.critic_width * min(2**k, 8) for k in range(halvings + 1)]
        self.first = nn.Conv2d(inputs, widths[0], 4, 2, 1)
        bias = norm is nn.InstanceNorm2d  # the other norm has a shift of its own
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2 if k < halvings - 1 else 1, 1, bias=bias), norm(b))
            for k, (a, b) in enumerate(pairwise(widths))
        )
        self.last = nn.Conv2d(widths[-1], 1, 4, 1, 1)

    def forward(self, *images: Tensor) -> Tensor:
        """Return logits (B, 1, h, w) of the images, concatenated as channels."""
        h = leaky(self.first(torch.cat(images, dim=1)))
        for block in self.blocks:
            h = leaky(block(h))
        return self.last(h)


def least_squares(logits: Tensor, label: float | Tensor) -> Tensor:
    """Return the LSGAN loss: mean squared distance of the logits from a label or a map of labels."""
    return (logits.float() - label).square().mean()


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean absolute difference (L1)."""
    return (x.float() - y).abs().mean()
