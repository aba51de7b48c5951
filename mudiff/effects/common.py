"""One effect, its verdict, the masked PSNR of a cohort, and results that are kept."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mudiff import metrics, paths
from mudiff.data import Slices

CONFIDENCE = 0.95
"""Part of the differences between seeds that a spread is wide enough for."""

EXACT, UNKNOWN, WITHIN, BEYOND = "exact", "one seed, no spread", "within the spread", "beyond the spread"
"""Verdicts: nothing random lies between both numbers; nobody knows; other seeds do as much; they seldom do."""


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
        Half the width in dB of the band that contains the difference that seeds alone make
        (`CONFIDENCE`); NaN where nothing random lies between both numbers, infinite where one seed cannot tell.
    repeats : str
        How many seeds the spread and each number come from.
    """

    id: str
    name: str
    base: float
    changed: float
    spread: float = math.nan
    repeats: str = ""

    @property
    def difference(self) -> float:
        """Change of the PSNR in dB."""
        return self.changed - self.base

    @property
    def verdict(self) -> str:
        """`EXACT`, `UNKNOWN`, `WITHIN` or `BEYOND`."""
        if math.isnan(self.spread):
            return EXACT
        if math.isinf(self.spread):
            return UNKNOWN
        return WITHIN if abs(self.difference) <= self.spread else BEYOND


def compare(name: str, words: str, base: Sequence[float], changed: Sequence[float]) -> Effect:
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
    """
    from scipy import stats

    n, m = len(base), len(changed)
    spread = math.inf
    if n > 1:
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
        spread = float(quantile * np.std(base, ddof=1) * math.sqrt(2 / m))
    return Effect(name, words, float(np.mean(base[:m])), float(np.mean(changed)), spread, f"{n} / {m}")


def paired(name: str, words: str, base: Sequence[float], changed: Sequence[float]) -> Effect:
    """Compare two scores of the same weights, one pair a seed; the spread is that of a paired t-interval."""
    from scipy import stats

    n, spread = len(base), math.inf
    if n > 1:
        deviation = np.std(np.subtract(changed, base), ddof=1)
        spread = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * deviation / math.sqrt(n))
    return Effect(name, words, float(np.mean(base)), float(np.mean(changed)), spread, f"{n}, paired")


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


def kept(path: Path, key: dict[str, Any], compute: Callable[[], Any]) -> Any:
    """Return what `compute` returned for this `key` before, or compute it and keep it in a JSON file."""
    if path.is_file():
        record = paths.read_json(path)
        if record.get("key") == key:
            return record["values"]
    values = compute()
    paths.write_json(path, {"key": key, "values": values})
    return values
