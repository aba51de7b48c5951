"""Ground of the phantoms: the ICBM 2009 tissue maps, the voxel grid and smooth random fields on it."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

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
