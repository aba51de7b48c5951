"""MM-GAN (Sharma and Hamarneh 2020): all contrasts in, the missing one imputed, all contrasts out."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.methods.adversarial import Adversarial, SeededDropout
from mudiff.methods.base import Batch
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings


class UNet(nn.Module):
    """The generator: a U-Net like that of Pix2Pix, with another order of its layers and another end.

    Dropout from the fourth halving on and mirrored; the end repeats pixels and smooths with a 4x4 convolution.
    """

    def __init__(self, channels: int, settings: Settings) -> None:
        super().__init__()
        widths = [settings.width * min(2**k, 8) for k in range(settings.levels)]
        pairs = pairwise([channels, *widths])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in pairs)
        pairs = pairwise([widths[-1], *(2 * w for w in reversed(widths[:-1]))])
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b // 2, 4, 2, 1, bias=False) for a, b in pairs)
        self.last = nn.Conv2d(2 * widths[0], channels, 4, padding=1)
        self.drop = SeededDropout(settings.dropout)

    def forward(self, y: Tensor) -> Tensor:
        """Return all contrasts (B, C, H, W) in [-1, 1] of a stack y of the same shape, the missing ones imputed."""
        levels, skips, h = len(self.down), [], y
        for k, conv in enumerate(self.down):
            h = conv(h)
            h = F.leaky_relu(h if k in (0, levels - 1) else F.instance_norm(h), 0.2)
            skips.append(h := self.drop(h) if k > 2 else h)
        h = skips.pop()
        for k, conv in enumerate(self.up):
            h = F.relu(F.instance_norm(conv(h)))
            h = torch.cat([self.drop(h) if k < levels - 4 else h, skips.pop()], dim=1)
        h = F.pad(F.interpolate(h, scale_factor=2), (1, 0, 1, 0))  # makes up for the even kernel
        return torch.tanh(self.last(h))


class StackCritic(nn.Module):
    """Judges a stack of contrasts beside the true stack: one map of patches for each contrast."""

    def __init__(self, channels: int, settings: Settings) -> None:
        super().__init__()
        widths = [2 * channels] + [settings.critic_width * 2**k for k in range(settings.critic_blocks)]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], channels, 4, padding=1, bias=False)

    def forward(self, stack: Tensor, true: Tensor) -> Tensor:
        """Return logits (B, C, h, w) of the stack and the true stack, (B, C, H, W) each."""
        h = torch.cat([stack, true], dim=1)
        for k, conv in enumerate(self.down):
            h = F.leaky_relu(F.instance_norm(conv(h)) if k else conv(h), 0.2)
        return self.last(F.pad(h, (1, 0, 1, 0)))


class MMGAN(Adversarial):
    """One stack of all contrasts, of which the missing ones are made: the target alone, or those of a scenario.

    Implicit conditioning: missing contrasts are imputed black (-1), the given ones replace their own outputs, L1
    counts the missing ones alone, and the critic's labels of a generated stack are 0 there only. Tanh and the common
    normalisation replace ReLU and division by the mean; one of the released scripts cuts the adversarial gradient.
    With target "any" scenarios are drawn per slice; their curriculum is that of `training.loop.make_batch`.
    """

    turns = ("generator", "critic")

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        channels = settings.targets or len(settings.conditions) + 1
        self.generator, self.critic = UNet(channels, settings), StackCritic(channels, settings)
        self._finish(generator, 2**settings.levels, 2 ** (settings.critic_blocks + 1))

    def _stack(self, conditions: Tensor, scenario: Scenario | None, target: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return all contrasts, the target first where there is no scenario, and which are missing, (B, C, 1, 1)."""
        if scenario is not None:
            return conditions, scenario.missing()
        missing = torch.arange(1 + conditions.shape[1], device=conditions.device) == 0
        stack = F.pad(conditions, (0, 0, 0, 0, 1, 0))  # (B, 1+n, H, W)
        stack[:, :1] = target
        return stack, missing.expand(len(stack), -1)[:, :, None, None]

    def generate(self, conditions: Tensor, scenario: Scenario | None) -> Tensor:
        """Return all contrasts, (B, C, H, W): the given ones as they are, the missing ones as they were made."""
        stack, missing = self._stack(conditions, scenario, -1.0)
        return torch.where(missing, self.generator(stack.masked_fill(missing, -1.0)), stack)

    def judge(self, batch: Batch, image: Tensor) -> Tensor:
        """Return logits (B, C, h, w) of a stack beside the true one."""
        return self.critic(image, self._stack(batch.conditions, batch.scenario, batch.target)[0])

    def critic_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return half the squared distances of the true stack from 1 and of the other from its labels."""
        true, missing = self._stack(batch.conditions, batch.scenario, batch.target)
        real, fake = self.judge(batch, true), self.judge(batch, fake)
        return {"critic": (self.distance(real, 1) + self.distance(fake, (~missing).float())) / 2}

    def generator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms that the generator minimises: adversarial, and L1 of the missing contrasts."""
        terms = super().generator_losses(batch, fake)
        if batch.scenario is not None:  # other channels than the first
            error = (fake.float() - batch.conditions).abs()[~batch.scenario.given]  # (missing, H, W)
            terms["supervised"] = self.settings.weight_supervised * error.mean()
        return terms
