"""What the explorer computes: a slice, its conditions as they were changed, the synthesis, and what led to it."""

import contextlib
import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from skimage.draw import polygon2mask

from mudiff.analyses.attention import ZONES, has_critic, listen, variants, zones
from mudiff.data import datasets, motion
from mudiff.errors import MudiffError
from mudiff.explorer import subject as subjects
from mudiff.methods.base import Diffusion, Method
from mudiff.model.critic import attentive_mask
from mudiff.model.diffusion import SliceNoise, slice_seed
from mudiff.model.scenario import Scenario
from mudiff.plots.attention import limits
from mudiff.synthesis import sample
from mudiff.training import runs

MISSING = "missing"
REPLACEMENTS = (MISSING, "background", "mean")  # of a condition that is off: really so, black, or its brain's mean
DRAWN, ABOVE = "drawn", "mask above"  # regions: by mouse, and where the view's mask is above a threshold
LAYERS = {
    "masks": (("M1", "M2"),), "predictions": (("x_p1", "x_p2"),), "gates": (("z_a", "z_b"),),
    "maps": (("before", "after"), ("adapted", "fused")),
}  # fmt: skip
"""What can be looked at below the images -> its rows of kinds; a row has one scale. See `attention.listen`."""
KEPT = 24  # syntheses with all layers, so that going back costs nothing; of the images alone, twenty times as many
SLOW = 256  # pixels from which, on a CPU, one step is shown before all are done

Amounts = tuple[tuple[str, float], ...]  # of conditions; those that are not named are as they were acquired


@dataclass(frozen=True)
class View:
    """What is looked at; the first line of fields decides the synthesis."""

    place: int  # the slice, counted within the subject's slices, inferior first
    target: str  # the contrast that is made
    off: tuple[str, ...] = ()  # conditions that are switched off
    replacement: str = "background"  # what stands for them, one of `REPLACEMENTS`
    motion: Amounts = ()  # strength, 0 (none) to 3 (severe)
    noise: Amounts = ()  # standard deviation in the brain, part of the intensity range
    brightness: Amounts = ()  # factor

    samples: int = 0  # whose spread is shown
    layer: str = "masks"  # one of `LAYERS`
    t: int = 0  # the step of maps, gates, disagreement and of the mask in numbers; 0 is the last
    network: int = 2  # whose mask is in the numbers, 1 or 2
    variant: str = "channel_mean"  # how masks are made, see `analyses.attention.variants`
    own_scale: bool = False  # each picture of a layer on its own scale
    region: str = "brain"  # see `Explorer.regions`
    polygon: tuple[tuple[float, float], ...] = ()  # corners (row, column) of what was drawn, in pixels of the slice
    threshold: float = 0.5  # of the region `ABOVE`

    @property
    def leaves_out(self) -> bool:
        """Whether a condition is really missing, so that a run of target "any" makes the view."""
        return bool(self.off) and self.replacement == MISSING

    @property
    def mask(self) -> tuple[str, str, int]:
        """The mask in the numbers, as a key of `Synthesis.layers`."""
        return f"M{self.network}", self.variant, self.t

    def unchanged(self) -> "View":
        """Return the same view with all conditions as they were acquired."""
        return dataclasses.replace(self, off=(), motion=(), noise=(), brightness=())

    def made_by(self) -> "View":
        """Return what decides the synthesis: settings of a change that is not made have no part in it."""
        acting = {"motion": 0.0, "noise": 0.0, "brightness": 1.0}
        changes = {f: tuple(sorted((c, x) for c, x in getattr(self, f) if x != none)) for f, none in acting.items()}
        off = {"off": tuple(sorted(self.off)), "replacement": self.replacement} if self.off else {}
        return View(self.place, self.target, **off, **changes)


@dataclass(frozen=True, eq=False)
class Synthesis:
    """A slice from changed conditions, and what was met on the way."""

    conditions: dict[str, np.ndarray]  # (S, S) in [0, 1], what the networks got
    image: np.ndarray  # (S, S) in [0, 1]
    layers: dict[tuple[str, str, int], np.ndarray]  # kind, name and step -> (S, S)

    def disagreement(self, t: int) -> np.ndarray | None:
        """Return |x^{p1} - x^{p2}| at a step, (S, S), part of the intensity range; None of one network alone."""
        both = [self.layers.get((f"x_p{j}", "", t)) for j in (1, 2)]
        return None if any(x is None for x in both) else np.abs(both[0] - both[1])


class Explorer:
    """A run and a subject: a prepared test subject of it by name (default: the first), or a folder of NIfTI files.

    All syntheses have one noise. Where a run of target "any" stands beside the run, it makes the views in which a
    condition is missing. `tick` is called after each step of sampling: what it raises stops the work.
    """

    def __init__(self, run: Path | str, subject: Path | str | None = None, seed: int = 0) -> None:
        self.run, self.seed, self.tick = Path(run).absolute(), seed, lambda: None
        if not runs.is_complete(self.run):
            raise MudiffError(f"{run}: is no complete run (weights, provenance.json); train it, or choose another.")
        self.method = runs.load(self.run, runs.default_device())
        settings, folder = self.method.settings, Path(subject).expanduser() if subject else None
        if folder is not None and folder.is_dir():
            self.subject, self.source = subjects.from_files(folder.absolute(), settings), str(folder.absolute())
        else:
            slices = subjects.test_slices(self.run, settings)
            self.subject = subjects.prepared(slices, str(subject or slices.subjects[0]))
            self.source = self.subject.name
        beside = self.run.with_name(f"{settings.dataset}_{datasets.ANY}_mudiff")
        able = not settings.targets and runs.is_complete(beside)
        self.any = runs.load(beside, self.method.device) if able else self.method if settings.targets else None
        self.replacements = REPLACEMENTS if self.any else REPLACEMENTS[1:]
        self.variants = list(variants(self.method)) if has_critic(self.run, self.method) else []
        self.steps = self.method.schedule.steps if isinstance(self.method, Diffusion) else 0
        self.slow = settings.image_size >= SLOW and self.method.device.type == "cpu" and self.steps > 1
        self._sampled = functools.lru_cache(KEPT)(self._sample)
        self._image = functools.lru_cache(20 * KEPT)(self._sample_image)
        self._moved = functools.lru_cache(4)(self._motion)
        self._scales: dict[tuple[str, ...], tuple[float, float]] = {("z_a", "z_b"): (0.0, 1.0)}

    @property
    def targets(self) -> tuple[str, ...]:
        """The contrasts that can be made of this subject: for a run of target "any", its missing ones first."""
        settings = self.method.settings
        if not settings.targets:
            return (settings.target,)
        able = (c for c in settings.conditions if set(self.subject.images) - {c})
        return tuple(sorted(able, key=self.subject.images.__contains__))

    def names(self, view: View) -> tuple[str, ...]:
        """Return the conditions that a view's target is made from, in the order of the run."""
        return tuple(c for c in self.method.settings.conditions if c in self.subject.images and c != view.target)

    def layers(self) -> list[str]:
        """Return which of the `LAYERS` this run has."""
        network = getattr(self.method, "f2", None)
        has = {"masks": bool(self.variants), "predictions": self.steps > 0}
        has["gates"] = getattr(network, "contrast_adapter", None) is not None
        has["maps"] = has["gates"] or getattr(network, "target_adapter", None) is not None
        return [name for name in LAYERS if has[name]]

    def first(self) -> View:
        """Return the view to begin with: the slice with the largest lesion, or the middle one; nothing changed."""
        layer = next(iter(self.layers()), "masks")
        return View(self.subject.example(), self.targets[0], replacement=self.replacements[0], layer=layer)

    def check(self, view: View) -> View:
        """Return a view; a `MudiffError` where the run or the subject has no such slice, contrast, layer or step."""
        datasets.known("target", view.target, self.targets)
        amounts = [name for field in (view.motion, view.noise, view.brightness) for name, _ in field]
        for name in (*view.off, *amounts):
            datasets.known("condition", name, self.names(view))
        datasets.known("replacement", view.replacement, self.replacements)
        datasets.known("layer", view.layer, self.layers() or [view.layer])
        datasets.known("region", view.region, self.regions(view))
        if not (0 <= view.place < len(self.subject.brain) and 0 <= view.t < max(self.steps, 1)):
            raise MudiffError(f"slice {view.place + 1}, step {view.t}: not of this run and subject; choose others.")
        return view

    def compute(self, view: View, preview: bool = False) -> None:
        """Make, if it is not kept, what takes long of a view."""
        self.synthesis(view, preview), self.normal(view, preview)
        if view.samples > 1 and not preview:
            self.spread(view)

    def truth(self, view: View) -> np.ndarray | None:
        """Return the true target, (S, S) in [0, 1]; None where the subject lacks it."""
        stack = self.subject.images.get(view.target)
        return None if stack is None else stack[view.place]

    def brain(self, view: View) -> np.ndarray:
        """Return the brain, bool (S, S)."""
        return self.subject.brain[view.place]

    def regions(self, view: View) -> dict[str, Callable[[], np.ndarray]]:
        """Return the regions of a view, name -> function that gives it, bool (S, S) within the slice.

        The brain; of a subject with lesions the zones of `analyses.attention.zones` and each label; what was drawn;
        and the brain where the view's mask is above its threshold.
        """
        labels, brain = self.subject.labels, self.brain(view)
        found = {"brain": lambda: brain}
        if labels.any():
            parts = functools.cache(lambda: zones(labels[[view.place]], brain[None])[0])
            found |= {name: lambda k=k: parts()[k] for k, name in enumerate(ZONES)}
            found |= {f"label {k}": lambda k=k: labels[view.place] == k for k in np.unique(labels[labels > 0])}
        found[DRAWN] = lambda: polygon2mask(brain.shape, view.polygon) if view.polygon else np.zeros_like(brain)
        if self.variants:
            found[ABOVE] = lambda: brain & (self.mask(view) > view.threshold)
        return found

    def region(self, view: View) -> np.ndarray:
        """Return the view's region, bool (S, S)."""
        return self.regions(view)[datasets.known("region", view.region, self.regions(view))]()

    def conditions(self, view: View) -> dict[str, np.ndarray]:
        """Return the conditions as the view changes them, (S, S) in [0, 1]: motion, brightness, noise, then off."""
        brain, images = self.brain(view), {}
        moved, noise, factors = (dict(x) for x in (view.motion, view.noise, view.brightness))
        for name in self.names(view):
            stack = self._moved(name, moved[name]) if moved.get(name) else self.subject.images[name]
            image = stack[view.place] * np.float32(factors.get(name, 1))
            if noise.get(name):
                rng = np.random.default_rng([self.seed, zlib.crc32(name.encode()), view.place])
                image = image + brain * rng.normal(0, noise[name], image.shape)
            image = np.clip(image, 0, 1).astype(np.float32)
            if name in view.off:
                mean = image[brain].mean() if view.replacement == "mean" and brain.any() else 0
                image = np.where(brain, np.float32(mean), np.float32(0))
            images[name] = image
        return images

    def _motion(self, contrast: str, strength: float) -> np.ndarray:
        """Return all slices of a condition with motion, (Z, S, S) in [0, 1]."""
        stack, spacing = self.subject.images[contrast], self.subject.geometry.spacing(self.method.settings.image_size)
        return motion.move_stack(stack, motion.draw(self.subject.name, strength), spacing)

    def synthesis(self, view: View, preview: bool = False) -> Synthesis:
        """Return the synthesis from the view's conditions, as a `preview` after one step; the last ones are kept."""
        return self._sampled(view.made_by(), view.leaves_out, 1 if preview else None)

    def normal(self, view: View, preview: bool = False) -> Synthesis:
        """Return the synthesis from all conditions as they were acquired, by the run that makes the view's."""
        return self._sampled(view.unchanged().made_by(), view.leaves_out, 1 if preview else None)

    def spread(self, view: View) -> np.ndarray:
        """Return the standard deviation over the view's number of samples, each with a noise of its own, (S, S)."""
        images = [self._image(view.made_by(), view.leaves_out, self.seed + k) for k in range(view.samples)]
        return np.std(images, axis=0, ddof=1)

    def contribution(self, view: View, draws: int = 3) -> pd.DataFrame:
        """Leave each condition out in turn: a row per condition, region (brain, lesion) and draw of the noise.

        `lost` is the PSNR against the truth (masked, dB) that is lost, NaN without a truth; `change` the mean
        absolute change of the synthesis, part of the intensity range. Other changes of the view stay.
        """
        start, rows = dataclasses.replace(view, off=(), replacement=self.replacements[0]), []
        by_any = start.replacement == MISSING
        regions = {
            n: inside for n in ("brain", "lesion") if (f := self.regions(view).get(n)) and (inside := f()).any()
        }
        if len(self.names(view)) < 2:
            raise MudiffError("The synthesis has one condition alone: nothing of it can be left out.")
        for draw in range(draws):
            whole = self._image(start.made_by(), by_any, self.seed + draw)
            for name in self.names(view):
                left = dataclasses.replace(start, off=(name,)).made_by()
                image = self._image(left, by_any, self.seed + draw)
                for region, inside in regions.items():
                    lost = self.psnr(view, whole, inside) - self.psnr(view, image, inside)
                    change = np.abs(image - whole)[inside].mean()
                    rows.append({"condition": name, "region": region, "draw": draw, "lost": lost, "change": change})
        return pd.DataFrame(rows)

    def _sample(self, view: View, by_any: bool, steps: int | None) -> Synthesis:
        """Sample the slice, and note both networks' predictions, masks, maps and gates at every step."""
        layers: dict[tuple[str, str, int], np.ndarray] = {}
        image = self._sample_image(view, by_any, self.seed, steps, layers)
        return Synthesis(self.conditions(view), image, layers)

    @torch.no_grad()
    def _sample_image(
        self, view: View, by_any: bool, seed: int, steps: int | None = None, layers: dict | None = None
    ) -> np.ndarray:
        method, images = self.any if by_any else self.method, self.conditions(view)
        given = [name for name in images if not (view.leaves_out and name in view.off)]
        if not given:
            raise MudiffError("Every condition is off: keep one, or replace them by background or mean.")
        order, task = method.settings.conditions, (given, view.target)
        absent = np.zeros_like(self.brain(view), np.float32)
        y = torch.from_numpy(np.stack([images.get(name, absent) for name in order])[None] * 2 - 1)  # (1, n, S, S)
        place = view.place + self.subject.geometry.kept[0]
        scenario = Scenario.of(order, *task, 1).to(method.device) if method.settings.targets else None
        network = getattr(method, "f2", None)
        noise = SliceNoise([slice_seed(seed, "explorer", self.subject.name, place)], method.device)

        def note(step: dict[str, Any]) -> None:
            self.tick()
            if layers is not None:
                self._note(layers, method, step, heard, noise, scenario)

        hears = network is not None and layers is not None
        with listen(network) if hears else contextlib.nullcontext({}) as heard:
            seeds = [slice_seed(seed, "sample", self.subject.name, place)]
            return sample.sample_batch(method, y, seeds, task, steps, note)[0]

    def _note(
        self, layers: dict, method: Method, step: dict[str, Any], heard: dict, noise: SliceNoise, scenario: Any
    ) -> None:
        """Enter what one step shows, as (S, S): masks (by sampling, as in use: no truth goes in), maps, gates."""
        size, x_t = method.settings.image_size, step["x_t"]
        enter = lambda kind, name, image: layers.update({(kind, name, step["t"]): image.float().cpu().numpy()})  # noqa: E731
        predictions = [step[key] for key in ("x_p1", "x_p2") if key in step]
        for j, x_0 in enumerate(predictions, start=1):
            enter(f"x_p{j}", "", (x_0[0, 0] + 1) / 2)
        if self.variants and hasattr(method, "judge"):
            t = torch.full((1,), step["t"], device=method.device)
            means = [method.schedule.posterior_mean(x_0, x_t, t) for x_0 in predictions]
            before = [method.schedule.posterior_sample(m, t, noise.normal(*x_t.shape[1:])) for m in means]  # Eq. 25
            judged = method.judge(before, t, x_t, scenario)
            for (j, (_, middle)), (name, layer) in itertools.product(enumerate(judged, 1), variants(method).items()):
                enter(f"M{j}", name, attentive_mask(middle, size, layer)[0, 0])
        labels = [datasets.LABELS[name] for name in method.settings.conditions]
        pairs = (
            [f"{labels[i]}, {labels[j]}" for i, j in getattr(method.f2.contrast_adapter, "pairs", ())]
            if heard
            else ()
        )
        for kind, features in heard.items():
            names = labels if kind in ("before", "after", "adapted") else pairs or labels
            for name, feature in zip(names, features, strict=True):
                enter(kind, name, feature[0].float().abs().mean(dim=0))

    def mask(self, view: View, preview: bool = False) -> np.ndarray:
        """Return the mask that the view's numbers are of, of the changed synthesis, (S, S) in (0, 1)."""
        layers = self.synthesis(view, preview).layers
        if view.mask not in layers:
            raise MudiffError("There is no such mask: the run has no critic, one network alone, or not this step.")
        return layers[view.mask]

    def scale(self, view: View, row: tuple[str, ...], preview: bool = False) -> tuple[float, float]:
        """Return the range of a row's colours: set by the first slice that is seen, then the same for all views."""
        masks = "M1" in row  # each way to make them has a range of its own
        key = (*row, view.variant) if masks else row
        if key in self._scales:
            return self._scales[key]
        brain, layers = self.brain(view), self.normal(view, preview).layers.items()
        found = [x[brain] for (kind, name, _), x in layers if kind in row and (not masks or name == view.variant)]
        scale = limits(np.array(found)) if masks else (0.0, max((float(x.max()) for x in found), default=1.0))
        if not preview:
            self._scales[key] = scale
        return scale

    def statistics(self, view: View, preview: bool = False) -> pd.DataFrame:
        """Return numbers of the view's region, the brain and the lesion: a column per region; NaN where it is empty.

        PSNR is the masked protocol's, in dB, the rest part of the intensity range.
        """
        changed, normal = self.synthesis(view, preview), self.normal(view, preview)
        images = {"truth": self.truth(view), "unchanged": normal.image, "changed": changed.image}
        if (mask := changed.layers.get(view.mask)) is not None:
            images["mask"] = mask
        if (apart := changed.disagreement(view.t)) is not None:
            images["disagreement"] = apart
        table, regions = {}, self.regions(view)
        for name in dict.fromkeys([view.region, "brain", *(["lesion"] * ("lesion" in regions))]):
            inside = regions[name]()
            column = {"pixels": int(inside.sum())}
            for what, image in images.items():
                values = np.full(1, np.nan) if image is None or not inside.any() else image[inside]
                column |= {f"mean of the {what}": values.mean(), f"SD of the {what}": values.std()}
            column["PSNR of the unchanged"] = self.psnr(view, normal.image, inside)
            column["PSNR of the changed"] = self.psnr(view, changed.image, inside)
            table[name] = column
        return pd.DataFrame(table)

    def psnr(self, view: View, image: np.ndarray, inside: np.ndarray) -> float:
        """Return the PSNR of an image in a region, masked protocol, in dB; NaN without a truth or a pixel."""
        truth = self.truth(view)
        if truth is None or not inside.any():
            return np.nan
        with np.errstate(divide="ignore"):
            return float(-10 * np.log10(np.mean((image - truth)[inside].astype(np.float64) ** 2)))
