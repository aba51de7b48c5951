"""Masks and metrics: equality with the released numbers, hand-computed images, known faults."""

import math

import numpy as np
import pytest
from conftest import REFERENCE, refused

from mudiff.evaluation import metrics


def brain(size=32, seed=0):
    """Return an image in [0, 1] with structure, background 0, and its mask."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    mask = x**2 / 0.16 + y**2 / 0.2 < 1
    image = 0.2 + 0.6 * np.sin(9 * x + 1) ** 2 * np.cos(7 * y) ** 2 + 0.1 * generator.random((size, size))
    return image * mask, mask


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference numbers at {REFERENCE}")
@pytest.mark.parametrize("region", ["brain", "lesion", "lesion_dilated"])
def test_released_protocol_equals_released_code(region):
    with np.load(REFERENCE / "released_metrics.npz", allow_pickle=False) as saved:
        arrays = dict(saved)
    masks = arrays["brain_mask" if region == "brain" else "lesion_mask"]
    for i, triple in enumerate(zip(arrays["real"], arrays["synthetic"], masks, strict=True)):
        scores = metrics.released_protocol(*triple, dilate=region == "lesion_dilated")
        for name in metrics.METRICS:
            assert scores[name] == pytest.approx(arrays[f"{region}_{name}"][i], abs=1e-6)


def test_masked_protocol_by_hand():
    real, synthetic, mask = np.zeros((8, 8)), np.zeros((8, 8)), np.zeros((8, 8), bool)
    mask[2, 2:6] = True
    synthetic[2, 2:6] = (0.1, 0.1, 0.3, 0.1)
    synthetic[7, 7] = 1.0  # outside the mask: must not count
    scores = metrics.masked_protocol(real, synthetic, mask)
    assert scores["mae"] == pytest.approx(0.15)
    assert scores["psnr"] == pytest.approx(10 * math.log10(1 / 0.03))  # mse = (3 * 0.01 + 0.09) / 4
    # Constant images: variances vanish, SSIM is the luminance term (2ab + c1) / (a^2 + b^2 + c1).
    a, b, c1 = 0.5, 0.25, 0.01**2
    scores = metrics.masked_protocol(np.full((8, 8), a), np.full((8, 8), b), np.ones((8, 8)))
    assert scores["ssim"] == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1))


def test_released_mae_by_hand():
    # Two levels, each well over 1 % of the pixels: the percentile clip and min-max give 0 and 1.
    real = np.full((8, 8), 100, np.uint8)
    real[0] = 50
    synthetic = real.copy()
    synthetic[1] = 50  # 1 -> 0 on 8 of 64 pixels
    scores = metrics.released_protocol(real, synthetic, np.ones((8, 8)))
    assert scores["mae"] == pytest.approx(8 / 64)
    # Divided by the means 7/8 and 6/8: errors 8/7 on 8 pixels, 8/6 - 8/7 on 48; the range is 8/6 (F-4).
    mse = (8 * (8 / 7) ** 2 + 48 * (8 / 6 - 8 / 7) ** 2) / 64
    assert scores["psnr"] == pytest.approx(10 * math.log10((8 / 6) ** 2 / mse))


@pytest.mark.parametrize("protocol", metrics.PROTOCOLS)
def test_empty_masks_and_identical_images(protocol):
    image, mask = (array[None] for array in brain())
    slices, subject = metrics.score_subject(image, image / 2, 0 * mask, protocol)
    assert all(math.isnan(value) for scores in (*slices, subject) for value in scores.values())
    slices, subject = metrics.score_subject(image, image, mask, protocol)
    assert [*slices, subject] == [{"psnr": math.inf, "ssim": pytest.approx(1), "mae": 0}] * 2
    pair = [np.concatenate([stack, 0 * stack]) for stack in (image, image**2)]  # the second slice is empty
    slices, subject = metrics.score_subject(*pair, np.ones_like(pair[0]), protocol)
    assert math.isfinite(subject["psnr"]) and (protocol == "masked" or math.isnan(slices[1]["psnr"]))


def test_half_brightness_is_punished_by_masked_only_and_black_by_both():
    image, mask = (array[None] for array in brain(64))
    half, black = (
        {p: metrics.score_subject(image, k * image, mask, p)[1] for p in metrics.PROTOCOLS} for k in (0.5, 0)
    )
    assert half["masked"]["psnr"] < 15 and half["masked"]["ssim"] < 0.9
    assert half["released"]["psnr"] > 35 and half["released"]["ssim"] > 0.98  # the known fault F-2
    assert all(scores["psnr"] < 12 and scores["ssim"] < 0.5 for scores in black.values())


def test_subject_pools_masked_and_averages_released():
    image, mask = brain()
    real = np.stack([image, image, image])
    synthetic = np.clip(real + np.array([0.0, 0.1, 0.3])[:, None, None] * mask * (real > 0.3), 0, 1)
    masks = np.stack([mask, mask & (np.arange(32) < 16), np.zeros_like(mask)])
    slices, subject = metrics.score_subject(real, synthetic, masks, "masked")
    n = masks.sum((1, 2))
    pooled = sum(s["mae"] * k for s, k in zip(slices[:2], n[:2], strict=True)) / n.sum()
    assert subject["mae"] == pytest.approx(pooled)
    assert slices[1] == metrics.masked_protocol(real[1], synthetic[1], masks[1])
    assert subject == metrics.masked_protocol(real, synthetic, masks)
    synthetic[0] *= 1 - 0.5 * real[0]
    slices, subject = metrics.score_subject(real, synthetic, masks, "released")
    assert subject["psnr"] == pytest.approx((slices[0]["psnr"] + slices[1]["psnr"]) / 2)
    assert math.isnan(slices[2]["psnr"])


def test_lesion_at_the_border_does_not_crash_released():
    image, _ = brain()
    noisy = np.clip(image + 0.1 * np.random.default_rng(1).random(image.shape), 0, 1)
    mask = np.zeros((32, 32))
    mask[0, 10:20] = 1
    scores = metrics.released_protocol(metrics.to_uint8(image), metrics.to_uint8(noisy), mask)
    assert math.isnan(scores["ssim"])  # the box is 4 pixels high, below the window (F-8)
    assert math.isfinite(scores["mae"])


def test_to_uint8_stretches_each_image():
    image = np.array([[0.1, 0.2], [0.4, 0.6]])
    assert metrics.to_uint8(image).tolist() == [[0, 51], [153, 255]]
    assert not metrics.to_uint8(np.full((2, 2), 0.7)).any()


def test_bad_input_raises():
    image, mask = brain()
    eight = metrics.to_uint8(image)
    refused("expected uint8", metrics.released_protocol, image, eight, mask)
    refused("one shape", metrics.released_protocol, eight[:-1], eight, mask)
    refused("one shape", metrics.masked_protocol, image, image, mask[:-1])
    refused("real image has values", metrics.masked_protocol, 255 * image, image, mask)
    refused("synthetic image has values", metrics.masked_protocol, image, image * np.nan, mask)
    refused("4x4", metrics.masked_protocol, image[:4, :4], image[:4, :4], mask[:4, :4])
    refused("stacks of slices", metrics.score_subject, image, image, mask)
    refused("released, masked", metrics.score_subject, image[None], image[None], mask[None], "mine")
