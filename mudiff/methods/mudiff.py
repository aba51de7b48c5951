"""MU-Diff: two generators that learn together with a shared critic (Algorithm 1)."""

import torch
from torch import Tensor, nn

from mudiff.methods.adversarial_diffusion import AdversarialDiffusion
from mudiff.model import losses
from mudiff.model.critic import attentive_mask
from mudiff.model.generators import StructureNetwork, TextureNetwork
from mudiff.settings import Settings


class MUDiff(AdversarialDiffusion):
    """F1, F2 and the attentive masks; training step and sampler are those of adversarial diffusion.

    In ablation 1 there is no F2, and so nothing to compare: no mask loss.

    Parameters
    ----------
    settings : Settings
        Sizes and every named departure.
    generator : torch.Generator
        Source of the initial weights.
    """

    training_only = ("critic.", "attention.")
    networks = ("f1", "f2")

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        n_conditions = len(settings.conditions)
        self.f1 = StructureNetwork(settings, n_conditions)
        self.f2 = TextureNetwork(settings, n_conditions) if settings.networks == "mutual" else None
        # C-1: the released code never trains this convolution; here it is at least saved.
        by_channels = settings.mask == "channel_mean"
        self.attention = None if by_channels else nn.Conv2d(self.critic.middle_width, 1, 1)
        trained = [p for network in (self.f1, self.f2) if network is not None for p in network.parameters()]
        # Nothing reaches the convolution of masks that are cut off or not used.
        used = self.f2 is not None and settings.weight_mask > 0 and not settings.mask_detached
        if settings.mask == "trained" and used:
            trained += self.attention.parameters()
        self._finish(trained, generator)

    def predict(
        self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor, features: tuple | None = None
    ) -> tuple[Tensor, ...]:
        """Return x^{p1} and x^{p2} (Eqs. 23 and 24), each (B, 1, H, W) in [-1, 1].

        Both networks share z (register D-10). `features` is what `condition_features` returned.
        """
        first, second = features if features is not None else (None, None)
        with self._autocast():
            x_p1 = self.f1(x_t, conditions, t, z, first)
            if self.f2 is None:
                return (x_p1.float(),)
            # C-4: undetached, the loss of F2 also trains F1, as in the released code.
            guide = x_p1.detach() if self.settings.detach_first else x_p1
            x_p2 = self.f2(x_t, conditions, t, z, guide, second)
        return x_p1.float(), x_p2.float()

    def condition_features(self, conditions: Tensor) -> tuple[list, list | None]:
        """Return what both networks compute from the conditions alone, once for all T steps."""
        with self._autocast():
            second = None if self.f2 is None else self.f2.condition_features(conditions)
            return self.f1.condition_features(conditions), second

    def mask(self, middle: Tensor) -> Tensor:
        """Return the attentive mask M_j of Eq. 28, (B, 1, H, W) in (0, 1)."""
        mask = attentive_mask(middle.float(), self.settings.image_size, self.attention)
        return mask.detach() if self.settings.mask_detached else mask

    def mask_loss(self, samples: list[Tensor], middles: list[Tensor]) -> Tensor | None:
        """Return L_m of Eq. 29 from both samples and the critic's middle features of each."""
        if self.f2 is None or self.settings.weight_mask == 0:
            return None
        masks = [self.mask(middle) for middle in middles]
        return losses.mask_loss(*samples, *masks, self.settings.reduction)
