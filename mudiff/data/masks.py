"""Where the brain is, and where the lesion (section "Evaluation procedure")."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from mudiff.data import datasets
from mudiff.data.files import Files, left_out
from mudiff.data.volumes import Volume, read
from mudiff.errors import MudiffError

CONVENTIONS = {
    "2020": "1, 2, 4 (BraTS to 2020)", "2023": "1, 2, 3 (BraTS of 2023)",
    "2024": "1 to 4 (BraTS 2024: 4 is the resection cavity, no lesion)",
}  # fmt: skip
"""Release of BraTS -> the labels of its masks."""

_ROUNDING = 0.01  # a uint8 file of labels to 4 that nibabel scaled is off by 0.008


def load_mask(path: Path, images: Iterable[Volume] = ()) -> tuple[Volume, list[str]]:
    """Read a lesion mask: its labels as uint8, zeros alone (no lesion) are valid, and doubts about them.

    Labels are rounded, what is below 0 becomes 0 and what is above 255 becomes 1, so that lesion is ``data > 0``.
    Voxels that are not finite, and fractions that all round to 0, are errors; so is a mask of more than half of the
    brain (what is above 0 in any of the `images` of its shape), or mostly beside it.
    """
    mask = read(path)
    if not np.isfinite(mask.data).all():
        raise MudiffError(f"{path}: the mask has NaN or infinite voxels; repair or remove it.")
    rounded = np.rint(mask.data)
    labels = np.select([rounded < 0, rounded > 255], [0, 1], rounded).astype(np.uint8)
    odd = mask.data[np.abs(mask.data - labels) > _ROUNDING]
    if not labels.any() and mask.data.max() > _ROUNDING:
        raise MudiffError(
            f"{path}: the mask has no label, its largest value is {mask.data.max():g}; threshold it first."
        )
    if labels.any() and (heads := [image.data > 0 for image in images if image.data.shape == labels.shape]):
        lesion, brain = labels > 0, np.any(heads, axis=0)
        inside = np.count_nonzero(lesion & brain)
        covers, beside = inside / np.count_nonzero(brain), 1 - inside / np.count_nonzero(lesion)
        if max(covers, beside) > 0.5:
            says = f"the mask covers {covers:.0%} of the brain, and {beside:.0%} of it lies outside"
            raise MudiffError(f"{path}: {says}; is it inverted, or its background 255 or 1? Repair it.")
    kept = "fractions are rounded, negative values become 0, values above 255 become 1"
    doubts = [f"{odd.size} voxels are no labels from 0 to 255 (for example {odd[0]:g}); {kept}"] if odd.size else []
    return replace(mask, data=labels), doubts


def found_labels(mask: Volume | None) -> list[int]:
    """Return the labels above 0 of a mask; none without one."""
    return np.unique(mask.data[mask.data > 0]).tolist() if mask else []


def missing_masks(dataset: str, found: dict[str, Files]) -> dict[str, str]:
    """Return the subjects without a mask of a dataset that has masks: subject -> what to do about it."""
    remedy = "add it, exclude the subject, or pass --allow-missing-masks to count it as free of lesions"
    without = {s: own for s, own in found.items() if own and "mask" not in own}
    without = without if datasets.dataset(dataset).lesions else {}
    return {s: f"{s}: has no lesion mask{left_out(own, 'mask')}; {remedy}." for s, own in without.items()}


def convention(dataset: str, labels: dict[str, list[int]], given: str | None = None) -> str | None:
    """Return which of the `CONVENTIONS` a cohort of BraTS follows, `given` or by the labels of each subject's mask.

    Labels 3 and 4 in one mask are of 2024. Where they never meet, two releases are mixed: an error. Of other datasets
    every label is lesion (None).
    """
    if given is not None:
        datasets.known("labels", given, CONVENTIONS)
    if given is not None and dataset != "brats":
        raise MudiffError(f"--labels {given}: is for brats; every label of {dataset} is lesion, leave it out.")
    if dataset != "brats":
        return None
    three, four = ([s for s, own in labels.items() if label in own] for label in (3, 4))
    if given is None and three and four and not set(three) & set(four):
        raise MudiffError(
            f"masks of two releases are mixed: {three[0]} has label 3, {four[0]} label 4, no mask has both; keep one "
            f"release, or say what 4 is with --labels 2020 (enhancing tumour) or 2024 (resection cavity)."
        )
    return given or ("2024" if three and four else "2023" if three else "2020")


def brain_mask(volumes: np.ndarray) -> np.ndarray:
    """Return the brain, bool (Z, S, S): all voxels above 0 in any contrast, cleaned by morphology.

    Specks are opened away slice by slice, crumbs far smaller than the brain are dropped, holes are filled. `volumes`
    are skull-stripped contrasts (C, Z, S, S), background 0: where one is cut, the others cover the rest.
    """
    head = (volumes > 0).any(axis=0)
    # Edge padding: a brain that the field of view cuts keeps its full extent at the border.
    padded = np.pad(head, ((0, 0), (2, 2), (2, 2)), mode="edge")
    cross = ndimage.generate_binary_structure(2, 1)[None]
    opened = ndimage.binary_opening(padded, cross)[:, 2:-2, 2:-2]
    labels, _ = ndimage.label(opened, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    brain = (sizes >= max(0.1 * sizes.max(), 1))[labels]  # temporal lobes and cerebellum can be apart from the rest
    return np.stack([ndimage.binary_fill_holes(plane) for plane in brain])


def lesion_mask(labels: np.ndarray, dilate: bool = False) -> np.ndarray:
    """Return the lesion, bool (..., S, S): every label above 0 counts (the paper's "whole tumor").

    `dilate`: slice by slice, by a 3x3 kernel in three iterations at 256x256 (ISLES), which scale with the image.
    """
    mask = np.asarray(labels) > 0
    if not dilate:
        return mask
    kernel = np.ones((1,) * (mask.ndim - 2) + (3, 3), bool)
    return ndimage.binary_dilation(mask, kernel, iterations=max(1, round(3 * max(mask.shape[-2:]) / 256)))
