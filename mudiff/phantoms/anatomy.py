"""Anatomy of the phantoms: a deformed ICBM 2009 brain, its tissues, vessels and lesions."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import nibabel
import numpy as np
from scipy import ndimage

from mudiff.phantoms.signals import TISSUES

Array = np.ndarray
Template = Callable[[str, Array], Array]  # map, positions (3, ...) in mm -> its values there
FIELD_OF_VIEW = np.array([172.0, 204.0, 160.0])  # mm along x, y, z
CENTRE = np.array([0.0, -18.0, 3.0])  # its middle in MNI coordinates, mm
_VARIATION = {  # of a property from place to place: slow, quick, with the T1 detail (myelin and iron shorten times)
    "t1": (0.035, 0.025, -0.04), "t2": (0.05, 0.03, -0.02), "pd": (0.02, 0.01, 0.0), "adc": (0.06, 0.05, 0.0),
    "uptake": (0.15, 0.12, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Voxel grid with axes left, posterior, superior, as in BraTS."""

    spacing: float  # mm

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return tuple(round(length / self.spacing) for length in FIELD_OF_VIEW)

    @property
    def affine(self) -> Array:
        """Voxel -> MNI coordinates."""
        sides = np.array([-1, -1, 1]) * self.spacing
        return nibabel.affines.from_matvec(np.diag(sides), CENTRE - sides * (np.array(self.shape) - 1) / 2)

    def field(self, rng: np.random.Generator, scale: float) -> Array:
        """Draw a random field (X, Y, Z) float32, standardised: cubic B-splines on knots `scale` mm apart."""
        # The draws do not depend on the voxel size.
        counts = [int(np.ceil(length / scale)) + 4 for length in FIELD_OF_VIEW]
        values = rng.standard_normal(counts, dtype=np.float32)
        for length, count, voxels in zip(FIELD_OF_VIEW, counts, self.shape, strict=True):
            places = (np.arange(voxels) + 0.5) * self.spacing / scale + (count - length / scale) / 2 - 0.5
            x = np.abs(places[:, None] - np.arange(count))
            basis = np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.where(x < 2, (2 - x) ** 3 / 6, 0))
            basis /= np.sqrt((basis**2).sum(1, keepdims=True))  # variance 1 between the knots, too
            values = np.tensordot(values, basis.astype(np.float32), axes=(0, 1))  # the axes rotate
        return values


def _column(values: Array, dimensions: int) -> Array:
    """Return three numbers as an array that broadcasts against (3, ...)."""
    return values.reshape(3, *[1] * (dimensions - 1)).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _load_template(spacing: float) -> Template:
    """Return what interpolates nilearn's ICBM maps, smoothed so that voxels of `spacing` mm do not alias."""
    from nilearn import datasets  # slow to import

    loaders = datasets.load_mni152_gm_template, datasets.load_mni152_wm_template, datasets.load_mni152_template
    images = [load(resolution=1) for load in loaders]
    grey, white, t1 = (image.get_fdata(dtype=np.float32) for image in images)
    brain, csf = t1 > 0, np.clip(1 - grey - white, 0, 1)
    # The maps are means over many brains; a power above 1 gives one brain's sharper borders back.
    maps = np.stack([grey, white, csf]) ** 1.7 * brain
    maps /= np.maximum(maps.sum(0), 1e-6)
    weights = np.linalg.lstsq(maps[:, brain][:, ::97].T, t1[brain][::97], rcond=None)[0]
    detail = np.zeros_like(t1)  # the rest of the T1 image, unit variance
    detail[brain] = t1[brain] - weights @ maps[:, brain]
    detail = np.clip(detail / detail[brain].std(), -3, 3)
    maps = {"grey": maps[0], "white": maps[1], "brain": brain.astype(np.float32), "detail": detail}
    width = 0.3 * max(spacing - 1, 0)
    smooth = {name: ndimage.gaussian_filter(values, width) for name, values in maps.items()}
    origin = images[0].affine[:3, 3]
    return lambda name, positions: ndimage.map_coordinates(
        smooth[name], positions - _column(origin, positions.ndim), order=1
    )


@dataclass(frozen=True)
class Anatomy:
    """One phantom's tissues; n voxels lie in the brain."""

    brain: Array  # (X, Y, Z) bool
    fractions: dict[str, Array]  # tissue -> part of each brain voxel, (n,) in [0, 1]; they add up to 1
    variation: dict[str, Array]  # property of the tissues -> factor in each brain voxel, (n,)
    labels: Array  # (X, Y, Z) uint8: 1 necrosis, 2 oedema, 4 enhancing tumour; 1 stroke
    coverage: Array  # part of each brain voxel that lies in the brain, (n,); less than 1 at its outline


def draw_anatomy(dataset: str, number: int, grid: Grid, rng: np.random.Generator) -> Anatomy:
    """Draw subject `number` of "brats" (one or two tumours), "isles" (strokes) or "healthy" (no lesion)."""
    template = _load_template(grid.spacing)
    where = _deform(grid, rng)  # (3, X, Y, Z), MNI coordinates
    plan = {"brats": _plan_tumours, "isles": _plan_strokes, "healthy": lambda *_: []}
    lesions = plan[dataset](number, template, grid, rng)
    distances = []  # of each voxel from the lesion's outline in mm, positive inside, (X, Y, Z)
    for lesion in lesions:
        away = (where - lesion.centre.reshape(3, 1, 1, 1)) / lesion.axes.reshape(3, 1, 1, 1)
        rough = 0.8 * grid.field(rng, 14.0) + 0.5 * grid.field(rng, 7.0)
        distances.append(lesion.radius * (1 + lesion.roughness * rough) - np.sqrt((away**2).sum(0)))
    for lesion in lesions:  # only now: the lesion itself is not pushed aside by its own mass
        where = _push(where, lesion.centre, 2.0 * lesion.radius, lesion.mass)
    inside = template("brain", where)
    brain = ndimage.binary_fill_holes(inside > 0.5)
    where = where[:, brain]  # (3, n)

    def draw_field(scale: float) -> Array:
        return grid.field(rng, scale)[brain]

    fractions = _tissues(template, where, brain, grid, rng, draw_field)
    labels = np.zeros(grid.shape, np.uint8)
    grow = _grow_tumour if dataset == "brats" else _grow_stroke
    for lesion, distance in zip(lesions, distances, strict=True):
        found = grow(fractions, lesion, distance[brain], where, draw_field(10.0))
        labels[brain] = np.where(found > 0, found, labels[brain])
    detail = template("detail", where)
    variation = {
        name: np.exp(slow * draw_field(22.0) + fast * draw_field(4.0) + slope * detail)
        for name, (slow, fast, slope) in _VARIATION.items()
    }
    variation["t2star"] = variation["t2"]
    return Anatomy(brain, fractions, variation, labels, np.clip(inside[brain], 0, 1))


def _deform(grid: Grid, rng: np.random.Generator) -> Array:
    """Return where in the template each voxel comes from: size, pose, shape, gyri, ventricles."""
    scale = rng.uniform(0.89, 1.0) * rng.uniform(0.97, 1.03, 3)
    a, b, c = np.deg2rad(rng.uniform(-4, 4, 3))
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]]) / scale
    centre = CENTRE.reshape(3, 1, 1, 1)
    scales, offset = np.diag(grid.affine)[:3], grid.affine[:3, 3]
    positions = np.indices(grid.shape, dtype=np.float32) * _column(scales, 4) + _column(offset, 4)
    where = np.tensordot(turn, positions - centre, axes=1) + centre
    for knots, size in ((45.0, 3.2), (18.0, 2.0), (9.0, 0.7)):  # mm: head shape, lobes, gyri
        where += size * np.stack([grid.field(rng, knots) for _ in range(3)])
    return _push(where.astype(np.float32), np.array([0.0, -18.0, 12.0]), 32.0, rng.uniform(-0.05, 0.35))


def _push(where: Array, centre: Array, radius: float, strength: float) -> Array:
    """Magnify around `centre`: what lay near it moves outwards, with Gaussian decay."""
    away = where - _column(centre, where.ndim)
    return (where - away * (strength * np.exp(-((away**2).sum(0) / radius**2)))).astype(np.float32)


def _tissues(template: Template, where, brain, grid, rng, draw_field) -> dict[str, Array]:
    """Return the healthy tissue fractions, with age (wider sulci, caps at the ventricles) and vessels."""
    grey, white = template("grey", where), template("white", where)
    csf = np.clip(1 - grey - white, 0, 1) * np.exp(rng.uniform(-0.3, 0.7))
    total = grey + white + csf
    fractions = {name: np.zeros_like(grey) for name in TISSUES}
    fractions |= {"grey": grey / total, "white": white / total, "csf": csf / total}
    volume = np.zeros(grid.shape, np.float32)
    volume[brain] = fractions["csf"]
    near_csf = ndimage.gaussian_filter(volume, 2.5 / grid.spacing)[brain]
    depth = ndimage.distance_transform_edt(brain, sampling=grid.spacing)[brain]
    deep = np.clip((depth - 20) / 10, 0, 1)  # the ventricles, not the sulci
    caps = np.clip(draw_field(12.0) + rng.uniform(-0.8, 0.6), 0, 1)
    edge = np.clip(5 * (near_csf * deep) - 0.3, 0, 1)
    _replace(fractions, "gliosis", caps * edge * fractions["white"])
    # Two random sheets cross in a line: veins on the surface and in the sulci.
    veins = np.exp(-(draw_field(11.0) ** 2 + draw_field(11.0) ** 2) / 0.15)
    veins = veins * np.clip(3 * near_csf, 0, 1) * (1 - deep)
    middle = np.exp(-((where[0] / 2.0) ** 2))
    sinus = middle * np.clip(1.5 - depth / 4, 0, 1) * (where[2] > -10)
    falx = 0.8 * middle * fractions["csf"] * (where[2] > 15)
    choroid = np.clip(draw_field(5.0) - 0.3, 0, 1) * fractions["csf"] * deep * (where[1] < 0)
    _replace(fractions, "blood", np.max([veins, sinus, falx, 0.8 * choroid], axis=0))
    return fractions


@dataclass(frozen=True)
class Lesion:
    """Place and shape of a tumour with oedema, rim and core, or of a stroke, territorial to microscopic."""

    centre: Array  # mm, MNI coordinates
    radius: float  # mm
    axes: Array  # (3,) factors along x, y, z
    roughness: float  # of the outline, relative to the radius
    mass: float = 0.0  # how strongly it pushes its surroundings aside
    extent: float = 0.0  # mm of oedema around it
    rim: float = 0.0  # mm of enhancing tissue


def _place(template: Template, rng: np.random.Generator, lateral: tuple[float, float], tissue: str) -> Array:
    """Draw a point of the cerebrum that lies in `tissue`."""
    while True:
        side = rng.choice([-1, 1])
        point = np.array([side * rng.uniform(*lateral), rng.uniform(-80, 45), rng.uniform(-12, 52)])
        if template(tissue, point[:, None])[0] > 0.6:
            return point


def _plan_tumours(number: int, template: Template, grid: Grid, rng: np.random.Generator) -> list[Lesion]:
    tumours = []
    for part in range(1 + (rng.uniform() < 0.4)):
        radius = rng.uniform(22, 30) / (1 + 0.8 * part)
        centre, axes = _place(template, rng, (14, 45), "white"), rng.uniform(0.8, 1.25, 3)
        mass, extent, rim = rng.uniform(0.15, 0.4), rng.uniform(7, 16), rng.uniform(0.3, 0.5) * radius
        tumours.append(Lesion(centre, radius, axes, 0.3, mass, extent, max(rim, 3.0)))
    return tumours


def _plan_strokes(number: int, template: Template, grid: Grid, rng: np.random.Generator) -> list[Lesion]:
    sizes = {
        0: [rng.uniform(24, 36), *rng.uniform(3, 7, rng.integers(0, 3))],  # a territory and what broke off
        1: list(rng.uniform(7, 14, rng.integers(1, 3))),
        2: list(rng.uniform(2.2, 4.0, rng.integers(2, 6))),  # microscopic: a few voxels
    }[(number - 1) % 3]  # by turns
    strokes = []
    for radius in sizes:
        large = radius > 20
        centre = _place(template, rng, (32, 50) if large else (8, 55), rng.choice(["grey", "white"]))
        axes = rng.uniform([0.7, 1.0, 0.8], [0.9, 1.4, 1.2]) if large else rng.uniform(0.75, 1.3, 3)
        visible = max(radius, 0.9 * grid.spacing)  # a lesion between the voxels would be none
        strokes.append(Lesion(centre, visible, axes, 0.2 if radius > 5 else 0.05, 0.05 if large else 0.0))
    return strokes


def _grow_tumour(fractions: dict[str, Array], lesion: Lesion, distance: Array, _, rough: Array) -> Array:
    """Put oedema, enhancing rim and necrotic core into `fractions`; return the labels (n,) uint8."""
    solid = _soft(distance, 1.5)
    core = _soft(distance - lesion.rim * np.exp(0.35 * rough), 2.0)  # the rim is thick here, thin there
    # Water spreads along white matter, less into the cortex, not into CSF nor another tumour.
    reach = lesion.extent * (1.3 * fractions["white"] + 0.25 + 0.4 * rough)
    free = 1 - fractions["csf"] - fractions["enhancing"] - fractions["necrosis"]
    oedema = _soft(distance + reach, 5.0) * free
    for name, part in (("oedema", 0.9 * oedema), ("enhancing", solid), ("necrosis", core)):
        _replace(fractions, name, part.astype(np.float32))
    return np.select([core > 0.5, solid > 0.5, oedema > 0.5], [1, 4, 2], 0).astype(np.uint8)


def _grow_stroke(fractions: dict[str, Array], lesion: Lesion, distance: Array, where: Array, rough: Array):
    """Put an infarct into `fractions`, in its own hemisphere; return the labels (n,) uint8."""
    part = _soft(distance, 1.5) * (1 - fractions["csf"]) * (where[0] * np.sign(lesion.centre[0]) > 1)
    _replace(fractions, "stroke", (part * np.clip(0.9 + 0.1 * rough, 0.6, 1)).astype(np.float32))
    return (part > 0.5).astype(np.uint8)


def _soft(distance: Array, width: float) -> Array:
    """Return a step from 0 to 1 around distance 0 that is `width` mm wide."""
    return np.clip(distance / width + 0.5, 0, 1)


def _replace(fractions: dict[str, Array], name: str, part: Array) -> None:
    """Let tissue `name` take `part` of each voxel from all the others alike."""
    for other in fractions:
        fractions[other] = fractions[other] * (1 - part)
    fractions[name] = fractions[name] + part
