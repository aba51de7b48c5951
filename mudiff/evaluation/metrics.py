"""Masks, PSNR, SSIM and MAE under two protocols (section "Evaluation procedure").

``released`` is the procedure of the authors' evaluation code with all its faults, so that the paper's
numbers have a counterpart. ``masked`` is what the paper describes: background excluded, nothing else.
Letters such as F-2 point to the register in DIFFERENCES.md.

Two conventions hold everywhere. An empty mask gives NaN for every metric, never 0, and means skip it.
Images that agree exactly inside the mask have PSNR infinity; a mean that contains one is infinite too.
"""

import math
from pathlib import Path

import numpy as np
from skimage.metrics import structural_similarity

from mudiff.data import volumes
from mudiff.data.masks import lesion_mask
from mudiff.data.slices import normalise, to_slices
from mudiff.errors import MudiffError

PROTOCOLS = ("released", "masked")
"""Names of the protocols."""

METRICS = ("psnr", "ssim", "mae")
"""Names of the metrics: decibel, no unit, and fraction of the intensity range."""

WINDOW = 7
"""Side of the uniform SSIM window in pixels, the default of scikit-image (F-9: the paper states none)."""

_UNDEFINED = dict.fromkeys(METRICS, math.nan)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Return a float image as the released test code saves it, the input of `released_protocol`.

    A float image (S, S) of any range is stretched from its own minimum and maximum to 0 to 255 (F-1); a
    constant one is all 0. The JPEG compression of the released code is left out (F-3): its ringing adds
    errors that no method made, and the code that exported the released ground truth is not published.
    """
    image = np.asarray(image, np.float64)
    spread = np.ptp(image)
    scaled = (image - image.min()) / spread if spread > 0 else np.zeros_like(image)
    return np.floor(255 * scaled + 0.5).astype(np.uint8)


def released_protocol(
    real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray, dilate: bool = False
) -> dict[str, float]:
    """Score one pair of 8-bit images as the authors' released evaluation code does, faults included.

    Parameters
    ----------
    real, synthetic : array of uint8 (S, S)
        The images as saved, see `to_uint8`.
    mask : array (S, S)
        Brain or lesion, above 0 inside; `dilate` as in `lesion_mask`.

    Returns
    -------
    dict of str to float
        ``psnr`` in decibel, ``ssim``, ``mae`` as fraction of the range; NaN for an empty mask.

    Raises
    ------
    MudiffError
        If the images are not uint8 or the shapes differ.
    """
    real, synthetic = np.asarray(real), np.asarray(synthetic)
    for name, image in (("real", real), ("synthetic", synthetic)):
        if image.dtype != np.uint8 or image.ndim != 2:
            raise MudiffError(
                f"protocol released: the {name} image is {image.dtype} of shape {image.shape}, expected "
                "uint8 (S, S); convert slices in [0, 1] with mudiff.evaluation.metrics.to_uint8."
            )
    _check_shapes(real, synthetic, mask)
    inside = lesion_mask(mask, dilate)
    if not inside.any():
        return dict(_UNDEFINED)

    box = _bounding_box(inside)
    # F-5: pixels of the box outside the mask are set to 0 on both sides and stay in every mean.
    stretched = [_stretch(image) for image in (real, synthetic)]
    unit = [image[box] * inside[box] for image in stretched]
    scaled = [_over_mean(image)[box] * inside[box] for image in stretched]
    # F-4: the data range depends on the prediction; a hot pixel raises the PSNR.
    data_range = max(x.max() for x in scaled) - min(x.min() for x in scaled)
    # F-8: at the image border the box can stay below the window, where the released code crashes.
    small = min(inside[box].shape) < WINDOW or data_range == 0
    similarity = math.nan if small else structural_similarity(*scaled, data_range=data_range)
    return {
        "psnr": _psnr(np.mean((scaled[0] - scaled[1]) ** 2), data_range),
        "ssim": float(similarity),
        # F-6: MAE sees the images in [0, 1], PSNR and SSIM see them divided by their means.
        "mae": float(np.mean(np.abs(unit[0] - unit[1]))),
    }


def _stretch(image: np.ndarray) -> np.ndarray:
    """Clip to the 1-99 % range of the pixels above 0, then min-max to [0, 1]."""
    # F-2: each image is normalised by itself, which erases errors of gain and offset.
    image = image.astype(np.float64)
    if not image.any():
        return image
    image = np.clip(image, *np.percentile(image[image > 0], (1, 99)))
    return (image - image.min()) / max(np.ptp(image), np.finfo(float).tiny)


def _over_mean(image: np.ndarray) -> np.ndarray:
    """Divide by the mean of the whole image, background included (F-2)."""
    # An all-black prediction is 0/0 in the released code and so left out of its mean; here it stays black.
    return image / image.mean() if image.any() else image


def _bounding_box(inside: np.ndarray) -> tuple[slice, slice]:
    """Return the box of the mask, widened to the SSIM window as far as the image reaches."""
    box = []
    for axis in (0, 1):
        (found,) = np.nonzero(inside.any(axis=1 - axis))
        start, stop = int(found[0]), int(found[-1]) + 1
        missing = WINDOW - (stop - start)
        if missing > 0:
            start, stop = max(0, start - missing // 2), min(inside.shape[axis], stop + (missing + 1) // 2)
        box.append(slice(start, stop))
    return box[0], box[1]


def masked_protocol(
    real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray, dilate: bool = False
) -> dict[str, float]:
    """Score float images inside a mask, without the faults of the released code.

    Nothing is normalised here: the data range is 1. Errors and the SSIM map are averaged over the voxels of the
    mask alone; the SSIM of a voxel sees its 7x7 neighbourhood, also beyond the mask.

    Parameters
    ----------
    real, synthetic : array of float (S, S) or (Z, S, S)
        Images in [0, 1] of the normalised truth; of a stack all mask voxels are pooled.
    mask : array, same shape
        Brain or lesion, above 0 inside; `dilate` as in `lesion_mask`.

    Returns
    -------
    dict of str to float
        As `released_protocol`.

    Raises
    ------
    MudiffError
        If shapes differ, an image is below 7x7, or values are not finite and in [0, 1].
    """
    inside = lesion_mask(mask, dilate)
    return _pool(_error_maps(real, synthetic, mask, inside), inside)


def _error_maps(
    real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors and the SSIM maps, the latter for slices with a mask only."""
    _check_shapes(real, synthetic, mask)
    real, synthetic = _check_unit("real", real), _check_unit("synthetic", synthetic)
    if min(real.shape[-2:]) < WINDOW:
        raise MudiffError(
            f"protocol masked: images of {real.shape[-2]}x{real.shape[-1]} pixels are below the "
            f"{WINDOW}x{WINDOW} window of SSIM; use larger images."
        )
    similarity = np.full(real.shape, math.nan)
    for z in np.ndindex(real.shape[:-2]):  # the one index () for a single image
        if inside[z].any():
            similarity[z] = structural_similarity(real[z], synthetic[z], data_range=1.0, full=True)[1]
    return synthetic - real, similarity


def _pool(maps: tuple[np.ndarray, np.ndarray], inside: np.ndarray) -> dict[str, float]:
    """Average error and SSIM maps over the mask."""
    if not inside.any():
        return dict(_UNDEFINED)
    error, similarity = (x[inside] for x in maps)
    return {
        "psnr": _psnr(np.mean(error**2), 1.0),
        "ssim": float(similarity.mean()),
        "mae": float(np.mean(np.abs(error))),
    }


def score_subject(
    real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray, protocol: str = "masked", dilate: bool = False
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Score a subject's slices (Z, S, S) in [0, 1], one by one and as a whole.

    Protocol ``released`` stretches each image to 8 bits first, see `to_uint8`.

    Returns
    -------
    slices : list of dict
        `METRICS` of each slice; NaN where its mask is empty.
    subject : dict
        For ``masked`` pooled over all mask voxels of the subject, for ``released`` the mean over the slices
        that have a mask (F-7).

    Raises
    ------
    MudiffError
        If the protocol is unknown, the arrays are not stacks of one shape or not in [0, 1].
    """
    if protocol not in PROTOCOLS:
        raise MudiffError(f"protocol {protocol!r} is unknown: choose one of {', '.join(PROTOCOLS)}.")
    if np.ndim(real) != 3:
        raise MudiffError(f"evaluation: expected stacks of slices (Z, S, S), got shape {np.shape(real)}.")
    _check_shapes(real, synthetic, mask)
    inside = lesion_mask(mask, dilate)
    if protocol == "masked":
        maps = _error_maps(real, synthetic, mask, inside)
        slices = [_pool((maps[0][z], maps[1][z]), inside[z]) for z in range(len(inside))]
        return slices, _pool(maps, inside)
    real, synthetic = _check_unit("real", real), _check_unit("synthetic", synthetic)
    slices = [
        released_protocol(to_uint8(real[z]), to_uint8(synthetic[z]), inside[z]) for z in range(len(inside))
    ]
    subject = {}
    for name in METRICS:
        defined = [s[name] for s in slices if not math.isnan(s[name])]
        subject[name] = float(np.mean(defined)) if defined else math.nan
    return slices, subject


def evaluate(
    real: Path,
    synthetic: Path,
    mask: Path,
    protocol: str = "masked",
    dilate: bool = False,
    normalisation: str = "percentile",
) -> dict[str, object]:
    """Score a synthetic NIfTI volume slice by slice at its native size, as plain values for JSON.

    The truth is normalised. The synthesis is in [0, 1] of the normalised truth, as `mudiff synthesize` writes it,
    and taken as it is; protocol ``released`` normalises it by its own window, and so does not see its brightness.

    Returns
    -------
    dict
        ``protocol``, ``dilated``, ``subject`` (`METRICS` of the whole volume) and ``slices`` (one entry per
        slice with a mask: ``slice`` and `METRICS`); undefined values are None, infinity is the text ``"inf"``.

    Raises
    ------
    MudiffError
        If a file cannot be used, the grids differ, the mask is empty, or, under ``masked``, the synthesis is not
        in [0, 1].
    """
    loaded = {"real": volumes.load_volume(real), "synthetic": volumes.load_volume(synthetic)}
    loaded["mask"] = volumes.load_mask(mask)
    volumes.check_grid(loaded, f"{real}, {synthetic}, {mask}")
    if not (loaded["mask"].data > 0).any():
        raise MudiffError(f"{mask}: the mask is empty; give one with at least one voxel above 0.")
    truth, fake = normalise(loaded["real"].data, normalisation, real), loaded["synthetic"].data
    if protocol == "released":
        fake = normalise(fake, normalisation, synthetic)
    elif fake.min() < 0 or fake.max() > 1:
        raise MudiffError(
            f"{synthetic}: has values from {fake.min():.4g} to {fake.max():.4g}, expected [0, 1] of the normalised "
            "truth, as `mudiff synthesize` writes it; --protocol released takes any range."
        )
    affine = loaded["real"].affine
    stacks = [to_slices(data, affine)[0] for data in (truth, fake)]
    inside, _ = to_slices(loaded["mask"].data, affine, order=0)
    slices, subject = score_subject(*stacks, inside, protocol, dilate)
    rows = [{"slice": z} | _plain(scores) for z, scores in enumerate(slices) if not math.isnan(scores["mae"])]
    return {"protocol": protocol, "dilated": dilate, "subject": _plain(subject), "slices": rows}


def _plain(scores: dict[str, float]) -> dict[str, object]:
    return {k: None if math.isnan(v) else "inf" if math.isinf(v) else v for k, v in scores.items()}


def _psnr(mean_squared_error: float, data_range: float) -> float:
    return 10 * math.log10(data_range**2 / mean_squared_error) if mean_squared_error else math.inf


def _check_shapes(real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray) -> None:
    shapes = [np.shape(x) for x in (real, synthetic, mask)]
    if len(set(shapes)) != 1 or len(shapes[0]) not in (2, 3) or 0 in shapes[0]:
        raise MudiffError(
            f"evaluation: real {shapes[0]}, synthetic {shapes[1]} and mask {shapes[2]} must have one shape, "
            "(S, S) or (Z, S, S); bring them onto one grid first."
        )


def _check_unit(name: str, image: np.ndarray) -> np.ndarray:
    """Return `image` as float64 in [0, 1]; values a rounding error beyond are clipped."""
    image = np.asarray(image, np.float64)
    if not (image.min() >= -1e-3 and image.max() <= 1 + 1e-3):  # written so that NaN fails too
        raise MudiffError(
            f"evaluation: the {name} image has values from {image.min():.4g} to {image.max():.4g}, expected "
            "finite values in [0, 1]; normalise both volumes the same way first."
        )
    return np.clip(image, 0.0, 1.0)
