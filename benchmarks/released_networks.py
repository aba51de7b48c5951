"""The networks of `benchmarks.released_like`: F1, F2 and the critic, written plainly from facts.

Modules are named as in `mudiff`, so that weights go from one to the other.
"""

# Each class says what its only public method, `forward`, does.
# ruff: noqa: D102

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.released_layers import (
    EPS,
    Attention,
    EmbedLatent,
    EmbedTime,
    Pyramid,
    Residual,
    Style,
    double,
    groups,
    halve,
)
from mudiff.settings import Settings


class Level(nn.Module):
    """The modules of one resolution; `H` calls them."""


class H(nn.Module):
    """The U-Net."""

    def __init__(self, inputs: int, s: Settings) -> None:
        super().__init__()
        widths = [s.width * m for m in s.multipliers]
        attends = [s.image_size >> k == s.attention_at for k in range(len(widths))]
        self.time, self.latent = EmbedTime(s.width, s.embedding), EmbedLatent(s.latent, s.embedding)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        skips, channels, pyramid = [inputs], inputs, 1
        for k, width in enumerate(widths):
            level, last = Level(), k == len(widths) - 1
            level.blocks = nn.ModuleList(
                Residual(channels if b == 0 else width, width, s.embedding) for b in range(s.blocks)
            )
            level.attention = nn.ModuleList(Attention(width) for _ in level.blocks) if attends[k] else None
            level.down = None if last else Residual(width, width, s.embedding, halve)
            level.pyramid = None if last else Pyramid(pyramid, width)
            skips += [width] * (s.blocks + (not last))
            channels = pyramid = width
            self.encoder.append(level)
        self.middle1 = Residual(channels, channels, s.embedding)
        self.middle_attention = Attention(channels)
        self.middle2 = Residual(channels, channels, s.embedding)
        for k, width in reversed(list(enumerate(widths))):
            level = Level()
            level.blocks = nn.ModuleList()
            for _ in range(s.blocks + 1):
                level.blocks.append(Residual(channels + skips.pop(), width, s.embedding))
                channels = width
            level.attention = Attention(width) if attends[k] else None
            level.up = Residual(width, width, s.embedding, double) if k else None
            self.decoder.append(level)
        self.norm = nn.GroupNorm(groups(channels), channels, eps=EPS)
        self.output = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, h: Tensor, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        time, latent = self.time(t), self.latent(z)
        skips, p = [h], x_t
        for level in self.encoder:
            for k, block in enumerate(level.blocks):
                h = block(h, time, latent)
                h = h if level.attention is None else level.attention[k](h)
                skips.append(h)
            if level.down is not None:
                h = level.down(h, time, latent)
                p = h = (level.pyramid(p) + h) / math.sqrt(2.0)
                skips.append(h)
        h = self.middle2(self.middle_attention(self.middle1(h, time, latent)), time, latent)
        for level in self.decoder:
            for block in level.blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), time, latent)
            h = h if level.attention is None else level.attention(h)
            h = h if level.up is None else level.up(h, time, latent)
        return torch.tanh(self.output(F.silu(self.norm(h))))


class Mapper(nn.Module):
    """R_i: one image to features, modulated by rho's vector where it is styled."""

    def __init__(self, s: Settings, styled: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, s.width, 3, padding=1)
        self.norm = nn.GroupNorm(groups(s.width), s.width, eps=EPS, affine=False)
        self.modulation = Style(s.width, s.embedding) if styled else None
        self.conv2 = nn.Conv2d(s.width, s.width, 3, padding=1)

    def forward(self, y: Tensor, vector: Tensor | None = None) -> Tensor:
        h = self.norm(self.conv1(y))
        if self.modulation is not None:
            h = self.modulation(h, vector)
        return self.conv2(F.silu(h))


class Phi(nn.Module):
    """The mapper blocks of one network."""

    def __init__(self, s: Settings, n: int, styled: bool = False) -> None:
        super().__init__()
        self.noisy = Mapper(s)
        self.conditions = nn.ModuleList(Mapper(s, styled) for _ in range(n))

    def forward(self, conditions: Tensor, vector: Tensor | None = None) -> list[Tensor]:
        return [m(conditions[:, i : i + 1], vector) for i, m in enumerate(self.conditions)]


class Rho(nn.Module):
    """The style vector of x^{p1}."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.block = Mapper(s)
        self.linear = nn.Linear(s.width, s.embedding)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.adaptive_avg_pool2d(self.block(x), 1).flatten(1))


class Tau(nn.Module):
    """The leak gates, one convolution each."""

    def __init__(self, s: Settings, n: int) -> None:
        super().__init__()
        self.pairs = [(i, (i + 1) % n) for i in range(n if n > 2 else n - 1)]

        def convolutions(inputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(inputs, s.width, 3, padding=1) for _ in self.pairs)

        self.gate_a, self.gate_b = convolutions(n * s.width), convolutions(n * s.width)
        self.extract = convolutions(s.width)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        fused = []
        for k, (i, j) in enumerate(self.pairs):
            a = torch.sigmoid(self.gate_a[k](torch.cat(features, dim=1)))
            b = torch.sigmoid(self.gate_b[k](torch.cat(features, dim=1)))
            fused.append(b * self.extract[k](a * features[i]) + (1 - b) * features[j])
        return fused or features


class F1(nn.Module):
    """The structure network."""

    def __init__(self, s: Settings, n: int) -> None:
        super().__init__()
        self.mapper = Phi(s, n)
        self.encoder_decoder = H((1 + n) * s.width, s)

    def forward(self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor) -> Tensor:
        features = [self.mapper.noisy(x_t), *self.mapper(conditions)]
        return self.encoder_decoder(torch.cat(features, dim=1), x_t, t, z)


class F2(nn.Module):
    """The texture network."""

    def __init__(self, s: Settings, n: int) -> None:
        super().__init__()
        self.target_adapter, self.mapper = Rho(s), Phi(s, n, styled=True)
        self.contrast_adapter = Tau(s, n)
        self.encoder_decoder = H((1 + max(1, len(self.contrast_adapter.pairs))) * s.width, s)

    def forward(self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor, x_p1: Tensor) -> Tensor:
        adapted = self.contrast_adapter(self.mapper(conditions, self.target_adapter(x_p1)))
        return self.encoder_decoder(torch.cat([self.mapper.noisy(x_t), *adapted], dim=1), x_t, t, z)


class CriticBlock(nn.Module):
    """Residual block of the critic."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, 0.2))
        h = F.leaky_relu(h + self.time(time)[:, :, None, None], 0.2)
        return (self.conv2(halve(h)) + self.shortcut(halve(x))) / math.sqrt(2.0)


class Psi(nn.Module):
    """The critic."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        widths = [s.critic_width * m for m in [2, 4] + [8] * (s.critic_blocks - 1)][: s.critic_blocks + 1]
        self.middle = math.ceil(s.critic_blocks / 2)
        self.time = EmbedTime(s.embedding, s.embedding, leaky=True)
        self.input = nn.Conv2d(2, widths[0], 1)
        self.blocks = nn.ModuleList(CriticBlock(a, b, s.embedding) for a, b in itertools.pairwise(widths))
        self.final = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.output = nn.Linear(widths[-1], 1)
        self.middle_width = widths[self.middle]

    def forward(self, x: Tensor, t: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        time, h = self.time(t), self.input(torch.cat([x, x_t], dim=1))
        for k, block in enumerate(self.blocks, start=1):
            h = block(h, time)
            if k == self.middle:
                middle = h
        b, c, height, width = h.shape
        group = min(b, 4)
        spread = h.view(group, -1, 1, c, height, width)
        spread = torch.sqrt(spread.var(0, unbiased=False) + 1e-8).mean([2, 3, 4], keepdim=True).squeeze(2)
        h = torch.cat([h, spread.repeat(group, 1, height, width)], dim=1)
        h = F.leaky_relu(self.final(h), 0.2).view(b, -1, height * width).sum(2)
        return self.output(h).squeeze(1), middle
