"""What is odd about volumes that can be read all the same: warnings of `verify`, `prepare` and `synthesize`."""

import itertools
import math

import nibabel
import numpy as np
from scipy import stats

from mudiff.data import datasets
from mudiff.data.slices import normalise, sides, used
from mudiff.data.volumes import Volume

Doubt = tuple[str, str]  # contrast (empty for the whole subject), and what is odd

_SPACING = (0.7, 1.5)  # mm: beyond, slices and networks of 1 mm do not fit
_LITRES = 2.5  # 14 brains of BraTS have 1.1 to 1.7, the largest phantom 2.2
_STRIDE = 7  # where a sample does, every seventh voxel is looked at
_SKEW = -0.3  # skewness of T2 less that of T1: 0.8 to 3.5 in 16 patients and in phantoms; exchanged, the negative


def doubts(loaded: dict[str, Volume], slices: int) -> list[Doubt]:
    """Return what is odd about the contrasts of a subject, which lie on one grid.

    `slices` is the number of middle axial slices at 1 mm that are used. Sources: the paper's volumes are
    skull-stripped, of 1 mm (section "Datasets"); white matter, grey matter and CSF darken in this order in T1 and
    brighten in T2, so that CSF draws the distribution of a brain's T1 to the dark side, that of T2 to the bright one.
    """
    first = next(iter(loaded.values()))
    found = [("", problem) for problem in _geometry(first)]
    found += [(name, problem) for name, volume in loaded.items() for problem in _values(volume, slices)]
    samples = {name: normalise(v.data, "percentile", v.path).ravel()[::_STRIDE] for name, v in loaded.items()}
    for (one, a), (other, b) in itertools.combinations(samples.items(), 2):
        if np.allclose(a, b, atol=2e-3):
            found.append((other, f"is the same image as {datasets.LABELS[one]}; is one a copy of the other?"))
    if {"t1", "t2"} <= samples.keys():
        brain = (samples["t1"] > 0) & (samples["t2"] > 0)
        if np.diff([stats.skew(samples[name][brain]) for name in ("t1", "t2")]) < _SKEW:
            found.append(
                ("t1", "looks like T2, and T2 like T1 (CSF is bright here, dark there); are they exchanged?")
            )
    return found


def copies(hashes: dict[str, dict[str, str]]) -> list[tuple[str, str, str]]:
    """Return subject, another, and the contrast of which both have one file: subject -> contrast -> hash decide."""
    owner: dict[tuple[str, str], str] = {}
    same = [
        (s, owner.setdefault((c, key), s), c) for s, own in hashes.items() for c, key in own.items() if c != "mask"
    ]
    return [(subject, other, contrast) for subject, other, contrast in same if subject != other]


def _geometry(volume: Volume) -> list[str]:
    """Return what is odd about the grid."""
    across, along, apart = sides(volume.affine)
    phantom = bytes(volume.header["descrip"]).startswith(datasets.PHANTOM_MARK.encode())
    size, found = f"{across:.3g} x {along:.3g} x {apart:.3g} mm", []
    if not math.isclose(across, along, rel_tol=0.02):
        found.append(f"has voxels of {across:.3g} x {along:.3g} mm in the slices; resample to 1 mm first")
    elif not phantom and not _SPACING[0] <= min(across, apart) <= max(across, apart) <= _SPACING[1]:
        found.append(f"has voxels of {size}; the networks see 1 mm, as in the paper: resample first")
    q, s = (volume.header.get_qform(coded=True), volume.header.get_sform(coded=True))
    if not q[1] and not s[1]:
        found.append("has no orientation code (qform and sform are 0): the slices may be mirrored left to right")
    elif q[1] and s[1] and (codes := [*map(nibabel.aff2axcodes, (q[0], s[0]))]) and codes[0] != codes[1]:
        found.append(f"has a qform ({''.join(codes[0])}) unlike its sform ({''.join(codes[1])}, used); repair one")
    return found


def _values(volume: Volume, slices: int) -> list[str]:
    """Return what is odd about the intensities."""
    tissue = volume.data[volume.data > 0]
    litres = tissue.size * abs(np.linalg.det(volume.affine[:3, :3])) / 1e6
    grey, found = np.unique(tissue[::_STRIDE]), []
    whole = (grey == np.rint(grey)).all() and grey.max() != 255  # a real scan may be dark, of few whole numbers
    if volume.header.get_data_dtype().itemsize == 1 or (len(grey) <= 256 and not whole and len(tissue) > 1e4):
        found.append(f"has {len(grey)} grey values, as an 8-bit picture has; use the volume before it was quantised")
    if litres > _LITRES:
        advice = "the method expects skull-stripped brains (HD-BET and SynthStrip make them), background 0"
        found.append(f"has {litres:.1f} litres above the background, a brain has at most 2; {advice}")
    if volume.rings:
        found.append(
            "rings about its background, as splines do; after resampling, set what lies outside the brain to 0"
        )
    if not (used(volume.data, volume.affine, slices) > 0).any():
        found.append("is empty in the middle slices, which are used")
    return found
