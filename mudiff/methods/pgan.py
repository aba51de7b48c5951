"""PGAN (Dar et al. 2019, "pGAN"): a residual network with a perceptual loss against the 70x70 PatchGAN."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff import storage
from mudiff.errors import MudiffError
from mudiff.methods.adversarial import Adversarial, SeededDropout, patch_critic
from mudiff.methods.base import Batch
from mudiff.settings import Settings


def _reflecting(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, padding_mode="reflect")


class Residual(nn.Module):
    """Two 3x3 convolutions, normalised, with dropout between them, beside an identity."""

    def __init__(self, width: int, drop: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2, self.drop = _reflecting(width, width, 3), _reflecting(width, width, 3), drop

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) as x."""
        h = self.drop(F.relu(F.instance_norm(self.conv1(x))))
        return x + F.instance_norm(self.conv2(h))


class ResNet(nn.Module):
    """The generator: two halvings, `blocks` residual blocks, two doublings, no long skips."""

    def __init__(self, inputs: int, settings: Settings) -> None:
        super().__init__()
        w, drop = settings.width, SeededDropout(settings.dropout)
        self.first = _reflecting(inputs, w, 7)
        self.down = nn.ModuleList(nn.Conv2d(w * k, 2 * w * k, 3, 2, 1) for k in (1, 2))
        self.blocks = nn.Sequential(*(Residual(4 * w, drop) for _ in range(settings.blocks)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w * k, w * k, 3, 2, 1, 1) for k in (2, 1))
        self.last = _reflecting(w, 1, 7)

    def forward(self, y: Tensor) -> Tensor:
        """Return the target (B, 1, H, W) in [-1, 1] of the conditions y (B, n, H, W)."""
        h = y
        for layer in (self.first, *self.down, self.blocks, *self.up):
            h = layer(h) if layer is self.blocks else F.relu(F.instance_norm(layer(h)))
        return torch.tanh(self.last(h))


def vgg16_features(path: Path) -> nn.Sequential:
    """Return VGG16 up to ``relu2_2`` (Simonyan and Zisserman 2015), from a file with torchvision's names."""
    a, b, c, d = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 64), (64, 64), (64, 128), (128, 128)))
    layers = nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), nn.MaxPool2d(2), c, nn.ReLU(), d, nn.ReLU())
    advice = "give torchvision's vgg16 file, or leave setting vgg16 empty"
    weights = storage.read_weights(path, "weights of VGG16", advice)
    try:
        layers.load_state_dict({name: weights[f"features.{name}"] for name in layers.state_dict()})
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise MudiffError(f"{path}: no weights of VGG16 ({reason}); {advice}.") from None
    return layers.requires_grad_(False)


class PGAN(Adversarial):
    """ResNet and conditional PatchGAN: least squares, L1 (100) and, with a weights file, VGG16 features (100).

    Those are compared without ImageNet normalisation, for every image (the released code takes the first alone).
    """

    features: tuple[nn.Module, ...] = ()  # VGG16; in a tuple, so that it is no part of the weights

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        self.generator = ResNet(len(settings.conditions), settings)
        self.critic = patch_critic(settings, norm="instance", bias=True)
        self._finish(generator, 4, 3 * 2**settings.critic_blocks)

    def prepare_training(self) -> None:
        """Read the weights of VGG16, or say that there are none."""
        if self.settings.vgg16:
            self.features = (vgg16_features(Path(self.settings.vgg16)).to(self.device),)
        else:
            print("pGAN: setting vgg16 is empty: no perceptual term in training.", file=sys.stderr)

    def generator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return the adversarial term, L1, and L1 of the features."""
        terms = super().generator_losses(batch, fake)
        for vgg16 in self.features:
            a, b = (vgg16(x.float().expand(-1, 3, -1, -1)) for x in (fake, batch.target))
            terms["perceptual"] = self.settings.weight_perceptual * F.l1_loss(a.float(), b.float())
        return terms
