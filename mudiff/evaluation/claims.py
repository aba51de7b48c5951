"""Statements of the paper beside what was found here: two rules, and the record that notebook 14 shows.

A statement is decided where its number is made, by one rule and one metric (PSNR of protocol ``masked``, unless it is
of another). Subjects are the unit. A part of the method (an ablation) is never decided: its unit is the training.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.evaluation import statistics, tables

SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "inconclusive"
ONE_TRAINING = "open: one training"

LEVEL = 0.025  # one-sided, in both directions: a 95 % interval clear of the margin decides


class Finding(NamedTuple):
    """What was found for a statement."""

    value: float
    low: float  # of the 95 % interval; NaN where there is none
    high: float
    unit: str  # of the three
    n: int  # subjects
    detail: str  # of several comparisons: how many point the statement's way, and the weakest one
    verdict: str  # `SUPPORTED`, `CONTRADICTED`, `OPEN` or `ONE_TRAINING`


def paired(
    differences: Mapping[str, Sequence[float]], margin: float = 0.0, unit: str = "dB", trainings: bool = False
) -> Finding:
    """Decide "better in every one of these comparisons" by paired t-tests.

    `differences` maps a comparison to ours minus theirs of each subject, positive where ours is better (not finite:
    left out), whose mean must exceed the margin, such as -1 dB for "keeps its score". Supported if each comparison is
    significantly above it (an intersection-union test, which needs no correction); contradicted if one is
    significantly below it after Holm's correction over all. Reported is the weakest one, with the smallest t.
    `trainings`: the statement is about a part of the method, of which one training decides nothing.
    """
    found = {name: np.asarray(values, float) - margin for name, values in differences.items()}
    tests = {name: statistics.paired(values[np.isfinite(values)]) for name, values in found.items()}
    frame = pd.DataFrame.from_dict(tests, orient="index").dropna(subset="t") if tests else pd.DataFrame()
    if frame.empty:
        return Finding(np.nan, np.nan, np.nan, unit, 0, "no comparison with two subjects", OPEN)
    above = frame.p.where(frame.t > 0, 2 - frame.p) / 2  # one-sided P values
    below = statistics.holm(1 - above)
    weakest = frame.loc[frame.t.idxmin()]
    if len(frame) == len(tests) and (above < LEVEL).all():
        verdict = SUPPORTED
    else:
        verdict = CONTRADICTED if (below < LEVEL).any() else OPEN
    numbers = (float(weakest[key]) + margin for key in ("difference", "low", "high"))
    several = f"{(frame.difference > 0).sum()} of {len(tests)} comparisons; weakest: {weakest.name}"
    detail = several if len(tests) > 1 else ""
    return Finding(*numbers, unit, int(weakest.n), detail, ONE_TRAINING if trainings else verdict)


def number(value: float, threshold: float, margin: float, unit: str, above: bool = True, n: int = 0) -> Finding:
    """Decide "above (or below) a threshold" of a number without subjects; within `margin` of it it stays open."""
    side = (value - threshold) * (1 if above else -1)
    verdict = SUPPORTED if side > margin else CONTRADICTED if side < -margin else OPEN
    return Finding(float(value), np.nan, np.nan, unit, n, f"threshold {threshold:g} ± {margin:g}", verdict)


def record(profile: str, notebook: str, found: Sequence[tuple[str, str, Finding]]) -> pd.DataFrame:
    """Keep a notebook's statements (said, where in the paper, found) for notebook 14, and return them as `shown`."""
    rows = [{"statement": said, "where": where} | finding._asdict() for said, where, finding in found]
    frame = pd.DataFrame(rows, columns=["statement", "where", *Finding._fields])
    tables.write_csv(paths.results(profile) / "claims" / f"{notebook}.csv", frame)
    return shown(frame, profile)


def read(profile: str) -> pd.DataFrame:
    """Return the statements of all notebooks: those of `record` with the column ``notebook``, in order."""
    files = sorted((paths.results(profile) / "claims").glob("*.csv"))
    frames = [pd.read_csv(f, keep_default_na=False, na_values="NA").assign(notebook=f.stem) for f in files]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def shown(frame: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Return statements as one reads them: statement, where, ours with interval and n, detail, verdict."""
    ours = [_number(row) for row in frame.itertuples()]
    heading = "verdict" if profile == "paper" else "direction on phantoms"  # of which it is no more
    columns = {"statement": frame.statement, "where": frame["where"], "ours": ours, "detail": frame.detail}
    return pd.DataFrame(columns | {heading: frame.verdict}).fillna("")


def _number(row: object) -> str:
    if pd.isna(row.value):
        return "NA"
    value = f"{row.value:.3g}" if pd.isna(row.low) else f"{row.value:+.3g} [{row.low:+.3g}, {row.high:+.3g}]"
    return f"{value} {row.unit}" + (f", n = {row.n}" if row.n else "")
