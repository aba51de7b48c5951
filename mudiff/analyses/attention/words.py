"""What the measurements say, in sentences that are computed from them."""

import numpy as np
import pandas as pd

from mudiff.analyses.attention.measurements import Measurements
from mudiff.analyses.attention.regions import contrasts, reach, smallest_p
from mudiff.data import datasets

VARIANTS = {"channel_mean": "channel mean", "convolution": "convolution"}
"""Variant of the mask -> its name in figures."""

MAPS = {"image": "image", "adapted": "adapted feature", "fused": "fused pair"}
"""Kind of a map -> its name in figures."""

WHERE = {"lesion": "in the lesion", "boundary": "on the lesion's boundary"}
"""Zone -> where that is, in a sentence."""

UNIFORM = 0.02
"""A mask whose standard deviation over the brain is below this weights no region of the loss much."""

NO_LESION = "No test subject has a lesion: there are masks and maps, and no statistics of zones."


def _p(p: float) -> str:
    return "no P value" if np.isnan(p) else f"P = {p:.2g}"


def tested(n: int) -> str:
    """Return how the P values beside a statement over n subjects were made, and how small they can be."""
    if n < 2:
        return "One subject: no P value, since there is nobody to disagree."
    return (
        f"Permutation test over subjects (sign flips), n = {n}: the smallest possible P is {smallest_p(n):.2g}, "
        "whatever the effect."
    )


def resolution(m: Measurements, size: int) -> str:
    """Return how fine a mask is, and how wide the boundary."""
    width = 2 * reach(size)
    fine = "finer than that" if width < int(m.native) else "no finer than that"
    return (
        f"A mask has {size // int(m.native)}x{size // int(m.native)} pixels of its own, each {int(m.native)} image "
        f"pixels wide, enlarged to {size}x{size}. The boundary is a band of {width} image pixels: {fine}."
    )


def flatness(m: Measurements) -> str:
    """Return how much the masks vary over the brain: mean over subjects, networks and steps."""
    mean = np.nanmean(m.spread, axis=(0, 1, 2))
    parts = []
    for k, name in enumerate(m.variants):
        level = np.nanmean(m.masks[:, :, :, k, 2])  # elsewhere
        parts.append(f"{VARIANTS[name]} {level:.3f} ± {mean[k]:.4f}")
    verdict = "nearly uniform" if mean.max() < UNIFORM else "not uniform"
    return f"Mask value in the brain, mean ± standard deviation over pixels: {'; '.join(parts)}. They are {verdict}."


def critic(m: Measurements) -> str:
    """Return whether the critic tells true steps from the networks'."""
    frame = m.discrimination()
    auc = frame[["auc_1", "auc_2"]].to_numpy()
    gain = (frame.guess - frame.loss).mean() / frame.guess.mean()
    chance, good = np.abs(auc - 0.5).max() < 0.1, auc.min() > 0.9
    ranks = "hardly better than chance" if chance else "right nearly always" if good else "right now and then"
    sure = "is no better than guessing" if gain < 0.01 else f"is {gain:.0%} below that of guessing"
    return (
        f"AUC {auc.min():.2f} to {auc.max():.2f} over steps and networks (0.5 is guessing), loss "
        f"{frame.loss.mean():.3f} against {frame.guess.mean():.3f} for the best constant answer "
        f"({m.logits.shape[0]} slices): the critic ranks them {ranks}, and its loss {sure}."
    )


def masks(m: Measurements) -> str:
    """Return where the masks are high: each zone against elsewhere, tested over subjects."""
    frame = contrasts(m.zone_means(), ["variant"])
    if frame.empty:
        return NO_LESION
    lines = []
    for row in frame.itertuples():
        how = "higher" if row.value > 0 else "lower"
        lines.append(
            f"- {VARIANTS[row.variant]}: {how} {WHERE[row.zone]} than elsewhere by {abs(row.value):.2g} "
            f"({row.lowest:+.2g} to {row.highest:+.2g} over subjects; {_p(row.p)})"
        )
    return "\n".join([*lines, "", tested(int(frame.n.max()))])


def draws(m: Measurements, zone: str = "lesion") -> str:
    """Return what untrained convolutions make of the same features, in a zone (register C-1)."""
    change = m.drawn(zone)
    if not change.shape[1]:
        return NO_LESION
    mean = change.mean(axis=1)
    low, high = np.quantile(mean, (0.025, 0.975))
    agree = np.mean(np.abs(np.sign(change).sum(axis=1)) == change.shape[1])
    text = (
        f"Of {len(mean)} untrained convolutions on the same features {np.mean(mean > 0):.0%} make the mask higher "
        f"{WHERE[zone]} than elsewhere, the others lower; 95 % of them lie between {low:+.2g} and {high:+.2g}."
    )
    if change.shape[1] > 1:
        text += (
            f" In {agree:.0%} of the draws all {change.shape[1]} subjects have the same sign, the smallest P that "
            "the test over subjects can give: subjects agree since they share one critic and one draw, and the next "
            "draw may say the opposite."
        )
    return text


def maps(m: Measurements, t: int = 0) -> str:
    """Return how much higher each condition's features are in the lesion than elsewhere, at step t."""
    frame = ratios(m, t)
    if frame.empty:
        return NO_LESION
    lines = []
    for condition, part in frame.groupby("condition", sort=False):
        values = part.set_index("map")
        named = "; ".join(f"{MAPS[kind]} {row.value:.2f} ({_p(row.p)})" for kind, row in values.iterrows())
        lines.append(f"- {datasets.LABELS[condition]}: {named}")
    adapted = frame[frame["map"] == "adapted"].set_index("condition").value
    first = datasets.LABELS[adapted.idxmax()]
    most = f"The adapted features that concentrate most on the lesion are those of {first}."
    return "\n".join([*lines, "", most, tested(int(frame.n.max()))])


def ratios(m: Measurements, t: int = 0) -> pd.DataFrame:
    """Return lesion / elsewhere of all maps at step t, as `contrasts` does."""
    means = m.map_means()
    frame = contrasts(means[means.t == t], ["map", "condition"], ratio=True)
    return frame[frame.zone == "lesion"]
