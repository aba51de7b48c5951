"""Effects of evaluation and sampling: the same images scored, or the same weights sampled, another way."""

import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.analyses import training_effects
from mudiff.analyses.training_effects import DATASET, TARGET
from mudiff.cache import file_hash, kept
from mudiff.data import dataset
from mudiff.data.slices import normalise
from mudiff.evaluation import tables
from mudiff.evaluation.metrics import masked_protocol, released_protocol, to_uint8
from mudiff.training import profiles

if TYPE_CHECKING:
    from mudiff.methods.base import Method

SEEDS = 3  # of the sampling of the base
HOT = 2.0  # value of the hot pixel of F-4, in units of white

Way = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""Truth and synthesis (S, S) in [0, 1], and the mask (S, S) of bool -> PSNR in dB."""


def jpeg(image: np.ndarray) -> np.ndarray:
    """Return an 8-bit image (S, S) as it comes back from a JPEG file of Pillow's default quality (F-3)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    return np.asarray(Image.open(file).convert("L"))


def _masked(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> float:
    return masked_protocol(x, y, mask)["psnr"]


def _released(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> float:
    """Images in 8 bits, or to be stretched to them."""
    x, y = (image if image.dtype == np.uint8 else to_uint8(image) for image in (x, y))
    return released_protocol(x, y, mask)["psnr"]


def _plain(x: np.ndarray, y: np.ndarray, data_range: float | None = 1.0) -> float:
    """PSNR over all given pixels, which may leave [0, 1]; without a range by that of both images."""
    from skimage.metrics import peak_signal_noise_ratio

    data_range = float(np.ptp([x, y])) if data_range is None else data_range
    return float(peak_signal_noise_ratio(x, y, data_range=data_range))


def _hot(y: np.ndarray) -> np.ndarray:
    y = y.copy()
    y[len(y) // 2] = HOT
    return y


def _zeros_kept(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> float:
    from scipy import ndimage

    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return _plain((x * mask)[box], (y * mask)[box])


class Step(NamedTuple):
    """Two ways to score the same slices, the plain one first, and the region."""

    id: str
    change: str
    base: Way
    changed: Way
    region: str = "brain"


STEPS = (
    Step("F-1", "8 bits, stretched image by image", _masked,
         lambda x, y, m: _masked(to_uint8(x) / 255, to_uint8(y) / 255, m)),
    Step("F-2", "the truth itself at half brightness", lambda x, y, m: _masked(x, x / 2, m),
         lambda x, y, m: _released(x, to_uint8(x) // 2, m)),
    Step("F-2", "each image in a window of its own", _masked,
         lambda x, y, m: _masked(normalise(x, "percentile"), normalise(y, "percentile"), m)),
    Step("F-3", "JPEG between, both images", _released,
         lambda x, y, m: _released(jpeg(to_uint8(x)), jpeg(to_uint8(y)), m)),
    Step("F-3", "JPEG between, synthesis alone", _released,
         lambda x, y, m: _released(x, jpeg(to_uint8(y)), m)),
    Step("F-4", "range of both images", _masked, lambda x, y, m: _plain(x[m], y[m], None)),
    Step("F-4", "a hot pixel: range of both images", lambda x, y, m: _plain(x[m], _hot(y[m])),
         lambda x, y, m: _plain(x[m], _hot(y[m]), None)),
    Step("F-5", "zeros around the brain kept", _masked, _zeros_kept),
    Step("F-5", "zeros around the lesion kept", _masked, _zeros_kept, "lesion"),
    Step("F-1 to F-5", "protocol released as a whole, brain", _masked, _released),
    Step("F-1 to F-5", "protocol released as a whole, lesion", _masked, _released, "lesion"),
)  # fmt: skip
"""What is measured; the base is PSNR of protocol ``masked`` per slice, but F-3's, which is protocol ``released``."""


def metric_effects(real: np.ndarray, synthetic: np.ndarray, brain: np.ndarray, lesion: np.ndarray) -> pd.DataFrame:
    """Score slices (N, S, S) in [0, 1] plainly and by each of `STEPS`, in the columns of `training_effects.compare`.

    Means over the n slices whose mask (above 0 inside) is not empty; no interval, since nothing random is in them.
    """
    masks, rows = {"brain": brain > 0, "lesion": lesion > 0}, []
    for step in STEPS:
        if slices := [s for s in zip(real, synthetic, masks[step.region], strict=True) if s[2].any()]:
            base, changed = (float(np.mean([way(*s) for s in slices])) for way in (step.base, step.changed))
            row = {"id": step.id, "change": step.change, "base": base, "changed": changed}
            row |= {"difference": changed - base, "low": math.nan, "high": math.nan}
            rows.append(row | {"n": len(slices), "seeds": 0, "repeats": 0})
    return pd.DataFrame(rows)


class Source(NamedTuple):
    """Folders of a trained run and of the phantoms that it is tried on, and what they are."""

    run: Path
    prepared: Path
    words: str


def source(profile: str) -> Source:
    """Return the profile's MU-Diff run of T1CE on phantoms; where there is none, the base of the short trainings."""
    run = paths.run(profile, profiles.settings(profile, DATASET, TARGET, "mudiff").run_name)
    if (run / "weights.safetensors").is_file() and tables.origin(profile).startswith("generated"):
        return Source(run, paths.prepared(profile, DATASET), f"run {run.name} of profile {profile}")
    base = training_effects.train_one(profile)
    return Source(base, training_effects.prepared(profile), "the base of the short trainings")


def chosen_slices(slices: dataset.Slices, count: int) -> np.ndarray:
    """Return up to `count` evenly spaced test slices, with lesions if any has one, else of the brain."""
    every = np.arange(len(slices))
    with_lesion = every[(slices.lesion(every) > 0).any(axis=(1, 2))]
    usable = with_lesion if len(with_lesion) else every[slices.brain(every).any(axis=(1, 2))]
    return usable[np.unique(np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int))]


def images(profile: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, synthesis (both (N, S, S) in [0, 1]), brain masks and lesion labels of slices of `source`."""
    from mudiff.synthesis import sample
    from mudiff.training import runs

    found = source(profile)
    slices = dataset.open_slices(found.prepared, "test")
    indices = chosen_slices(slices, training_effects.extent(profile).images)
    synthetic = sample.sample_slices(runs.load(found.run, runs.default_device()), slices, indices)
    return (slices.images(indices, TARGET) + 1) / 2, synthetic, slices.brain(indices), slices.lesion(indices)


def sampled(
    method: "Method", slices: dataset.Slices, indices: np.ndarray, seeds: int = 1, **changes: Any
) -> pd.DataFrame:
    """Return the PSNR (protocol ``masked``, dB) of some slices, a row for each seed of the sampling.

    `changes` are fields of `Settings` that decide the diffusion process: ``steps``, ``posterior``.
    """
    from mudiff.model.diffusion import Schedule
    from mudiff.synthesis import sample

    real, brain = (slices.images(indices, method.settings.target) + 1) / 2, slices.brain(indices)
    subjects, trained = slices.index.subject.to_numpy()[indices], method.schedule
    method.schedule = Schedule.variance_preserving(method.settings.replace(**changes)).to(method.device)
    try:
        drawn = [sample.sample_slices(method, slices, indices, seed) for seed in range(seeds)]
    finally:
        method.schedule = trained
    return pd.DataFrame({"psnr": [training_effects.psnr(real, y, brain, subjects) for y in drawn]})


def sampling_effects(profile: str) -> pd.DataFrame:
    """Return the effects of E-1, E-4 and E-5 on the run of `source`, in the columns of `training_effects.compare`."""
    from mudiff.methods.base import build
    from mudiff.training import runs

    extent, found = training_effects.extent(profile), source(profile)
    slices = dataset.open_slices(found.prepared, "test")
    many, few = (chosen_slices(slices, count) for count in (extent.images, extent.step_images))
    method = runs.load(found.run, runs.default_device())
    untrained = build(method.settings).to(method.device).eval()  # with the weights that it began with
    identity = [file_hash(found.run / "weights.safetensors"), slices.info["data_hash"]]

    def scores(name: str, chosen: "Method", indices: np.ndarray, seeds: int = 1, **changes: Any) -> list:
        path = training_effects.folder(profile) / "sampling" / f"{name}.csv"
        compute = partial(sampled, chosen, slices, indices, seeds, **changes)
        return kept(path, compute, *identity, indices.tolist(), seeds, changes).psnr.tolist()

    base, fewer = (scores(f"base_{len(indices)}", method, indices, SEEDS) for indices in (many, few))
    steps = f"T = {extent.steps} with weights of T = {method.settings.steps}"
    rows = (
        ("E-1", "Eq. 31 as printed", base, scores("printed", method, many, posterior="printed"), len(many)),
        ("E-4", steps, fewer, scores(f"steps_{extent.steps}", method, few, steps=extent.steps), len(few)),
        ("E-5", "weights not loaded, in silence", base, scores("not_loaded", untrained, many), len(many)),
    )
    return pd.DataFrame([training_effects.compare(*row) for row in rows])
