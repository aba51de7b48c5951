"""Features of the conditions, adapted to the target and to each other: phi, rho and tau."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.model.layers import Modulation, channels_last, conv3x3, group_count
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings


class MapperBlock(nn.Module):
    """R_i of the feature mappers: one image to `width` feature maps; `styled` ones take rho's vector (D-5)."""

    def __init__(self, settings: Settings, styled: bool = False) -> None:
        super().__init__()
        self.groups = group_count(settings.width)
        self.normalise_input, self.skip = settings.mapper_normalises == "input", settings.mapper_skip
        self.activation = getattr(F, settings.mapper_activation)
        self.conv1 = conv3x3(1, settings.width)
        self.conv2 = conv3x3(settings.width, settings.width)
        self.modulation = Modulation(settings.width, settings.embedding) if styled else None

    def forward(self, y: Tensor, vector: Tensor | None = None) -> Tensor:
        """Return features (B, width, H, W) of the image y (B, 1, H, W), modulated by rho's vector."""
        y = channels_last(y)
        first = self.conv1(F.group_norm(y, 1, eps=1e-6) if self.normalise_input else y)
        h = first if self.normalise_input else F.group_norm(first, self.groups, eps=1e-6)
        if self.modulation is not None:
            h = self.modulation(h, vector)
        h = self.conv2(self.activation(h))
        return h + first if self.skip else h


class FeatureMapper(nn.Module):
    """Phi: a separate block R_0 for x_t and R_i for each condition, those `styled` by rho's vector in F2.

    In a run of target "any" a missing condition has the features c_i, learned and equal in all pixels, in place of
    R_i(y_i): no voxel of it has an influence on anything (X-1).
    """

    def __init__(self, settings: Settings, n_conditions: int, styled: bool = False) -> None:
        super().__init__()
        self.noisy = MapperBlock(settings)
        self.conditions = nn.ModuleList(MapperBlock(settings, styled) for _ in range(n_conditions))
        self.missing = nn.Parameter(torch.zeros(n_conditions, settings.width)) if settings.targets else None

    def forward(
        self, x_t: Tensor, conditions: Tensor, vector: Tensor | None = None, scenario: Scenario | None = None
    ) -> list[Tensor]:
        """Return f_{x_t} and f_{y_i}, i = 1 .. n, each (B, width, H, W)."""
        if scenario is not None:
            conditions = conditions.masked_fill(scenario.missing(), 0.0)  # not a number of it goes on
        features = [block(y, vector) for block, y in zip(self.conditions, conditions.split(1, dim=1), strict=True)]
        if scenario is not None:
            missing = scenario.missing().unbind(dim=1)  # (B, 1, 1) each
            features = [
                torch.where(absent[:, None], c[:, None, None].to(f.dtype), f)
                for f, c, absent in zip(features, self.missing, missing, strict=True)
            ]
        return [self.noisy(x_t), *features]  # Eq. 9 without rho's vector, Eq. 11 with it


class TargetAdapter(nn.Module):
    """Rho: the style vector of x^{p1} (section "Target-specific feature adaptation")."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.block = MapperBlock(settings)
        self.linear = nn.Linear(settings.width, settings.embedding)
        self.linear.init_fan = "default"

    def forward(self, x_p1: Tensor) -> Tensor:
        """Return the vector (B, embedding) of x^{p1} (B, 1, H, W)."""
        return self.linear(self.block(x_p1).mean(dim=(2, 3)))  # the style factor of Eq. 10


class ContrastAdapter(nn.Module):
    """Tau: leak gates that mix pairs of condition features (section "Contrast-aware feature adaptation").

    One passes unchanged; of more each is paired with the next, the last of three and more with the first ("cyclic",
    D-3) or with none ("chain", as printed).
    """

    def __init__(self, settings: Settings, n_conditions: int) -> None:
        super().__init__()
        n, width = n_conditions, settings.width
        cyclic = settings.pairs == "cyclic" and n > 2
        self.pairs = [(i, (i + 1) % n) for i in range(n if cyclic else n - 1)]
        self.outputs = max(1, len(self.pairs))  # feature groups that it returns
        self.gates_see_all = settings.gates == "all"  # D-2
        seen = (n if self.gates_see_all else 2) * width
        self.gate_a = nn.ModuleList(conv3x3(seen, width) for _ in self.pairs)
        self.gate_b = nn.ModuleList(conv3x3(seen, width) for _ in self.pairs)
        self.extract = nn.ModuleList(conv3x3(width, width) for _ in self.pairs)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the fused features of every pair, each (B, width, H, W), from f_{y_i} of the same shape."""
        fused = []
        every = torch.cat(features, dim=1)  # (B, n * width, H, W)
        for k, (i, j) in enumerate(self.pairs):
            seen = every if self.gates_see_all else torch.cat([features[i], features[j]], dim=1)
            z_a = torch.sigmoid(self.gate_a[k](seen))  # Eq. 14
            f_ij = self.extract[k](z_a * features[i])  # Eq. 15
            z_b = torch.sigmoid(self.gate_b[k](seen))  # Eq. 16
            fused.append(z_b * f_ij + (1 - z_b) * features[j])  # Eq. 17, its first term a product (D-4)
        return fused or features
