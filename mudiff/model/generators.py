"""The networks of MU-Diff: H, and the generators F1 and F2 made of it and of phi, rho and tau."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.model import layers
from mudiff.model.adapters import ContrastAdapter, FeatureMapper, TargetAdapter
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings


class EncoderLevel(nn.Module):
    """One resolution of the encoder: residual blocks, and the way down unless it is the last."""

    def __init__(self, inputs: int, outputs: int, settings: Settings, attention: bool, last: bool, p: int):
        super().__init__()
        widths = [inputs] + [outputs] * (settings.blocks - 1)
        self.blocks = nn.ModuleList(layers.ResidualBlock(width, outputs, settings.embedding) for width in widths)
        self.attention = nn.ModuleList(layers.SelfAttention(outputs) for _ in self.blocks) if attention else None
        self.down = None if last else layers.ResidualBlock(outputs, outputs, settings.embedding, "down")
        self.pyramid = None if last else layers.PyramidStep(p, outputs)

    def forward(self, h: Tensor, p: Tensor, time: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, list]:
        """Return the features, the pyramid image and this level's skips."""
        skips = []
        for k, block in enumerate(self.blocks):
            h = block(h, time, latent)
            if self.attention is not None:
                h = self.attention[k](h)
            skips.append(h)
        if self.down is not None:
            h = self.down(h, time, latent)
            p = h = (self.pyramid(p) + h) / math.sqrt(2)
            skips.append(h)
        return h, p, skips


class DecoderLevel(nn.Module):
    """One resolution of the decoder: residual blocks on [h, skip], and the way up unless it is the first."""

    def __init__(self, inputs: list[int], outputs: int, settings: Settings, attention: bool, up: bool):
        super().__init__()
        self.blocks = nn.ModuleList(layers.ResidualBlock(width, outputs, settings.embedding) for width in inputs)
        self.attention = layers.SelfAttention(outputs) if attention else None
        self.up = layers.ResidualBlock(outputs, outputs, settings.embedding, "up") if up else None

    def forward(self, h: Tensor, skips: list[Tensor], time: Tensor, latent: Tensor) -> Tensor:
        """Return the features of the next level; takes the skips that it uses off the list."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), time, latent)
        if self.attention is not None:
            h = self.attention(h)
        return h if self.up is None else self.up(h, time, latent)


class EncoderDecoder(nn.Module):
    """H (D-7, D-8): the U-Net of both generators, on features of `inputs` channels and a pyramid of `images`."""

    def __init__(self, inputs: int, settings: Settings, images: int = 1) -> None:
        super().__init__()
        widths = [settings.width * m for m in settings.multipliers]
        attention = [settings.image_size >> level == settings.attention_at for level in range(len(widths))]
        layers.check_size(settings, f"a network of {len(widths)} multipliers", 2 ** (len(widths) - 1))
        self.time = layers.TimeEmbedding(settings.width, settings.embedding, targets=settings.targets)
        self.latent = layers.LatentEmbedding(settings.latent, settings.embedding)
        self.encoder = nn.ModuleList()
        skips, channels, pyramid = [inputs], inputs, images
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            self.encoder.append(EncoderLevel(channels, width, settings, attention[level], last, pyramid))
            skips += [width] * (settings.blocks + (not last))
            channels = pyramid = width
        self.middle1 = layers.ResidualBlock(channels, channels, settings.embedding)
        self.middle_attention = layers.SelfAttention(channels)
        self.middle2 = layers.ResidualBlock(channels, channels, settings.embedding)
        self.decoder = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            inputs = [skips.pop() + (width if k else channels) for k in range(settings.blocks + 1)]
            self.decoder.append(DecoderLevel(inputs, width, settings, attention[level], up=level > 0))
            channels = width
        self.norm = nn.GroupNorm(layers.group_count(channels), channels, eps=1e-6)
        self.output = layers.conv3x3(channels, 1, scale=1e-10)

    def forward(self, f_c: Tensor, x_t: Tensor, t: Tensor, z: Tensor, scenario: Scenario | None = None) -> Tensor:
        """Return the prediction of x_0, (B, 1, H, W) in [-1, 1], from features f_c (B, inputs, H, W).

        The pyramid starts from x_t (B, images, H, W); steps t (B,) are 0 .. T-1, z (B, latent) is the latent vector.
        """
        time, latent = self.time(t, scenario), self.latent(z)
        h, p = layers.channels_last(f_c), layers.channels_last(x_t)
        skips = [h]
        for level in self.encoder:
            h, p, new = level(h, p, time, latent)
            skips += new
        h = self.middle2(self.middle_attention(self.middle1(h, time, latent)), time, latent)
        for level in self.decoder:
            h = level(h, skips, time, latent)
        return torch.tanh(self.output(F.silu(self.norm(h))))  # H_j(f_c^j, t, z), Eq. 19


class StructureNetwork(nn.Module):
    """F1: all images mapped and concatenated, then H."""

    def __init__(self, settings: Settings, n_conditions: int) -> None:
        super().__init__()
        self.mapper = FeatureMapper(settings, n_conditions)
        self.encoder_decoder = EncoderDecoder((1 + n_conditions) * settings.width, settings)

    def forward(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor, scenario: Scenario | None = None
    ) -> Tensor:
        """Return x^{p1}, (B, 1, H, W) in [-1, 1], from the noisy target x_t (B, 1, H, W) at steps t (B,), 0 .. T-1.

        `conditions` (B, n, H, W) are in [-1, 1] and in the order of the settings, z (B, latent) is standard normal.
        A run of target "any" takes a scenario; without one the equations are the paper's.
        """
        f_c = torch.cat(self.mapper(x_t, conditions, scenario=scenario), dim=1)  # f_c^1, Eq. 1
        return self.encoder_decoder(f_c, x_t, t, z, scenario)  # Eq. 2


class TextureNetwork(nn.Module):
    """F2: features adapted to x^{p1} by rho and to each other by tau, then H; without both a second F1."""

    def __init__(self, settings: Settings, n_conditions: int) -> None:
        super().__init__()
        self.target_adapter = TargetAdapter(settings) if settings.target_adaptation else None
        self.mapper = FeatureMapper(settings, n_conditions, styled=settings.target_adaptation)
        self.contrast_adapter = ContrastAdapter(settings, n_conditions) if settings.contrast_adaptation else None
        groups = self.contrast_adapter.outputs if settings.contrast_adaptation else n_conditions
        self.encoder_decoder = EncoderDecoder((1 + groups) * settings.width, settings)

    def forward(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor, x_p1: Tensor, scenario: Scenario | None = None
    ) -> Tensor:
        """Return x^{p2}, (B, 1, H, W) in [-1, 1]; arguments as for F1, and x^{p1} (B, 1, H, W)."""
        style = None if self.target_adapter is None else self.target_adapter(x_p1)
        f_x, *f_y = self.mapper(x_t, conditions, style, scenario)  # Eq. 3
        if self.contrast_adapter is not None:
            f_y = self.contrast_adapter(f_y)
        f_c = torch.cat([f_x, *f_y], dim=1)  # f_c^2, Eq. 18
        return self.encoder_decoder(f_c, x_t, t, z, scenario)  # Eq. 4
