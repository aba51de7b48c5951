"""What motion costs each method, in scores and in words."""

import math
from typing import Any

import numpy as np
import pandas as pd

from mudiff.analyses.robustness.study import DATASET, TARGET, Study
from mudiff.data import datasets, motion
from mudiff.evaluation import metrics
from mudiff.evaluation import old_scores as scores
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation import old_tables as tables
from mudiff.evaluation.analysis_rules import LIMITS

REGIONS = {"brain": "Whole brain", "lesion": "Lesions"}
_WORDS = {"psnr": ("PSNR", " dB", 2), "ssim": ("SSIM", "", 3), "mae": ("MAE", "", 4)}


def score(found: Study) -> pd.DataFrame:
    """Score the syntheses with clean and with moved FLAIR against the true T1CE, masks from the clean data.

    Returns
    -------
    DataFrame
        Columns method, strength (0: clean), region, subject, psnr, ssim, mae; protocol masked, one row per
        subject. Without lesions in the test set there is region brain alone; a subject without one
        has NaN there.
    """
    from mudiff.synthesis import sample

    slices = found.slices()
    everything = np.arange(len(slices))
    regions = tables.REGIONS if any(slices.lesion([i]).any() for i in everything) else tables.REGIONS[:1]
    columns = ["method", "strength", "region", "subject", *metrics.METRICS]
    frames = []
    for region in regions:
        clean = scores.score_runs(found.profile, region, [(DATASET, TARGET)], found.methods)
        clean = clean[(clean.protocol == "masked") & (clean.unit == "subject")]
        frames.append(clean.assign(strength=0.0)[columns])
    rows = []
    for subject in slices.subjects:
        indices = slices.subject(subject)
        real = (slices.images(indices, TARGET) + 1) / 2  # [-1, 1] -> [0, 1]  # (Z, S, S)
        masks = {"brain": slices.brain(indices), "lesion": slices.lesion(indices)}
        for method in found.methods:
            for strength in found.strengths:
                made = sample.read_synthetic(found.folder(method, strength), subject)
                for region in regions:
                    _, whole = metrics.score_subject(real, made, masks[region], "masked")
                    common = {"method": method, "strength": strength, "region": region, "subject": subject}
                    rows.append(common | whole)
    frame = pd.concat([*frames, pd.DataFrame(rows)], ignore_index=True)[columns]
    frame["method"] = pd.Categorical(frame.method, found.methods)
    frame["region"] = pd.Categorical(frame.region, regions)
    frame = frame.sort_values(["region", "method", "strength", "subject"], ignore_index=True)
    return frame.astype({"method": str, "region": str})


def losses(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what motion costs each method, and MU-Diff less than the others, paired within subjects.

    Parameters
    ----------
    frame : DataFrame
        From `score`.

    Returns
    -------
    DataFrame
        One row per region, metric, strength and quantity. Quantity "loss" of a `method`: clean minus moved,
        for MAE the other way round, so positive means worse with motion. Quantity "spared": loss of
        `method` minus loss of MU-Diff; positive means that MU-Diff loses less. "lead": MU-Diff minus
        `method` with the same motion (also at strength 0); positive means that MU-Diff is better. Columns
        mean, its 95 % interval low to high (paired t-test over subjects, not corrected), p, n; NaN where
        there are fewer than two subjects.
    """
    rows = []
    for region in frame.region.unique():
        for metric, sign in statistics.SIGN.items():
            part = frame[frame.region == region]
            wide = sign * part.pivot(index="subject", columns=["method", "strength"], values=metric)
            wide = wide.replace([np.inf, -np.inf], np.nan)
            for quantity, method, strength, better, worse in _pairs(wide):
                pair = pd.concat([better, worse], axis=1).dropna().to_numpy(float)
                result = statistics.paired(pair[:, 0], pair[:, 1])
                rows.append(
                    {"region": region, "metric": metric, "strength": strength, "quantity": quantity}
                    | {"method": method, "mean": result["difference"], "low": result["low"]}
                    | {"high": result["high"], "p": result["p"], "n": len(pair)}
                )
    return pd.DataFrame(rows)


def _pairs(wide: pd.DataFrame) -> list[tuple[str, str, float, pd.Series, pd.Series]]:
    """Return quantity, method, strength and the two columns of `losses` whose difference it is."""
    methods = list(wide.columns.unique("method"))
    strengths = sorted(wide.columns.unique("strength"))
    loss = {(m, s): wide[m, 0] - wide[m, s] for m in methods for s in strengths}
    pairs = []
    for s in strengths:
        pairs += [("loss", m, s, wide[m, 0], wide[m, s]) for m in methods if s > 0]
        others = [m for m in methods if m != "mudiff"] if "mudiff" in methods else []
        pairs += [("spared", m, s, loss[m, s], loss["mudiff", s]) for m in others if s > 0]
        pairs += [("lead", m, s, wide["mudiff", s], wide[m, s]) for m in others]
    return pairs


def verdict(frame: pd.DataFrame, metric: str = "psnr") -> str:
    """Return, as Markdown, what `losses` says of the claim that MU-Diff maintains its performance.

    A score is kept if the 95 % interval of its loss stays below the limit of the claims in notebook 14, and
    lost if the interval lies above it. Which method loses less, with the weights at hand, is decided at
    P < 0.05 after Holm's correction over all these comparisons in the text: regions, strengths and methods.

    Parameters
    ----------
    frame : DataFrame
        From `losses`.
    metric : str
        Which score.
    """
    lines = []
    chosen = frame[(frame.metric == metric) & (frame.strength > 0)].copy()
    compared = chosen.quantity == "spared"
    chosen.loc[compared, "holm"] = statistics.holm(chosen.p[compared].to_numpy())
    for (region, strength), part in chosen.groupby(["region", "strength"], sort=False):
        rows = list(part.itertuples())
        said = [_loss(row) for row in rows if row.quantity == "loss"]
        said += [_spared(row) for row in rows if row.quantity == "spared"]
        lines.append(f"* {REGIONS[region]}, {motion.name(strength)} motion: {'; '.join(said)}.")
    return "\n".join(lines)


def _loss(row: Any) -> str:
    """Return a row "loss" of `losses` in words, such as "MU-Diff loses 0.51 dB (0.20 to 0.80), kept within 1 dB"."""
    label, unit, _ = _WORDS[row.metric]
    verb = "gains" if _number(row.mean, row).startswith("−") else "loses"
    text = f"{datasets.METHODS[row.method]} {verb} {_number(abs(row.mean), row)}{unit} {label}"
    limit = LIMITS[row.metric]
    if math.isnan(row.low):
        return f"{text} ({_no_interval(row)})"
    words = "whether that is within"
    if row.high <= limit:
        words = "**kept** within"
    elif row.low > limit:
        words = "**lost** more than"
    open_end = " is not decided" if words.startswith("whether") else ""
    return f"{text} ({'loss ' * (verb == 'gains')}{_range(row)}), {words} {limit:g}{unit}{open_end}"


def _spared(row: Any) -> str:
    """Return a row "spared" of `losses`, with its corrected P value `holm`, in words."""
    if math.isnan(row.low):
        return f"which of the two loses less is not decided ({_no_interval(row)})"
    other, unit = datasets.METHODS[row.method], _WORDS[row.metric][1]
    size = f"loss of {other} minus loss of MU-Diff {_number(row.mean, row)}{unit}, {_range(row)}"
    size += f"; Holm's P {'< 0.001' if row.holm < 0.001 else f'= {row.holm:.3f}'}"
    if not row.holm < statistics.LEVEL:
        return f"which of the two loses less is not decided ({size})"
    return f"with these weights **{'MU-Diff' if row.mean > 0 else other} loses less** ({size})"


def _range(row: Any) -> str:
    return f"{_number(row.low, row)} to {_number(row.high, row)}"


def _number(value: float, row: Any) -> str:
    text = f"{value:.{_WORDS[row.metric][2]}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def _no_interval(row: Any) -> str:
    return "no interval: " + (
        f"{row.n} subject{'s' * (row.n != 1)}" if row.n < 2 else "all subjects lose the same"
    )
