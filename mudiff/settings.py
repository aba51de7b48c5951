"""Frozen settings: every number of a run in one visible block, each departure of paper and code named.

Letters such as A-2 point to the register in DIFFERENCES.md.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any

from mudiff.cache import RECIPE_VERSION
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.training.recipes import ABLATIONS


def _fingerprint(value: Any) -> str:
    text = json.dumps([RECIPE_VERSION, value], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Preparation:
    """How NIfTI volumes become slices (section "Datasets")."""

    dataset: str
    image_size: int = 256  # pixels of the square slices
    slices: int = 80  # middle axial slices per subject
    normalisation: str = "percentile"  # B-4: "percentile" (1-99 % clip, code) or "minmax" (text)

    def fingerprint(self) -> str:
        """Return the key of the cache that these settings make."""
        return _fingerprint(dataclasses.asdict(self))


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of one training run; defaults are variant ``released``."""

    # What is learnt
    dataset: str = "brats"
    target: str = "t1ce"
    method: str = "mudiff"
    variant: str = "released"  # or "text", a baseline's "published" budget, or an ablation (`recipes.py`)
    seed: int = 1024  # not in the paper

    # Slices
    image_size: int = 256
    slices: int = 80
    normalisation: str = "percentile"  # B-4

    # Networks; `recipes.py` has each baseline's sizes
    width: int = 64  # feature maps of the first level
    multipliers: tuple[int, ...] = (1, 2, 4)  # widths of the levels, in units of `width`
    blocks: int = 2  # residual blocks per encoder level (the decoder has one more, D-8); of pGAN: in all
    embedding: int = 256  # width of the time and latent embeddings
    latent: int = 100  # entries of z
    attention_at: int = 16  # D-7: attention follows blocks whose feature maps have this side
    critic_width: int = 64  # psi starts at twice this width, the critics of one-pass baselines at it
    critic_blocks: int = 6  # D-1: 6 (code) or 4 (text); of one-pass baselines: convolutions that halve
    critic_minibatch_std: bool = True  # D-1: the code appends the minibatch standard deviation
    gates: str = "all"  # D-2: gates of tau see "all" conditions (code) or the "pair" (Eqs. 14, 16)
    pairs: str = "cyclic"  # D-3: pairs of tau, "cyclic" (code) or "chain" (Eq. 18)
    gated_term: str = "product"  # D-4: first term of Eq. 17, "product" (code) or "concatenation"
    mapper_activation: str = "silu"  # D-5: "silu" (code) or "relu" (text)
    mapper_skip: bool = False  # D-5: "residual" blocks without (code) or with a skip (text)
    mapper_normalises: str = "features"  # D-5: Eq. 13 applied to conv1's "features" (code) or the "input"
    networks: str = "mutual"  # F1 and F2, or ablation 1: a "single" one, F1
    target_adaptation: bool = True  # rho in F2; off in ablation 2 and in one reading of 3 (D-11)
    contrast_adaptation: bool = True  # tau in F2; off in ablation 2 and in the other reading of 3 (D-11)
    levels: int = 8  # halvings in the U-Nets of Pix2Pix and MM-GAN
    dropout: float = 0.0  # of a baseline's generator, in training only

    # Diffusion
    steps: int = 4  # T
    beta_min: float = 0.1
    beta_max: float = 20.0
    posterior: str = "beta"  # E-1: "beta" (code) or "printed" (Eq. 31 as printed: images of zeros)

    # Losses
    weight_supervised: float = 0.5  # A-1, lambda_s
    weight_mask: float = 0.1  # A-1, lambda_m
    weight_adversarial: float = 1.0  # A-1, lambda_c
    reduction: str = "mean"  # C-6: Eqs. 22 and 29 as "mean" (code) or "sum" over the pixels (text)
    mask: str = "convolution"  # C-1: M_j from a "convolution" never trained, a "trained" one, "channel_mean"
    mask_detached: bool = False  # C-2: whether gradients through the masks are cut
    mask_noise: str = "independent"  # C-3: noise of the two posterior samples in Eq. 29, or "shared"
    detach_first: bool = False  # C-4: cut x^{p1} on its way into F2, so that L^2 trains F2 alone
    critic_real_weight: float = 1.0  # C-5: 1 (code) or 2 (Eq. 27 summed over both networks)
    weight_perceptual: float = 0.0  # pGAN: of the VGG16 features
    vgg16: str = ""  # pGAN: file with the weights of VGG16; without one the perceptual term is off
    weight_reconstruction: float = 0.0  # Hi-Net: of the conditions' own reconstructions

    # Optimisation
    epochs: int = 30
    batch_size: int = 3
    learning_rate: float = 1.6e-4  # A-3, generators
    critic_learning_rate: float = 1e-4
    beta1: float = 0.5  # 0.5 (code) or 0.1 (text)
    beta2: float = 0.9  # 0.9 (code) or 0.2 (text)
    schedule: str = "cosine"  # learning rates fall as a "cosine" (code), stay "constant", or "linear"
    final_learning_rate: float = 1e-5  # where the cosine ends
    constant_part: float = 0.5  # part of the epochs before "linear" starts to fall to 0
    r1_gamma: float = 1.0  # R1 penalty on the critic, 0 is off
    r1_interval: int = 10  # steps between two penalties
    ema_decay: float = 0.0  # 0 is off (as the released command runs), 0.999 what it names
    order: str = "fixed"  # C-8: sample order, "fixed" for all epochs (code) or "shuffled" in each
    precision: str = "float32"  # or "bfloat16" (autocast)

    # Choice of the checkpoint
    checkpoint: str = "best"  # "best" validation PSNR, or "last" (code)
    validate_every: int = 1  # epochs
    validation_slices: int = 64  # evenly spaced over the validation set, 0 is all

    def __post_init__(self) -> None:
        _check(self)

    def preparation(self) -> Preparation:
        """Return the part that decides the slice cache."""
        return Preparation(self.dataset, self.image_size, self.slices, self.normalisation)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions, in the order that the networks take them."""
        return datasets.dataset(self.dataset).conditions(self.target)

    @property
    def run_name(self) -> str:
        """Name of the run's folder."""
        name = f"{self.dataset}_{self.target}_{self.method}"
        return name if self.variant == "released" else f"{name}_{self.variant}"

    def fingerprint(self) -> str:
        """Return the hash that two runs share exactly when all their settings are equal."""
        return _fingerprint(dataclasses.asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for ``settings.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """Rebuild settings from ``settings.json``.

        Raises
        ------
        MudiffError
            If a field is unknown or has a value of another type.
        """
        return cls().replace(**values)

    def replace(self, **changes: Any) -> "Settings":
        """Return a copy with some fields changed; texts are read as the field's type.

        Raises
        ------
        MudiffError
            If a field is unknown or a value does not fit it.
        """
        fields = typing.get_type_hints(type(self))
        for name in changes:
            if name not in fields:
                raise MudiffError(f"setting {name!r} is unknown: choose one of {', '.join(sorted(fields))}.")
        return dataclasses.replace(self, **{k: _convert(k, fields[k], v) for k, v in changes.items()})


_CHOICES = {
    "variant": ("released", "text", "published", *ABLATIONS),
    "networks": ("mutual", "single"),
    "normalisation": ("percentile", "minmax"),
    "gates": ("all", "pair"),
    "pairs": ("cyclic", "chain"),
    "gated_term": ("product", "concatenation"),
    "mapper_activation": ("silu", "relu"),
    "mapper_normalises": ("features", "input"),
    "posterior": ("beta", "printed"),
    "reduction": ("mean", "sum"),
    "mask": ("convolution", "trained", "channel_mean"),
    "mask_noise": ("independent", "shared"),
    "schedule": ("cosine", "linear", "constant"),
    "order": ("fixed", "shuffled"),
    "precision": ("float32", "bfloat16"),
    "checkpoint": ("best", "last"),
}
_POSITIVE = (
    "image_size", "slices", "width", "blocks", "embedding", "latent", "levels", "critic_width", "critic_blocks",
    "steps", "epochs", "batch_size", "learning_rate", "critic_learning_rate", "r1_interval", "validate_every",
)  # fmt: skip


def _check(settings: Settings) -> None:
    for name, choices in _CHOICES.items():
        if getattr(settings, name) not in choices:
            raise MudiffError(
                f"setting {name} = {getattr(settings, name)!r}: choose one of {', '.join(choices)}."
            )
    for name in _POSITIVE:
        if not getattr(settings, name) > 0:
            raise MudiffError(f"setting {name} = {getattr(settings, name)!r}: must be above 0.")
    if settings.width % 4 or settings.critic_width % 4:
        raise MudiffError("settings width and critic_width must be multiples of 4.")
    if settings.levels < 2:
        raise MudiffError(f"setting levels = {settings.levels}: a U-Net needs two or more.")
    if settings.vgg16 and settings.method != "pgan":
        raise MudiffError("setting vgg16: only method pgan has a perceptual term; leave it out.")
    if not all(math.isfinite(v) for v in vars(settings).values() if isinstance(v, float)):
        raise MudiffError("settings must be finite numbers.")
    for name in ("beta1", "beta2", "ema_decay", "dropout", "constant_part"):
        if not 0 <= getattr(settings, name) < 1:
            raise MudiffError(
                f"setting {name} = {getattr(settings, name)!r}: must be at least 0 and below 1."
            )
    if not 0 < settings.beta_min < settings.beta_max:
        raise MudiffError("settings beta_min and beta_max must be above 0, beta_max the larger one.")
    if settings.validation_slices < 0 or not 0 <= settings.seed < 2**63:
        raise MudiffError("settings validation_slices and seed must not be negative, nor seed above 2^63.")
    if not settings.multipliers or min(settings.multipliers) < 1 or settings.embedding % 2:
        raise MudiffError("setting multipliers must be 1 or more each, setting embedding must be even.")
    # A method's networks say which sizes they can take; here only what every method needs.
    if settings.image_size % 4:
        raise MudiffError(f"setting image_size = {settings.image_size}: must be a multiple of 4.")
    datasets.method(settings.method)
    datasets.dataset(settings.dataset).conditions(settings.target)


def _convert(name: str, kind: Any, value: Any) -> Any:
    """Read `value` as the type of field `name`; command-line texts become numbers, lists become tuples."""
    if isinstance(kind, types.GenericAlias):  # tuple[int, ...]
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(_convert(name, int, part) for part in parts)
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                value.lower()
            ]
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        if kind in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
            if kind is int and float(value) != int(float(value)):
                raise ValueError
            return kind(float(value)) if kind is int else float(value)
    except (KeyError, ValueError, OverflowError):
        pass
    raise MudiffError(f"setting {name} = {value!r}: expected a value of type {kind.__name__}.")
