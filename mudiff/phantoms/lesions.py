"""Lesions of the phantoms: tumours with oedema, rim and core; strokes from territorial to microscopic."""

from dataclasses import dataclass

import numpy as np

from mudiff.phantoms.atlas import Array, Grid, Template


@dataclass(frozen=True)
class Lesion:
    """One lesion's place and shape."""

    centre: Array  # mm, MNI coordinates
    radius: float  # mm
    axes: Array  # (3,) stretch along x, y, z
    roughness: float  # of the outline, relative to the radius
    mass: float = 0.0  # how strongly it pushes its surroundings aside
    extent: float = 0.0  # mm of oedema around it
    rim: float = 0.0  # mm of enhancing tissue


def plan(dataset: str, number: int, template: Template, grid: Grid, rng: np.random.Generator) -> list[Lesion]:
    """Draw a subject's lesions: one or two tumours ("brats"), strokes ("isles") or none ("healthy")."""
    if dataset == "brats":
        return _plan_tumours(template, rng)
    return _plan_strokes(number, template, grid, rng) if dataset == "isles" else []


def _place(template: Template, rng: np.random.Generator, lateral: tuple[float, float], tissue: str) -> Array:
    """Draw a point of the cerebrum that lies in `tissue`."""
    while True:
        side = rng.choice([-1, 1])
        point = np.array([side * rng.uniform(*lateral), rng.uniform(-80, 45), rng.uniform(-12, 52)])
        if template.sample(tissue, point[:, None])[0] > 0.6:
            return point


def _plan_tumours(template: Template, rng: np.random.Generator) -> list[Lesion]:
    tumours = []
    for part in range(1 + (rng.uniform() < 0.4)):
        radius = rng.uniform(22, 30) / (1 + 0.8 * part)
        tumours.append(
            Lesion(
                _place(template, rng, (14, 45), "white"),
                radius,
                rng.uniform(0.8, 1.25, 3),
                roughness=0.3,
                mass=rng.uniform(0.15, 0.4),
                extent=rng.uniform(7, 16),
                rim=max(rng.uniform(0.3, 0.5) * radius, 3.0),
            )
        )
    return tumours


def _plan_strokes(number: int, template: Template, grid: Grid, rng: np.random.Generator) -> list[Lesion]:
    sizes = {
        0: [rng.uniform(24, 36), *rng.uniform(3, 7, rng.integers(0, 3))],  # a territory and what broke off
        1: list(rng.uniform(7, 14, rng.integers(1, 3))),
        2: list(rng.uniform(2.2, 4.0, rng.integers(2, 6))),  # microscopic: a few voxels
    }[(number - 1) % 3]
    strokes = []
    for radius in sizes:
        large = radius > 20
        centre = _place(template, rng, (32, 50) if large else (8, 55), rng.choice(["grey", "white"]))
        strokes.append(
            Lesion(
                centre,
                max(radius, 0.9 * grid.spacing),  # a lesion between the voxels would be none
                rng.uniform([0.7, 1.0, 0.8], [0.9, 1.4, 1.2]) if large else rng.uniform(0.75, 1.3, 3),
                roughness=0.2 if radius > 5 else 0.05,
                mass=0.05 if large else 0.0,
            )
        )
    return strokes


def distance_inside(where: Array, lesion: Lesion, grid: Grid, rng: np.random.Generator) -> Array:
    """Return the distance of each voxel from the lesion's outline in mm, positive inside, (X, Y, Z)."""
    away = (where - lesion.centre.reshape(3, 1, 1, 1)) / lesion.axes.reshape(3, 1, 1, 1)
    rough = 0.8 * grid.field(rng, 14.0) + 0.5 * grid.field(rng, 7.0)
    return lesion.radius * (1 + lesion.roughness * rough) - np.sqrt((away**2).sum(0))


def grow_tumour(
    fractions: dict[str, Array], lesion: Lesion, distance: Array, where: Array, rough: Array
) -> Array:
    """Put oedema, enhancing rim and necrotic core into the tissues.

    Parameters
    ----------
    fractions : dict of str to numpy.ndarray
        Tissue fractions of the brain voxels, (n,) each; changed.
    lesion : Lesion
        The tumour.
    distance : numpy.ndarray
        Depth inside its outline in mm, (n,).
    where : numpy.ndarray
        MNI coordinates of the voxels, (3, n).
    rough : numpy.ndarray
        Random field of variance 1, (n,).

    Returns
    -------
    numpy.ndarray
        Labels of this tumour, (n,) uint8: 1 core, 2 oedema, 4 enhancing, 0 elsewhere.
    """
    rim = lesion.rim * np.exp(0.35 * rough)  # thick here, thin there
    solid, core = _soft(distance, 1.5), _soft(distance - rim, 2.0)
    # Water spreads along white matter, less into the cortex, not into CSF.
    reach = lesion.extent * (1.3 * fractions["white"] + 0.25 + 0.4 * rough)
    free = (
        1 - fractions["csf"] - fractions["enhancing"] - fractions["necrosis"]
    )  # another tumour may be there
    oedema = _soft(distance + reach, 5.0) * free
    for name, part in (("oedema", 0.9 * oedema), ("enhancing", solid), ("necrosis", core)):
        replace_tissue(fractions, name, part.astype(np.float32))
    return np.select([core > 0.5, solid > 0.5, oedema > 0.5], [1, 4, 2], 0).astype(np.uint8)


def grow_stroke(
    fractions: dict[str, Array], lesion: Lesion, distance: Array, where: Array, rough: Array
) -> Array:
    """Put an infarct into the tissues of its own hemisphere; as `grow_tumour`, with label 1."""
    same_side = where[0] * np.sign(lesion.centre[0]) > 1
    part = _soft(distance, 1.5) * (1 - fractions["csf"]) * same_side
    replace_tissue(fractions, "stroke", (part * np.clip(0.9 + 0.1 * rough, 0.6, 1)).astype(np.float32))
    return (part > 0.5).astype(np.uint8)


def _soft(distance: Array, width: float) -> Array:
    """Return a step from 0 to 1 around distance 0 that is `width` mm wide."""
    return np.clip(distance / width + 0.5, 0, 1)


def replace_tissue(fractions: dict[str, Array], name: str, part: Array) -> None:
    """Let tissue `name` take `part` of each voxel from all the others alike."""
    for other in fractions:
        fractions[other] = fractions[other] * (1 - part)
    fractions[name] = fractions[name] + part
