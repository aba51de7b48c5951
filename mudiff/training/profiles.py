"""Profiles and variants: which settings a run has under ``smoke``, ``demo`` and ``paper``.

Letters such as A-2 point to the register in DIFFERENCES.md.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.settings import RECIPE_VERSION, Preparation, Settings
from mudiff.training.recipes import ABLATIONS, PUBLISHED, RECIPES

__all__ = [
    "PROFILES",
    "RECIPE_VERSION",
    "VARIANTS",
    "Preparation",
    "Profile",
    "Settings",
    "preparation",
    "profile",
    "settings",
]

TEXT = {  # variant "text": the paper as written
    "beta1": 0.1,
    "beta2": 0.2,
    "schedule": "constant",
    "r1_gamma": 0.0,
    "normalisation": "minmax",
    "critic_blocks": 4,
    "critic_minibatch_std": False,
    "gates": "pair",
    "pairs": "chain",
    "mapper_activation": "relu",
    "mapper_skip": True,
    "mapper_normalises": "input",
    "reduction": "sum",
    "mask": "channel_mean",
    "critic_real_weight": 2.0,
    "detach_first": True,
    "order": "shuffled",
}
VARIANTS = ("released", "text", "published", *ABLATIONS)
"""Common budget and the authors' training command; MU-Diff as its text says; a baseline's own budget; ablations."""

ABLATED = ("brats", "t1ce")
"""Dataset and target of the section "Ablation study"."""


@dataclass(frozen=True)
class Profile:
    """Sizes and the chosen part of the runs; the wiring is the same for all profiles.

    Attributes
    ----------
    name : str
        Name of the profile and of its folders.
    overrides : dict
        Fields of `Settings` that differ from the published ones.
    slices : dict of str to int
        Slices per subject and dataset; empty for the paper's numbers.
    phantoms : dict of str to (int, int, int)
        Phantom subjects per dataset for training, validation and test; empty for real data.
    runs : dict of (str, str) to tuple of str
        (dataset, target) -> the methods that are trained for it.
    epochs : dict of (str, str) to int
        Epochs of a (dataset, target), for all its methods, where they are not ``overrides["epochs"]``.
    sizes : dict of str to dict
        Method -> fields of `Settings` that differ from ``overrides``.
    apart : bool
        Whether each run is a job of its own, as a cluster needs it, or one job has all methods of a task.
    ablations : dict
        Fields of `Settings` by which the ablations' budget differs from that of the main run. Where there
        are any, the full model is trained with that budget too, so that like is compared with like.
    """

    name: str
    overrides: dict[str, Any]
    slices: dict[str, int]
    phantoms: dict[str, tuple[int, int, int]]
    runs: dict[tuple[str, str], tuple[str, ...]]
    epochs: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    sizes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    apart: bool = False
    ablations: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def full(self) -> str:
        """The variant that ablations are compared with."""
        return "full" if self.ablations else "released"

    def jobs(self) -> dict[str, tuple[str, str, list[str]]]:
        """Return name -> dataset, target and the methods that one process trains.

        The ablations are MU-Diff's variants, written as ``mudiff_abl1``.
        """
        variants = [f"mudiff_{name}" for name in ABLATIONS if name != "full" or self.full == "full"]
        every = {f"{d}_{t}": (d, t, list(methods)) for (d, t), methods in self.runs.items()}
        first = next(iter(every))  # is begun first: it takes longest
        every = {first: every[first], "_".join((*ABLATED, "ablations")): (*ABLATED, variants)} | every
        if self.apart:
            return {f"{d}_{t}_{m}": (d, t, [m]) for d, t, methods in every.values() for m in methods}
        return every


_ALL = tuple(datasets.METHODS)
_CLOSEST = ("syndiff", "mudiff", "linear")  # MU-Diff, the baseline that it builds on, and the floor
# The chosen part of the matrix: every method for the contrast that is hardest and the one that lesions are
# outlined on, the closest ones elsewhere.
_PART = {
    ("brats", "t1ce"): _ALL,  # the first is begun first: it is trained longest
    ("brats", "flair"): _ALL,
    ("brats", "t2"): _CLOSEST,
    ("brats", "t1"): _CLOSEST,
    ("isles", "flair"): _ALL,
    ("isles", "t1"): _CLOSEST,
    ("healthy", "flair"): _ALL,
}
_SMALL_U_NET = {"levels": 6}  # 64 pixels are halved six times, 256 eight times

PROFILES = {
    "smoke": Profile(
        "smoke",
        overrides={
            "image_size": 64,
            "width": 8,
            "multipliers": (1, 2),
            "blocks": 1,
            "embedding": 32,
            "critic_width": 4,
            "epochs": 1,
            "batch_size": 4,
            "validation_slices": 4,
        },
        slices=dict.fromkeys(datasets.DATASETS, 6),
        phantoms={"brats": (2, 1, 2), "isles": (2, 1, 2), "healthy": (1, 1, 1)},
        runs=_PART,
        sizes={
            "pix2pix": _SMALL_U_NET,
            "pgan": {"blocks": 2},
            "mmgan": _SMALL_U_NET,
            "ddpm": {"steps": 25},  # 1000 in "paper"
        },
    ),
    "demo": Profile(
        "demo",
        overrides={
            "image_size": 64,
            "width": 8,
            "multipliers": (1, 2, 4),
            "blocks": 1,
            "embedding": 32,
            "critic_width": 8,
            "epochs": 2,
            "batch_size": 4,
            # Small networks that see few slices need larger steps than the published ones.
            "learning_rate": 2e-3,
            "critic_learning_rate": 5e-4,
            "validation_slices": 40,
        },
        slices=dict.fromkeys(datasets.DATASETS, 40),  # 80 mm of a 2 mm phantom, as 80 slices of 1 mm
        phantoms={"brats": (12, 2, 6), "isles": (8, 2, 5), "healthy": (4, 2, 4)},
        runs=_PART,
        epochs={("brats", "t1ce"): 4},
        sizes={
            "pix2pix": _SMALL_U_NET | {"width": 16, "critic_width": 16},
            "pgan": {"width": 16, "critic_width": 16, "blocks": 3},
            "mmgan": _SMALL_U_NET | {"width": 16, "critic_width": 16},
            "ddpm": {"steps": 25},  # 1000 in "paper"
        },
        ablations={"epochs": 1},
    ),
    "paper": Profile(
        "paper",
        overrides={},
        slices={},
        phantoms={},
        runs=datasets.RUNS,
        # A validation of DDPM costs 1000 evaluations a slice: with 64 slices more than its training.
        sizes={"ddpm": {"validation_slices": 16}},
        apart=True,
    ),
}


def profile(name: str) -> Profile:
    """Return the profile called `name`.

    Raises
    ------
    MudiffError
        If there is none.
    """
    if name not in PROFILES:
        raise MudiffError(f"profile {name!r} is unknown: choose one of {', '.join(PROFILES)}.")
    return PROFILES[name]


def preparation(profile_name: str, dataset: str) -> Preparation:
    """Return how `dataset` is prepared under a profile."""
    chosen = profile(profile_name)
    return Preparation(
        datasets.dataset(dataset).name,
        image_size=chosen.overrides.get("image_size", 256),
        slices=chosen.slices.get(dataset, datasets.dataset(dataset).slices),
        normalisation=chosen.overrides.get("normalisation", "percentile"),
    )


def settings(
    profile_name: str, dataset: str, target: str, method: str, variant: str = "released", **changes: Any
) -> Settings:
    """Return the settings of one run: the method's recipe, then variant, profile and `changes`.

    A method may be given with its variant, as in ``mudiff_abl1``.

    Raises
    ------
    MudiffError
        If a name is unknown, a variant does not belong to the method, or a value does not fit its field.
    """
    chosen = profile(profile_name)
    method, _, named = method.partition("_")
    method, variant = datasets.method(method), named or variant
    _check_variant(variant, method, profile_name)
    fields: dict[str, Any] = {"dataset": dataset, "target": datasets.contrast(target), "method": method}
    fields |= {"variant": variant, "slices": preparation(profile_name, dataset).slices} | RECIPES[method]
    fields |= TEXT if variant == "text" else {}
    fields |= chosen.overrides | chosen.sizes.get(method, {})
    if (dataset, fields["target"]) in chosen.epochs:
        fields["epochs"] = chosen.epochs[dataset, fields["target"]]
    if method == "linear":
        fields["epochs"] = 1  # the least-squares fit sees each slice once
    fields |= PUBLISHED[method] if variant == "published" else {}
    fields |= chosen.ablations | ABLATIONS[variant] if variant in ABLATIONS else {}
    return Settings().replace(**fields | changes)


def _check_variant(variant: str, method: str, profile_name: str) -> None:
    if variant not in VARIANTS:
        raise MudiffError(f"variant {variant!r} is unknown: choose one of {', '.join(VARIANTS)}.")
    if variant in ("text", *ABLATIONS) and method in datasets.BASELINES:
        raise MudiffError(
            f"variant {variant!r} is MU-Diff's; method {method!r} has 'released' (common budget) and 'published'."
        )
    if variant == "published" and method not in PUBLISHED:
        raise MudiffError(
            f"variant 'published' is for baselines; method {method!r} has 'released' and 'text'."
        )
    if variant == "published" and profile_name != "paper":
        raise MudiffError("variant 'published' is of the published sizes: use profile 'paper'.")
