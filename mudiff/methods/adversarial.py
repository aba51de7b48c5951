"""What the one-pass baselines share: adversarial training, losses, dropout, initialisation."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, Callback, Loss, Method, frozen
from mudiff.model.diffusion import slice_seed
from mudiff.settings import Settings


class Adversarial(Method):
    """A generator that maps the conditions to the target in one pass, and a critic of its images.

    Subclasses set `generator` and `critic`, call `_finish`, and change what differs. The losses here are least
    squares (Mao et al. 2017) and L1; `critic_first` is the order of the two steps on each batch.
    """

    training_only = ("critic.",)
    critic_first = True
    generator: nn.Module
    critic: nn.Module

    def _finish(self, generator: torch.Generator, factor: int, least: int) -> None:
        """Check the image size, draw the weights and make the optimisers."""
        settings = self.settings
        if settings.image_size % factor or settings.image_size < least:
            raise MudiffError(
                f"setting image_size = {settings.image_size}: method {settings.method} takes multiples of "
                f"{factor}, from {factor * math.ceil(least / factor)} pixels up."
            )
        initialise_normal(self, generator)
        rates = {"generator": settings.learning_rate, "critic": settings.critic_learning_rate}
        self.optimisers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), rate, (settings.beta1, settings.beta2))
            for name, rate in rates.items()
        }

    def generate(self, conditions: Tensor) -> Tensor:
        """Return the generator's output (B, C, H, W), the target in its first channel."""
        return self.generator(conditions)

    def judge(self, batch: Batch, image: Tensor) -> Tensor:
        """Return logits (B, 1, h, w), one per patch, of the image beside the conditions."""
        return self.critic(torch.cat([batch.conditions, image], dim=1))[-1]

    def distance(self, logits: Tensor, label: float | Tensor) -> Tensor:
        """Return the mean squared distance of the logits from a label: 1 is true, 0 is fake."""
        return (logits.float() - label).square().mean()

    def critic_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms that the critic minimises; `fake` carries no gradient."""
        real, fake = self.judge(batch, batch.target), self.judge(batch, fake)
        return {"critic": (self.distance(real, 1) + self.distance(fake, 0)) / 2}

    def generator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms that the generator minimises: adversarial and L1."""
        return {
            "adversarial": self.settings.weight_adversarial * self.distance(self.judge(batch, fake), 1),
            "supervised": self.settings.weight_supervised * F.l1_loss(fake[:, :1].float(), batch.target),
        }

    def _critic_loss(self, batch: Batch, fake: Tensor) -> Loss:
        with self._autocast():
            terms = self.critic_losses(batch, fake.detach())
        return sum(terms.values()), terms

    def _generator_loss(self, batch: Batch, fake: Tensor) -> Loss:
        with self._autocast(), frozen(self.critic):
            terms = self.generator_losses(batch, fake)
        return sum(terms.values()), terms

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step of the critic and one of the generator on the same generated images."""
        for layer in self.modules():
            if isinstance(layer, SeededDropout):
                layer.seed(batch.seeds, self.device)
        with self._autocast():
            fake = self.generate(batch.conditions)
        turns = [("critic", self._critic_loss), ("generator", self._generator_loss)]
        values: dict[str, Tensor] = {}
        for name, loss in turns if self.critic_first else turns[::-1]:
            values |= self._minimise(name, loss, batch, fake)
        return values

    @torch.inference_mode()
    def synthesize(self, conditions: Tensor, seeds: Tensor, callback: Callback | None = None) -> Tensor:
        """Return the target, (B, 1, H, W) in [-1, 1]; nothing in it is random, so `seeds` are not used."""
        training = self.training
        self.eval()  # no dropout; in training, BatchNorm would mix the images of a batch, and remember them
        with self._autocast():
            x = self.generate(conditions)[:, :1].float().clamp(-1, 1)
        self.train(training)
        return x


class SeededDropout(nn.Module):
    """Dropout whose random numbers follow from the batch's seeds; the identity in sampling."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def seed(self, seeds: Tensor, device: torch.device) -> None:
        """Start the random numbers of a training step, on the network's device: masks are too large to move."""
        self.random = torch.Generator(device).manual_seed(slice_seed("dropout", *seeds.tolist()))

    def forward(self, h: Tensor) -> Tensor:
        """Return h, in training with a share p of its values set to zero and the others scaled up."""
        if not self.training or self.p == 0:
            return h
        return h * (torch.rand(h.shape, generator=self.random, device=h.device) >= self.p) / (1 - self.p)


def initialise_normal(module: nn.Module, generator: torch.Generator) -> None:
    """Draw weights from N(0, 0.02), normalisation scales from N(1, 0.02), and set biases to 0 (Isola et al., 6.2)."""
    for layer in module.modules():
        if isinstance(getattr(layer, "weight", None), nn.Parameter):
            mean = float(isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d))
            layer.weight.data.normal_(mean, 0.02, generator=generator)
            if layer.bias is not None:
                layer.bias.data.zero_()


def patch_critic(settings: Settings, norm: str | tuple, bias: bool) -> nn.Module:
    """Return the PatchGAN (Isola et al. 2017) on conditions and image; three `critic_blocks` see 70x70 pixels."""
    from monai.networks.nets import PatchDiscriminator

    channels, blocks = 1 + len(settings.conditions), settings.critic_blocks
    return PatchDiscriminator(2, settings.critic_width, channels, num_layers_d=blocks, norm=norm, bias=bias)
