"""What the explorer computes: a slice, its conditions as they were changed, the synthesis and the masks."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mudiff.analyses.attention import ZONES, variants_of, zones
from mudiff.data import motion
from mudiff.data.dataset import Slices
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.methods.base import Method
from mudiff.model.critic import attentive_mask
from mudiff.model.diffusion import SliceNoise, slice_seed

REGIONS = ("brain", *ZONES, "rectangle")
REPLACEMENTS = {"background": "empty (all background)", "mean": "its mean in the brain"}
"""What stands for a condition that is switched off -> in words."""

FIELD = 240.0
"""Assumed field of view in mm: prepared slices do not say how large their pixels are, and motion is in mm."""

KEPT = 32
"""How many syntheses are kept, so that moving a slider back costs nothing."""

Mover = Callable[[np.ndarray, str, float, tuple[float, float, float]], np.ndarray]
"""Slices (Z, S, S) in [0, 1], subject, strength and voxel sides in mm -> the slices after motion."""


def move(stack: np.ndarray, subject: str, strength: float, sides: tuple[float, float, float]) -> np.ndarray:
    """Add motion to one contrast of a subject, by `mudiff.data.motion`."""
    return motion.move_stack(stack, motion.draw(subject, strength), sides)


@dataclass(frozen=True)
class View:
    """What is looked at; fields that change the synthesis come first.

    Attributes
    ----------
    subject : str
        A test subject.
    place : int
        The slice, counted within the subject's prepared slices from 0, inferior first.
    off : tuple of str
        Conditions that are switched off.
    replacement : str
        What stands for them, one of `REPLACEMENTS`.
    moved : str
        The condition with motion; "" for none.
    strength : float
        Of the motion, 0 (none) to 3 (severe), see `mudiff.data.motion`.
    t : int
        The sampling step that the masks are of; 0 is the last.
    network : int
        Whose mask, 1 or 2.
    variant : str
        Way to make the mask, see `mudiff.analyses.attention.variants_of`.
    opacity : float
        Of the mask over the image, 0 to 1.
    white : float
        Normalised intensity that is shown white.
    region : str
        One of `REGIONS`.
    rows, columns : (int, int)
        First and last row and column of the rectangle.
    """

    subject: str
    place: int
    off: tuple[str, ...] = ()
    replacement: str = "background"
    moved: str = ""
    strength: float = 1.0
    t: int = 0
    network: int = 2
    variant: str = "channel_mean"
    opacity: float = 0.6
    white: float = 1.0
    region: str = "brain"
    rows: tuple[int, int] = (0, 0)
    columns: tuple[int, int] = (0, 0)

    def unchanged(self) -> "View":
        """Return the same view with all conditions as they are."""
        return dataclasses.replace(self, off=(), replacement="background", moved="", strength=1.0)


@dataclass(frozen=True)
class Synthesis:
    """One slice, sampled.

    Attributes
    ----------
    conditions : array (n, S, S)
        What the networks got, in [0, 1].
    image : array (S, S)
        The synthesis in [0, 1].
    masks : dict of (str, int, int) to array (S, S)
        Variant, network (1 or 2) and step -> attentive mask.
    """

    conditions: np.ndarray
    image: np.ndarray
    masks: dict[tuple[str, int, int], np.ndarray]


class Explorer:
    """A run and its test slices.

    Parameters
    ----------
    method : Method
        From `mudiff.analyses.attention.open_run`.
    slices : Slices
        Test slices.
    mover : callable
        Adds motion to slices.
    seed : int
        Of all syntheses; equal noise with and without a change, so that the change alone makes the difference.
    """

    def __init__(self, method: Method, slices: Slices, mover: Mover = move, seed: int = 0) -> None:
        self.method, self.slices, self.mover, self.seed = method, slices, mover, seed
        self.names = method.settings.conditions
        self.variants = tuple(variants_of(method))
        self._kept: dict[tuple, Synthesis] = {}
        self._moved: dict[tuple, np.ndarray] = {}

    def first(self, subject: str | None = None) -> View:
        """Return a subject's view to begin with: the slice with the largest lesion, or the middle one."""
        subject = subject or self.slices.subjects[0]
        area = (self.slices.lesion(self.slices.subject(subject)) > 0).sum(axis=(1, 2))
        place = int(area.argmax()) if area.any() else len(area) // 2
        quarter, last = self.slices.image_size // 4, self.slices.image_size - 1
        return View(subject, place, rows=(quarter, last - quarter), columns=(quarter, last - quarter))

    def count(self, subject: str) -> int:
        """Return how many slices a subject has."""
        return len(self.slices.subject(subject))

    def index(self, view: View) -> int:
        """Return the index of the view's slice among the test slices."""
        own = self.slices.subject(view.subject)
        if not 0 <= view.place < len(own):
            raise MudiffError(
                f"{view.subject}: slice {view.place} of {len(own)}; choose 0 to {len(own) - 1}."
            )
        return int(own[view.place])

    def truth(self, view: View) -> np.ndarray:
        """Return the true target, (S, S) in [0, 1]."""
        return (self.slices.images([self.index(view)], self.method.settings.target)[0] + 1) / 2

    def zone(self, view: View, name: str) -> np.ndarray:
        """Return a region, bool (S, S); one of `REGIONS`.

        Raises
        ------
        MudiffError
            If there is no such region.
        """
        index = self.index(view)
        brain = self.slices.brain([index])
        if name == "brain":
            return brain[0]
        if name == "rectangle":
            inside = np.zeros_like(brain[0])
            inside[view.rows[0] : view.rows[1] + 1, view.columns[0] : view.columns[1] + 1] = True
            return inside
        if name not in ZONES:
            raise MudiffError(f"region {name!r} is unknown: choose one of {', '.join(REGIONS)}.")
        return zones(self.slices.lesion([index]), brain)[0, ZONES.index(name)]

    def conditions(self, view: View) -> np.ndarray:
        """Return the conditions as the view changes them, float32 (n, S, S) in [0, 1].

        Motion first, then what is switched off.

        Raises
        ------
        MudiffError
            If a condition or replacement is unknown, or the strength out of range.
        """
        for name in [*view.off, *filter(None, [view.moved])]:
            if name not in self.names:
                raise MudiffError(f"condition {name!r} is unknown: choose one of {', '.join(self.names)}.")
        if view.replacement not in REPLACEMENTS:
            raise MudiffError(
                f"replacement {view.replacement!r} is unknown: choose one of {', '.join(REPLACEMENTS)}."
            )
        index = self.index(view)
        images = np.stack([(self.slices.images([index], name)[0] + 1) / 2 for name in self.names])
        if view.moved:
            images[self.names.index(view.moved)] = self._motion(view)[view.place]
        brain = self.slices.brain([index])[0]
        for name in view.off:
            image = images[self.names.index(name)]
            level = image[brain].mean() if view.replacement == "mean" and brain.any() else 0.0
            image[:] = np.where(brain, level, 0.0)
        return images

    def _motion(self, view: View) -> np.ndarray:
        """Return all slices of the moved condition, (Z, S, S) in [0, 1]."""
        key = view.subject, view.moved, view.strength
        if key not in self._moved:
            stack = (self.slices.images(self.slices.subject(view.subject), view.moved) + 1) / 2
            self._moved = {key: self.mover(stack, view.subject, view.strength, self.sides(view.subject))}
        return self._moved[key]

    def sides(self, subject: str) -> tuple[float, float, float]:
        """Return millimetres between slices, rows and columns: isotropic voxels, a head's usual field of view."""
        width = max(self.slices.info["subjects"][subject]["shape"][:2])
        return FIELD / width, FIELD / self.slices.image_size, FIELD / self.slices.image_size

    def synthesis(self, view: View) -> Synthesis:
        """Return the synthesis from the view's conditions; the last `KEPT` are kept."""
        changed = (view.subject, view.place, view.off, view.replacement, view.moved, view.strength)
        if changed not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[changed] = self._sample(view)
        return self._kept[changed]

    @torch.no_grad()
    def _sample(self, view: View) -> Synthesis:
        """Sample as `mudiff.synthesis.sample` does, and make both networks' masks of every step on the way."""
        row = self.slices.index.iloc[self.index(view)]
        images = self.conditions(view)
        y = torch.from_numpy(images.astype(np.float32) * 2 - 1)[None].to(self.method.device)  # (1, n, S, S)
        steps: list[dict] = []
        seed = slice_seed(self.seed, "sample", row["subject"], row["slice"])
        x = self.method.synthesize(y, torch.tensor([seed]), steps.append)
        noise = SliceNoise(
            [slice_seed(self.seed, "explorer", row["subject"], row["slice"])], self.method.device
        )
        masks = {}
        for step in steps:
            t = torch.full((1,), step["t"], device=self.method.device)
            for j in (1, 2):
                drawn = noise.normal(*step["x_t"].shape[1:])
                mean = self.method.schedule.posterior_mean(step[f"x_p{j}"], step["x_t"], t)
                back = self.method.schedule.posterior_sample(mean, t, drawn)  # Eq. 25
                middle = self.method.judge([back], t, step["x_t"])[0][1]
                for name, layer in variants_of(self.method).items():
                    mask = attentive_mask(middle, self.slices.image_size, layer)  # Eq. 28
                    masks[name, j, step["t"]] = mask[0, 0].cpu().numpy()
        return Synthesis(images, (x[0, 0].float().cpu().numpy() + 1) / 2, masks)

    def mask(self, view: View) -> np.ndarray:
        """Return the mask that the view asks for, of the changed synthesis, (S, S) in (0, 1)."""
        return self.synthesis(view).masks[view.variant, view.network, view.t]

    def statistics(self, view: View) -> dict[str, float]:
        """Return numbers of the view's region; NaN where it is empty.

        Returns
        -------
        dict of str to float
            ``pixels``; ``mask`` and ``mask_sd`` (mean and standard deviation of the mask), ``mask_brain`` (its
            mean in the brain); ``truth``, ``normal`` and ``changed`` (mean intensities); ``psnr_normal`` and
            ``psnr_changed`` (masked, dB, against the truth), ``psnr_between`` (of both syntheses).
        """
        inside, mask = self.zone(view, view.region), self.mask(view)
        truth, brain = self.truth(view), self.zone(view, "brain")
        normal, changed = (self.synthesis(v).image for v in (view.unchanged(), view))
        mean = lambda a, where: float(a[where].mean()) if where.any() else np.nan  # noqa: E731
        psnr = lambda a, b: metrics.masked_protocol(a, b, inside)["psnr"]  # noqa: E731
        return {
            "pixels": int(inside.sum()),
            "mask": mean(mask, inside),
            "mask_sd": float(mask[inside].std()) if inside.any() else np.nan,
            "mask_brain": mean(mask, brain),
            "truth": mean(truth, inside),
            "normal": mean(normal, inside),
            "changed": mean(changed, inside),
            "psnr_normal": psnr(truth, normal),
            "psnr_changed": psnr(truth, changed),
            "psnr_between": psnr(normal, changed),
        }
