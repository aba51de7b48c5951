"""Features of the conditions, adapted to the target and to each other: phi, rho and tau (Eqs. 9 to 17)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.model.layers import Modulation, channels_last, conv3x3, group_count
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
