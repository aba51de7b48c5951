"""The layers of `benchmarks.released_networks`, written plainly from facts."""

# Each class says what its only public method, `forward`, does.
# ruff: noqa: D102

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6


def upfirdn(x: Tensor, gain: float, up: int, down: int, before: int, after: int) -> Tensor:
    """Upsample by zeros, pad, filter and take every `down`-th pixel: (B, C, H, W) -> (B, C, H', W')."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device)
    kernel = torch.outer(taps, taps) * (gain / taps.sum() ** 2)
    b, c, h, w = x.shape
    x = x.reshape(b * c, 1, h, 1, w, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).view(b * c, 1, h * up, w * up)
    x = F.pad(x, (before, after, before, after))
    x = F.conv2d(x, kernel.flip(0, 1)[None, None])[:, :, ::down, ::down]
    return x.reshape(b, c, x.shape[2], x.shape[3])


def halve(x: Tensor) -> Tensor:
    """Filter and halve the size."""
    return upfirdn(x, 1.0, 1, 2, 1, 1)


def double(x: Tensor) -> Tensor:
    """Double the size and filter."""
    return upfirdn(x, 4.0, 2, 1, 2, 1)


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Return sines and cosines of t, (B, width)."""
    rates = torch.exp(torch.arange(width // 2, device=t.device) * (-math.log(10000.0) / (width // 2 - 1)))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def groups(channels: int) -> int:
    """Return the number of groups of a normalisation."""
    return max(1, min(channels // 4, 32))


class Style(nn.Module):
    """Gamma and beta from a vector; the name `modulation.linear` is that of the weights."""

    def __init__(self, channels: int, vector: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vector, 2 * channels)

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        gamma, beta = self.linear(vector)[:, :, None, None].chunk(2, dim=1)
        return gamma * h + beta


class AdaGN(nn.Module):
    """Group normalisation without affine weights, then gamma and beta from the latent embedding."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups(channels), channels, eps=EPS, affine=False)
        self.modulation = Style(channels, embedding)

    def forward(self, h: Tensor, latent: Tensor) -> Tensor:
        return self.modulation(self.norm(h), latent)


class Residual(nn.Module):
    """Residual block of H."""

    def __init__(self, inputs: int, outputs: int, embedding: int, resample=None) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = AdaGN(inputs, embedding)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, outputs)
        self.norm2 = AdaGN(outputs, embedding)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs or resample else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, latent: Tensor) -> Tensor:
        h = F.silu(self.norm1(x, latent))
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        h = h + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h, latent)))
        return (self.shortcut(x) + h) / math.sqrt(2.0)


class Attention(nn.Module):
    """One head over all pixels, with the whole matrix of weights (HW, HW) in memory."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups(channels), channels, eps=EPS)
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))

    def _pixelwise(self, layer: nn.Linear, x: Tensor) -> Tensor:
        y = torch.einsum("bhwi,io->bhwo", x.permute(0, 2, 3, 1), layer.weight.t()) + layer.bias
        return y.permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = self.norm(x)
        q, k, v = (self._pixelwise(layer, h) for layer in (self.query, self.key, self.value))
        w = torch.einsum("bchw,bcij->bhwij", q, k) * c**-0.5
        w = F.softmax(w.reshape(b, height, width, height * width), dim=-1)
        h = torch.einsum("bhwij,bcij->bchw", w.reshape(b, height, width, height, width), v)
        return (x + self._pixelwise(self.output, h)) / math.sqrt(2.0)


class Pyramid(nn.Module):
    """Blur, halve by a strided convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2)

    def forward(self, p: Tensor) -> Tensor:
        return self.conv(upfirdn(p, 1.0, 1, 1, 2, 2))


class EmbedTime(nn.Module):
    """Time embedding of the generators, and with `leaky` of the critic."""

    def __init__(self, width: int, embedding: int, leaky: bool = False) -> None:
        super().__init__()
        self.width, self.leaky = width, leaky
        self.linear1 = nn.Linear(width, embedding)
        self.linear2 = nn.Linear(embedding, embedding)

    def forward(self, t: Tensor) -> Tensor:
        h = self.linear1(sinusoid(t, self.width))
        if self.leaky:
            return F.leaky_relu(self.linear2(F.leaky_relu(h, 0.2)), 0.2)
        return self.linear2(F.silu(h))


class EmbedLatent(nn.Module):
    """The mapping of z."""

    def __init__(self, latent: int, embedding: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(latent if k == 0 else embedding, embedding) for k in range(4))

    def forward(self, z: Tensor) -> Tensor:
        z = z / torch.sqrt(torch.mean(z**2, dim=1, keepdim=True) + 1e-8)
        for linear in self.linears:
            z = F.silu(linear(z))
        return z
