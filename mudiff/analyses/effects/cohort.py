"""Phantoms of two sites, small enough for many trainings: the cohort on which effects are measured."""

import functools
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mudiff import paths
from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.phantoms import cohort
from mudiff.settings import Preparation

DATASET, TARGET = "brats", "t1ce"
"""The paper's task for all analyses."""

SITES = (0, 1)
"""Scanner (in `mudiff.phantoms.signals.SCANNERS`) of each site; the subjects of one number share a brain."""

_SIZES = {
    "image_size": 32,
    "width": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "embedding": 32,
    "critic_width": 4,
    "critic_blocks": 5,  # 32 pixels can be halved five times
    "batch_size": 4,
    "learning_rate": 2e-3,  # as in profile demo, ten times the published: few steps must do; limits
    "critic_learning_rate": 5e-4,
    "validation_slices": 0,
    "checkpoint": "last",  # no choice that would differ between the settings compared
}


@dataclass(frozen=True)
class Extent:
    """How much is measured in a profile.

    Attributes
    ----------
    subjects : tuple of int
        Phantoms for training, validation and test, at each site.
    slices : int
        Middle slices of each.
    spacing : float
        Edge of the voxels in mm.
    seeds, repeats : int
        Trainings of the base, and of each change.
    changes : tuple of str
        Which changes of `mudiff.analyses.effects.training.CHANGES` are trained; empty for all.
    sizes : dict
        Fields of `Settings` of every training.
    images : int
        Test slices for the effects of metrics and sampling.
    steps, step_images : int
        E-4: how many sampling steps take the place of 4, and on how many slices.
    """

    subjects: tuple[int, int, int]
    slices: int
    spacing: float
    seeds: int
    repeats: int
    sizes: dict[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    images: int = 24
    steps: int = 1000
    step_images: int = 2


EXTENTS = {
    "smoke": Extent(
        (2, 1, 1),
        2,
        8.0,
        2,
        1,
        _SIZES | {"epochs": 2},
        changes=("betas", "pair", "minmax", "second", "both"),
        images=4,
        steps=20,
        step_images=1,
    ),
    "demo": Extent(
        (8, 1, 4),
        4,
        5.0,
        4,
        1,
        _SIZES | {"epochs": 5},
        changes=(
            *("betas", "constant", "no_r1", "channel_mean", "detached", "shuffled"),
            *("pair", "chain", "minmax", "second", "both"),
        ),
        images=12,
        steps=100,
        step_images=4,
    ),
    "paper": Extent(
        (16, 2, 8),
        20,
        3.0,
        5,
        3,
        _SIZES | {"image_size": 64, "width": 16, "critic_width": 16, "critic_blocks": 6, "epochs": 5},
        step_images=4,
    ),
}


def extent(profile: str) -> Extent:
    """Return how much is measured in a profile.

    Raises
    ------
    MudiffError
        If there is no such profile.
    """
    if profile not in EXTENTS:
        raise MudiffError(f"profile {profile!r} is unknown: choose one of {', '.join(EXTENTS)}.")
    return EXTENTS[profile]


def folder(profile: str) -> Path:
    """Return where the phantoms, trainings and results of this analysis lie."""
    return paths.analysis(profile, "effects")


def prepared(profile: str, site: str = "first", normalisation: str = "percentile") -> Path:
    """Return the slices of a part of the cohort, made where they are missing.

    Parameters
    ----------
    profile : str
        Name of the profile.
    site : {"first", "second", "both"}
        Subjects of one site, or training subjects by turns from both (their brains are the same).
    normalisation : {"percentile", "minmax"}
        B-4.
    """
    return _prepared(folder(profile), profile, site, normalisation)


@functools.cache  # looked for once a process: a hundred trainings ask for the same few
def _prepared(place: Path, profile: str, site: str, normalisation: str) -> Path:
    chosen, root = extent(profile), place / "phantoms"
    makers = {
        "first": lambda: _write(root / "first", chosen, SITES[0]),
        "second": lambda: _write(root / "second", chosen, SITES[1]),
        "both": lambda: _mix(root, chosen),
    }
    manifest = makers[site]()
    preparation = Preparation(DATASET, chosen.sizes["image_size"], chosen.slices, normalisation)
    target = place / "prepared" / f"{site}_{normalisation}"
    listed = prepare.read_manifest(DATASET, manifest)
    prepare.prepare(preparation, manifest.parent, listed, target, workers=1, progress=False).check()
    return target


def _write(place: Path, chosen: Extent, scanner: int) -> Path:
    """Write the phantoms of one site and return their manifest."""
    return cohort.write_cohort(
        DATASET, place, chosen.subjects, spacing=chosen.spacing, scanner=scanner, workers=1, progress=False
    )


def _mix(root: Path, chosen: Extent) -> Path:
    """Take subjects by turns from both sites, each brain once, and return the manifest."""
    manifests = [
        _write(root / name, chosen, scanner) for name, scanner in zip(("first", "second"), SITES, strict=True)
    ]
    place = root / "both"
    for number in range(1, sum(chosen.subjects) + 1):
        name = cohort.subject_id(DATASET, number)
        source = manifests[number % len(SITES)].parent / name
        shutil.copytree(source, place / name, dirs_exist_ok=True)
    manifest = place / "manifest.csv"
    paths.write_text(manifest, manifests[0].read_text(encoding="utf-8"))
    return manifest
