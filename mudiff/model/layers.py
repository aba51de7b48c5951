"""The building blocks of F1, F2 and the critic (section "Model architecture")."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings


def _fir_kernel(x: Tensor) -> Tensor:
    """Return the low-pass filter of all resampling (A-10) for the channels of x, (C, 1, 4, 4)."""
    taps = x.new_ones(4)  # 1, 3, 3, 1, made where x is: a copy from the CPU would wait for the GPU
    taps[1:3] = 3
    return (torch.outer(taps, taps) / 64).expand(x.shape[1], 1, 4, 4)


class _Resample(torch.autograd.Function):
    """Halving or doubling, each the other's adjoint times four (transposed convolutions cost 14 % in bfloat16)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: bool) -> Tensor:
        ctx.up = up
        if not up:
            return F.conv2d(x, _fir_kernel(x), stride=2, padding=1, groups=x.shape[1])
        y = F.interpolate(x, scale_factor=2, mode="bilinear")  # the filter, but for the borders:
        for border in (y[..., :1, :], y[..., -1:, :], y[..., :1], y[..., -1:]):
            border.mul_(0.75)  # outside it sees zeros, where interpolation repeats the last pixel
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Resample.apply(gradient, not ctx.up) * (4 if ctx.up else 0.25), None


def fir_down(x: Tensor) -> Tensor:
    """Low-pass filter and halve the size: (B, C, H, W) -> (B, C, H/2, W/2)."""
    return _Resample.apply(x, False)


def fir_up(x: Tensor) -> Tensor:
    """Double the size and low-pass filter: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return _Resample.apply(x, True)


def channels_last(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) in the memory format in which the CPU's convolutions are fastest."""
    return x.to(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def check_size(settings: Settings, what: str, factor: int, least: int = 1) -> None:
    """Refuse an image size that is no multiple of `factor` or lies below `least`."""
    size, least = settings.image_size, factor * math.ceil(least / factor)
    if size % factor or size < least:
        raise MudiffError(f"setting image_size = {size}: {what} takes multiples of {factor}, from {least} pixels up.")


def group_count(channels: int) -> int:
    """Return the number of groups for normalisation: four channels each, 32 groups at most."""
    groups = max(1, min(channels // 4, 32))
    if channels % groups:
        raise MudiffError(
            f"{channels} feature maps do not split into {groups} equal groups; "
            "choose setting width as 4, 8, 12, 16, 32 or a multiple of 32."
        )
    return groups


def conv3x3(inputs: int, outputs: int, scale: float = 1.0, **options) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size; `scale` is that of `initialise`."""
    layer = nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **options})
    layer.init_scale = scale
    return layer


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights of a network on the CPU anew, as the released code does (D-12).

    Uniform with variance ``scale / fan``, biases zero, those of gamma one. A layer's ``init_scale`` (1e-10: a
    residual block starts as its shortcut) and ``init_fan`` ("average", "out", "default": PyTorch's) say which.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rule, pixels = getattr(layer, "init_fan", "average"), layer.weight[0, 0].numel()
            fan_out, fan_in = (n * pixels for n in layer.weight.shape[:2])
            fan = {"average": (fan_in + fan_out) / 2, "out": fan_out, "default": 3 * fan_in}[rule]
            bound = math.sqrt(3 * getattr(layer, "init_scale", 1.0) / fan)
            nn.init.uniform_(layer.weight, -bound, bound, generator)
            if layer.bias is not None:
                bias = bound if rule == "default" else 0.0
                nn.init.uniform_(layer.bias, -bias, bias, generator)
    for layer in module.modules():
        if isinstance(layer, Modulation):
            nn.init.ones_(layer.linear.bias[: layer.linear.out_features // 2])
        for name in ("missing", "target"):  # learned vectors of X-1, as large as what they stand beside
            if isinstance(vectors := getattr(layer, name, None), nn.Parameter):
                nn.init.uniform_(vectors, -1, 1, generator)


class Modulation(nn.Module):
    """Scale and shift of features with C channels, computed from a vector of length `vector`."""

    def __init__(self, channels: int, vector: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vector, 2 * channels)
        self.linear.init_fan = "out"

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        """Return the modulated features, (B, C, H, W) as `h`."""
        gamma, beta = self.linear(vector)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each, Eq. 12
        return torch.addcmul(beta, gamma, h)  # gamma * h + beta, Eq. 13


class AdaptiveGroupNorm(nn.Module):
    """AdaGN: group normalisation modulated by the latent embedding (section "Model architecture")."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.groups = group_count(channels)
        self.modulation = Modulation(channels, embedding)

    def forward(self, h: Tensor, latent: Tensor) -> Tensor:
        """Return features (B, C, H, W) normalised per group, then modulated by `latent` (B, embedding)."""
        return self.modulation(F.group_norm(h, self.groups, eps=1e-6), latent)


class ResidualBlock(nn.Module):
    """Two convolutions with AdaGN, time bias and rescaled skip; `resample` ("down", "up"): FIR on both branches."""

    def __init__(self, inputs: int, outputs: int, embedding: int, resample: str | None = None) -> None:
        super().__init__()
        self.resample = {None: nn.Identity(), "down": fir_down, "up": fir_up}[resample]
        self.norm1 = AdaptiveGroupNorm(inputs, embedding)
        self.conv1 = conv3x3(inputs, outputs)
        self.time = nn.Linear(embedding, outputs)
        self.norm2 = AdaptiveGroupNorm(outputs, embedding)
        self.conv2 = conv3x3(outputs, outputs, scale=1e-10)
        same = inputs == outputs and resample is None
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor, latent: Tensor) -> Tensor:
        """Return (B, outputs, H', W') from x (B, inputs, H, W) and both embeddings (B, embedding)."""
        h, x = self.resample(F.silu(self.norm1(x, latent))), self.resample(x)
        h = self.conv1(h) + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h, latent)))
        return (h + self.shortcut(x)) / math.sqrt(2)


class SelfAttention(nn.Module):
    """Self-attention over all pixels, one head, with rescaled skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(group_count(channels), channels, eps=1e-6)
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))
        self.query.init_scale = self.key.init_scale = self.value.init_scale = 0.1
        self.output.init_scale = 1e-10

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of x, (B, C, H, W)."""
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        # One head, an axis of its own: the kernels that never hold the HW x HW matrix ask for it.
        q, k, v = (layer(h)[:, None] for layer in (self.query, self.key, self.value))  # (B, 1, HW, C)
        h = self.output(F.scaled_dot_product_attention(q, k, v)[:, 0]).transpose(1, 2).view_as(x)
        return (x + h) / math.sqrt(2)


class PyramidStep(nn.Module):
    """One step of the encoder's input pyramid: blur, halve, project (D-8)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv3x3(inputs, outputs, stride=2, padding=0)

    def forward(self, p: Tensor) -> Tensor:
        """Return (B, outputs, H/2, W/2) from p (B, inputs, H, W)."""
        return self.conv(F.conv2d(p, _fir_kernel(p), padding=2, groups=p.shape[1]))


class TimeEmbedding(nn.Module):
    """`width` sines and cosines of t, wavelengths up to 10000, then two linear layers and an activation between.

    Where there are several `targets`, a learned vector of each is added (X-1).
    """

    def __init__(
        self, width: int, embedding: int, activation: Callable[[Tensor], Tensor] = F.silu, targets: int = 0
    ) -> None:
        super().__init__()
        self.target = nn.Parameter(torch.zeros(targets, embedding)) if targets else None
        self.width, self.activation = width, activation
        self.linear1 = nn.Linear(width, embedding)
        self.linear2 = nn.Linear(embedding, embedding)

    def forward(self, t: Tensor, scenario: Scenario | None = None) -> Tensor:
        """Return (B, embedding) from integer steps t (B,) and the scenario's targets."""
        half = self.width // 2
        rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / max(half - 1, 1)))
        angles = t.float()[:, None] * rates  # (B, half)
        h = self.linear2(self.activation(self.linear1(torch.cat([angles.sin(), angles.cos()], dim=1))))
        return h if self.target is None else h + self.target[scenario.target]


class LatentEmbedding(nn.Module):
    """The mapping network of the latent vector z: length normalisation, then four linear layers."""

    def __init__(self, latent: int, embedding: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(latent if k == 0 else embedding, embedding) for k in range(4))
        for linear in self.linears:
            linear.init_fan = "out"

    def forward(self, z: Tensor) -> Tensor:
        """Return (B, embedding) from z (B, latent), standard normal."""
        w = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for linear in self.linears:
            w = F.silu(linear(w))
        return w
