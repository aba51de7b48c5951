"""MM-GAN (Sharma and Hamarneh 2020): all contrasts in, the missing one imputed, all contrasts out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.methods.adversarial import (
    Adversarial,
    Drop,
    check_multiple,
    distance,
    leaky,
    least_squares,
)
from mudiff.methods.base import Batch
from mudiff.settings import Settings


class UNet(nn.Module):
    """The generator: a U-Net like that of Pix2Pix, with another order of its layers and another end.

    Instance normalisation but at the first and the innermost level; dropout from the fourth halving on and
    mirrored; the end doubles by repeating pixels and smooths with a 4x4 convolution.
    """

    def __init__(self, channels: int, settings: Settings) -> None:
        super().__init__()
        levels = settings.levels
        check_multiple(settings, 2**levels, 2**levels, f"the U-Net of {levels} levels (setting levels)")
        widths = [settings.width * min(2**k, 8) for k in range(levels)]
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in zip([channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(widths[k] * (1 if k == levels - 1 else 2), widths[k - 1], 4, 2, 1, bias=False)
            for k in reversed(range(1, levels))
        )
        self.last = nn.Conv2d(2 * widths[0], channels, 4, padding=1)

    def forward(self, stack: Tensor, drop: Drop) -> Tensor:
        """Return all contrasts (B, n+1, H, W) in [-1, 1] of the imputed stack (B, n+1, H, W)."""
        levels = len(self.down)
        skips: list[Tensor] = []
        h = stack
        for k, conv in enumerate(self.down):
            h = conv(h)
            h = leaky(h if k in (0, levels - 1) else F.instance_norm(h))
            h = drop(h) if k > 2 else h
            skips.append(h)
        h = skips.pop()
        for k, conv in enumerate(self.up):
            h = F.relu(F.instance_norm(conv(h)))
            h = drop(h) if k < levels - 4 else h
            h = torch.cat([h, skips.pop()], dim=1)
        h = F.pad(
            F.interpolate(h, scale_factor=2), (1, 0, 1, 0)
        )  # one row and column make up for the even kernel
        return torch.tanh(self.last(h))


class StackCritic(nn.Module):
    """Judges a stack of contrasts beside the true stack: one map of patches for each contrast."""

    def __init__(self, channels: int, settings: Settings) -> None:
        super().__init__()
        halvings = settings.critic_blocks
        check_multiple(settings, 1, 2 ** (halvings + 1), f"a critic of {halvings} halvings")
        widths = [settings.critic_width * 2**k for k in range(halvings)]
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2, 1) for a, b in zip([2 * channels, *widths], widths, strict=False)
        )
        self.last = nn.Conv2d(widths[-1], channels, 4, padding=1, bias=False)

    def forward(self, stack: Tensor, true: Tensor) -> Tensor:
        """Return logits (B, n+1, h, w) of the stack and the true stack, (B, n+1, H, W) each."""
        h = torch.cat([stack, true], dim=1)
        for k, conv in enumerate(self.down):
            h = conv(h)
            h = leaky(F.instance_norm(h) if k else h)
        return self.last(F.pad(h, (1, 0, 1, 0)))


class MMGAN(Adversarial):
    """One stack of all contrasts, target first, with a fixed scenario: the target is the missing one.

    Implicit conditioning: the missing contrast is imputed black (-1, which is the zero of the text), the
    given ones replace their own outputs, L1 counts the missing one alone, and the critic's label of a
    generated stack is 0 in the missing contrast only. With one scenario the curriculum is void. Output tanh and
    the common normalisation take the place of ReLU and division by the mean.
    """

    critic_first = False

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        channels = len(settings.conditions) + 1
        self.generator = UNet(channels, settings)
        self.critic = StackCritic(channels, settings)
        self._finish(generator)

    def generate(self, conditions: Tensor, drop: Drop) -> Tensor:
        """Return the stack (B, n+1, H, W): the generated target, then the given conditions."""
        missing = torch.full_like(conditions[:, :1], -1.0)
        made = self.generator(torch.cat([missing, conditions], dim=1), drop)
        return torch.cat([made[:, :1], conditions], dim=1)

    def _judge(self, batch: Batch, stack: Tensor) -> Tensor:
        return self.critic(stack, torch.cat([batch.target, batch.conditions], dim=1))

    def critic_losses(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        """Return half the squared distance of the true stack from 1 and of the other from its labels."""
        true, false = (
            self._judge(batch, torch.cat([batch.target, batch.conditions], dim=1)),
            self._judge(batch, made),
        )
        labels = torch.ones_like(false)
        labels[:, 0] = 0.0  # the missing contrast
        return {"critic": (least_squares(true, 1) + least_squares(false, labels)) / 2}

    def generator_losses(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        """Return the squared distance of all maps from 1, and L1 of the target.

        The adversarial gradient reaches the generator; one of the released scripts cuts it.
        """
        settings = self.settings
        return {
            "adversarial": settings.weight_adversarial * least_squares(self._judge(batch, made), 1),
            "supervised": settings.weight_supervised * distance(made[:, :1], batch.target),
        }
