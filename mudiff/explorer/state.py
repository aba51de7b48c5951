"""What the explorer computes: a slice, its conditions as they were changed, the synthesis, and what led to it."""

import contextlib
import dataclasses
import functools
import itertools
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from skimage.draw import polygon2mask
from torch import Tensor

from mudiff.analyses.attention import ZONES, has_critic, listen, sampled, variants, zones
from mudiff.data import datasets, motion
from mudiff.data import subject as subjects
from mudiff.errors import MudiffError
from mudiff.methods.base import Diffusion
from mudiff.model.diffusion import SliceNoise, slice_seed
from mudiff.model.scenario import Scenario
from mudiff.plots.attention import limits
from mudiff.synthesis import sample
from mudiff.training import runs

MISSING = "missing"
REPLACEMENTS = (MISSING, "background", "mean")  # of a condition that is off: really so, black, or its brain's mean
CHANGES = {"motion": (0.0, 0.0, 3.0, 0.5), "noise": (0.0, 0.0, 0.3, 0.02), "brightness": (1.0, 0.5, 1.5, 0.05)}
"""Change of a condition -> the amount that changes nothing, the lowest, the highest, and the step between."""
LAYERS = {
    "masks": (("M1", "M2"),), "predictions": (("x_p1", "x_p2"),), "gates": (("z_a", "z_b"),),
    "maps": (("before", "after"), ("adapted", "fused")),
}  # fmt: skip
"""What can be looked at below the images -> its rows of kinds; a row has one scale. See `attention.listen`."""
DRAWN, ABOVE = "drawn", "mask above"  # regions: by mouse, and where the view's mask is above a threshold
KEPT = 24  # syntheses with their layers, so that going back costs nothing; of images alone, twenty times as many
SLOW = 256  # pixels from which, on a CPU, one step is shown before all are done


@dataclass(frozen=True)
class View:
    """What is looked at; the fields from `place` to `steps` decide the synthesis."""

    place: int  # the slice, counted within the subject's slices, inferior first
    target: str  # the contrast that is made
    off: tuple[str, ...] = ()  # conditions that are switched off
    replacement: str = "background"  # what stands for them, one of `REPLACEMENTS`
    motion: tuple[tuple[str, float], ...] = ()  # condition and strength, 0 (none) to 3 (severe)
    noise: tuple[tuple[str, float], ...] = ()  # standard deviation in the brain, part of the intensity range
    brightness: tuple[tuple[str, float], ...] = ()  # factor
    steps: int = 0  # after how many sampling ends with the mean of the predictions; 0: all
    samples: int = 0  # whose spread is shown
    layer: str = "masks"  # one of `LAYERS`
    t: int = 0  # the step of maps, gates, disagreement and of the mask in numbers; 0 is the last
    network: int = 2  # whose mask is in the numbers, 1 or 2
    variant: str = "channel_mean"  # how masks are made, see `analyses.attention.variants`
    own_scale: bool = False  # each picture of a layer on its own scale
    region: str = "brain"  # one of `Explorer.regions`
    polygon: tuple[tuple[float, float], ...] = ()  # corners (row, column) of what was drawn, in pixels of the slice
    threshold: float = 0.5  # of the region `ABOVE`

    def unchanged(self) -> "View":
        """Return the same view with all conditions as they were acquired."""
        return dataclasses.replace(self, off=(), **dict.fromkeys(CHANGES, ()))

    def made_by(self) -> "View":
        """Return what decides the synthesis: settings of a change that is not made have no part in it."""
        changes = {k: tuple(sorted(c for c in getattr(self, k) if c[1] != none)) for k, (none, *_) in CHANGES.items()}
        off = {"off": tuple(sorted(self.off)), "replacement": self.replacement} if self.off else {}
        return View(self.place, self.target, steps=self.steps, **off, **changes)


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
        settings = self.method.settings
        preparation, folder = settings.preparation(), Path(subject).expanduser() if subject else None
        slices = subjects.beside(self.run, preparation)
        self.prepared = [] if slices is None else slices.subjects
        if folder is not None and folder.is_dir():
            given = folder.absolute(), preparation, settings.conditions
            self.subject = subjects.from_files(*given, all_needed=not settings.targets)
        elif slices is None:
            raise MudiffError(f"{run}: no slices are prepared for it; give a folder of NIfTI files, or prepare them.")
        else:
            self.subject = subjects.from_prepared(slices, str(subject or slices.subjects[0]))
        beside = self.run.with_name(f"{settings.dataset}_{datasets.ANY}_mudiff")
        other = not settings.targets and runs.is_complete(beside)
        self.any = runs.load(beside, self.method.device) if other else self.method if settings.targets else None
        self.replacements = REPLACEMENTS if self.any else REPLACEMENTS[1:]
        self.variants = list(variants(self.method)) if has_critic(self.run, self.method) else []
        self.steps = self.method.schedule.steps if isinstance(self.method, Diffusion) else 0
        self.slow = settings.image_size >= SLOW and self.method.device.type == "cpu" and self.steps > 1
        images = self.subject.images
        able = (c for c in settings.conditions if set(images) - {c})  # what the subject lacks comes first
        self.targets = tuple(sorted(able, key=images.__contains__)) if settings.targets else (settings.target,)
        network = getattr(self.method, "f2", None)
        tau, rho = (getattr(network, f"{name}_adapter", None) for name in ("contrast", "target"))
        has = {"masks": self.variants, "predictions": self.steps, "gates": tau, "maps": tau or rho}
        self.layers = [name for name in LAYERS if has[name]]
        labels = [f"label {k}" for k in np.unique(self.subject.labels) if k]
        self.regions = ["brain", *(ZONES if labels else ()), *labels, DRAWN, *([ABOVE] if self.variants else [])]
        self._sampled = functools.lru_cache(KEPT)(self._sample)
        self._image = functools.lru_cache(20 * KEPT)(self._sample_image)
        self._moved = functools.lru_cache(4)(self._motion)
        self._scales: dict[tuple, tuple[float, float]] = {}

    def first(self) -> View:
        """Return the view to begin with: the slice with the largest lesion, or the middle one; nothing changed."""
        layer = next(iter(self.layers), "masks")
        return View(self.subject.example(), self.targets[0], replacement=self.replacements[0], layer=layer)

    def names(self, view: View) -> tuple[str, ...]:
        """Return the conditions that a view's target is made from, in the order of the run."""
        return tuple(c for c in self.method.settings.conditions if c in self.subject.images and c != view.target)

    def by_any(self, view: View) -> bool:
        """Tell whether a condition is really missing, so that the run of target "any" makes the view."""
        return bool(view.off) and view.replacement == MISSING

    def step(self, view: View) -> int:
        """Return the step that is looked at: the view's, or the last that there is."""
        return max(view.t, self.steps - view.steps if view.steps else 0)

    def truth(self, view: View) -> np.ndarray | None:
        """Return the true target, (S, S) in [0, 1]; None where the subject lacks it."""
        stack = self.subject.images.get(view.target)
        return None if stack is None else stack[view.place]

    def region(self, view: View, name: str | None = None) -> np.ndarray:
        """Return one of the `regions`, by default the view's, bool (S, S): see `analyses.attention.zones`."""
        name = datasets.known("region", name or view.region, self.regions)
        labels, brain = self.subject.labels[view.place], self.subject.brain[view.place]
        if name in ZONES:
            return zones(labels[None], brain[None])[0, ZONES.index(name)]
        if name == DRAWN:
            return polygon2mask(brain.shape, view.polygon) if view.polygon else np.zeros_like(brain)
        if name == ABOVE:
            mask = self.synthesis(view).layers.get(self.mask(view))
            return np.zeros_like(brain) if mask is None else brain & (mask > view.threshold)
        return brain if name == "brain" else labels == int(name.split()[1])

    def mask(self, view: View) -> tuple[str, str, int]:
        """Return which mask the numbers are of, as a key of `Synthesis.layers`."""
        return f"M{view.network}", view.variant, self.step(view)

    def conditions(self, view: View) -> dict[str, np.ndarray]:
        """Return the conditions as the view changes them, (S, S) in [0, 1]: motion, brightness, noise, then off."""
        brain, images = self.subject.brain[view.place], {}
        moved, noise, factors = (dict(x) for x in (view.motion, view.noise, view.brightness))
        for name in self.names(view):
            stack = self._moved(name, moved[name]) if moved.get(name) else self.subject.images[name]
            image = stack[view.place] * factors.get(name, 1.0)
            if noise.get(name):
                rng = np.random.default_rng([self.seed, zlib.crc32(name.encode()), view.place])
                image = image + brain * rng.normal(0, noise[name], image.shape)
            image = np.clip(image, 0, 1)
            if name in view.off:
                image = brain * (image[brain].mean() if view.replacement == "mean" and brain.any() else 0.0)
            images[name] = image.astype(np.float32)
        return images

    def _motion(self, contrast: str, strength: float) -> np.ndarray:
        stack, spacing = self.subject.images[contrast], self.subject.geometry.spacing(self.method.settings.image_size)
        return motion.move_stack(stack, motion.draw(self.subject.name, strength), spacing)

    def synthesis(self, view: View) -> Synthesis:
        """Return the synthesis from the view's conditions; the last `KEPT` are kept."""
        return self._sampled(view.made_by(), self.by_any(view))

    def normal(self, view: View) -> Synthesis:
        """Return the synthesis from all conditions as they were acquired, by the run that makes the view's."""
        return self._sampled(view.unchanged().made_by(), self.by_any(view))

    def compute(self, view: View) -> None:
        """Make, unless it is kept, what takes long of a view."""
        self.synthesis(view), self.normal(view), self.spread(view)

    def spread(self, view: View) -> np.ndarray | None:
        """Return the standard deviation over the view's samples, each with a noise of its own, (S, S)."""
        seeds = range(self.seed, self.seed + view.samples)
        images = [self._image(view.made_by(), self.by_any(view), seed) for seed in seeds]
        return np.std(images, axis=0, ddof=1) if len(images) > 1 else None

    def contribution(self, view: View, draws: int = 3) -> pd.DataFrame:
        """Leave each condition out in turn: a row per condition, region (brain, lesion) and draw of the noise.

        `lost` is the PSNR against the truth (masked, dB) that is lost, NaN without a truth; `change` the mean
        absolute change of the synthesis, part of the intensity range. Other changes of the view stay.
        """
        names, rows = self.names(view), []
        if len(names) < 2:
            raise MudiffError("The synthesis has one condition alone: nothing of it can be left out.")
        regions = {name: self.region(view, name) for name in ("brain", "lesion") if name in self.regions}
        left_out = [dataclasses.replace(view, off=off) for off in ((), *((name,) for name in names))]
        for seed in range(self.seed, self.seed + draws):
            by_any = self.by_any(left_out[1])
            whole, *images = (self._image(v.made_by(), by_any, seed) for v in left_out)
            for (name, image), (region, inside) in itertools.product(
                zip(names, images, strict=True), regions.items()
            ):
                if inside.any():
                    lost = self.psnr(view, whole, inside) - self.psnr(view, image, inside)
                    row = {"condition": name, "region": region, "draw": seed, "lost": lost}
                    rows.append(row | {"change": np.abs(image - whole)[inside].mean()})
        return pd.DataFrame(rows)

    def _sample(self, view: View, by_any: bool) -> Synthesis:
        """Sample the slice, and note both networks' predictions, masks, maps and gates at every step."""
        layers: dict[tuple[str, str, int], np.ndarray] = {}
        return Synthesis(self.conditions(view), self._sample_image(view, by_any, self.seed, layers), layers)

    @torch.no_grad()
    def _sample_image(self, view: View, by_any: bool, seed: int, layers: dict | None = None) -> np.ndarray:
        method, images = self.any if by_any else self.method, self.conditions(view)
        given = [name for name in images if not (self.by_any(view) and name in view.off)]
        if not given:
            raise MudiffError("Every condition is off: keep one, or replace them by background or mean.")
        order, absent = method.settings.conditions, np.zeros_like(images[given[0]])
        y = torch.from_numpy(np.stack([images.get(name, absent) for name in order])[None] * 2 - 1)  # (1, n, S, S)
        key = self.subject.name, view.place + self.subject.geometry.kept[0]
        noise = SliceNoise([slice_seed(seed, "explorer", *key)], method.device)
        scenario = Scenario.of(order, given, view.target, 1).to(method.device) if method.settings.targets else None
        network = getattr(method, "f2", None) if layers is not None else None
        with contextlib.nullcontext({}) if network is None else listen(network) as heard:

            def note(step: dict[str, Tensor | int]) -> None:
                self.tick()
                if layers is not None:
                    layers.update(sampled(method, step, heard, noise, scenario, self.variants))

            seeds, task = [slice_seed(seed, "sample", *key)], (given, view.target)
            return sample.sample_batch(method, y, seeds, task, view.steps or None, note)[0]

    def scale(self, view: View, row: tuple[str, ...]) -> tuple[float, float]:
        """Return the range of a row's colours: set by the first slice that is seen, then the same for all views."""
        masks = "M1" in row  # each way to make them has a range of its own, and a preview, which lacks steps
        key = row, view.variant if masks else "", view.steps
        if key not in self._scales:
            brain, layers = self.subject.brain[view.place], self.normal(view).layers.items()
            found = [x[brain] for (kind, name, _), x in layers if kind in row and (not masks or name == view.variant)]
            highest = 1.0 if "z_a" in row else max((float(x.max()) for x in found if x.size), default=1.0)
            self._scales[key] = limits(np.array(found)) if masks else (0.0, highest)
        return self._scales[key]

    def statistics(self, view: View) -> pd.DataFrame:
        """Return numbers of the view's region, the brain and the lesion: a column per region; NaN where it is empty.

        PSNR is the masked protocol's, in dB, the rest part of the intensity range.
        """
        changed, normal, table = self.synthesis(view), self.normal(view), {}
        images = {"truth": self.truth(view), "unchanged": normal.image, "changed": changed.image}
        images |= {"mask": changed.layers.get(self.mask(view)), "disagreement": changed.disagreement(self.step(view))}
        for name in dict.fromkeys([view.region, *(n for n in ("brain", "lesion") if n in self.regions)]):
            inside = self.region(view, name)
            table[name] = {"pixels": int(inside.sum())}
            for what, image in images.items():
                values = np.full(1, np.nan) if image is None or not inside.any() else image[inside]
                table[name] |= {f"mean of the {what}": values.mean(), f"SD of the {what}": values.std()}
            table[name] |= {f"PSNR of the {k}": self.psnr(view, images[k], inside) for k in ("unchanged", "changed")}
        return pd.DataFrame(table).dropna(how="all")

    def psnr(self, view: View, image: np.ndarray, inside: np.ndarray) -> float:
        """Return the PSNR of an image in a region, masked protocol, in dB; NaN without a truth or a pixel."""
        truth = self.truth(view)
        if truth is None or not inside.any():
            return np.nan
        error = np.mean((image - truth)[inside].astype(np.float64) ** 2)
        return float(-10 * np.log10(error)) if error else np.inf
