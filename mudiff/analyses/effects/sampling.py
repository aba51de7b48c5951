"""Effects of sampling: the same weights, another posterior, number of steps, or nothing loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mudiff import paths
from mudiff.analyses.effects import cohort, training
from mudiff.analyses.effects.cohort import DATASET, TARGET
from mudiff.analyses.effects.common import Effect, compare, digest, kept, subject_psnr, unit
from mudiff.analyses.effects.images import metric_effects
from mudiff.data import prepare
from mudiff.evaluation import old_tables as tables
from mudiff.methods.base import Method, build
from mudiff.model.critic import attentive_mask, mask_convolution
from mudiff.model.diffusion import Schedule, SliceNoise
from mudiff.model.layers import initialise
from mudiff.synthesis import sample
from mudiff.training import profiles, runs

SEEDS = 3
"""Sampling seeds of the base."""


@dataclass(frozen=True)
class Source:
    """A trained run and the test slices that it is tried on.

    Attributes
    ----------
    run, prepared : Path
        Their folders.
    words : str
        What they are, for captions.
    """

    run: Path
    prepared: Path
    words: str

    def key(self) -> dict[str, Any]:
        """Return what results of this source depend on."""
        slices = prepare.open_slices(self.prepared, "test")
        return {"weights": digest(self.run / "weights.safetensors"), "data": slices.info["data_hash"]}


def source(profile: str) -> Source:
    """Return the profile's MU-Diff run of T1CE on phantoms; where there is none, the base of the short trainings."""
    run = paths.run(profile, profiles.settings(profile, DATASET, TARGET, "mudiff").run_name)
    prepared = paths.prepared(profile, DATASET)
    there = runs.is_complete(run) and (prepared / "prepared.json").is_file()
    if there and tables.data_words(profile).startswith("generated"):
        return Source(run, prepared, f"run {run.name} of profile {profile}")
    training.train_one(profile, "base")
    base = cohort.folder(profile) / "trainings" / "base_0"
    return Source(base, cohort.prepared(profile), "the base of the short trainings")


def chosen_slices(slices: prepare.Slices, count: int) -> np.ndarray:
    """Return up to `count` evenly spaced test slices, with lesions if any has one, else of the brain."""
    every = np.arange(len(slices))
    with_lesion = every[(slices.lesion(every) > 0).any(axis=(1, 2))]
    usable = with_lesion if len(with_lesion) else every[slices.brain(every).any(axis=(1, 2))]
    return usable[np.unique(np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int))]


def psnr_with(
    method: Method, slices: prepare.Slices, indices: np.ndarray, seed: int = 0, **changes: Any
) -> float:
    """Return the PSNR (protocol ``masked``, dB) of a method whose diffusion process is changed.

    Parameters
    ----------
    method : Method
        Trained; its schedule is put back afterwards.
    slices : Slices
        Test slices.
    indices : np.ndarray
        Which of them.
    seed : int
        Seed of the sampling.
    **changes
        Fields of `Settings` that decide the process: ``steps``, ``posterior``.
    """
    trained = method.schedule
    method.schedule = Schedule.variance_preserving(method.settings.replace(**changes)).to(method.device)
    try:
        synthetic = sample.sample_slices(method, slices, indices, seed)
    finally:
        method.schedule = trained
    subjects = slices.index["subject"].to_numpy()[indices]
    return subject_psnr(
        unit(slices, indices, method.settings.target), synthetic, slices.brain(indices), subjects
    )


def sampling_effects(profile: str) -> list[Effect]:
    """Return the effects of E-1, E-4 and E-5 on the run of `source`, each kept in a file of its own."""
    chosen, found = cohort.extent(profile), source(profile)
    method = runs.load(found.run, runs.default_device())
    slices = prepare.open_slices(found.prepared, "test")
    many, few = (chosen_slices(slices, n) for n in (chosen.images, chosen.step_images))
    steps = chosen.steps
    measured = {
        "printed": (many, lambda: psnr_with(method, slices, many, posterior="printed")),
        f"steps_{steps}": (few, lambda: psnr_with(method, slices, few, steps=steps)),
        "not_loaded": (many, lambda: psnr_with(_untrained(method), slices, many)),
    }
    words = {
        "printed": ("E-1", "Eq. 31 as printed"),
        f"steps_{steps}": ("E-4", f"T = {steps} with weights of T = {method.settings.steps}"),
        "not_loaded": ("E-5", "weights not loaded, in silence"),
    }
    effects = []
    for name, (indices, compute) in measured.items():
        key = found.key() | {"slices": indices.tolist()}
        place = cohort.folder(profile) / "sampling"
        base = kept(
            place / f"base_{len(indices)}.json",
            key | {"seeds": SEEDS},
            lambda indices=indices: [psnr_with(method, slices, indices, seed) for seed in range(SEEDS)],
        )
        changed = [kept(place / f"{name}.json", key, compute)]
        effects.append(compare(*words[name], base, changed, "sampler"))
    return effects


def _untrained(method: Method) -> Method:
    """Return the method with the weights that it began with."""
    return build(method.settings).to(method.device).eval()


def source_images(profile: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, synthesis (both (N, S, S) in [0, 1]), brain masks and lesion labels of the source's slices."""
    found = source(profile)
    slices = prepare.open_slices(found.prepared, "test")
    indices = chosen_slices(slices, cohort.extent(profile).images)
    synthetic = sample.sample_slices(runs.load(found.run, runs.default_device()), slices, indices)
    return unit(slices, indices, TARGET), synthetic, slices.brain(indices), slices.lesion(indices)


def random_masks(profile: str, count: int = 8) -> np.ndarray:
    """Return the masks that untrained layers make of the same features of the source's critic (C-1).

    Parameters
    ----------
    profile : str
        Name of the profile.
    count : int
        How many layers, each drawn as before a training.

    Returns
    -------
    array (count, S, S) in (0, 1)
        Of the first slice of `source_images`, as x_{t-1} = x_0 with its x_t, t = 0.
    """
    found = source(profile)
    method = runs.load(found.run, runs.default_device())
    slices = prepare.open_slices(found.prepared, "test")
    (first, *_) = chosen_slices(slices, cohort.extent(profile).images)
    x = torch.from_numpy(slices.images([first], method.settings.target))[:, None].to(
        method.device
    )  # (1, 1, S, S)
    t = torch.zeros(1, dtype=torch.long, device=method.device)
    noise = SliceNoise([0], method.device).normal(*x.shape[1:])
    with torch.inference_mode():
        ((_, middle),) = method.judge([x], t, method.schedule.q_step(x, t, noise))
        masks = []
        for seed in range(count):
            layer = mask_convolution(method.critic)
            initialise(layer, torch.Generator().manual_seed(seed))
            mask = attentive_mask(middle, slices.image_size, layer.to(method.device))
            masks.append(mask[0, 0].cpu().numpy())
    return np.stack(masks)


def source_metric_effects(profile: str) -> list[Effect]:
    """Return `metric_effects` of the source's slices."""
    return metric_effects(*source_images(profile))
