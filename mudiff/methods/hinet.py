"""Hi-Net (Zhou et al. 2020): an auto-encoder for each contrast, fused at three scales."""

from itertools import chain, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.methods.adversarial import Adversarial
from mudiff.methods.base import Batch
from mudiff.settings import Settings

DOWN, UP = 0.2, 0.0  # slopes of the activations: leaky on the way down, ReLU on the way up


def _chain(*widths: int, slope: float) -> nn.Sequential:
    """Return 3x3 convolutions, each with BatchNorm and an activation."""
    layers = ((nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.LeakyReLU(slope)) for a, b in pairwise(widths))
    return nn.Sequential(*chain.from_iterable(layers))


class Encoder(nn.Module):
    """Of one contrast: three stages of two convolutions, each followed by a halving."""

    def __init__(self, w: int) -> None:
        super().__init__()
        stages = ((1, w, w), (w, 2 * w, 2 * w), (2 * w, 4 * w, 4 * w))
        self.stages = nn.ModuleList(_chain(*widths, slope=DOWN) for widths in stages)

    def forward(self, h: Tensor) -> list[Tensor]:
        """Return the halved features of each stage, of an image (B, 1, H, W)."""
        return [h := F.max_pool2d(stage(h), 2) for stage in self.stages]


class Decoder(nn.Module):
    """Of one contrast: back to its own image, without skips."""

    def __init__(self, w: int) -> None:
        super().__init__()
        stages = ((4 * w, 4 * w), (4 * w, 4 * w, 2 * w), (2 * w, 2 * w, w), (w, w))
        self.stages = nn.ModuleList(_chain(*widths, slope=UP) for widths in stages)
        self.last = nn.Conv2d(w, 1, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Return the contrast (B, 1, H, W) in [-1, 1]."""
        for k, stage in enumerate(self.stages):
            h = stage(F.interpolate(h, scale_factor=2) if k else h)
        return torch.tanh(self.last(h))


class MixedFusion(nn.Module):
    """The mixed fusion block: sum, product and maximum of the contrasts, and the fusion so far."""

    def __init__(self, inputs: int, outputs: int, slope: float, first: bool = False) -> None:
        super().__init__()
        self.mix = _chain(3 * inputs, inputs, slope=slope)
        self.merge = _chain(inputs * (1 if first else 2), outputs, slope=slope)

    def forward(self, features: Tensor, before: Tensor | None = None) -> Tensor:
        """Return (B, outputs, H, W) from the contrasts' features (n, B, C, H, W) and the fusion so far."""
        h = self.mix(torch.cat([features.sum(dim=0), features.prod(dim=0), features.amax(dim=0)], dim=1))
        return self.merge(h if before is None else torch.cat([before, h], dim=1))


class FusionNetwork(nn.Module):
    """The generator: encoders and decoders of the contrasts, the fusion between, the synthesis after it."""

    def __init__(self, n_conditions: int, settings: Settings) -> None:
        super().__init__()
        w = settings.width
        self.encoders = nn.ModuleList(Encoder(w) for _ in range(n_conditions))
        self.decoders = nn.ModuleList(Decoder(w) for _ in range(n_conditions))
        down, up = ((w, 2 * w), (2 * w, 4 * w), (4 * w, 4 * w)), ((4 * w, 2 * w), (2 * w, w), (w, w))
        self.down = nn.ModuleList(MixedFusion(*widths, DOWN, first=widths[0] == w) for widths in down)
        self.bottleneck = _chain(4 * w, 8 * w, slope=DOWN)
        self.widen = _chain(8 * w, 4 * w, slope=UP)
        self.up = nn.ModuleList(MixedFusion(*widths, UP) for widths in up)
        self.end = _chain(w, w, slope=UP)
        self.last = nn.Conv2d(w, 1, 3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        """Return the target and each condition's reconstruction, (B, 1+n, H, W) in [-1, 1]."""
        encoded = [encoder(y[:, i : i + 1]) for i, encoder in enumerate(self.encoders)]
        scales = [torch.stack(features) for features in zip(*encoded, strict=True)]  # (n, B, C, h, w) each
        h = self.down[0](scales[0])
        for fusion, features in zip(self.down[1:], scales[1:], strict=True):
            h = fusion(features, F.max_pool2d(h, 2))
        h = self.widen(self.bottleneck(h))
        for fusion, features in zip(self.up, reversed(scales), strict=True):
            h = F.interpolate(fusion(features, h), scale_factor=2)
        own = [decoder(features[-1]) for decoder, features in zip(self.decoders, encoded, strict=True)]
        return torch.cat([torch.tanh(self.last(self.end(h))), *own], dim=1)


class ImageCritic(nn.Module):
    """Judges the target alone, without the conditions: `critic_blocks` halvings and a map of patches."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        widths = [1] + [settings.critic_width * 2**k for k in range(settings.critic_blocks)]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[2:])
        self.last = nn.Conv2d(widths[-1], 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1, h, w) of x (B, 1, H, W)."""
        for conv, norm in zip(self.down, (nn.Identity(), *self.norms), strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        return self.last(x)


class HiNet(Adversarial):
    """Fusion network and unconditional critic: least squares, L1 (100), reconstructions (20).

    Whole slices in place of four corners of 128 pixels; BatchNorm's epsilon is torch's (the released critic's: 0.8).
    """

    turns = ("generator", "critic")

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        self.generator = FusionNetwork(len(settings.conditions), settings)
        self.critic = ImageCritic(settings)
        self._finish(generator, 8, 2 ** (settings.critic_blocks + 1) + 1)

    def judge(self, batch: Batch, image: Tensor) -> Tensor:
        """Return logits (B, 1, h, w) of the target."""
        return self.critic(image[:, :1])

    def generator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return the adversarial term, L1 of the target, and L1 summed over the reconstructions."""
        weight = self.settings.weight_reconstruction * batch.conditions.shape[1]
        reconstruction = weight * F.l1_loss(fake[:, 1:].float(), batch.conditions)
        return super().generator_losses(batch, fake) | {"reconstruction": reconstruction}
