"""The rules that decide a claim on an analysis from the rows of its CSV.

Most follow the rule of `verdicts`. Where there is one run and no subjects, the number itself is judged, and a
margin around the threshold stays open.
"""

import numpy as np
import pandas as pd

from mudiff.evaluation import verdicts
from mudiff.evaluation.verdicts import FAILS, HOLDS, METRICS, NO_SCORES, OPEN, Decided, contest, side, wide

LIMITS = {"psnr": 1.0, "ssim": 0.05, "mae": 0.01}
"""How much worse a score may get and still count as kept: about an eighth more error (1 dB). The limits are ours."""

CLOSE = 0.05
"""How far below "complete" a Dice score still counts as close. The limit is ours."""

TASKS, T1CE_TASK = "ABCDEF", "A"
"""Tasks of Fig. 4c, and the one in which T1CE alone is synthetic."""

_SCORES = tuple(LIMITS)
_SHARE_MARGIN, _CKA_MARGIN, _FID_MARGIN = 0.05, 0.02, 0.1
_STEP = 0  # the last step of the reverse process, which Figs. 2b and 5a show


# Mutual learning (notebook 07)


def share(frame: pd.DataFrame, part: str, threshold: float, above: bool, first: bool = False) -> Decided:
    """Decide whether more than half of the CKA values of a part lie above or below `threshold`.

    The values are those that `mudiff.analyses.mutual.statements` looks at: all pairs of layers, at the last step.
    """
    values = frame[(frame["part"] == part) & (frame["t"] == _STEP)]
    values = (_thirds(values)[0] if first else values).dropna(subset="cka")
    if values.empty:
        return NO_SCORES
    cka = values["cka"]
    share = float((cka > threshold if above else cka < threshold).mean())
    ours = f"{share:.0%} of {len(cka)} values, median {cka.median():.2f}"
    tolerance = f"more than half (within {_SHARE_MARGIN:.0%} of it: open)"
    return _of_slices(values, ours, tolerance, side(share - 0.5, _SHARE_MARGIN))


def _of_slices(values: pd.DataFrame, ours: str, tolerance: str, verdict: str) -> Decided:
    """Add how many slices the CKA values come from; leave the verdict open where they are too few."""
    slices = int(values["slices"].min())
    ours, few = f"{ours}; t = {_STEP}, {verdicts.count(slices, 'slice')}", slices < 32
    if few:
        return ours, "few slices: close to noise", OPEN
    return ours, f"one run; {tolerance}", verdict


def _thirds(part: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the pairs in which both layers are of the first third of their network (rounded up), and of the last."""
    places = [part[name].map(_places(part[name])) for name in ("f1", "f2")]
    first, last = (pd.concat(places, axis=1).eq(where).all(axis=1) for where in ("first", "last"))
    return part[first], part[last]


def _places(layers: pd.Series) -> dict[str, str]:
    """Return layer -> "first", "middle" or "last"; layers stand in the order of the network."""
    names = [*layers.unique()]
    third = -(-len(names) // 3)
    return (
        dict.fromkeys(names, "middle")
        | dict.fromkeys(names[-third:], "last")
        | dict.fromkeys(names[:third], "first")
    )


def order(frame: pd.DataFrame, part: str, sense: int) -> Decided:
    """Decide whether the mean CKA rises (+1) or falls (-1) from the first third of the layers to the last."""
    values = frame[(frame["part"] == part) & (frame["t"] == _STEP)].dropna(subset="cka")
    if values.empty:
        return NO_SCORES
    first, last = (third["cka"].mean() for third in _thirds(values))
    ours = f"mean {first:.2f} in the first third, {last:.2f} in the last"
    tolerance = f"within {_CKA_MARGIN} of equal: open"
    return _of_slices(values, ours, tolerance, side(sense * (last - first), _CKA_MARGIN))


def mutual(frame: pd.DataFrame, region: str) -> Decided:
    """Decide whether the mutual prediction beats that of each network."""
    scores = wide(frame[frame["region"] == region], "prediction", _SCORES)
    return contest(scores, ["mutual"], ["f1", "f2"])


# Attention (notebook 08)


def concentrated(frame: pd.DataFrame, condition: str) -> Decided:
    """Decide whether a condition's adapted features (Eq. 13) concentrate on the lesions more than its image does.

    A lesion that is bright in the image gives large features in any network, so the image is the control.
    """
    chosen = frame[(frame["condition"] == condition) & (frame["t"] == _STEP)]
    means = chosen.pivot_table(index=["subject", "map"], columns="zone", values="mean")
    if not {"lesion", "elsewhere"} <= set(means):
        return NO_SCORES
    means = means[["lesion", "elsewhere"]]
    means = means[(means > 0).all(axis=1)]  # a logarithm needs it
    ratios = np.log(means["lesion"] / means["elsewhere"]).unstack("map")
    if not {"adapted", "image"} <= set(ratios):
        return NO_SCORES
    ours, tolerance, verdict = contest({"map": ratios}, ["adapted"], ["image"])
    features, image = (np.exp(ratios[name].mean()) for name in ("adapted", "image"))
    tolerance = f"{tolerance} of log(lesion / elsewhere) of the features less that of the image"
    return (
        f"{ours}; lesion / elsewhere is {features:.2f} in the features, {image:.2f} in the image",
        tolerance,
        verdict,
    )


def boundary(frame: pd.DataFrame, variant: str) -> Decided:
    """Decide whether both masks are higher on the lesions' boundary than within the lesions and elsewhere.

    Differences below `attention.words.UNIFORM` decide nothing: such a mask weights no zone much. Nor does
    variant ``convolution``, whose weights no training touched (register C-1): the draw decides the sign, for all
    subjects alike, so an interval over subjects is no evidence (notebook 08).
    """
    from mudiff.analyses.attention.words import UNIFORM

    chosen, others = frame[frame["variant"] == variant], ["lesion", "elsewhere"]
    scores = {
        f"m{network}": part.pivot_table(index="subject", columns="zone", values="mean")
        for network, part in chosen.groupby("network")
    }
    if not scores or not all({"boundary", *others} <= set(zones) for zones in scores.values()):
        return NO_SCORES
    ours, tolerance, verdict = contest(scores, ["boundary"], others)
    if variant == "convolution":
        return (
            ours,
            "untrained random convolution (register C-1): its draw decides the sign, see notebook 08",
            OPEN,
        )
    # The rows are paired, so a subject without one of the zones is left out of its difference.
    least = min(zones[others].rsub(zones["boundary"], axis=0).mean().min() for zones in scores.values())
    tolerance = f"{tolerance}; within {UNIFORM} of equal: open, the masks are nearly uniform"
    return ours, tolerance, verdict if abs(least) >= UNIFORM else OPEN


# Motion (notebook 09)


def _motion(frame: pd.DataFrame, region: str) -> dict[str, pd.DataFrame]:
    """Return metric -> subjects x (method, "still" or "moved"); moved is the strongest motion."""
    strongest = frame["strength"].max()
    chosen = frame[(frame["region"] == region) & frame["strength"].isin((0, strongest))]
    state = np.where(chosen["strength"] == 0, "still", "moved")
    return wide(chosen.assign(state=state), ["method", "state"], _SCORES)


def kept(frame: pd.DataFrame, region: str) -> Decided:
    """Decide whether the strongest motion takes less than `LIMITS` from MU-Diff's scores."""
    changes, gains, least = [], [], []
    for metric, scores in _motion(frame, region).items():
        name, sense, shape = METRICS[metric]
        change = (scores["mudiff", "moved"] - scores["mudiff", "still"]).dropna()
        changes.append(f"{name} {shape.format(change.mean())}")
        gains.append(verdicts.standardised(sense * change + LIMITS[metric]))
        least.append(len(change))
    ours = f"{', '.join(changes)} by the motion; n = {verdicts.count(min(least), 'subject')}"
    ours, tolerance, verdict = verdicts.judge(ours, gains, min(least))
    return ours, f"{tolerance}; kept: {limits()}", verdict


def limits() -> str:
    """Return `LIMITS` in words."""
    return f"at most {LIMITS['psnr']:g} dB, {LIMITS['ssim']} SSIM, {LIMITS['mae']} MAE worse"


def with_motion(frame: pd.DataFrame, region: str) -> Decided:
    """Decide whether MU-Diff beats SynDiff under the strongest motion."""
    moved = {m: scores.xs("moved", axis=1, level="state") for m, scores in _motion(frame, region).items()}
    return contest(moved, ["mudiff"], ["syndiff"])


def robust(frame: pd.DataFrame, region: str) -> Decided:
    """Compare the changes by motion; of MAE too the smaller change is the better one."""
    changes = {}
    for metric, scores in _motion(frame, region).items():
        moved, still = (scores.xs(state, axis=1, level="state") for state in ("moved", "still"))
        changes[metric] = moved - still
    return contest(changes, ["mudiff"], ["syndiff"])


# Segmentation (notebook 10)


def _dice(frame: pd.DataFrame, task: str) -> dict[str, pd.DataFrame]:
    """Return Dice of the whole tumour: subjects x methods, the real images as column ``real``."""
    chosen = frame[(frame["region"] == "whole") & frame["task"].isin((task, "complete"))]
    return {"dice": chosen.pivot_table(index="subject", columns="method", values="dice")}


def segments(frame: pd.DataFrame, task: str) -> Decided:
    """Decide whether MU-Diff's images give a higher Dice than SynDiff's."""
    return contest(_dice(frame, task), ["mudiff"], ["syndiff"])


def surpasses(frame: pd.DataFrame, task: str) -> Decided:
    """Decide whether MU-Diff's images give a higher Dice than the real ones."""
    return contest(_dice(frame, task), ["mudiff"], ["real"])


def closeness(frame: pd.DataFrame) -> Decided:
    """Decide whether in many tasks MU-Diff's images cost less than `CLOSE` of the real ones' Dice."""
    found, changes = [], []
    for task in TASKS:
        scores = _dice(frame, task)["dice"]
        if not {"mudiff", "real"} <= set(scores):
            continue
        change = (scores["mudiff"] - scores["real"]).dropna()
        changes.append(f"{task} {change.mean():+.3f}")
        found.append(verdicts.judge("", [verdicts.standardised(change + CLOSE)], len(change))[-1])
    if not found:
        return NO_SCORES
    ours = f"{found.count(HOLDS)} of {len(TASKS)} tasks are close, {found.count(FAILS)} are not: {', '.join(changes)}"
    tolerance = f"95 % interval above -{CLOSE} Dice; many: more than half of the tasks"
    return ours, tolerance, verdicts.most(found, len(TASKS))


# Ablations (notebook 11)


def _steps(frame: pd.DataFrame, region: str) -> dict[str, pd.DataFrame]:
    return wide(frame[frame["region"] == region], "steps", _SCORES)


def more_steps(frame: pd.DataFrame, region: str) -> Decided:
    """Decide whether four steps are better than two."""
    return contest(_steps(frame, region), [4], [2])


def enough_steps(frame: pd.DataFrame, region: str) -> Decided:
    """Decide whether going from 4 to 8 steps gains less than going from 2 to 4."""
    gains = {}
    for metric, scores in _steps(frame, region).items():
        if not {2, 4, 8} <= set(scores):
            return NO_SCORES
        gains[metric] = pd.DataFrame({"2 to 4": scores[4] - scores[2], "4 to 8": scores[8] - scores[4]})
    ours, tolerance, verdict = contest(gains, ["2 to 4"], ["4 to 8"])
    seconds = frame.groupby("steps")["seconds"].mean()
    times = ", ".join(f"{seconds[steps]:.2f}" for steps in (2, 4, 8))
    return f"gain from 2 to 4 less that from 4 to 8: {ours}; {times} s a slice", tolerance, verdict


def critic(frame: pd.DataFrame) -> Decided:
    """Decide whether every Fréchet distance is lower with the critic than without."""
    table = frame.pivot_table(index="features", columns="variant", values="fid")
    if not {"full", "no_critic"} <= set(table):
        return NO_SCORES
    lower = 1 - table["full"] / table["no_critic"]
    found = [side(share, _FID_MARGIN) for share in lower]
    ours = "; ".join(
        f"{row.Index}: {row.full:.3g} with, {row.no_critic:.3g} without" for row in table.itertuples()
    )
    tolerance = f"one run each; within {_FID_MARGIN:.0%}: open; Fréchet distances of few images are biased"
    agreed = found[0] if len(set(found)) == 1 else OPEN
    return (
        f"{ours} ({int(frame.loc[frame['variant'].isin(('full', 'no_critic')), 'images'].min())} images)",
        tolerance,
        agreed,
    )


def contributes(frame: pd.DataFrame, variant: str) -> Decided:
    """Decide whether the full model beats the one without a part."""
    return contest(wide(frame, "variant", _SCORES), ["full"], [variant])


def especially(frame: pd.DataFrame) -> Decided:
    """Decide whether the full model's mean gain over its ablations is larger in lesions than in the whole brain."""
    gains = {}
    for metric in _SCORES:
        table = frame.pivot_table(index=["artefact", "subject"], columns="variant", values=metric)
        ablated = [name for name in table if name.startswith("abl")]
        if "full" not in table or not ablated:
            return NO_SCORES
        gain = table["full"] - table[ablated].mean(axis=1, skipna=False)
        gains[metric] = gain.unstack("artefact").rename(columns={"fig5g": "brain", "fig5h": "lesions"})
    ours, tolerance, verdict = contest(gains, ["lesions"], ["brain"])
    return f"gain in lesions less that in the brain: {ours}", tolerance, verdict
