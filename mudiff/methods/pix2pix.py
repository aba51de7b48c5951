"""Pix2Pix (Isola et al. 2017): a U-Net with skips at every level against the 70x70 PatchGAN."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.methods.adversarial import Adversarial, SeededDropout, patch_critic
from mudiff.settings import Settings


class UNet(nn.Module):
    """The generator: `levels` halvings, of 256 pixels down to one, and the same number of doublings.

    Normalisation follows every convolution but the first, the innermost (a 1x1 map would be zero) and the last.
    """

    def __init__(self, inputs: int, settings: Settings) -> None:
        super().__init__()
        levels = settings.levels
        norm = partial(nn.InstanceNorm2d, affine=True)  # what BatchNorm is at the published batch of one
        widths = [settings.width * min(2**k, 8) for k in range(levels)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for k, width in enumerate(widths):
            plain = k in (0, levels - 1)
            conv = nn.Conv2d(widths[k - 1] if k else inputs, width, 4, 2, 1, bias=False)
            self.down.append(nn.Sequential(conv, nn.Identity() if plain else norm(width)))
        for k in reversed(range(levels)):
            seen = widths[k] * (1 if k == levels - 1 else 2)  # with the skip, but for the innermost
            conv = nn.ConvTranspose2d(seen, widths[k - 1] if k else 1, 4, 2, 1, bias=k == 0)
            self.up.append(nn.Sequential(conv, norm(widths[k - 1]) if k else nn.Tanh()))
        # Dropout follows the doublings at full width just outside the innermost: three of eight levels.
        self.drop, self.dropped = SeededDropout(settings.dropout), range(1, levels - 4)

    def forward(self, y: Tensor) -> Tensor:
        """Return the target (B, 1, H, W) in [-1, 1] of the conditions y (B, n, H, W)."""
        skips = [self.down[0](y)]
        for level in self.down[1:]:
            skips.append(level(F.leaky_relu(skips[-1], 0.2)))
        h = self.up[0](F.relu(skips.pop()))
        for k, level in enumerate(self.up[1:], start=1):
            h = level(F.relu(torch.cat([skips.pop(), h], dim=1)))
            h = self.drop(h) if k in self.dropped else h
        return h


class Pix2Pix(Adversarial):
    """U-Net and conditional PatchGAN: cross-entropy of the patches and L1 (100), BatchNorm of each image alone."""

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        self.generator = UNet(len(settings.conditions), settings)
        self.critic = patch_critic(settings, norm=("instance", {"affine": True}), bias=False)
        self._finish(generator, 2**settings.levels, 3 * 2**settings.critic_blocks)

    def distance(self, logits: Tensor, label: float | Tensor) -> Tensor:
        """Return the cross-entropy of the logits and a label."""
        return F.softplus(logits.float() * (1 - 2 * label)).mean()
