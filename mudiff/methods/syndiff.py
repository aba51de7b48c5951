"""SynDiff (Ozbey et al. 2023), supervised: adversarial diffusion with one network and no cycle."""

import torch
from torch import Tensor, nn

from mudiff.methods.mudiff import AdversarialDiffusion
from mudiff.model.generators import EncoderDecoder
from mudiff.model.layers import channels_last, conv3x3
from mudiff.settings import Settings


class ConcatenationNetwork(nn.Module):
    """NCSN++ on x_t and the conditions, concatenated as channels: MU-Diff's H without mappers."""

    def __init__(self, settings: Settings, n_conditions: int) -> None:
        super().__init__()
        self.input = conv3x3(1 + n_conditions, settings.width)
        self.encoder_decoder = EncoderDecoder(settings.width, settings, images=1 + n_conditions)

    def forward(self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return the prediction of x_0, (B, 1, H, W) in [-1, 1]; arguments as for F1."""
        images = channels_last(torch.cat([x_t, conditions], dim=1))  # (B, 1+n, H, W)
        return self.encoder_decoder(self.input(images), images, t, z)


class SynDiff(AdversarialDiffusion):
    """SynDiff without its cycle-consistent module (section "Competing methods"), with the one output it uses."""

    networks = ("network",)

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        self.network = ConcatenationNetwork(settings, len(settings.conditions))
        self._start(list(self.network.parameters()), generator)

    def predict(self, x_t: Tensor, conditions: Tensor, t: Tensor, z: Tensor, scenario: None = None) -> tuple[Tensor]:
        """Return the prediction of x_0, (B, 1, H, W) in [-1, 1]."""
        with self._autocast():
            return (self.network(x_t, conditions, t, z).float(),)
