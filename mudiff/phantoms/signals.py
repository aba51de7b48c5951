"""Signal equations of the phantoms: what a scanner with given settings measures in a given tissue."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from mudiff.data import datasets

Array = np.ndarray


@dataclass(frozen=True)
class Tissue:
    """Magnetic properties of one tissue at 3 T.

    Attributes
    ----------
    t1, t2, t2star : float
        Relaxation times in seconds.
    pd : float
        Proton density relative to water.
    adc : float
        Apparent diffusion coefficient in 1e-3 mm^2/s.
    uptake : float
        Gadolinium a few minutes after a standard dose, in mmol/l.
    flow : float
        Part of the signal that is left in a spin echo: moving blood misses the second pulse.
    """

    t1: float
    t2: float
    t2star: float
    pd: float
    adc: float
    uptake: float = 0.0
    flow: float = 1.0


# Round numbers, oriented at the 3 T literature: relaxation times at Wansapura et al. (J Magn Reson Imaging
# 1999) and Stanisz et al. (Magn Reson Med 2005), proton densities at Whittall et al. (Magn Reson Med 1997),
# diffusion at Le Bihan et al. (J Magn Reson Imaging 2001), stroke at Schlaug et al. (Neurology 1997), oedema
# and necrosis at Hattingen et al. (Neuro-Oncology 2013). The enhancing rim is our choice: short T2, so that
# a network can tell from the other contrasts where contrast agent will gather.
TISSUES = {
    "grey": Tissue(1.550, 0.098, 0.050, 0.82, 0.83, uptake=0.03),
    "white": Tissue(0.930, 0.072, 0.045, 0.70, 0.72, uptake=0.015),
    "csf": Tissue(4.200, 1.600, 0.800, 1.00, 3.00),
    "blood": Tissue(1.930, 0.120, 0.040, 0.85, 2.00, uptake=0.55, flow=0.05),
    "gliosis": Tissue(1.400, 0.135, 0.080, 0.80, 1.10, uptake=0.02),
    "oedema": Tissue(1.600, 0.165, 0.100, 0.87, 1.35, uptake=0.03),
    "enhancing": Tissue(1.200, 0.075, 0.040, 0.78, 1.05, uptake=0.20),
    "necrosis": Tissue(2.700, 0.330, 0.200, 0.95, 2.00, uptake=0.03),
    "stroke": Tissue(1.650, 0.155, 0.090, 0.86, 0.43, uptake=0.02),
}

R1 = 4.5  # relaxivities of gadobutrol in blood at 3 T, l/(mmol s): Rohrer et al., Invest Radiol 2005
R2 = 6.3

# Ranges of the settings; one table per scanner. Times in seconds, angles in degrees, b in s/mm^2,
# thickness in mm, dose in units of the standard 0.1 mmol/kg, null relative to the inversion time that nulls
# CSF, coil the standard deviation of the logarithm of its sensitivity, snr the mean signal over the noise.
Ranges = dict[str, tuple[float, float]]
SCANNERS: tuple[dict[str, Ranges], ...] = (
    {
        "t1": {
            "tr": (0.55, 0.75),
            "te": (0.009, 0.014),
            "thickness": (1, 3),
            "coil": (0.07, 0.14),
            "snr": (12, 20),
        },
        "t1ce": {
            "tr": (0.02, 0.02),
            "te": (0.003, 0.005),
            "flip": (27, 33),
            "dose": (0.9, 1.1),
            "thickness": (1, 2),
            "coil": (0.05, 0.11),
            "snr": (20, 32),
        },
        "t2": {
            "tr": (3.5, 5.5),
            "te": (0.085, 0.105),
            "thickness": (1, 3),
            "coil": (0.06, 0.13),
            "snr": (12, 22),
        },
        "flair": {
            "tr": (8.0, 10.5),
            "te": (0.09, 0.13),
            "null": (0.97, 1.02),
            "thickness": (1, 4),
            "coil": (0.08, 0.15),
            "snr": (12, 22),
        },
        "dwi": {
            "tr": (4.0, 7.0),
            "te": (0.075, 0.1),
            "b": (1000, 1000),
            "thickness": (3, 5),
            "coil": (0.12, 0.26),
            "snr": (12, 25),
        },
    },
    {
        "t1": {
            "tr": (0.30, 0.45),
            "te": (0.012, 0.020),
            "thickness": (3, 6),
            "coil": (0.20, 0.35),
            "snr": (10, 18),
        },
        "t1ce": {
            "tr": (0.03, 0.03),
            "te": (0.005, 0.008),
            "flip": (30, 40),
            "dose": (1.2, 2.0),
            "thickness": (2, 4),
            "coil": (0.10, 0.20),
            "snr": (15, 25),
        },
        "t2": {
            "tr": (2.2, 3.2),
            "te": (0.10, 0.15),
            "thickness": (3, 6),
            "coil": (0.20, 0.35),
            "snr": (10, 20),
        },
        "flair": {
            "tr": (6.0, 8.0),
            "te": (0.12, 0.16),
            "null": (0.94, 1.04),
            "thickness": (3, 6),
            "coil": (0.20, 0.35),
            "snr": (10, 20),
        },
        "dwi": {
            "tr": (3.0, 5.0),
            "te": (0.09, 0.12),
            "b": (800, 1200),
            "thickness": (4, 6),
            "coil": (0.20, 0.35),
            "snr": (8, 16),
        },
    },
)


def spin_echo(tissue: Tissue, tr: float, te: float) -> Array:
    r"""Return the spin-echo signal :math:`\rho\,(1-e^{-TR/T_1})\,e^{-TE/T_2}`."""
    return tissue.flow * tissue.pd * (1 - np.exp(-tr / tissue.t1)) * np.exp(-te / tissue.t2)


def inversion_recovery(tissue: Tissue, tr: float, te: float, ti: float) -> Array:
    r"""Return the signal after an inversion.

    :math:`\rho\,|1-2e^{-TI/T_1}+e^{-TR/T_1}|\,e^{-TE/T_2}`, zero where TI meets `null_time`.
    """
    recovered = np.abs(1 - 2 * np.exp(-ti / tissue.t1) + np.exp(-tr / tissue.t1))
    return tissue.flow * tissue.pd * recovered * np.exp(-te / tissue.t2)


def null_time(t1: float, tr: float) -> float:
    r"""Return the inversion time that nulls a tissue, :math:`T_1\ln\frac{2}{1+e^{-TR/T_1}}`, in seconds."""
    return t1 * float(np.log(2 / (1 + np.exp(-tr / t1))))


def spoiled_gradient_echo(tissue: Tissue, tr: float, te: float, flip: float) -> Array:
    r"""Return the spoiled gradient-echo signal.

    :math:`\rho\,\sin\alpha\,\frac{1-E_1}{1-E_1\cos\alpha}\,e^{-TE/T_2^*}` with :math:`E_1=e^{-TR/T_1}`.
    """
    angle = np.deg2rad(flip)
    e1 = np.exp(-tr / tissue.t1)
    return tissue.pd * np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle)) * np.exp(-te / tissue.t2star)


def diffusion_weighted(tissue: Tissue, tr: float, te: float, b: float) -> Array:
    r"""Return the diffusion-weighted signal, a spin echo times :math:`e^{-b\,ADC}`."""
    return spin_echo(tissue, tr, te) * np.exp(-b * 1e-3 * tissue.adc)


def with_gadolinium(tissue: Tissue, dose: float) -> Tissue:
    r"""Return the tissue after contrast agent: :math:`1/T_i' = 1/T_i + r_i C`, i = 1, 2, and 2 for T2*."""
    concentration = dose * tissue.uptake
    return dataclasses.replace(
        tissue,
        t1=1 / (1 / tissue.t1 + R1 * concentration),
        t2=1 / (1 / tissue.t2 + R2 * concentration),
        t2star=1 / (1 / tissue.t2star + R2 * concentration),
    )


def draw_settings(dataset: str, rng: np.random.Generator, scanner: int = 0) -> dict[str, dict[str, float]]:
    """Draw the settings of one examination.

    Three quarters of every draw come from one number per examination, since a site that shortens one
    sequence shortens the others: the look of one contrast then tells something about the rest.

    Parameters
    ----------
    dataset : str
        Cohort, which says the contrasts; the healthy cohort's T1 is a gradient echo.
    rng : numpy.random.Generator
        Source of the draws.
    scanner : int
        Row of `SCANNERS`.

    Returns
    -------
    dict of str to dict of str to float
        Contrast -> setting -> value.
    """
    site = rng.uniform()
    drawn = {}
    for contrast in datasets.dataset(dataset).contrasts:
        ranges = dict(SCANNERS[scanner][contrast])
        if (dataset, contrast) == ("healthy", "t1"):
            ranges = {k: v for k, v in SCANNERS[scanner]["t1ce"].items() if k != "dose"} | {"flip": (24, 34)}
        drawn[contrast] = {
            name: float(low + (high - low) * (0.75 * site + 0.25 * rng.uniform()))
            for name, (low, high) in ranges.items()
        }
    return drawn


def measure(contrast: str, tissue: Tissue, settings: dict[str, float]) -> Array:
    """Return the signal of a tissue, whose properties may be arrays, in one contrast.

    Parameters
    ----------
    contrast : str
        "t1", "t1ce", "t2", "flair" or "dwi".
    tissue : Tissue
        Properties; arrays of one shape instead of numbers are welcome.
    settings : dict of str to float
        One entry of `draw_settings`.

    Returns
    -------
    numpy.ndarray
        Signal, relative to that of fully relaxed water.
    """
    tr, te = settings["tr"], settings["te"]
    if contrast == "flair":
        ti = settings["null"] * null_time(TISSUES["csf"].t1, tr)
        return inversion_recovery(tissue, tr, te, ti)
    if contrast == "dwi":
        return diffusion_weighted(tissue, tr, te, settings["b"])
    if contrast == "t1ce":
        tissue = with_gadolinium(tissue, settings["dose"])
    if "flip" in settings:
        return spoiled_gradient_echo(tissue, tr, te, settings["flip"])
    return spin_echo(tissue, tr, te)
