"""Signal equations of the phantoms: what a scanner with given settings measures in a given tissue."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from mudiff.data import datasets


@dataclass(frozen=True)
class Tissue:
    """Magnetic properties of one tissue at 3 T: numbers, or arrays with a value for each voxel."""

    t1: float  # relaxation times in seconds
    t2: float
    t2star: float
    pd: float  # proton density relative to water
    adc: float  # apparent diffusion coefficient in 1e-3 mm^2/s
    uptake: float = 0.0  # gadolinium a few minutes after a standard dose, mmol/l
    flow: float = 1.0  # what is left of a spin echo: moving blood misses the second pulse


# Round numbers, oriented at the 3 T literature: relaxation times at Wansapura et al. (J Magn Reson Imaging 1999) and
# Stanisz et al. (Magn Reson Med 2005), proton densities at Whittall et al. (Magn Reson Med 1997), diffusion at Le
# Bihan et al. (J Magn Reson Imaging 2001), stroke at Schlaug et al. (Neurology 1997), oedema and necrosis at
# Hattingen et al. (Neuro-Oncology 2013). The enhancing rim is our choice: short T2 tells where agent will gather.
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

# Of gadobutrol in blood at 3 T, l/(mmol s): Rohrer et al., Invest Radiol 2005
RELAXIVITIES = {"t1": 4.5, "t2": 6.3, "t2star": 6.3}

Range = tuple[float, float]


def _sequence(tr: Range, te: Range, thickness: Range, coil: Range, snr: Range, **own: Range):
    return {"tr": tr, "te": te, **own, "thickness": thickness, "coil": coil, "snr": snr}


# Ranges of the settings of each scanner: TR and TE in seconds, slice thickness in mm, standard deviation of the
# logarithm of the coil's sensitivity, mean signal over noise; flip angle in degrees, dose in 0.1 mmol/kg,
# inversion time relative to the one that nulls CSF, b in s/mm^2.
SCANNERS: tuple[dict[str, dict[str, Range]], ...] = (
    {
        "t1": _sequence((0.55, 0.75), (0.009, 0.014), (1, 3), (0.07, 0.14), (12, 20)),
        "t1ce": _sequence((.02, .02), (.003, .005), (1, 2), (.05, .11), (20, 32), flip=(27, 33), dose=(0.9, 1.1)),
        "t2": _sequence((3.5, 5.5), (0.085, 0.105), (1, 3), (0.06, 0.13), (12, 22)),
        "flair": _sequence((8.0, 10.5), (0.09, 0.13), (1, 4), (0.08, 0.15), (12, 22), null=(0.97, 1.02)),
        "dwi": _sequence((4.0, 7.0), (0.075, 0.1), (3, 5), (0.12, 0.26), (12, 25), b=(1000, 1000)),
    },
    {
        "t1": _sequence((0.30, 0.45), (0.012, 0.020), (3, 6), (0.20, 0.35), (10, 18)),
        "t1ce": _sequence((.03, .03), (.005, .008), (2, 4), (.10, .20), (15, 25), flip=(30, 40), dose=(1.2, 2.0)),
        "t2": _sequence((2.2, 3.2), (0.10, 0.15), (3, 6), (0.20, 0.35), (10, 20)),
        "flair": _sequence((6.0, 8.0), (0.12, 0.16), (3, 6), (0.20, 0.35), (10, 20), null=(0.94, 1.04)),
        "dwi": _sequence((3.0, 5.0), (0.09, 0.12), (4, 6), (0.20, 0.35), (8, 16), b=(800, 1200)),
    },
)  # fmt: skip


def measure(tissue: Tissue, settings: dict[str, float]) -> np.ndarray:
    r"""Return the signal of a tissue, relative to that of fully relaxed water; the settings choose the sequence.

    A spin echo, :math:`\rho\,(1-e^{-TR/T_1})\,e^{-TE/T_2}`, for DWI times :math:`e^{-b\,ADC}`. FLAIR inverts before,
    :math:`\rho\,|1-2e^{-TI/T_1}+e^{-TR/T_1}|\,e^{-TE/T_2}`; CSF vanishes at :math:`TI=T_1\ln\frac{2}{1+e^{-TR/T_1}}`.
    With a flip angle it is a spoiled gradient echo, :math:`E_1=e^{-TR/T_1}`:
    :math:`\rho\,\sin\alpha\,\frac{1-E_1}{1-E_1\cos\alpha}\,e^{-TE/T_2^*}`. Contrast agent of concentration C makes
    :math:`1/T_i' = 1/T_i + r_i C`, with r_2 for T2* as well.
    """
    tr, te = settings["tr"], settings["te"]
    if "dose" in settings:
        agent = settings["dose"] * tissue.uptake
        times = {k: 1 / (1 / getattr(tissue, k) + r * agent) for k, r in RELAXIVITIES.items()}
        tissue = dataclasses.replace(tissue, **times)
    e1 = np.exp(-tr / tissue.t1)
    if "flip" in settings:
        angle = np.deg2rad(settings["flip"])
        return tissue.pd * np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle)) * np.exp(-te / tissue.t2star)
    recovered = 1 - e1
    if "null" in settings:
        water = TISSUES["csf"].t1
        ti = settings["null"] * (water * float(np.log(2 / (1 + np.exp(-tr / water)))))
        recovered = np.abs(1 - 2 * np.exp(-ti / tissue.t1) + e1)
    echo = tissue.flow * tissue.pd * recovered * np.exp(-te / tissue.t2)
    return echo * np.exp(-settings["b"] * 1e-3 * tissue.adc) if "b" in settings else echo


def draw_settings(dataset: str, rng: np.random.Generator, scanner: int = 0) -> dict[str, dict[str, float]]:
    """Draw the settings of one examination, contrast -> setting -> value; healthy T1 is a gradient echo."""
    site = rng.uniform()  # a site that shortens one sequence shortens the others: one contrast tells of the rest
    drawn = {}
    for contrast in datasets.dataset(dataset).contrasts:
        ranges = SCANNERS[scanner][contrast]
        if (dataset, contrast) == ("healthy", "t1"):
            ranges = {k: v for k, v in SCANNERS[scanner]["t1ce"].items() if k != "dose"} | {"flip": (24, 34)}
        drawn[contrast] = {
            k: float(low + (high - low) * (0.75 * site + 0.25 * rng.uniform())) for k, (low, high) in ranges.items()
        }
    return drawn
