"""The networks of MU-Diff: phi, rho, tau and H, the generators F1 and F2 made of them, and the critic psi."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.layers import (
    LatentEmbedding,
    Modulation,
    PyramidStep,
    ResidualBlock,
    SelfAttention,
    TimeEmbedding,
    channels_last,
    conv3x3,
    group_count,
)
from mudiff.settings import Settings


class MapperBlock(nn.Module):
    """R_i of the feature mappers: one image to `width` feature maps (Eqs. 9, 11 and 13).

    Parameters
    ----------
    settings : Settings
        Widths, and the readings of register D-5.
    styled : bool
        Whether rho's vector modulates the normalised features (phi of F2).
    """

    def __init__(self, settings: Settings, styled: bool = False) -> None:
        super().__init__()
        self.groups = group_count(settings.width)
        self.normalise_input = settings.mapper_normalises == "input"
        self.skip = settings.mapper_skip
        self.activation = F.silu if settings.mapper_activation == "silu" else F.relu
        self.conv1 = conv3x3(1, settings.width)
        self.conv2 = conv3x3(settings.width, settings.width)
        self.modulation = Modulation(settings.width, settings.embedding) if styled else None

    def content(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the part that depends on the image alone: normalised features and the skip."""
        y = channels_last(y)
        if self.normalise_input:
            h = self.conv1(F.group_norm(y, 1, eps=1e-6))
            return h, h
        h = self.conv1(y)  # (B, width, H, W)
        return F.group_norm(h, self.groups, eps=1e-6), h

    def style(self, content: tuple[Tensor, Tensor], vector: Tensor | None = None) -> Tensor:
        """Return the block's features from its `content`, modulated by rho's vector (Eq. 13)."""
        h, skip = content
        if self.modulation is not None:
            h = self.modulation(h, vector)
        h = self.conv2(self.activation(h))
        return h + skip if self.skip else h

    def forward(self, y: Tensor, vector: Tensor | None = None) -> Tensor:
        """Return features (B, width, H, W) of the image y (B, 1, H, W)."""
        return self.style(self.content(y), vector)


class FeatureMapper(nn.Module):
    """Phi: a separate block R_0 for x_t and R_i for each condition (Eq. 9; Eq. 11 where `styled`)."""

    def __init__(self, settings: Settings, n_conditions: int, styled: bool = False) -> None:
        super().__init__()
        self.noisy = MapperBlock(settings)
        self.conditions = nn.ModuleList(MapperBlock(settings, styled) for _ in range(n_conditions))

    def content(self, conditions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what depends on the conditions (B, n, H, W) alone: the same for all T steps."""
        return [block.content(conditions[:, i : i + 1]) for i, block in enumerate(self.conditions)]

    def style(self, content: list[tuple[Tensor, Tensor]], vector: Tensor | None = None) -> list[Tensor]:
        """Return f_{y_i}, i = 1 .. n, each (B, width, H, W)."""
        return [block.style(part, vector) for block, part in zip(self.conditions, content, strict=True)]


class TargetAdapter(nn.Module):
    """Rho: the style vector of x^{p1} (section "Target-specific feature adaptation", Eq. 10)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.block = MapperBlock(settings)
        self.linear = nn.Linear(settings.width, settings.embedding)

    def forward(self, x_p1: Tensor) -> Tensor:
        """Return the vector (B, embedding) of x^{p1} (B, 1, H, W)."""
        return self.linear(self.block(x_p1).mean(dim=(2, 3)))


class ContrastAdapter(nn.Module):
    """Tau: leak gates that mix pairs of condition features (Eqs. 14 to 17).

    One condition passes unchanged, two make one pair; of three and more each is paired with its
    successor, the last with the first ("cyclic", D-3) or with none ("chain", Eq. 18).
    """

    def __init__(self, settings: Settings, n_conditions: int) -> None:
        super().__init__()
        n, width = n_conditions, settings.width
        cyclic = settings.pairs == "cyclic" and n > 2
        self.pairs = [(i, (i + 1) % n) for i in range(n if cyclic else n - 1)]
        self.gates_see_all = settings.gates == "all"
        seen = (n if self.gates_see_all else 2) * width
        self.gate_a = nn.ModuleList(conv3x3(seen, width) for _ in self.pairs)  # w^{z_a}, Eq. 14
        self.gate_b = nn.ModuleList(conv3x3(seen, width) for _ in self.pairs)  # w^{z_b}, Eq. 16
        self.extract = nn.ModuleList(conv3x3(width, width) for _ in self.pairs)  # w_i, Eq. 15
        concatenates = settings.gated_term == "concatenation"
        self.merge = (
            nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in self.pairs) if concatenates else None
        )

    @property
    def outputs(self) -> int:
        """Number of feature groups that tau returns."""
        return max(1, len(self.pairs))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the fused features of every pair, each (B, width, H, W)."""
        if not self.pairs:
            return features
        gates = self._gates(features)
        fused = []
        for k, (i, j) in enumerate(self.pairs):
            a, b = gates[k]
            f_i, f_j = features[i], features[j]
            f_ij = self.extract[k](a * f_i)  # Eq. 15
            kept = b * f_ij if self.merge is None else self.merge[k](torch.cat([b, f_ij], dim=1))
            fused.append(kept + (1 - b) * f_j)  # Eq. 17
        return fused

    def _gates(self, features: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return z^a (Eq. 14) and z^b (Eq. 16) of every pair; gates with one input are one convolution."""
        if self.gates_see_all:
            groups = [(torch.cat(features, dim=1), list(range(len(self.pairs))))]
        else:
            groups = [
                (torch.cat([features[i], features[j]], dim=1), [k]) for k, (i, j) in enumerate(self.pairs)
            ]
        gates = []
        for seen, members in groups:
            layers = [layer for k in members for layer in (self.gate_a[k], self.gate_b[k])]
            weight = torch.cat([layer.weight for layer in layers])
            bias = torch.cat([layer.bias for layer in layers])
            parts = torch.sigmoid(F.conv2d(seen, weight, bias, padding=1)).chunk(len(layers), dim=1)
            gates += zip(parts[::2], parts[1::2], strict=True)
        return gates


class EncoderLevel(nn.Module):
    """One resolution of the encoder: residual blocks, and the way down unless it is the last."""

    def __init__(self, inputs: int, outputs: int, settings: Settings, attention: bool, last: bool, p: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(inputs if k == 0 else outputs, outputs, settings.embedding)
            for k in range(settings.blocks)
        )
        self.attention = nn.ModuleList(SelfAttention(outputs) for _ in self.blocks) if attention else None
        self.down = None if last else ResidualBlock(outputs, outputs, settings.embedding, "down")
        self.pyramid = None if last else PyramidStep(p, outputs)

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

    def __init__(
        self, inputs: int, outputs: int, skips: list[int], settings: Settings, attention: bool, up: bool
    ):
        super().__init__()
        widths = [inputs] + [outputs] * (len(skips) - 1)
        self.blocks = nn.ModuleList(
            ResidualBlock(width + skip, outputs, settings.embedding)
            for width, skip in zip(widths, skips, strict=True)
        )
        self.attention = SelfAttention(outputs) if attention else None
        self.up = ResidualBlock(outputs, outputs, settings.embedding, "up") if up else None

    def forward(self, h: Tensor, skips: list[Tensor], time: Tensor, latent: Tensor) -> Tensor:
        """Return the features of the next level; takes the skips that it uses off the list."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), time, latent)
        if self.attention is not None:
            h = self.attention(h)
        return h if self.up is None else self.up(h, time, latent)


class EncoderDecoder(nn.Module):
    """H: the U-Net of Eq. 19 (section "Model architecture"; details of register D-7 and D-8).

    Parameters
    ----------
    inputs : int
        Channels of the features that enter.
    settings : Settings
        Widths, levels and blocks.
    images : int
        Channels of the image that the input pyramid starts from.
    """

    def __init__(self, inputs: int, settings: Settings, images: int = 1) -> None:
        super().__init__()
        widths = [settings.width * m for m in settings.multipliers]
        sides = [settings.image_size >> level for level in range(len(widths))]
        attention = [side == settings.attention_at for side in sides]
        self.factor = 2 ** (len(widths) - 1)
        if settings.image_size % self.factor:
            raise MudiffError(
                f"setting image_size = {settings.image_size}: {len(widths)} levels need a multiple of {self.factor}."
            )
        self.time = TimeEmbedding(settings.width, settings.embedding)
        self.latent = LatentEmbedding(settings.latent, settings.embedding)

        self.encoder = nn.ModuleList()
        skips, channels, pyramid = [inputs], inputs, images
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            self.encoder.append(EncoderLevel(channels, width, settings, attention[level], last, pyramid))
            skips += [width] * (settings.blocks + (not last))
            channels = pyramid = width

        self.middle1 = ResidualBlock(channels, channels, settings.embedding)
        self.middle_attention = SelfAttention(channels)
        self.middle2 = ResidualBlock(channels, channels, settings.embedding)

        self.decoder = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            used = [skips.pop() for _ in range(settings.blocks + 1)]
            self.decoder.append(DecoderLevel(channels, width, used, settings, attention[level], up=level > 0))
            channels = width
        self.norm = nn.GroupNorm(group_count(channels), channels, eps=1e-6)
        self.output = conv3x3(channels, 1, scale=1e-10)

    def forward(self, f_c: Tensor, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return the prediction of x_0, (B, 1, H, W) in [-1, 1].

        Parameters
        ----------
        f_c : Tensor (B, C, H, W)
            Features of the images, Eq. 9 or 18.
        x_t : Tensor (B, images, H, W)
            The noisy target, start of the input pyramid.
        t : Tensor (B,)
            Time steps 0 .. T-1.
        z : Tensor (B, latent)
            Latent vector, standard normal.
        """
        time, latent = self.time(t), self.latent(z)
        h, p = channels_last(f_c), channels_last(x_t)
        skips = [h]
        for level in self.encoder:
            h, p, new = level(h, p, time, latent)
            skips += new
        h = self.middle2(self.middle_attention(self.middle1(h, time, latent)), time, latent)
        for level in self.decoder:
            h = level(h, skips, time, latent)
        return torch.tanh(self.output(F.silu(self.norm(h))))


class StructureNetwork(nn.Module):
    """F1: all images mapped and concatenated, then H (Eqs. 1, 2, 9 and 23)."""

    def __init__(self, settings: Settings, n_conditions: int) -> None:
        super().__init__()
        self.mapper = FeatureMapper(settings, n_conditions)
        self.encoder_decoder = EncoderDecoder((1 + n_conditions) * settings.width, settings)

    def condition_features(self, conditions: Tensor) -> list[Tensor]:
        """Return the features of the conditions, which are the same for all T steps."""
        return self.mapper.style(self.mapper.content(conditions))

    def forward(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor, features: list[Tensor] | None = None
    ) -> Tensor:
        """Return x^{p1}, (B, 1, H, W) in [-1, 1].

        Parameters
        ----------
        x_t : Tensor (B, 1, H, W)
            Noisy target.
        conditions : Tensor (B, n, H, W)
            The other contrasts in [-1, 1], in the order of the settings.
        t : Tensor (B,)
            Time steps 0 .. T-1.
        z : Tensor (B, latent)
            Latent vector, standard normal.
        features : list of Tensor, optional
            What `condition_features` returned for these conditions.
        """
        if features is None:
            features = self.condition_features(conditions)
        f_c = torch.cat([self.mapper.noisy(x_t), *features], dim=1)  # Eq. 9
        return self.encoder_decoder(f_c, x_t, t, z)


class TextureNetwork(nn.Module):
    """F2: features adapted to x^{p1} by rho and to each other by tau, then H (Eqs. 3, 4, 11, 18 and 24).

    Without both adapters it is a second F1 (section "Ablation study").
    """

    def __init__(self, settings: Settings, n_conditions: int) -> None:
        super().__init__()
        self.target_adapter = TargetAdapter(settings) if settings.target_adaptation else None
        self.mapper = FeatureMapper(settings, n_conditions, styled=settings.target_adaptation)
        self.contrast_adapter = (
            ContrastAdapter(settings, n_conditions) if settings.contrast_adaptation else None
        )
        groups = self.contrast_adapter.outputs if settings.contrast_adaptation else n_conditions
        inputs = (1 + groups) * settings.width
        self.encoder_decoder = EncoderDecoder(inputs, settings)

    def condition_features(self, conditions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the part of the condition features that is the same for all T steps."""
        return self.mapper.content(conditions)

    def adapted_features(self, x_t: Tensor, features: list, x_p1: Tensor) -> Tensor:
        """Return f_c^2 of Eq. 18, (B, C, H, W): the features that enter H."""
        style = None if self.target_adapter is None else self.target_adapter(x_p1)  # Eq. 10
        adapted = self.mapper.style(features, style)  # Eqs. 11 to 13
        if self.contrast_adapter is not None:
            adapted = self.contrast_adapter(adapted)  # Eqs. 14 to 17
        return torch.cat([self.mapper.noisy(x_t), *adapted], dim=1)

    def forward(
        self,
        x_t: Tensor,
        conditions: Tensor,
        t: Tensor,
        z: Tensor,
        x_p1: Tensor,
        features: list | None = None,
    ) -> Tensor:
        """Return x^{p2}, (B, 1, H, W) in [-1, 1]; arguments as for F1, and x^{p1} (B, 1, H, W)."""
        if features is None:
            features = self.condition_features(conditions)
        return self.encoder_decoder(self.adapted_features(x_t, features, x_p1), x_t, t, z)
