"""Every number of a training run on one page; the defaults are the authors' training command (``released``).

Letters such as A-2 point to the register in DIFFERENCES.md; "code" and "text" are the released code and the paper.
"""

import ast
import dataclasses
import math
import re
import typing
from dataclasses import dataclass
from typing import Any, Literal

from mudiff import cache
from mudiff.data import datasets
from mudiff.data.dataset import Preparation
from mudiff.errors import MudiffError


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of one training run; checked when it is made."""

    # The task
    dataset: str = "brats"
    target: str = "t1ce"  # or "any": every contrast of the dataset, from any subset of the others
    method: str = "mudiff"
    variant: str = "released"  # or "text", "published", or an ablation (training/profiles.py)
    seed: int = 1024  # not in the paper

    # Slices
    image_size: int = 256
    slices: int = 80  # per subject, where they are 1 mm apart
    normalisation: Literal["percentile", "minmax"] = "percentile"  # B-4: code; text

    # Networks: sizes
    width: int = 64  # feature maps of the first level
    multipliers: tuple[int, ...] = (1, 2, 4)  # widths of the levels, in units of `width`
    blocks: int = 2  # residual blocks per encoder level (the decoder has one more, D-8); of pGAN: in all
    embedding: int = 256  # width of the time and latent embeddings
    latent: int = 100  # entries of z
    attention_at: int = 16  # D-7: attention follows blocks whose feature maps have this side
    critic_width: int = 64  # psi starts at twice this width, the critics of one-pass baselines at it
    critic_blocks: int = 6  # D-1: 6 (code) or 4 (text); of one-pass baselines: convolutions of stride 2

    # Networks: departures and ablations
    critic_weights: Literal["released", "default"] = "released"  # D-12: how they begin: as the code's or as PyTorch's
    critic_minibatch_std: bool = True  # D-1: the code appends the minibatch standard deviation
    gates: Literal["all", "pair"] = "all"  # D-2: what gates of tau see (code; Eqs. 14, 16)
    pairs: Literal["cyclic", "chain"] = "cyclic"  # D-3: pairs of tau (code; Eq. 18)
    mapper_activation: Literal["silu", "relu"] = "silu"  # D-5: code; text
    mapper_skip: bool = False  # D-5: "residual" blocks without (code) or with a skip (text)
    mapper_normalises: Literal["features", "input"] = "features"  # D-5: by Eq. 13 (code; text)
    networks: Literal["mutual", "single"] = "mutual"  # F1 and F2, or ablation 1: F1 alone
    target_adaptation: bool = True  # rho in F2; off in ablation 2 and in one reading of 3 (D-11)
    contrast_adaptation: bool = True  # tau in F2; off in ablation 2 and in the other reading of 3 (D-11)

    # Diffusion
    steps: int = 4  # T
    beta_min: float = 0.1
    beta_max: float = 20.0
    posterior: Literal["beta", "printed"] = "beta"  # E-1: code; Eq. 31 as printed gives images of zeros

    # Losses
    weight_supervised: float = 0.5  # A-1, lambda_s
    weight_mask: float = 0.1  # A-1, lambda_m
    weight_adversarial: float = 1.0  # A-1, lambda_c
    reduction: Literal["mean", "sum"] = "mean"  # C-6: Eqs. 22 and 29 over the pixels (code; text)
    # C-1: M_j by a 1x1 convolution that is never trained (code), a trained one, or the channel mean (Eq. 28)
    mask: Literal["convolution", "trained", "channel_mean"] = "convolution"
    mask_detached: bool = False  # C-2: whether gradients through the masks are cut
    detach_first: bool = False  # C-4: cut x^{p1} on its way into F2, so that L^2 trains F2 alone
    critic_real_weight: float = 1.0  # C-5: 1 (code) or 2 (Eq. 27 summed over both networks)

    # Optimisation
    epochs: int = 30
    batch_size: int = 3
    learning_rate: float = 1.6e-4  # A-3, generators
    critic_learning_rate: float = 1e-4
    beta1: float = 0.5  # 0.5 (code) or 0.1 (text)
    beta2: float = 0.9  # 0.9 (code) or 0.2 (text)
    schedule: Literal["cosine", "constant", "linear"] = "cosine"  # code; text; two baselines
    final_learning_rate: float = 1e-5  # where the cosine ends
    constant_part: float = 0.5  # part of the epochs before "linear" starts to fall to 0
    r1_gamma: float = 1.0  # R1 penalty on the critic, 0 is off
    r1_interval: int = 10  # steps between two penalties
    ema_decay: float = 0.0  # 0 is off (as the released command runs), 0.999 what it names
    order: Literal["fixed", "shuffled"] = "fixed"  # C-8: of the slices, in all epochs (code)
    curriculum: float = 0.0  # target "any": part of the training in which the number of missing contrasts grows
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast

    # Choice of the checkpoint
    checkpoint: Literal["best", "last"] = "best"  # by validation PSNR, or the last one (code)
    validate_every: int = 1  # epochs
    validation_slices: int = 64  # evenly spaced over the validation set, 0 is all

    # Of baselines alone
    levels: int = 8  # downsamplings in the U-Nets of Pix2Pix and MM-GAN
    dropout: float = 0.0  # of the generator, in training only
    weight_perceptual: float = 0.0  # pGAN: of the VGG16 features
    vgg16: str = ""  # pGAN: file with the weights of VGG16; without one the perceptual term is off
    weight_reconstruction: float = 0.0  # Hi-Net: of the conditions' own reconstructions

    def __post_init__(self) -> None:
        for name, kind in _TYPES.items():
            object.__setattr__(self, name, _convert(name, kind, getattr(self, name)))
        _check(self)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions, in the order that the networks take them."""
        return datasets.dataset(self.dataset).conditions(self.target)

    @property
    def targets(self) -> int:
        """Number of targets that one network has to tell apart: all contrasts in a run of "any", 0 in others."""
        return len(self.conditions) if self.target == datasets.ANY else 0

    @property
    def run_name(self) -> str:
        """Name of the run's folder."""
        name = f"{self.dataset}_{self.target}_{self.method}"
        return name if self.variant == "released" else f"{name}_{self.variant}"

    def preparation(self) -> Preparation:
        """Return the part that decides the slice cache."""
        return Preparation(self.dataset, self.image_size, self.slices, self.normalisation)

    def fingerprint(self) -> str:
        """Return a hash of all fields and the recipe, which Snakemake plans by."""
        return cache.digest(cache.RECIPE_VERSION, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for ``settings.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """Return the settings of a ``settings.json``; of another version's fields, unknown ones are left out."""
        return cls(**{name: value for name, value in values.items() if name in _TYPES})

    def replace(self, **changes: Any) -> "Settings":
        """Return a copy with some fields changed, texts read as its type; a `MudiffError` where one does not fit."""
        for name in changes.keys() - _TYPES.keys():
            raise MudiffError(f"setting {name!r} is unknown: choose one of {', '.join(sorted(_TYPES))}.")
        return dataclasses.replace(self, **changes)


_TYPES = typing.get_type_hints(Settings)
_POSITIVE = ("epochs", "learning_rate", "critic_learning_rate", "r1_interval", "validate_every")
_LARGEST = {  # of what memory grows with
    "image_size": 2048, "slices": 2048, "width": 1024, "blocks": 64, "embedding": 4096, "latent": 4096, "levels": 12,
    "critic_width": 1024, "critic_blocks": 11, "steps": 10_000, "batch_size": 1024,
}  # fmt: skip


def _convert(name: str, kind: Any, value: Any) -> Any:
    """Read `value` as the type of field `name`: texts of the command line become numbers, lists tuples."""
    choices = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        if value in choices:
            return value
        raise MudiffError(f"setting {name} = {value!r}: choose one of {', '.join(choices)}.")
    try:
        if isinstance(value, str) and kind is not str:
            value = ast.literal_eval(value.strip().title())  # "true" -> True, "1,2" -> (1, 2), "1e2" -> 100.0
        if choices:  # tuple[int, ...]
            parts = value if isinstance(value, list | tuple) else [value]
            return tuple(_convert(name, int, part) for part in parts)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if type(value) is kind or (number and kind(value) == value):
            return kind(value)
    except (ValueError, TypeError, SyntaxError, OverflowError, RecursionError, MemoryError):
        pass
    raise MudiffError(f"setting {name} = {value!r}: expected a value of type {getattr(kind, '__name__', kind)}.")


def _check(s: Settings) -> None:
    """Refuse values that no method can use; each network checks what it needs itself."""
    datasets.known("method", s.method, datasets.METHODS)
    datasets.dataset(s.dataset).conditions(s.target)
    rules = {f"{name} must be above 0": getattr(s, name) > 0 for name in (*_POSITIVE, *_LARGEST)}
    rules |= {f"{name} must be at most {most}": getattr(s, name) <= most for name, most in _LARGEST.items()}
    for name in ("beta1", "beta2", "ema_decay", "dropout", "constant_part", "curriculum"):
        rules[f"{name} must be at least 0 and below 1"] = 0 <= getattr(s, name) < 1
    rules |= {
        "numbers must be finite": all(math.isfinite(v) for v in vars(s).values() if isinstance(v, float)),
        "variant must be a plain name": re.fullmatch(r"\w+", s.variant),
        "seed must be from 0 to 2^63 - 1": 0 <= s.seed < 2**63,
        "image_size must be a multiple of 4": s.image_size % 4 == 0,
        "width and critic_width must be multiples of 4": s.width % 4 == s.critic_width % 4 == 0,
        "embedding must be even": s.embedding % 2 == 0,
        "multipliers must be 1 to 11 in number": 0 < len(s.multipliers) <= 11,
        "multipliers must be from 1 to 64 each": all(0 < m <= 64 for m in s.multipliers),
        "levels must be 2 or more": s.levels >= 2,
        "beta_min must be above 0 and below beta_max": 0 < s.beta_min < s.beta_max,
        "validation_slices must not be negative": s.validation_slices >= 0,
        "vgg16 is for method pgan alone": not s.vgg16 or s.method == "pgan",
        f"target any is for methods {', '.join(datasets.ANY_METHODS)}": (
            s.target != datasets.ANY or s.method in datasets.ANY_METHODS
        ),
    }
    for rule in (rule for rule, holds in rules.items() if not holds):
        raise MudiffError(f"settings: {rule}.")
