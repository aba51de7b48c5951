"""The shared critic psi and its attentive masks (register D-1)."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.model.layers import channels_last, conv3x3, fir_down, sinusoidal_embedding
from mudiff.settings import Settings


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


class CriticTimeEmbedding(nn.Module):
    """A sinusoid as wide as the embedding, then two linear layers."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.linear1 = nn.Linear(embedding, embedding)
        self.linear2 = nn.Linear(embedding, embedding)

    def forward(self, t: Tensor) -> Tensor:
        """Return (B, embedding) from integer steps t (B,)."""
        return _leaky(self.linear2(_leaky(self.linear1(sinusoidal_embedding(t, self.embedding)))))


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

    Image k belongs to group k mod ceil(B / 4). For B <= 4 and multiples of 4 these are the groups of the
    released code, which fails for other sizes (C-11).
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
        multiples = [2, 4] + [8] * (settings.critic_blocks - 1)
        widths = [settings.critic_width * m for m in multiples[: settings.critic_blocks + 1]]
        smallest = 2**settings.critic_blocks
        if settings.image_size % smallest:
            raise MudiffError(
                f"setting image_size = {settings.image_size}: a critic of {settings.critic_blocks} blocks needs a "
                f"multiple of {smallest}; change image_size or critic_blocks."
            )
        self.minibatch_std = settings.critic_minibatch_std
        self.middle = math.ceil(settings.critic_blocks / 2)  # C-1, D-1: block 3 of 6
        self.time = CriticTimeEmbedding(settings.embedding)
        self.input = nn.Conv2d(2, widths[0], 1)
        self.blocks = nn.ModuleList(
            CriticBlock(a, b, settings.embedding) for a, b in itertools.pairwise(widths)
        )
        self.final = conv3x3(widths[-1] + self.minibatch_std, widths[-1])
        self.output = nn.Linear(widths[-1], 1)
        self.middle_width = widths[self.middle]
        for layer in self.modules():
            layer.init_fan = "out"

    def forward(self, x_before: Tensor, t: Tensor, x_t: Tensor, candidates: int = 1) -> tuple[Tensor, Tensor]:
        """Judge x_{t-1} given x_t.

        Parameters
        ----------
        x_before, x_t : Tensor (B, 1, H, W)
            Candidate for x_{t-1}, and the noisier image.
        t : Tensor (B,)
            Time steps 0 .. T-1.
        candidates : int
            Number of concatenated batches; each gets its own minibatch statistics.

        Returns
        -------
        logit : Tensor (B,)
            log(psi / (1 - psi)).
        middle : Tensor (B, C, H/8, W/8)
            Features of the middle block, from which the masks come.
        """
        time = self.time(t)
        h = channels_last(self.input(torch.cat([x_before, x_t], dim=1)))
        middle = h
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
    """Return the attentive mask M_j, (B, 1, size, size) in (0, 1), of the critic's middle features.

    `convolution` is a `mask_convolution`, or None for the mean over the channels.
    """
    feature = middle.mean(dim=1, keepdim=True) if convolution is None else convolution(middle)
    mask = torch.sigmoid(feature.float())
    return F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)  # Eq. 28
