"""Effects of single differences: short trainings on phantoms."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mudiff import paths
from mudiff.data import manifests
from mudiff.data.prepare import prepare
from mudiff.phantoms import cohort
from mudiff.settings import Preparation, Settings
from mudiff.training import profiles

DATASET, TARGET = "brats", "t1ce"  # the paper's task for all analyses
SEED = 1024  # of the base and of every change; repetitions count on from it

_SIZES = {
    "image_size": 32, "width": 8, "multipliers": (1, 2), "blocks": 1, "embedding": 32, "critic_width": 4,
    "critic_blocks": 5,  # 32 pixels can be halved five times
    "batch_size": 4,
    # As in profile demo, ten times the published: few steps must do, which limits what show.
    "learning_rate": 2e-3, "critic_learning_rate": 5e-4,
    "validation_slices": 0, "checkpoint": "last",  # no choice that would differ between the settings compared
}  # fmt: skip


@dataclass(frozen=True)
class Extent:
    """How much is measured in a profile."""

    subjects: tuple[int, int, int]  # phantoms for training, validation and test
    slices: int  # middle slices of each
    spacing: float  # edge of the voxels in mm
    seeds: int  # trainings of the base
    repeats: int  # trainings of each change
    sizes: Mapping[str, Any]  # fields of `Settings` of every training
    changes: tuple[str, ...] = ()  # which of `CHANGES` are trained; empty for all
    images: int = 24  # test slices for the effects of evaluation and sampling, which notebook 13 measures
    steps: int = 1000  # E-4: sampling steps in the place of 4,
    step_images: int = 4  # and on how many slices


EXTENTS = {
    "smoke": Extent(
        (2, 1, 1), 2, 8.0, seeds=2, repeats=1, sizes=_SIZES | {"epochs": 2}, changes=("betas", "pair", "minmax"),
        images=4, steps=20, step_images=1,
    ),
    "demo": Extent(
        (8, 1, 4), 4, 5.0, seeds=4, repeats=1, sizes=_SIZES | {"epochs": 5}, images=12, steps=100,
        changes=("betas", "constant", "no_r1", "channel_mean", "detached", "shuffled", "pair", "chain", "minmax"),
    ),
    "paper": Extent(
        (16, 2, 8), 20, 3.0, seeds=5, repeats=3,
        sizes=_SIZES | {"image_size": 64, "width": 16, "critic_width": 16, "critic_blocks": 6, "epochs": 5},
    ),
}  # fmt: skip
"""Profile -> extent."""


class Change(NamedTuple):
    """One departure from the base: id in the register, words, the fields of `Settings` of that difference alone."""

    id: str
    name: str
    fields: Mapping[str, Any]


CHANGES = {
    "weights": Change("A-1", "weights of the README's figure", {"weight_supervised": 1.0, "weight_adversarial": 0.5}),
    "betas": Change("A-2", "Adam β 0.1, 0.2", {"beta1": 0.1, "beta2": 0.2}),
    "constant": Change("A-4", "constant learning rates", {"schedule": "constant"}),
    "no_r1": Change("A-5", "no R1 penalty", {"r1_gamma": 0.0}),
    "channel_mean": Change("C-1", "mask: mean over channels", {"mask": "channel_mean"}),
    "trained_mask": Change("C-1", "mask: layer trained", {"mask": "trained"}),
    "detached": Change("C-2", "masks detached", {"mask_detached": True}),
    "shuffled": Change("C-8", "every epoch shuffled", {"order": "shuffled"}),
    "pair": Change("D-2", "gates see the pair", {"gates": "pair"}),
    "chain": Change("D-3", "pairs as a chain", {"pairs": "chain"}),
    "minmax": Change("B-4", "min-max, on the base's scale", {"normalisation": "minmax"}),
    "text": Change("A to D", "variant text as a whole", profiles.TEXT | {"variant": "text"}),
}  # fmt: skip
"""Name of the training's folder -> the change."""


def folder(profile: str) -> Path:
    """Return where phantoms, trainings and results lie."""
    return paths.analysis(profile, "effects")


def base_settings(profile: str) -> Settings:
    """Return the settings that every change starts from: variant ``released``, small."""
    chosen = EXTENTS[profile]
    fields = {"slices": round(chosen.slices * chosen.spacing), "seed": SEED, "validate_every": chosen.sizes["epochs"]}
    return profiles.settings("paper", DATASET, TARGET, "mudiff", **chosen.sizes, **fields)


def prepared(profile: str, normalisation: str = "percentile") -> Path:
    """Return the slices of the phantoms by either normalisation (B-4), made where they are missing."""
    chosen = EXTENTS[profile]
    options = {"spacing": chosen.spacing, "workers": 1, "progress": False}
    manifest = cohort.write_cohort(DATASET, folder(profile) / "phantoms", chosen.subjects, **options)
    preparation = Preparation(DATASET, chosen.sizes["image_size"], base_settings(profile).slices, normalisation)
    target = folder(profile) / "prepared" / normalisation
    listed = manifests.read_manifest(DATASET, manifest)
    prepare(preparation, manifest.parent, listed, target, workers=1, progress=False)
    return target


def train_one(profile: str, name: str = "base", repeat: int = 0) -> Path:
    """Train the base or one of `CHANGES`, if that is not done yet, with seed `SEED` + `repeat`; return its folder."""
    from mudiff.training import loop

    fields = {} if name == "base" else CHANGES[name].fields
    settings = base_settings(profile).replace(**fields, seed=SEED + repeat)
    place = folder(profile) / "trainings" / f"{name}_{repeat}"
    return loop.train(settings, prepared(profile, settings.normalisation), place, progress=False)
