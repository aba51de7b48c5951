"""Anatomy of the phantoms: a deformed ICBM 2009 brain, its tissues and its lesions."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mudiff.signals import TISSUES

Array = np.ndarray
FIELD_OF_VIEW = np.array([172.0, 204.0, 160.0])  # mm along x, y, z
CENTRE = np.array([0.0, -18.0, 3.0])  # its middle in MNI coordinates, mm


@dataclass(frozen=True)
class Template:
    """Tissue maps on the 1 mm ICBM grid, each (197, 233, 189) float32.

    Attributes
    ----------
    grey, white, brain : numpy.ndarray
        Fractions in [0, 1]; what is left of the brain is CSF.
    detail : numpy.ndarray
        What of the T1 image the tissue maps leave unexplained (nuclei, myelination), unit variance.
    affine : numpy.ndarray
        Voxel -> MNI coordinates.
    """

    grey: Array
    white: Array
    brain: Array
    detail: Array
    affine: Array

    def sample(self, name: str, positions: Array) -> Array:
        """Interpolate map `name` linearly at positions (3, ...) in mm."""
        offset = self.affine[:3, 3].reshape(3, *[1] * (positions.ndim - 1)).astype(np.float32)
        return ndimage.map_coordinates(getattr(self, name), positions - offset, order=1)


@functools.lru_cache(maxsize=1)
def load_template(spacing: float) -> Template:
    """Load the ICBM 2009 maps from nilearn's own package (no download), made ready for a voxel size.

    Parameters
    ----------
    spacing : float
        Edge of the phantom's voxels in mm: the maps are smoothed so that sampling them does not alias.

    Returns
    -------
    Template
        The maps.
    """
    from nilearn import datasets  # slow to import

    image = datasets.load_mni152_gm_template(resolution=1)
    t1 = datasets.load_mni152_template(resolution=1).get_fdata(dtype=np.float32)
    brain = t1 > 0
    grey = image.get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    csf = np.clip(1 - grey - white, 0, 1)
    # The maps are means over many brains; a power above 1 gives one brain's sharper borders back.
    maps = np.stack([grey, white, csf]) ** 1.7 * brain
    maps /= np.maximum(maps.sum(0), 1e-6)
    inside = maps[:, brain]
    weights = np.linalg.lstsq(inside[:, ::97].T, t1[brain][::97], rcond=None)[0]
    detail = np.zeros_like(t1)
    detail[brain] = t1[brain] - weights @ inside
    detail = np.clip(detail / detail[brain].std(), -3, 3)
    width = 0.3 * max(spacing - 1, 0)
    smooth = [ndimage.gaussian_filter(m, width) for m in (maps[0], maps[1], brain.astype(np.float32), detail)]
    return Template(*smooth, affine=image.affine)


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
        signs = np.array([-1, -1, 1])
        affine = np.diag([*(signs * self.spacing), 1.0])
        affine[:3, 3] = CENTRE - signs * self.spacing * (np.array(self.shape) - 1) / 2
        return affine

    def positions(self) -> Array:
        """MNI coordinates of every voxel, (3, X, Y, Z) float32."""
        indices = np.indices(self.shape, dtype=np.float32)
        scale = np.diag(self.affine)[:3].reshape(3, 1, 1, 1).astype(np.float32)
        return indices * scale + self.affine[:3, 3].reshape(3, 1, 1, 1).astype(np.float32)

    def field(self, rng: np.random.Generator, scale: float) -> Array:
        """Draw a smooth random field of mean 0 and variance 1.

        Cubic B-splines on random knots `scale` mm apart; the draws do not depend on the voxel size.

        Returns
        -------
        numpy.ndarray
            (X, Y, Z) float32.
        """
        counts = [int(np.ceil(length / scale)) + 4 for length in FIELD_OF_VIEW]
        values = rng.standard_normal(counts, dtype=np.float32)
        for length, count, voxels in zip(FIELD_OF_VIEW, counts, self.shape, strict=True):
            places = (np.arange(voxels) + 0.5) * self.spacing / scale + (count - length / scale) / 2 - 0.5
            basis = _cubic_spline(places[:, None] - np.arange(count))
            basis /= np.sqrt((basis**2).sum(1, keepdims=True))  # variance 1 between the knots, too
            values = np.tensordot(values, basis.astype(np.float32), axes=(0, 1))  # the axes rotate
        return values


def _cubic_spline(x: Array) -> Array:
    x = np.abs(x)
    return np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.where(x < 2, (2 - x) ** 3 / 6, 0))


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
    """

    brain: Array
    fractions: dict[str, Array]
    variation: dict[str, Array]
    labels: Array


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
    lesions = {"brats": _plan_tumours, "isles": _plan_strokes, "healthy": lambda *_: []}[dataset]
    lesions = lesions(template, number, grid, rng)
    distances = [_distance(where, lesion, grid, rng) for lesion in lesions]
    for lesion in lesions:  # only now: the lesion itself is not pushed aside by its own mass
        where = _push(where, lesion.centre, 2.0 * lesion.radius, lesion.mass)
    brain = ndimage.binary_fill_holes(template.sample("brain", where) > 0.5)
    where = where[:, brain]  # (3, n)
    fractions = _tissues(template, where, brain, grid, rng)
    labels = np.zeros(grid.shape, np.uint8)
    for lesion, distance in zip(lesions, distances, strict=True):
        grow = _grow_tumour if dataset == "brats" else _grow_stroke
        found = grow(fractions, lesion, distance[brain], where, grid.field(rng, 10.0)[brain])
        labels[brain] = np.where(found > 0, found, labels[brain])
    return Anatomy(brain, fractions, _vary(template, where, brain, grid, rng), labels)


def _deform(grid: Grid, rng: np.random.Generator) -> Array:
    """Return where in the template each voxel comes from: size, pose, shape, gyri, ventricles."""
    scale = rng.uniform(0.94, 1.07) * rng.uniform(0.97, 1.03, 3)
    a, b, c = np.deg2rad(rng.uniform(-4, 4, 3))
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]]) / scale
    centre = CENTRE.reshape(3, 1, 1, 1)
    where = np.tensordot(turn, grid.positions() - centre, axes=1) + centre
    for knots, size in ((45.0, 4.0), (18.0, 2.2), (9.0, 0.7)):  # mm: head shape, lobes, gyri
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
    _replace(fractions, "gliosis", caps * fractions["white"])

    # Two random sheets cross in a line: veins on the surface and in the sulci.
    lines = np.exp(-(grid.field(rng, 11.0)[brain] ** 2 + grid.field(rng, 11.0)[brain] ** 2) / 0.03)
    veins = lines * np.clip(3 * near_csf, 0, 1) * (1 - deep)
    middle = np.exp(-((where[0] / 2.0) ** 2))
    sinus = middle * np.clip(1.5 - depth / 4, 0, 1) * (where[2] > -10)
    falx = 0.35 * middle * fractions["csf"] * (where[2] > 15)
    choroid = np.clip(grid.field(rng, 5.0)[brain] - 0.3, 0, 1) * fractions["csf"] * deep * (where[1] < 0)
    vessels = np.max([0.9 * veins, 0.8 * sinus, falx, 0.6 * choroid], axis=0)
    _replace(fractions, "blood", vessels)
    return fractions


def _replace(fractions: dict[str, Array], name: str, part: Array) -> None:
    """Let tissue `name` take `part` of each voxel from all the others alike."""
    for other in fractions:
        fractions[other] = fractions[other] * (1 - part)
    fractions[name] = fractions[name] + part


def _vary(
    template: Template, where: Array, brain: Array, grid: Grid, rng: np.random.Generator
) -> dict[str, Array]:
    """Return how tissue properties change from place to place."""
    detail = template.sample("detail", where)
    sizes = {
        "t1": (0.05, 0.035),
        "t2": (0.05, 0.03),
        "pd": (0.02, 0.01),
        "adc": (0.06, 0.05),
        "uptake": (0.25, 0.2),
    }
    slopes = {"t1": -0.05, "t2": -0.02}  # more myelin and iron: brighter on T1, both times shorter
    varied = {}
    for name, (slow, fast) in sizes.items():
        exponent = slow * grid.field(rng, 22.0)[brain] + fast * grid.field(rng, 4.0)[brain]
        varied[name] = np.exp(exponent + slopes.get(name, 0.0) * detail)
    return varied | {"t2star": varied["t2"]}


@dataclass(frozen=True)
class _Lesion:
    centre: Array  # mm, MNI coordinates
    radius: float  # mm
    axes: Array  # (3,) stretch along x, y, z
    roughness: float  # of the outline, relative to the radius
    mass: float = 0.0  # how strongly it pushes its surroundings aside
    extent: float = 0.0  # mm of oedema around it
    rim: float = 0.0  # mm of enhancing tissue


def _place(template: Template, rng: np.random.Generator, lateral: tuple[float, float], tissue: str) -> Array:
    """Draw a point of the cerebrum that lies in `tissue`."""
    while True:
        side = rng.choice([-1, 1])
        point = np.array([side * rng.uniform(*lateral), rng.uniform(-80, 45), rng.uniform(-12, 52)])
        if template.sample(tissue, point[:, None])[0] > 0.6:
            return point


def _plan_tumours(template: Template, number: int, grid: Grid, rng: np.random.Generator) -> list[_Lesion]:
    tumours = []
    for part in range(1 + (rng.uniform() < 0.25)):
        radius = rng.uniform(13, 24) / (1 + part)
        tumours.append(
            _Lesion(
                _place(template, rng, (14, 45), "white"),
                radius,
                rng.uniform(0.8, 1.25, 3),
                roughness=0.2,
                mass=rng.uniform(0.15, 0.4),
                extent=rng.uniform(6, 20),
                rim=max(rng.uniform(0.2, 0.4) * radius, 3.0),
            )
        )
    return tumours


def _plan_strokes(template: Template, number: int, grid: Grid, rng: np.random.Generator) -> list[_Lesion]:
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
            _Lesion(
                centre,
                max(radius, 0.9 * grid.spacing),  # a lesion between the voxels would be none
                rng.uniform([0.7, 1.0, 0.8], [0.9, 1.4, 1.2]) if large else rng.uniform(0.75, 1.3, 3),
                roughness=0.2 if radius > 5 else 0.05,
                mass=0.05 if large else 0.0,
            )
        )
    return strokes


def _distance(where: Array, lesion: _Lesion, grid: Grid, rng: np.random.Generator) -> Array:
    """Return the distance of each voxel from the lesion's outline in mm, positive inside, (X, Y, Z)."""
    away = (where - lesion.centre.reshape(3, 1, 1, 1)) / lesion.axes.reshape(3, 1, 1, 1)
    rough = 0.8 * grid.field(rng, 14.0) + 0.5 * grid.field(rng, 7.0)
    return lesion.radius * (1 + lesion.roughness * rough) - np.sqrt((away**2).sum(0))


def _grow_tumour(
    fractions: dict[str, Array], lesion: _Lesion, distance: Array, where: Array, rough: Array
) -> Array:
    """Put oedema, enhancing rim and necrotic core into the tissues; return the labels (n,)."""
    rim = lesion.rim * np.exp(0.45 * rough)  # thick here, thin there
    solid, core = _soft(distance, 1.5), _soft(distance - rim, 2.0)
    # Water spreads along white matter, less into the cortex, not into CSF.
    reach = lesion.extent * (1.3 * fractions["white"] + 0.25 + 0.4 * rough)
    oedema = _soft(distance + reach, 5.0) * (1 - fractions["csf"])
    for name, part in (("oedema", 0.9 * oedema), ("enhancing", solid), ("necrosis", core)):
        _replace(fractions, name, part.astype(np.float32))
    return np.select([core > 0.5, solid > 0.5, oedema > 0.5], [1, 4, 2], 0).astype(np.uint8)


def _grow_stroke(
    fractions: dict[str, Array], lesion: _Lesion, distance: Array, where: Array, rough: Array
) -> Array:
    """Put an infarct into the tissues of its own hemisphere; return the labels (n,)."""
    same_side = where[0] * np.sign(lesion.centre[0]) > 1
    part = _soft(distance, 1.5) * (1 - fractions["csf"]) * same_side
    _replace(fractions, "stroke", (part * np.clip(0.9 + 0.1 * rough, 0.6, 1)).astype(np.float32))
    return (part > 0.5).astype(np.uint8)


def _soft(distance: Array, width: float) -> Array:
    """Return a step from 0 to 1 around distance 0 that is `width` mm wide."""
    return np.clip(distance / width + 0.5, 0, 1)
