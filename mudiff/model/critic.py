"""The shared critic psi and its attentive masks (register D-1)."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.model.layers import TimeEmbedding, channels_last, check_size, conv3x3, fir_down
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings

_leaky = nn.LeakyReLU(0.2)


class CriticBlock(nn.Module):
    """A residual block of the critic, which halves the size."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs)
        self.time = nn.Linear(embedding, outputs)
        self.conv2 = conv3x3(outputs, outputs, scale=1e-10)  # a block starts as its shortcut
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return (B, outputs, H/2, W/2) from x (B, inputs, H, W)."""
        h = self.conv1(_leaky(x)) + self.time(time)[:, :, None, None]
        h = self.conv2(fir_down(_leaky(h)))
        return (h + self.shortcut(fir_down(x))) / math.sqrt(2)


def minibatch_std(h: Tensor) -> Tensor:
    """Append the standard deviation over groups of up to four images as one channel: (B, C+1, H, W).

    Image k is in group k mod ceil(B / 4), as in the released code, which fails for B = 5, 6, 7, 9 ... (C-11).
    """
    groups = math.ceil(len(h) / 4)
    extra = h.new_empty(len(h), 1, *h.shape[2:])
    for g in range(groups):
        variance = h[g::groups].float().var(dim=0, unbiased=False)  # float32 also under autocast
        extra[g::groups] = (variance + 1e-8).sqrt().mean().to(h.dtype)
    return torch.cat([h, extra], dim=1)


class Critic(nn.Module):
    """Psi judges whether x_{t-1} is a plausible denoised version of x_t (D-1)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        widths = [settings.critic_width * m for m in [2, 4] + [8] * (settings.critic_blocks - 1)]
        check_size(settings, f"a critic with critic_blocks = {settings.critic_blocks}", 2**settings.critic_blocks)
        self.minibatch_std = settings.critic_minibatch_std
        self.middle = math.ceil(settings.critic_blocks / 2)  # C-1, D-1: block 3 of 6
        self.time = TimeEmbedding(settings.embedding, settings.embedding, _leaky, settings.targets)
        self.input = nn.Conv2d(2, widths[0], 1)
        self.blocks = nn.ModuleList(CriticBlock(a, b, settings.embedding) for a, b in itertools.pairwise(widths))
        self.final = conv3x3(widths[-1] + self.minibatch_std, widths[-1])
        self.output = nn.Linear(widths[-1], 1)
        self.middle_width = widths[self.middle]
        for layer in self.modules():
            layer.init_fan = "out"
            if settings.critic_weights == "default":  # of no block the second convolution near zero, either
                layer.init_fan, layer.init_scale = "default", 1.0

    def forward(
        self, x_before: Tensor, t: Tensor, x_t: Tensor, candidates: int = 1, scenario: Scenario | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return log(psi / (1 - psi)) (B,) of x_{t-1} given x_t, and middle features (B, C, H/8, W/8) for the masks.

        Each of the `candidates` batches that are concatenated here gets minibatch statistics of its own.
        """
        time = _leaky(self.time(t, scenario))
        h = channels_last(self.input(torch.cat([x_before, x_t], dim=1)))
        for k, block in enumerate(self.blocks, start=1):
            h = block(h, time)
            if k == self.middle:
                middle = h
        if self.minibatch_std:
            h = torch.cat([minibatch_std(part) for part in h.chunk(candidates)])
        h = _leaky(self.final(h)).sum(dim=(2, 3))  # (B, C)
        return self.output(h).squeeze(1), middle


def mask_convolution(critic: Critic) -> nn.Conv2d:
    """Return the 1x1 convolution to one channel that the released code takes before the sigmoid (C-1)."""
    layer = nn.Conv2d(critic.middle_width, 1, 1)
    layer.init_fan = "out"
    return layer


def attentive_mask(middle: Tensor, size: int, convolution: nn.Module | None) -> Tensor:
    """Return M_j, (B, 1, size, size) in (0, 1), by a `mask_convolution` or (None) the mean over the channels."""
    feature = middle.mean(dim=1, keepdim=True) if convolution is None else convolution(middle)
    return F.interpolate(torch.sigmoid(feature.float()), (size, size), mode="bilinear")  # Eq. 28
