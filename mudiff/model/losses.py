"""The training objectives, one function per equation (section "Training objective")."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def _reduce(values: Tensor, reduction: str) -> Tensor:
    """Average over the batch the mean (code) or the sum (text, register C-6) over each image."""
    return values.mean() if reduction == "mean" else values.flatten(1).sum(dim=1).mean()


def supervised_loss(x: Tensor, prediction: Tensor, reduction: str = "mean") -> Tensor:
    """L_s^j: the L1 distance of the target x and one network's x^{p_j}, both (B, 1, H, W)."""
    return _reduce((x - prediction).abs(), reduction)  # Eq. 22


def generator_critic_loss(logit: Tensor) -> Tensor:
    """L_c^j: -log psi of one network's sample, from the critic's logit (B,)."""
    return F.softplus(-logit).mean()  # Eq. 26


def critic_loss(real: Tensor, fakes: Sequence[Tensor], real_weight: float = 1.0) -> Tensor:
    """L_adv, as the loss that the critic minimises, from logits (B,) of the true x_{t-1} and of all samples.

    `real_weight` is 1 as in the released code, or 2 as in the paper's sum over both networks (register C-5).
    """
    return real_weight * F.softplus(-real).mean() + sum(F.softplus(fake).mean() for fake in fakes)  # Eq. 27


def mask_loss(x_1: Tensor, x_2: Tensor, mask_1: Tensor, mask_2: Tensor, reduction: str = "mean") -> Tensor:
    """L_m: cross-entropy between both samples x_{t-1}^{p_j}, weighted by the other's mask M_j; all (B, 1, H, W).

    The first argument of BCE is taken as a logit, as in the code; the values are intensities, so the loss has a
    floor well above zero (register C-3). `reduction`: "mean" over pixels (code) or "sum" (text, register C-6).
    """
    first = F.binary_cross_entropy_with_logits(x_1, torch.sigmoid(x_2), reduction="none")
    second = F.binary_cross_entropy_with_logits(x_2, torch.sigmoid(x_1), reduction="none")
    return _reduce(mask_2 * first, reduction) + _reduce(mask_1 * second, reduction)  # Eq. 29


def r1_penalty(logit: Tensor, x_before: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018, A-5) without gamma / 2: mean squared norm of the logit's gradient at x_{t-1}."""
    (gradient,) = torch.autograd.grad(logit.sum(), x_before, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1).mean()
