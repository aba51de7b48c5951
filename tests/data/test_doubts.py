"""What is odd about volumes that can be read."""

import re

import nibabel
import numpy as np
import pytest
from conftest import LPS

from mudiff.data import doubts, volumes

SHAPE = (40, 44, 40)


def contrasts(rng) -> dict[str, np.ndarray]:
    """Return T1, T1CE and T2 of a ball of white matter, grey matter and a fifth of CSF."""
    axes = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    tissue = rng.choice([1, 2, 3], SHAPE, p=(0.4, 0.4, 0.2)) * (sum(a**2 for a in axes) < 1)
    means = {"t1": (0, 900, 700, 300), "t1ce": (0, 950, 800, 350), "t2": (0, 300, 450, 1200)}
    return {c: np.array(m)[tissue] * rng.normal(1, 0.05, SHAPE) for c, m in means.items()}


def header(q=1, s=1, turned=False):
    made = nibabel.Nifti1Header()
    made.set_data_dtype(np.float32)
    made.set_qform(LPS if not turned else np.diag([1.0, -1, 1, 1]), q)
    made.set_sform(LPS, s)
    return made


def doubted(images, affine=LPS, head=None, slices=20):
    kinds = {c: (*volumes.without_background(x.astype(np.float32)), x.dtype) for c, x in images.items()}
    loaded = {}
    for name, (data, rings, kind) in kinds.items():
        own = (head or header()).copy()
        own.set_data_dtype(np.uint8 if kind == np.uint8 else np.float32)
        loaded[name] = volumes.Volume(data, affine, own, name, rings)
    return {f"{name}: {says}" for name, says in doubts.doubts(loaded, slices)}


def test_ordinary_volumes_leave_no_doubt(rng):
    assert doubted(contrasts(rng)) == set()
    whole = {c: np.rint(x / 8) for c, x in contrasts(rng).items()}  # a dark scan has few grey values
    assert doubted(whole) == set()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x | {"t2": (x["t2"] / x["t2"].max() * 255).astype(np.uint8)}, "t2: has .* 8-bit"),
        (lambda x: x | {"t2": np.rint(x["t2"] / 20) / 100}, "t2: has .* 8-bit"),
        (lambda x: x | {"t1ce": x["t1"] * 2}, "t1ce: is the same image as T1"),
        (lambda x: x | {"t1": x["t2"], "t2": x["t1"]}, "t1: looks like T2, and T2 like T1"),
        (lambda x: x | {"t2": np.where(np.arange(40) < 5, x["t2"], 0)}, "t2: is empty in the middle slices"),
    ],
)
def test_each_doubt_about_intensities_names_the_contrast(rng, change, says):
    (found,) = doubted(change(contrasts(rng)))
    assert re.match(says, found), found


@pytest.mark.parametrize(
    ("affine", "head", "says"),
    [
        (np.diag([-1.0, -1, 6, 1]), {}, "voxels of 1 x 1 x 6 mm; the networks see 1 mm"),
        (np.diag([-0.5, -0.5, 0.5, 1]), {}, "voxels of 0.5 x 0.5 x 0.5 mm"),
        (np.diag([-1.0, -1.1, 1, 1]), {}, "voxels of 1 x 1.1 mm in the slices"),
        (LPS, {"q": 0, "s": 0}, "may be mirrored left to right"),
        (LPS, {"turned": True}, r"qform \(RPS\) unlike its sform \(LPS, used\)"),
    ],
)
def test_each_doubt_about_the_grid_is_told_once(rng, affine, head, says):
    (found,) = doubted(contrasts(rng), affine, header(**head))
    assert found.startswith(": ") and re.search(says, found), found


def test_a_head_that_was_not_skull_stripped(rng):
    noisy = {c: x + rng.uniform(5, 20, SHAPE) for c, x in contrasts(rng).items()}
    found = doubted(noisy, np.diag([-4.0, -4, 4, 1]))
    assert sum("litres above the background" in says and "skull-stripped" in says for says in found) == 3
