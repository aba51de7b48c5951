"""Anatomy of the phantoms: a deformed ICBM 2009 brain, its tissues, vessels and lesions."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mudiff.phantoms import lesions
from mudiff.phantoms.atlas import CENTRE, Array, Grid, Template, load_template
from mudiff.phantoms.signals import TISSUES


@dataclass(frozen=True)
class Anatomy:
    """One phantom's tissues.

    Attributes
    ----------
    brain : numpy.ndarray
        (X, Y, Z) bool; n voxels inside.
    fractions : dict of str to numpy.ndarray
        Tissue name -> part of each brain voxel, (n,) in [0, 1]; they add up to 1.
    variation : dict of str to numpy.ndarray
        Tissue property -> factor in each brain voxel, (n,).
    labels : numpy.ndarray
        (X, Y, Z) uint8: 1 necrosis, 2 oedema, 4 enhancing tumour; 1 stroke.
    coverage : numpy.ndarray
        Part of each brain voxel that lies in the brain, (n,); less than 1 at its outline.
    """

    brain: Array
    fractions: dict[str, Array]
    variation: dict[str, Array]
    labels: Array
    coverage: Array


def draw_anatomy(dataset: str, number: int, grid: Grid, rng: np.random.Generator) -> Anatomy:
    """Draw a subject's brain.

    Parameters
    ----------
    dataset : str
        "brats" (one or two tumours), "isles" (strokes) or "healthy" (no lesion).
    number : int
        Position in the cohort; strokes take turns: territorial, middle-sized, microscopic.
    grid : Grid
        Voxels.
    rng : numpy.random.Generator
        Source of every draw.

    Returns
    -------
    Anatomy
        Tissue fractions, properties and lesion labels.
    """
    template = load_template(grid.spacing)
    where = _deform(grid, rng)  # (3, X, Y, Z), MNI coordinates
    planned = lesions.plan(dataset, number, template, grid, rng)
    distances = [lesions.distance_inside(where, lesion, grid, rng) for lesion in planned]
    for lesion in planned:  # only now: the lesion itself is not pushed aside by its own mass
        where = _push(where, lesion.centre, 2.0 * lesion.radius, lesion.mass)
    inside = template.sample("brain", where)
    brain = ndimage.binary_fill_holes(inside > 0.5)
    where = where[:, brain]  # (3, n)
    fractions = _tissues(template, where, brain, grid, rng)
    labels = np.zeros(grid.shape, np.uint8)
    for lesion, distance in zip(planned, distances, strict=True):
        grow = lesions.grow_tumour if dataset == "brats" else lesions.grow_stroke
        found = grow(fractions, lesion, distance[brain], where, grid.field(rng, 10.0)[brain])
        labels[brain] = np.where(found > 0, found, labels[brain])
    variation = _vary(template, where, brain, grid, rng)
    return Anatomy(brain, fractions, variation, labels, np.clip(inside[brain], 0, 1))


def _deform(grid: Grid, rng: np.random.Generator) -> Array:
    """Return where in the template each voxel comes from: size, pose, shape, gyri, ventricles."""
    scale = rng.uniform(0.89, 1.0) * rng.uniform(0.97, 1.03, 3)
    a, b, c = np.deg2rad(rng.uniform(-4, 4, 3))
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]]) / scale
    centre = CENTRE.reshape(3, 1, 1, 1)
    where = np.tensordot(turn, grid.positions() - centre, axes=1) + centre
    for knots, size in ((45.0, 3.2), (18.0, 2.0), (9.0, 0.7)):  # mm: head shape, lobes, gyri
        where += size * np.stack([grid.field(rng, knots) for _ in range(3)])
    where = where.astype(np.float32)
    return _push(where, np.array([0.0, -18.0, 12.0]), 32.0, rng.uniform(-0.05, 0.35))


def _push(where: Array, centre: Array, radius: float, strength: float) -> Array:
    """Magnify around `centre`: what lay near it moves outwards, with Gaussian decay."""
    away = where - centre.reshape(3, *[1] * (where.ndim - 1)).astype(np.float32)
    squared = (away**2).sum(0) / radius**2
    return (where - away * (strength * np.exp(-squared))).astype(np.float32)


def _tissues(
    template: Template, where: Array, brain: Array, grid: Grid, rng: np.random.Generator
) -> dict[str, Array]:
    """Return the healthy tissue fractions, with age (wider sulci, caps at the ventricles) and vessels."""
    grey, white = template.sample("grey", where), template.sample("white", where)
    csf = np.clip(1 - grey - white, 0, 1) * np.exp(rng.uniform(-0.3, 0.7))
    total = grey + white + csf
    fractions = {name: np.zeros_like(grey) for name in TISSUES}
    fractions |= {"grey": grey / total, "white": white / total, "csf": csf / total}

    volume = np.zeros(grid.shape, np.float32)
    volume[brain] = fractions["csf"]
    depth = ndimage.distance_transform_edt(brain, sampling=grid.spacing)[brain]
    deep = np.clip((depth - 20) / 10, 0, 1)  # the ventricles, not the sulci
    near_csf = ndimage.gaussian_filter(volume, 2.5 / grid.spacing)[brain]
    ventricle = near_csf * deep

    caps = np.clip(grid.field(rng, 12.0)[brain] + rng.uniform(-0.8, 0.6), 0, 1) * np.clip(
        5 * ventricle - 0.3, 0, 1
    )
    lesions.replace_tissue(fractions, "gliosis", caps * fractions["white"])

    # Two random sheets cross in a line: veins on the surface and in the sulci.
    lines = np.exp(-(grid.field(rng, 11.0)[brain] ** 2 + grid.field(rng, 11.0)[brain] ** 2) / 0.15)
    veins = lines * np.clip(3 * near_csf, 0, 1) * (1 - deep)
    middle = np.exp(-((where[0] / 2.0) ** 2))
    sinus = middle * np.clip(1.5 - depth / 4, 0, 1) * (where[2] > -10)
    falx = 0.8 * middle * fractions["csf"] * (where[2] > 15)
    choroid = np.clip(grid.field(rng, 5.0)[brain] - 0.3, 0, 1) * fractions["csf"] * deep * (where[1] < 0)
    vessels = np.max([veins, sinus, falx, 0.8 * choroid], axis=0)
    lesions.replace_tissue(fractions, "blood", vessels)
    return fractions


def _vary(
    template: Template, where: Array, brain: Array, grid: Grid, rng: np.random.Generator
) -> dict[str, Array]:
    """Return how tissue properties change from place to place."""
    detail = template.sample("detail", where)
    sizes = {
        "t1": (0.035, 0.025),
        "t2": (0.05, 0.03),
        "pd": (0.02, 0.01),
        "adc": (0.06, 0.05),
        "uptake": (0.15, 0.12),
    }
    slopes = {"t1": -0.04, "t2": -0.02}  # more myelin and iron: brighter on T1, both times shorter
    varied = {}
    for name, (slow, fast) in sizes.items():
        exponent = slow * grid.field(rng, 22.0)[brain] + fast * grid.field(rng, 4.0)[brain]
        varied[name] = np.exp(exponent + slopes.get(name, 0.0) * detail)
    return varied | {"t2star": varied["t2"]}
