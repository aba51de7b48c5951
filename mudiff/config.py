"""Profiles and variants: which settings a run has under ``smoke``, ``demo`` and ``paper``.

Letters such as A-2 point to the register in DIFFERENCES.md.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from mudiff import tasks
from mudiff.errors import MudiffError
from mudiff.settings import RECIPE_VERSION, Preparation, Settings

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
    "variant": "text",
    "beta1": 0.1,
    "beta2": 0.2,
    "cosine": False,
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
VARIANTS: dict[str, dict[str, Any]] = {"released": {}, "text": TEXT}


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
    runs : tuple of (str, str)
        The (dataset, target) pairs that are trained.
    methods : tuple of str
        The methods that are trained for each of them.
    epochs : dict of (str, str) to int
        Epochs of a (dataset, target) that differ from ``overrides["epochs"]``.
    """

    name: str
    overrides: dict[str, Any]
    slices: dict[str, int]
    phantoms: dict[str, tuple[int, int, int]]
    runs: tuple[tuple[str, str], ...]
    methods: tuple[str, ...] = ("mudiff", "linear")
    epochs: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)


_LESION_RUNS = (
    ("brats", "t1ce"),
    ("brats", "flair"),
    ("brats", "t2"),
    ("brats", "t1"),
    ("isles", "flair"),
    ("isles", "t1"),
)

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
        slices=dict.fromkeys(tasks.DATASETS, 6),
        phantoms={"brats": (2, 1, 2), "isles": (2, 1, 2), "healthy": (1, 1, 1)},
        runs=_LESION_RUNS,
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
        slices=dict.fromkeys(tasks.DATASETS, 40),  # 80 mm of a 2 mm phantom, as 80 slices of 1 mm
        phantoms={"brats": (12, 2, 6), "isles": (8, 2, 5), "healthy": (4, 2, 4)},
        runs=_LESION_RUNS,
        epochs={("brats", "t1ce"): 6},
    ),
    "paper": Profile("paper", overrides={}, slices={}, phantoms={}, runs=_LESION_RUNS),
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
        tasks.dataset(dataset).name,
        image_size=chosen.overrides.get("image_size", 256),
        slices=chosen.slices.get(dataset, tasks.dataset(dataset).slices),
        normalisation=chosen.overrides.get("normalisation", "percentile"),
    )


def settings(
    profile_name: str, dataset: str, target: str, method: str, variant: str = "released", **changes: Any
) -> Settings:
    """Return the settings of one run: defaults, then variant, profile and `changes`.

    Raises
    ------
    MudiffError
        If a name is unknown or a value does not fit its field.
    """
    chosen = profile(profile_name)
    if variant not in VARIANTS:
        raise MudiffError(f"variant {variant!r} is unknown: choose one of {', '.join(VARIANTS)}.")
    fields: dict[str, Any] = {"dataset": dataset, "target": tasks.contrast(target), "method": method}
    fields["slices"] = preparation(profile_name, dataset).slices
    fields |= VARIANTS[variant] | chosen.overrides
    if (dataset, fields["target"]) in chosen.epochs:
        fields["epochs"] = chosen.epochs[dataset, fields["target"]]
    if method == "linear":
        fields["epochs"] = 1  # the least-squares fit sees each slice once
    return Settings().replace(**fields | changes)
