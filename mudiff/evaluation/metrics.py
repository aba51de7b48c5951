"""PSNR, SSIM and MAE under two protocols (section "Evaluation procedure").

``released`` is the authors' evaluation code with all its faults, F-1 to F-9 of the register; ``masked`` is what the
paper describes: background excluded, nothing else. An empty mask gives NaN for every metric, never 0, and means skip
it, and so does, under ``released``, a box without contrast on both sides. Images that agree exactly inside the mask
have PSNR infinity; a mean that contains one is infinite too.
"""

import math
from pathlib import Path

import numpy as np
from skimage.metrics import structural_similarity

from mudiff.data import volumes
from mudiff.data.datasets import known
from mudiff.data.masks import lesion_mask, load_mask
from mudiff.data.slices import normalise, to_slices, window
from mudiff.errors import MudiffError

PROTOCOLS = ("released", "masked")
METRICS = ("psnr", "ssim", "mae")
"""Decibel, no unit, and fraction of the intensity range."""

Scores = dict[str, float]
"""One number for each of the `METRICS`."""

WINDOW = 7
"""Side of the uniform SSIM window in pixels, the default of scikit-image (F-9: the paper states none)."""


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Return a float image (S, S) as the released test code saves it: stretched from its own range to 0 to 255 (F-1).

    A constant image is all 0. The JPEG compression of the released code is left out (F-3): its ringing adds errors
    that no method made, and the code that exported the released ground truth is not published.
    """
    image = np.asarray(image, np.float64)
    spread = np.ptp(image)
    scaled = (image - image.min()) / spread if spread > 0 else np.zeros_like(image)
    return np.floor(255 * scaled + 0.5).astype(np.uint8)


def released_protocol(real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray, dilate: bool = False) -> Scores:
    """Return the `METRICS` of a pair of images as the authors' released code has them, faults included.

    The images are uint8 (S, S) as saved (`to_uint8`); the mask is above 0 inside, `dilate`d as by `lesion_mask`.
    """
    for name, image in (("real", real), ("synthetic", synthetic)):
        if image.dtype != np.uint8 or image.ndim != 2:
            raise MudiffError(
                f"protocol released: the {name} image is {image.dtype} of shape {image.shape}, expected "
                "uint8 (S, S); convert slices in [0, 1] with mudiff.evaluation.metrics.to_uint8."
            )
    _check_shapes(real, synthetic, mask)
    inside = lesion_mask(mask, dilate)
    if not inside.any():
        return dict.fromkeys(METRICS, math.nan)

    box = _bounding_box(inside)
    # F-5: pixels of the box outside the mask are set to 0 on both sides and stay in every mean.
    stretched = [_stretch(image) for image in (real, synthetic)]
    unit = [image[box] * inside[box] for image in stretched]
    # F-2: divided by the mean of the whole image; a black one (0/0 in the released code) stays black.
    scaled = [(image / (image.mean() or 1.0))[box] * inside[box] for image in stretched]
    # F-4: the data range depends on the prediction; a hot pixel raises the PSNR.
    data_range = max(x.max() for x in scaled) - min(x.min() for x in scaled)
    if data_range == 0:
        return dict.fromkeys(METRICS, math.nan)
    # F-8: at the image border the box can stay below the window, where the released code crashes.
    small = min(inside[box].shape) < WINDOW
    similarity = math.nan if small else structural_similarity(*scaled, data_range=data_range)
    psnr = _psnr(np.mean((scaled[0] - scaled[1]) ** 2), data_range)
    # F-6: MAE sees the images in [0, 1], PSNR and SSIM see them divided by their means.
    return {"psnr": psnr, "ssim": float(similarity), "mae": float(np.mean(np.abs(unit[0] - unit[1])))}


def _stretch(image: np.ndarray) -> np.ndarray:
    """Clip to the 1-99 % range of the pixels above 0, then min-max to [0, 1] (F-2: erases gain and offset)."""
    image = image.astype(np.float64)
    if not image.any():
        return image
    image = np.clip(image, *np.percentile(image[image > 0], (1, 99)))
    return (image - image.min()) / max(np.ptp(image), np.finfo(float).tiny)


def _bounding_box(inside: np.ndarray) -> tuple[slice, slice]:
    """Return the box of the mask, widened to the SSIM window as far as the image reaches."""
    box = []
    for axis in (0, 1):
        found = np.flatnonzero(inside.any(axis=1 - axis))
        missing = max(0, WINDOW - (found[-1] + 1 - found[0]))
        box.append(slice(max(0, found[0] - missing // 2), found[-1] + 1 + (missing + 1) // 2))
    return box[0], box[1]


def masked_protocol(real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray, dilate: bool = False) -> Scores:
    """Return the `METRICS` of float images inside a mask, without the faults of the released code.

    Nothing is normalised here: the data range is 1. Errors and the SSIM map are averaged over the voxels of the
    mask alone; the SSIM of a voxel sees its 7x7 neighbourhood, also beyond the mask. Images (S, S) or (Z, S, S) are
    in [0, 1] of the normalised truth, of a stack all mask voxels are pooled; `dilate` as in `lesion_mask`.
    """
    inside = lesion_mask(mask, dilate)
    return _pool(_error_maps(real, synthetic, mask, inside), inside)


Maps = tuple[np.ndarray, np.ndarray]  # errors, and SSIM of the slices with a mask


def _error_maps(real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray, inside: np.ndarray) -> Maps:
    _check_shapes(real, synthetic, mask)
    real, synthetic = _check_unit("real", real), _check_unit("synthetic", synthetic)
    if min(real.shape[-2:]) < WINDOW:
        size = "x".join(map(str, real.shape[-2:]))
        raise MudiffError(
            f"protocol masked: images of {size} pixels are below the 7x7 window of SSIM; use larger ones."
        )
    similarity = np.full(real.shape, math.nan)
    for z in np.ndindex(real.shape[:-2]):  # the one index () for a single image
        if inside[z].any():
            similarity[z] = structural_similarity(real[z], synthetic[z], data_range=1.0, full=True)[1]
    return synthetic - real, similarity


def _pool(maps: Maps, inside: np.ndarray) -> Scores:
    """Average error and SSIM maps over the mask."""
    if not inside.any():
        return dict.fromkeys(METRICS, math.nan)
    error, similarity = (x[inside] for x in maps)
    mae = float(np.mean(np.abs(error)))
    return {"psnr": _psnr(np.mean(error**2), 1.0), "ssim": float(similarity.mean()), "mae": mae}


def score_subject(
    real: np.ndarray, synthetic: np.ndarray, mask: np.ndarray, protocol: str = "masked", dilate: bool = False
) -> tuple[list[Scores], Scores]:
    """Return the `METRICS` of a subject's slices (Z, S, S) in [0, 1], one by one and as a whole.

    The whole is pooled over all mask voxels under ``masked``, and the mean over the slices that have a mask under
    ``released`` (F-7), which stretches each image to 8 bits first (`to_uint8`).
    """
    known("protocol", protocol, PROTOCOLS)
    if np.ndim(real) != 3:
        raise MudiffError(f"evaluation: expected stacks of slices (Z, S, S), got shape {np.shape(real)}.")
    _check_shapes(real, synthetic, mask)
    inside = lesion_mask(mask, dilate)
    if protocol == "masked":
        maps = _error_maps(real, synthetic, mask, inside)
        slices = [_pool((maps[0][z], maps[1][z]), inside[z]) for z in range(len(inside))]
        return slices, _pool(maps, inside)
    saved = ([*map(to_uint8, _check_unit(*image))] for image in (("real", real), ("synthetic", synthetic)))
    slices = [*map(released_protocol, *saved, inside)]
    defined = {name: [s[name] for s in slices if not math.isnan(s[name])] for name in METRICS}
    return slices, {name: float(np.mean(v)) if v else math.nan for name, v in defined.items()}


def evaluate(
    real: Path, synthetic: Path, mask: Path, protocol: str, dilate: bool, normalisation: str, rescale: bool = False
) -> dict[str, object]:
    """Score a synthetic NIfTI volume slice by slice at its native size, as plain values for JSON.

    The truth is normalised. The synthesis is in [0, 1] of the normalised truth, as `mudiff synthesize` writes it,
    and taken as it is; with `rescale`, and under protocol ``released``, it is normalised by its own window, so that
    its brightness is not seen. ``psnr_truth_scale`` (protocol masked, whole subject) is in the truth's units: the
    synthesis, mapped back by the truth's window, against the truth before it was clipped; the data range is the
    truth's largest value above its background. Only slices with a mask are listed; undefined values are None,
    infinity is the text ``"inf"``.
    """
    rescale |= protocol == "released"
    loaded = {"real": volumes.load_volume(real), "mask": load_mask(mask)[0]}
    loaded["synthetic"] = volumes.load_volume(synthetic) if rescale else volumes.read(synthetic)
    volumes.check_grid(loaded, f"{real}, {synthetic}, {mask}")
    if not (loaded["mask"].data > 0).any():
        raise MudiffError(f"{mask}: the mask is empty; give one with at least one voxel above 0.")
    truth, fake = normalise(loaded["real"].data, normalisation, real), loaded["synthetic"].data
    if rescale:
        fake = normalise(fake, normalisation, synthetic)
    elif not (fake.min() >= 0 and fake.max() <= 1):  # written so that NaN fails too
        raise MudiffError(
            f"{synthetic}: has values from {fake.min():.4g} to {fake.max():.4g}, expected [0, 1] of the normalised "
            "truth, as `mudiff synthesize` writes it; --rescale normalises it by its own window."
        )
    affine = loaded["real"].affine
    stacks = [to_slices(data, affine)[0] for data in (truth, fake)]
    stacks.append(to_slices(loaded["mask"].data, affine, order=0)[0])
    slices, subject = score_subject(*stacks, protocol, dilate)
    rows = [{"slice": z} | _plain(scores) for z, scores in enumerate(slices) if not math.isnan(scores["mae"])]
    if protocol == "masked":
        low, high = window(loaded["real"].data, normalisation, real)
        inside = lesion_mask(stacks[2], dilate)
        original = to_slices(loaded["real"].data, affine)[0].astype(np.float64)
        error = (low + (high - low) * stacks[1] - original)[inside]
        subject["psnr_truth_scale"] = _psnr(np.mean(error**2), original.max())
    how = {"protocol": protocol, "dilated": dilate, "rescaled": rescale}
    return how | {"subject": _plain(subject), "slices": rows}


def _plain(scores: Scores) -> dict[str, object]:
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
    """Return `image` as float64 in [0, 1], a rounding error beyond clipped."""
    image = np.asarray(image, np.float64)
    if not (image.min() >= -1e-3 and image.max() <= 1 + 1e-3):  # written so that NaN fails too
        raise MudiffError(
            f"evaluation: the {name} image has values from {image.min():.4g} to {image.max():.4g}, expected "
            "finite values in [0, 1]; normalise both volumes the same way first."
        )
    return np.clip(image, 0.0, 1.0)
