"""What the explorer computes: a slice, its conditions as they were changed, the synthesis and the masks."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import torch

from mudiff.analyses.attention import ZONES, variants, zones
from mudiff.data import motion
from mudiff.data.dataset import Slices
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.methods.base import Method
from mudiff.model.critic import attentive_mask
from mudiff.model.diffusion import SliceNoise, slice_seed
from mudiff.model.scenario import Scenario
from mudiff.plots import attention as drawings
from mudiff.synthesis import sample

REGIONS = ("brain", *ZONES, "rectangle")
MISSING = "missing"
REPLACEMENTS = (MISSING, "background", "mean")  # of a condition that is off: really so, black, or its brain's mean
FIELD = 240.0  # mm, assumed: prepared slices do not say how large their pixels are
KEPT = 32  # syntheses, so that moving a slider back costs nothing


@dataclass(frozen=True)
class View:
    """What is looked at; the fields that change the synthesis come first."""

    subject: str
    place: int  # the slice, counted within the subject's prepared slices, inferior first
    off: tuple[str, ...] = ()  # conditions that are switched off
    replacement: str = "background"  # what stands for them, one of `REPLACEMENTS`
    moved: str = ""  # the condition with motion; "" for none
    strength: float = 1.0  # of the motion, 0 (none) to 3 (severe)
    t: int = 0  # the step that the masks are of; 0 is the last
    network: int = 2  # whose mask, 1 or 2
    variant: str = "channel_mean"  # how it is made, see `analyses.attention.variants`
    region: str = "brain"  # one of `REGIONS`
    rows: tuple[int, int] = (0, 0)  # first and last of the rectangle
    columns: tuple[int, int] = (0, 0)

    @property
    def leaves_out(self) -> bool:
        """Whether a condition is really missing, so that the run of target "any" makes the view."""
        return bool(self.off) and self.replacement == MISSING

    def unchanged(self) -> "View":
        """Return the same view with all conditions as they were acquired."""
        return dataclasses.replace(self, off=(), moved="")

    def changed(self) -> "View":
        """Return what decides the synthesis: settings of a change that is not made have no part in it."""
        chosen = {"off": tuple(sorted(self.off)), "replacement": self.replacement} if self.off else {}
        if self.moved and self.strength:
            chosen |= {"moved": self.moved, "strength": self.strength}
        return View(self.subject, self.place, **chosen)


@dataclass(frozen=True)
class Synthesis:
    """A slice from changed conditions: what the networks got, the result, and the attentive masks on the way."""

    conditions: np.ndarray  # (n, S, S) in [0, 1]
    image: np.ndarray  # (S, S) in [0, 1]
    masks: dict[tuple[str, int, int], np.ndarray]  # variant, network and step -> (S, S)


class Explorer:
    """A run (from `analyses.attention.open_run`), its test slices, and the seed of all syntheses: equal noise.

    Where there is a run of target "any", it makes the views in which a condition is missing.
    """

    def __init__(self, method: Method, slices: Slices, seed: int = 0, any_subset: Method | None = None) -> None:
        self.method, self.slices, self.seed, self.any_subset = method, slices, seed, any_subset
        self.names = method.settings.conditions
        self.replacements = REPLACEMENTS[1:] if any_subset is None else REPLACEMENTS
        self.variants = variants(method)
        self._sampled = functools.lru_cache(KEPT)(self._sample)
        self._moved = functools.lru_cache(1)(self._motion)
        self._scale: tuple[float, float] | None = None

    def first(self, subject: str | None = None) -> View:
        """Return a subject's view to begin with: the slice with the largest lesion, or the middle one."""
        subject = subject or self.slices.subjects[0]
        place = self.slices.example(subject) - int(self.slices.subject(subject)[0])
        quarter, last = self.slices.image_size // 4, self.slices.image_size - 1
        box = (quarter, last - quarter)
        return View(subject, place, replacement=self.replacements[0], rows=box, columns=box)

    def index(self, view: View) -> int:
        """Return the index of the view's slice among the test slices."""
        return int(self.slices.subject(view.subject)[view.place])

    def truth(self, view: View) -> np.ndarray:
        """Return the true target, (S, S) in [0, 1]."""
        return (self.slices.images([self.index(view)], self.method.settings.target)[0] + 1) / 2

    def zone(self, view: View, name: str) -> np.ndarray:
        """Return a region, bool (S, S); one of `REGIONS`."""
        index = self.index(view)
        brain = self.slices.brain([index])
        if name == "brain":
            return brain[0]
        if name == "rectangle":
            inside = np.zeros_like(brain[0])
            inside[view.rows[0] : view.rows[1] + 1, view.columns[0] : view.columns[1] + 1] = True
            return inside
        return zones(self.slices.lesion([index]), brain)[0, ZONES.index(name)]

    def conditions(self, view: View) -> np.ndarray:
        """Return the conditions as the view changes them, float32 (n, S, S) in [0, 1]: moved, then switched off."""
        index = self.index(view)
        images = np.stack([(self.slices.images([index], name)[0] + 1) / 2 for name in self.names])
        if view.moved:
            images[self.names.index(view.moved)] = self._moved(view.subject, view.moved, view.strength)[view.place]
        brain = self.slices.brain([index])[0]
        for name in view.off:
            image = images[self.names.index(name)]
            image[:] = brain * (image[brain].mean() if view.replacement == "mean" and brain.any() else 0.0)
        return images

    def _motion(self, subject: str, contrast: str, strength: float) -> np.ndarray:
        """Return all slices of a condition with motion, (Z, S, S) in [0, 1]; voxels are taken to be isotropic."""
        stack = (self.slices.images(self.slices.subject(subject), contrast) + 1) / 2
        height = FIELD / max(self.slices.info["subjects"][subject]["shape"][:2])
        side = FIELD / self.slices.image_size
        return motion.move_stack(stack, motion.draw(subject, strength), (height, side, side))

    def synthesis(self, view: View) -> Synthesis:
        """Return the synthesis from the view's conditions; the last `KEPT` are kept."""
        return self._sampled(view.changed(), view.leaves_out)

    def normal(self, view: View) -> Synthesis:
        """Return the synthesis from all conditions as they were acquired, by the run that makes the view's."""
        return self._sampled(view.unchanged().changed(), view.leaves_out)

    @torch.no_grad()
    def _sample(self, view: View, missing: bool) -> Synthesis:
        """Sample the slice, and make both networks' masks of every step on the way."""
        method, task, scenario = self.method, None, None
        if missing:
            if len(view.off) == len(self.names):
                raise MudiffError("Every condition is off: keep one, or replace them by background or mean.")
            method, task = self.any_subset, ([n for n in self.names if n not in view.off], method.settings.target)
            scenario = Scenario.of(method.settings.conditions, *task, 1).to(method.device)
        index, images = self.index(view), self.conditions(view).astype(np.float32)
        replaced = {name: image[None] * 2 - 1 for name, image in zip(self.names, images, strict=True)}
        steps: list[dict] = []
        image = sample.sample_slices(method, self.slices, [index], self.seed, replaced, steps.append, task)[0]
        row, schedule, masks = self.slices.index.iloc[index], method.schedule, {}
        noise = SliceNoise([slice_seed(self.seed, "explorer", row["subject"], row["slice"])], method.device)
        for step in steps:
            t = torch.full((1,), step["t"], device=method.device)
            means = [schedule.posterior_mean(step[f"x_p{j}"], step["x_t"], t) for j in (1, 2)]
            shape = step["x_t"].shape[1:]
            before = [schedule.posterior_sample(mean, t, noise.normal(*shape)) for mean in means]  # Eq. 25
            for j, (_, middle) in enumerate(method.judge(before, t, step["x_t"], scenario), start=1):
                for name, layer in variants(method).items():
                    mask = attentive_mask(middle, self.slices.image_size, layer)
                    masks[name, j, step["t"]] = mask[0, 0].cpu().numpy()
        return Synthesis(images, image, masks)

    def mask(self, view: View) -> np.ndarray:
        """Return the mask that the view asks for, of the changed synthesis, (S, S) in (0, 1)."""
        return self.synthesis(view).masks[view.variant, view.network, view.t]

    def scale(self, view: View) -> tuple[float, float]:
        """Return the range of the masks' colours: set by the first slice that is seen, then the same for all."""
        if self._scale is None:
            brain = self.zone(view, "brain")
            masks = self.synthesis(view.unchanged()).masks.values()
            self._scale = drawings.limits(np.array([mask[brain] for mask in masks]))
        return self._scale

    def statistics(self, view: View) -> dict[str, float]:
        """Return numbers of the view's region; NaN where it is empty. PSNR is masked, in dB."""
        inside, brain, mask = self.zone(view, view.region), self.zone(view, "brain"), self.mask(view)
        normal, changed = self.normal(view).image, self.synthesis(view).image
        truth = self.truth(view)
        psnr = lambda a, b: metrics.masked_protocol(a, b, inside)["psnr"]  # noqa: E731
        mean = lambda a, where=inside: float(a[where].mean()) if where.any() else np.nan  # noqa: E731
        return {
            "pixels": int(inside.sum()), "mean of the mask": mean(mask),
            "standard deviation of the mask": float(mask[inside].std()) if inside.any() else np.nan,
            "mean of the mask in the brain": mean(mask, brain), "mean of the truth": mean(truth),
            "mean of the unchanged": mean(normal), "mean of the changed": mean(changed),
            "PSNR of the unchanged": psnr(truth, normal), "PSNR of the changed": psnr(truth, changed),
            "PSNR between both": psnr(normal, changed),
        }  # fmt: skip
