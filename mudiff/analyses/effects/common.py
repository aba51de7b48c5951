"""One effect, its verdict, the masked PSNR of a cohort, and results that are kept."""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mudiff import paths
from mudiff.cache import RECIPE_VERSION
from mudiff.data.prepare import Slices
from mudiff.evaluation import metrics

CONFIDENCE = 0.95
"""Part of the differences between seeds that a spread is wide enough for."""

EXACT, UNKNOWN, WITHIN, BEYOND = "exact", "one seed, no spread", "within the spread", "beyond the spread"
"""Verdicts: nothing random lies between both numbers; nobody knows; other seeds do as much; they seldom do."""

INCLUDES, EXCLUDES = "interval includes 0", "interval excludes 0"
"""Verdicts on a mean difference that has a confidence interval of its own."""


@dataclass(frozen=True)
class Effect:
    """PSNR with and without one change.

    Attributes
    ----------
    id : str
        The difference of the register.
    name : str
        What is changed, in words.
    base, changed : float
        PSNR in dB without and with the change.
    spread : float
        Half the width in dB of the band that contains the difference that seeds alone make, or of the interval
        of the difference itself (`CONFIDENCE` both); NaN where nothing random lies between both numbers,
        infinite where one seed cannot tell.
    repeats : str
        How many seeds the spread and each number come from, and what they are seeds of.
    interval : bool
        Whether `spread` belongs to an interval of the difference.
    """

    id: str
    name: str
    base: float
    changed: float
    spread: float = math.nan
    repeats: str = ""
    interval: bool = False

    @property
    def difference(self) -> float:
        """Change of the PSNR in dB."""
        return self.changed - self.base

    @property
    def verdict(self) -> str:
        """`EXACT`, `UNKNOWN`, `WITHIN` or `BEYOND`; with an interval `INCLUDES` or `EXCLUDES`."""
        if math.isnan(self.spread):
            return EXACT
        if math.isinf(self.spread):
            return UNKNOWN
        small = abs(self.difference) <= self.spread
        if self.interval:
            return INCLUDES if small else EXCLUDES
        return WITHIN if small else BEYOND


def compare(
    name: str, words: str, base: Sequence[float], changed: Sequence[float], seeds: str = "training"
) -> Effect:
    r"""Compare a change with the base of the same seeds, and its effect with what other seeds do.

    The spread is :math:`t\,s\sqrt{2/m}`, with the standard deviation s of the n base seeds, t the quantile of
    Student's distribution with n - 1 degrees of freedom, and m seeds of the change: how far apart two
    trainings of one and the same setting are whose seeds differ.

    Parameters
    ----------
    name, words : str
        `Effect.id` and `Effect.name`.
    base : sequence of float
        PSNR of n seeds.
    changed : sequence of float
        PSNR of the first m of these seeds, n or fewer.
    seeds : str
        What they are seeds of.
    """
    n, m = len(base), len(changed)
    spread = _quantile(n) * _deviation(base) * math.sqrt(2 / m)
    repeats = f"{n} / {m} {seeds} seeds"
    return Effect(name, words, float(np.mean(base[:m])), float(np.mean(changed)), spread, repeats)


def _quantile(n: int) -> float:
    """Return the quantile of Student's distribution for n values; infinite for one."""
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) if n > 1 else math.inf


def _deviation(values: Sequence[float] | np.ndarray) -> float:
    """Return the standard deviation of a sample; 1 for one value, whose quantile is infinite."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 1.0


def paired(name: str, words: str, base: Sequence[float], changed: Sequence[float]) -> Effect:
    """Compare two scores of the same weights, one pair a seed; the spread is that of a paired t-interval."""
    n = len(base)
    spread = _quantile(n) * _deviation(np.subtract(changed, base)) / math.sqrt(n)
    repeats = f"{n} pair{'s' * (n > 1)} of scores"
    return Effect(name, words, float(np.mean(base)), float(np.mean(changed)), spread, repeats, interval=True)


def crossed(name: str, words: str, own: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> Effect:
    r"""Compare scores of two trainings, each tested under two conditions, by the mean of both comparisons.

    The first training has n seeds, the second m, n or fewer. The interval is
    :math:`\pm t\,\frac{s}{2}\sqrt{1/n+1/m}` with the standard deviation s of the first training's n paired
    differences: the second is taken to vary as much, since with few seeds it cannot say so itself.

    Parameters
    ----------
    name, words : str
        `Effect.id` and `Effect.name`.
    own, other : sequence of two arrays (n,) and (m,)
        PSNR of the first and the second training, under the one condition and under the other.
    """
    n, m = (len(scores) for scores in own)
    deviation = _deviation(np.subtract(other[0], own[0]))
    spread = _quantile(n) * deviation * math.sqrt(1 / n + 1 / m) / 2
    base, changed = (float(np.mean([np.mean(part) for part in scores])) for scores in (own, other))
    return Effect(name, words, base, changed, spread, f"{n} + {m} pairs of scores", interval=True)


def subject_psnr(real: np.ndarray, synthetic: np.ndarray, brain: np.ndarray, subjects: np.ndarray) -> float:
    """Return the PSNR of protocol ``masked`` in dB: pooled over each subject's brain, mean over subjects.

    Parameters
    ----------
    real, synthetic : array (N, S, S)
        Slices in [0, 1].
    brain : array of bool (N, S, S)
        Masks.
    subjects : array of str (N,)
        Whose each slice is.
    """
    values = []
    for name in np.unique(subjects):
        mine = subjects == name
        values.append(metrics.score_subject(real[mine], synthetic[mine], brain[mine])[1]["psnr"])
    return float(np.mean(values))


def unit(slices: Slices, indices: np.ndarray, contrast: str) -> np.ndarray:
    """Return prepared slices as float32 (N, S, S) in [0, 1]."""
    return (slices.images(indices, contrast) + 1) / 2


def digest(path: Path) -> str:
    """Return a short hash of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@functools.cache
def code() -> str:
    """Return a short hash of the modules that results of this package come from."""
    modules = [*sorted(Path(__file__).parent.glob("*.py")), Path(metrics.__file__)]
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()[:16]


def kept(path: Path, key: dict[str, Any], compute: Callable[[], Any]) -> Any:
    """Return what `compute` returned for this `key`, recipe and code before, or compute and keep it as JSON."""
    key = key | {"recipe": RECIPE_VERSION, "code": code()}
    if path.is_file():
        record = paths.read_json(path)
        if record.get("key") == key:
            return record["values"]
    values = compute()
    paths.write_json(path, {"key": key, "values": values})
    return values
