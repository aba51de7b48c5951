"""Effects of the metrics: the same images, scored with one step of the released evaluation at a time."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mudiff.analyses.effects.common import Effect
from mudiff.data import volumes
from mudiff.evaluation.metrics import masked_protocol, released_protocol, to_uint8

JPEG_QUALITY = 75
"""Pillow's default, which the released code leaves as it is."""

HOT = 2.0
"""Value of the hot pixel of F-4, in units of white."""


@dataclass(frozen=True)
class Pair:
    """A true and a synthetic slice in [0, 1], (S, S) each, and the mask that they are compared in."""

    real: np.ndarray
    synthetic: np.ndarray
    mask: np.ndarray


def jpeg(image: np.ndarray) -> np.ndarray:
    """Return an 8-bit image (S, S) as it comes back from a JPEG file (F-3)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(file).convert("L"))


def _masked(pair: Pair) -> float:
    return masked_protocol(pair.real, pair.synthetic, pair.mask)["psnr"]


def _released(real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray) -> float:
    return released_protocol(real, synthetic, mask)["psnr"]


def _psnr(real: np.ndarray, synthetic: np.ndarray, data_range: float) -> float:
    """PSNR over all given pixels; images may leave [0, 1]."""
    from skimage.metrics import peak_signal_noise_ratio

    return float(peak_signal_noise_ratio(real, synthetic, data_range=data_range))


def _in_eight_bits(pair: Pair) -> float:
    return _masked(Pair(to_uint8(pair.real) / 255, to_uint8(pair.synthetic) / 255, pair.mask))


def _own_windows(pair: Pair) -> float:
    windowed = (volumes.normalise(image, "percentile") for image in (pair.real, pair.synthetic))
    return _masked(Pair(*windowed, pair.mask))


def _half_plain(pair: Pair) -> float:
    return _masked(Pair(pair.real, pair.real / 2, pair.mask))


def _half_released(pair: Pair) -> float:
    return _released(to_uint8(pair.real), to_uint8(pair.real) // 2, pair.mask)


def _all(pair: Pair) -> float:
    return _released(to_uint8(pair.real), to_uint8(pair.synthetic), pair.mask)


def _both_jpeg(pair: Pair) -> float:
    return _released(jpeg(to_uint8(pair.real)), jpeg(to_uint8(pair.synthetic)), pair.mask)


def _one_jpeg(pair: Pair) -> float:
    return _released(to_uint8(pair.real), jpeg(to_uint8(pair.synthetic)), pair.mask)


def _with_hot_pixel(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Return truth and synthesis inside the mask, one pixel of the synthesis at `HOT`."""
    inside = pair.mask > 0
    synthetic = pair.synthetic[inside].copy()
    synthetic[len(synthetic) // 2] = HOT
    return pair.real[inside], synthetic


def _hot_fixed_range(pair: Pair) -> float:
    return _psnr(*_with_hot_pixel(pair), data_range=1.0)


def _hot_own_range(pair: Pair) -> float:
    real, synthetic = _with_hot_pixel(pair)
    return _range_of_both(real, synthetic)


def _own_range(pair: Pair) -> float:
    inside = pair.mask > 0
    return _range_of_both(pair.real[inside], pair.synthetic[inside])


def _range_of_both(real: np.ndarray, synthetic: np.ndarray) -> float:
    both = np.concatenate([real, synthetic])
    return _psnr(real, synthetic, data_range=float(np.ptp(both)))


def _zeros_kept(pair: Pair) -> float:
    from scipy import ndimage

    inside = pair.mask > 0
    (box,) = ndimage.find_objects(inside.astype(np.uint8))
    return _psnr((pair.real * inside)[box], (pair.synthetic * inside)[box], data_range=1.0)


@dataclass(frozen=True)
class Step:
    """Two ways to score the same slices: id, words, the plain way, the changed way, and the region."""

    id: str
    name: str
    base: Callable[[Pair], float]
    changed: Callable[[Pair], float]
    region: str = "brain"


STEPS = (
    Step("F-1", "8 bits, stretched image by image", _masked, _in_eight_bits),
    Step("F-2", "the truth itself at half brightness", _half_plain, _half_released),
    Step("F-2", "each image in a window of its own", _masked, _own_windows),
    Step("F-3", "JPEG between, both images", _all, _both_jpeg),
    Step("F-3", "JPEG between, synthesis alone", _all, _one_jpeg),
    Step("F-4", "range of both images", _masked, _own_range),
    Step("F-4", "a hot pixel: range of both images", _hot_fixed_range, _hot_own_range),
    Step("F-5", "zeros around the brain kept", _masked, _zeros_kept),
    Step("F-5", "zeros around the lesion kept", _masked, _zeros_kept, "lesion"),
    Step("F-1 to F-5", "protocol released as a whole, brain", _masked, _all),
    Step("F-1 to F-5", "protocol released as a whole, lesion", _masked, _all, "lesion"),
)
"""What is measured; the base is PSNR of protocol ``masked`` per slice, but F-3's, which is protocol ``released``."""


def metric_effects(
    real: np.ndarray, synthetic: np.ndarray, brain: np.ndarray, lesion: np.ndarray
) -> list[Effect]:
    """Score slices plainly and with each step of the released evaluation.

    Parameters
    ----------
    real, synthetic : array (N, S, S)
        Slices in [0, 1].
    brain, lesion : array (N, S, S)
        Masks, above 0 inside; slices with an empty one are left out of that region.

    Returns
    -------
    list of Effect
        Means over slices in dB; nothing random is in them. Regions that no slice has are left out.
    """
    masks = {"brain": brain, "lesion": lesion}
    effects = []
    for step in STEPS:
        pairs = [Pair(*images) for images in zip(real, synthetic, masks[step.region], strict=True)]
        scores = [(step.base(pair), step.changed(pair)) for pair in pairs if (pair.mask > 0).any()]
        if scores:
            base, changed = np.mean(scores, axis=0)
            effects.append(
                Effect(step.id, step.name, float(base), float(changed), repeats=f"{len(scores)} slices")
            )
    return effects
