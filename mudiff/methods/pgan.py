"""PGAN (Dar et al. 2019, "pGAN"): a residual network with a perceptual loss against the 70x70 PatchGAN."""

import sys
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff.errors import MudiffError
from mudiff.methods.adversarial import (
    Adversarial,
    Drop,
    PatchCritic,
    check_multiple,
    distance,
    least_squares,
)
from mudiff.methods.base import Batch
from mudiff.settings import Settings


def _reflecting(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, padding_mode="reflect")


class Residual(nn.Module):
    """Two 3x3 convolutions with instance normalisation around an identity; dropout between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _reflecting(width, width, 3), _reflecting(width, width, 3)

    def forward(self, x: Tensor, drop: Drop) -> Tensor:
        """Return (B, C, H, W) as x."""
        h = drop(F.relu(F.instance_norm(self.conv1(x))))
        return x + F.instance_norm(self.conv2(h))


class ResNet(nn.Module):
    """The generator: two halvings, `blocks` residual blocks, two doublings, no long skips."""

    def __init__(self, inputs: int, settings: Settings) -> None:
        super().__init__()
        check_multiple(settings, 4, 8, "the residual network of pGAN")
        w = settings.width
        self.first = _reflecting(inputs, w, 7)
        self.down = nn.ModuleList(nn.Conv2d(w * k, 2 * w * k, 3, 2, 1) for k in (1, 2))
        self.blocks = nn.ModuleList(Residual(4 * w) for _ in range(settings.blocks))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * w * k, w * k, 3, 2, 1, output_padding=1) for k in (2, 1)
        )
        self.last = _reflecting(w, 1, 7)

    def forward(self, y: Tensor, drop: Drop) -> Tensor:
        """Return the target (B, 1, H, W) in [-1, 1] of the conditions y (B, n, H, W)."""
        h = y
        for conv in (self.first, *self.down):
            h = F.relu(F.instance_norm(conv(h)))
        for block in self.blocks:
            h = block(h, drop)
        for conv in self.up:
            h = F.relu(F.instance_norm(conv(h)))
        return torch.tanh(self.last(h))


class VGG16Features(nn.Module):
    """The first four convolutions of VGG16, up to ``relu2_2`` (Simonyan and Zisserman 2015).

    Parameters
    ----------
    path : Path
        Weights as torchvision stores them (``features.0.weight`` and so on), ``.pth`` or ``.safetensors``.

    Raises
    ------
    MudiffError
        If the file is missing, unreadable or not VGG16.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {str(k): nn.Conv2d(a, b, 3, padding=1) for k, a, b in _VGG16_CONVOLUTIONS}
        )
        weights = _read_weights(path)
        # VGG13 and VGG19 have the same first four convolutions, under the same names.
        places = {name.split(".")[1] for name in weights if name.startswith("features.")}
        if places and places != _VGG16_PLACES:
            raise MudiffError(
                f"{path}: not the weights of VGG16: it has features.{', '.join(sorted(places))}; "
                "give torchvision's vgg16 file, or leave setting vgg16 empty."
            )
        for name, parameter in self.layers.named_parameters():
            value = weights.get(f"features.{name}")
            if value is None or value.shape != parameter.shape:
                found = "is missing" if value is None else f"has shape {tuple(value.shape)}"
                raise MudiffError(
                    f"{path}: not the weights of VGG16: features.{name} {found}, "
                    f"{tuple(parameter.shape)} expected. Give torchvision's vgg16 file, or leave setting vgg16 empty."
                )
            parameter.data.copy_(value)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, 128, H/2, W/2) of x (B, 1, H, W) in [-1, 1], repeated to three channels."""
        h = x.expand(-1, 3, -1, -1)
        for place, conv in self.layers.items():
            h = F.relu(conv(F.max_pool2d(h, 2) if place == "5" else h))
        return h


_VGG16_PLACES = {str(place) for place in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}
_VGG16_CONVOLUTIONS = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128))


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MudiffError(f"{path}: weights of VGG16 not found; correct setting vgg16, or leave it empty.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MudiffError(
            f"{path}: cannot be read as weights ({reason}); give torchvision's vgg16 file."
        ) from None
    if not isinstance(weights, dict):
        raise MudiffError(f"{path}: not the weights of VGG16: a table of named tensors expected.")
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


class PGAN(Adversarial):
    """ResNet and conditional PatchGAN: least squares, L1 (100) and, with a weights file, VGG16 features (100).

    The features are compared without ImageNet normalisation, for every image of the batch (the released code
    takes the first alone). Without a file (`settings.vgg16`) the perceptual term is off.
    """

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        super().__init__(settings)
        n = len(settings.conditions)
        self.generator = ResNet(n, settings)
        self.critic = PatchCritic(n + 1, settings, nn.InstanceNorm2d)
        self._finish(generator)

    @cached_property
    def features(self) -> VGG16Features | None:
        """VGG16, read when training needs it: sampling does without, and weights files do not hold it."""
        return VGG16Features(Path(self.settings.vgg16)) if self.settings.vgg16 else None

    def prepare_training(self) -> None:
        """Read the weights of VGG16, or say that there are none."""
        if self.features is None:
            print(
                "pGAN: no weights of VGG16 (setting vgg16): training without the perceptual term.",
                file=sys.stderr,
            )

    def generate(self, conditions: Tensor, drop: Drop) -> Tensor:
        """Return the target (B, 1, H, W)."""
        return self.generator(conditions, drop)

    def critic_losses(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        """Return half the squared distance of true patches from 1 and of generated ones from 0."""
        true, false = self.critic(batch.conditions, batch.target), self.critic(batch.conditions, made)
        return {"critic": (least_squares(true, 1) + least_squares(false, 0)) / 2}

    def generator_losses(self, batch: Batch, made: Tensor) -> dict[str, Tensor]:
        """Return the squared distance of generated patches from 1, L1, and the perceptual term."""
        settings = self.settings
        terms = {
            "adversarial": settings.weight_adversarial
            * least_squares(self.critic(batch.conditions, made), 1),
            "supervised": settings.weight_supervised * distance(made, batch.target),
        }
        if self.features is not None:
            features = self.features.to(self.device)
            difference = distance(features(made), features(batch.target))
            terms["perceptual"] = settings.weight_perceptual * difference
        return terms
