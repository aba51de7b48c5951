"""Pix2Pix (Isola et al. 2017): a U-Net with skips at every level against the 70x70 PatchGAN."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.methods.adversarial import (
    Adversarial,
    Drop,
    ImageNorm,
    PatchCritic,
    check_multiple,
    distance,
    leaky,
)
from mudiff.methods.base import Batch
from mudiff.settings import Settings


class UNet(nn.Module):
    """The generator: `levels` halvings, of 256 pixels down to one, and the same number of doublings.

    Normalisation follows every convolution but the first, the innermost (a 1x1 map would become zero) and the
    last. Widths double from `width` up to eight times it.
    """

    def __init__(self, inputs: int, settings: Settings) -> None:
        super().__init__()
        levels = settings.levels
        check_multiple(settings, 2**levels, 2**levels, f"the U-Net of {levels} levels (setting levels)")
        widths = [settings.width * min(2**k, 8) for k in range(levels)]
        # Dropout follows the doublings at full width just outside the innermost: three of eight levels.
        self.dropped = range(1, levels - 4)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for k, width in enumerate(widths):
            plain = k in (0, levels - 1)
            conv = nn.Conv2d(widths[k - 1] if k else inputs, width, 4, 2, 1, bias=False)
            self.down.append(nn.Sequential(conv, nn.Identity() if plain else ImageNorm(width)))
        for k in reversed(range(levels)):
            seen = widths[k] * (1 if k == levels - 1 else 2)  # with the skip, but for the innermost
            conv = nn.ConvTranspose2d(seen, widths[k - 1] if k else 1, 4, 2, 1, bias=k == 0)
            self.up.append(nn.Sequential(conv, ImageNorm(widths[k - 1]) if k else nn.Tanh()))

    def forward(self, y: Tensor, drop: Drop) -> Tensor:
        """Return the target (B, 1, H, W) in [-1, 1] of the conditions y (B, n, H, W)."""
        skips: list[Tensor] = []
        h = y
        for level in self.down:
            h = level(leaky(h) if skips else h)
            skips.append(h)
        for k, level in enumerate(self.up):
            h = F.relu(skips.pop() if k == 0 else torch.cat([skips.pop(), h], dim=1))
            h = level(h)
            if k in self.dropped:
                h = drop(h)
        return h


class Pix2Pix(Adversarial):
    """U-Net and conditional PatchGAN: cross-entropy of the patches and L1 (weight 100).

    BatchNorm has the statistics of each image alone (`ImageNorm`), dropout is off in sampling, and there is
    no augmentation, as for every method here.
    """

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        n = len(settings.conditions)
        self.generator = UNet(n, settings)
        self.critic = PatchCritic(n + 1, settings, ImageNorm)
        self._finish(generator)

    def generate(self, conditions: Tensor, drop: Drop) -> Tensor:
        """Return the target (B, 1, H, W)."""
        return self.generator(conditions, drop)

    def critic_losses(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        """Return half the cross-entropy of true patches as true and generated ones as generated."""
        true, false = self.critic(batch.conditions, batch.target), self.critic(batch.conditions, made)
        return {"critic": (F.softplus(-true.float()).mean() + F.softplus(false.float()).mean()) / 2}

    def generator_losses(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy of generated patches as true ones, and L1."""
        settings, logits = self.settings, self.critic(batch.conditions, made)
        return {
            "adversarial": settings.weight_adversarial * F.softplus(-logits.float()).mean(),
            "supervised": settings.weight_supervised * distance(made, batch.target),
        }
