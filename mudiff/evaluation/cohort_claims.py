"""What the paper claims of significance, of unseen subjects, of its data and its cost, and what no run can decide."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.analyses import cohorts
from mudiff.data import datasets
from mudiff.evaluation import analysis_claims, metrics, verdicts
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation import old_tables as tables
from mudiff.evaluation.analysis_claims import REGIONS
from mudiff.evaluation.analysis_rules import LIMITS, limits
from mudiff.evaluation.verdicts import COLUMNS, FAILS, HOLDS, METRICS, NO_SCORES, OPEN, Decided, Row
from mudiff.training import profiles

_EYE = "for a reader's eye: see {}"
_CLINIC = "needs patients, radiologists and a clinical study"
BEYOND = (
    ("Sharper boundaries, fewer distortions and finer details within lesions than the baselines'",
     "Results, lesions; Fig. 3", _EYE.format("fig3a, fig3b, supp1, supp2")),
    ("DDPM introduces noticeable artefacts and noise",
     "Results, whole brain; Fig. 3a", _EYE.format("fig3a; whether it is worse is decided above")),
    ("In T2 lesion-specific and structural features combine, T1 emphasises structure",
     "Results, adaptive feature selection; Fig. 5a", _EYE.format("fig5a")),
    ("Segmentation masks look better with MU-Diff's images",
     "Results, lesion segmentation; Fig. 4d", _EYE.format("fig4d")),
    ("Fine-grain tissue structures are clearer in healthy brains",
     "Results, whole brain; Supplementary Data 4a", _EYE.format("supp4a")),
    ("Each ablated part shows in the images of lesions", "Methods, ablation study; Fig. 5i", _EYE.format("fig5i")),
    ("MU-Diff is better on all three contrasts of ISLES",
     "Results, whole brain; Fig. 3b", "the paper itself evaluates two (section Datasets: FLAIR and T1)"),
    ("F1 emphasises structure, F2 fine texture",
     "Introduction; Methods, distinct feature representations", "the paper names no measure; see fig5c"),
    ("The critic's middle layers are the most sensitive to lesions",
     "Methods, feature attentive mask loss", "taken from its reference 37; not measured there, nor here"),
    ("The loss weights 0.5, 0.1 and 1.0 are optimal",
     "Methods, training objective", "the paper shows no other weights; a search takes a training for each"),
    ("Dilated masks make the evaluation of ISLES more accurate",
     "Methods, evaluation procedure", "there is no truth that an evaluation could be compared with"),
    ("Synthesis reduces the need for contrast agents and assists radiologists", "Introduction; Discussion", _CLINIC),
    ("Synthetic T2, FLAIR and T1 improve lesion detection, segmentation and consistency across centres",
     "Discussion", _CLINIC),
)  # fmt: skip
"""Claim, where, and why no run decides it."""


def decide(profile: str, folder: Path) -> pd.DataFrame:
    """Compare the claims on P values, unseen subjects, published values, data, evaluation and cost; add `BEYOND`.

    Parameters
    ----------
    profile : str
        Name of the profile, whose prepared data and runs are looked at.
    folder : Path
        The figures' folder.

    Returns
    -------
    DataFrame
        As `mudiff.evaluation.old_claims.decide`.
    """
    folder = Path(folder)
    rows = [
        *_significance(analysis_claims.read(folder, "significance")),
        *_unseen(analysis_claims.read(folder, "supp3")),
        *_published(analysis_claims.read(folder, "table1_released"), _why_not_comparable(profile)),
        *_splits(),
        *_background(profile),
        *_cost(profile),
        *(("By eye, and in the clinic", words, where, "", why, OPEN) for words, where, why in BEYOND),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _significance(frame: pd.DataFrame | None) -> Iterator[Row]:
    """Yield the paper's sentences with a P value, over subjects and over slices."""
    for said in statistics.STATEMENTS if frame is None else ():
        of = f"{datasets.dataset(said.dataset).label}, {REGIONS[said.region]}"
        yield "Significance", f"{of}: {said.words}", said.where, *analysis_claims.missing("significance")
    for row in () if frame is None else statistics.statements(frame).itertuples():
        of = f"{datasets.dataset(row.dataset).label}, {REGIONS[row.region]}"
        tolerance = f"P < 0.05 over {row.unit}s; with Holm's correction: {row.verdict_holm}"
        words = f"{of}: {row.statement}, over {row.unit}s"
        yield "Significance", words, row.where, row.ours, tolerance, row.verdict


# Subjects that no training saw


def _unseen(frame: pd.DataFrame | None) -> Iterator[Row]:
    """Yield the claims on unseen subjects, for each target and region of the table."""
    group, where = "Unseen subjects", "Results, whole brain; Supplementary Data 3"
    kept, best = (
        "MU-Diff keeps its scores on unseen subjects",
        "MU-Diff beats the baselines on unseen subjects",
    )
    for words in (kept, best) if frame is None else ():
        yield group, words, where, *analysis_claims.missing("supp3")
    if frame is None:
        return
    frame = frame[(frame["protocol"] == "masked") & (frame["unit"] == "subject")]
    for (target, region), part in frame.groupby(["target", "region"], sort=False):
        own = part[part["method"] == "mudiff"].set_index("metric")
        if len(own):
            task = f"{datasets.LABELS[target]}, {REGIONS[region]}"
            yield group, f"{kept}: {task}", where, *_keeps(own)
            yield group, f"{best}: {task}", where, *_leads(own, part[part["method"].isin(datasets.BASELINES)])


def _keeps(own: pd.DataFrame) -> Decided:
    words, low, high = [], [], []
    for metric, limit in LIMITS.items():
        name, sense, shape = METRICS[metric]
        change = own.loc[metric]
        words.append(f"{name} {shape.format(change['change'])}")
        ends = sorted((sense * change["low"] + limit, sense * change["high"] + limit))
        low, high = [*low, ends[0]], [*high, ends[1]]
    verdict = HOLDS if min(low) > 0 else FAILS if min(high) < 0 else OPEN  # NaN: open
    n = f"n = {own['known_n'].min():g} known and {own['unseen_n'].min():g} unseen subjects"
    tolerance = f"95 % interval (Welch); kept: {limits()}"
    return f"{', '.join(words)} on the unseen; {n}", tolerance, verdict


def _leads(own: pd.DataFrame, others: pd.DataFrame) -> Decided:
    """Compare means over the unseen subjects with the closest baseline's; the table has no pairs."""
    trained = [method for method in datasets.BASELINES if method in set(others["method"])]
    if not trained:
        return NO_SCORES
    words, closest, signs = [], [], []
    for metric in LIMITS:
        name, sense, shape = METRICS[metric]
        part, mine = others[others["metric"] == metric].set_index("method"), own.loc[metric]
        best = part.loc[(sense * part["unseen"]).idxmax()]
        difference = mine["unseen"] - best["unseen"]
        error = sum(row["unseen_sd"] ** 2 / row["unseen_n"] for row in (mine, best)) ** 0.5
        words.append(f"{name} {shape.format(difference)}")
        closest.append(f"against {datasets.METHODS[best.name]}")
        signs.append(sense * difference / error if error > 0 else 0.0)
    n = int(own["unseen_n"].min())
    ours = f"{verdicts.sentence(words, closest)}; n = {verdicts.count(n, 'subject')}"
    only = [] if len(trained) == len(datasets.BASELINES) else ["mudiff", *trained]
    ours, tolerance, verdict = verdicts.judge(ours, signs, n, len(trained), only)
    return ours, f"{tolerance} (unpaired, hence wide)", verdict


# The paper's own numbers


def _why_not_comparable(profile: str) -> str:
    """Return why the paper's values are no measure for a profile's; empty where they are one."""
    data = tables.data_words(profile)
    if data != "patients":
        return f"these are {data}"
    return "" if profile == "paper" else f"profile {profile} has smaller images and networks"


def _published(frame: pd.DataFrame | None, reason: str) -> Iterator[Row]:
    """Yield the values of Table 1 that are known, beside ours under the released protocol."""
    for known in tables.reference_values().itertuples():
        task = f"{datasets.LABELS[known.target]} on {datasets.dataset(known.dataset).label}"
        claim = (
            f"MU-Diff reaches PSNR {known.psnr:.2f} dB, SSIM {known.ssim:.3f}, MAE {known.mae:.3f}: {task}"
        )
        if frame is None:
            decided = analysis_claims.missing("table1_released")
        else:
            same = (frame["dataset"] == known.dataset) & (frame["target"] == known.target)
            decided = _near(known, frame[same & (frame["method"] == "mudiff")].set_index("metric"), reason)
        yield "Published numbers", claim, "Table 1 (values from the authors' README)", *decided
    others = "All other values of Tables 1 and 2, Fig. 4 and Fig. 5"
    yield "Published numbers", others, "Tables 1 and 2", "", "not known: not in the text or README", OPEN


def _near(known: object, ours: pd.DataFrame, reason: str) -> Decided:
    if ours.empty:
        return NO_SCORES
    means = {metric: ours.loc[metric, "mean"] for metric in LIMITS}
    words = f"PSNR {means['psnr']:.2f} dB, SSIM {means['ssim']:.3f}, MAE {means['mae']:.3f}"
    near = all(abs(means[metric] - getattr(known, metric)) <= limit for metric, limit in LIMITS.items())
    tolerance = f"within {LIMITS['psnr']:g} dB, {LIMITS['ssim']} and {LIMITS['mae']}"
    return (
        words,
        f"{tolerance}; {reason}" if reason else tolerance,
        OPEN if reason else HOLDS if near else FAILS,
    )


# Data, evaluation, cost


def _splits() -> Iterator[Row]:
    """Yield the claims on the splits, which the authors' released lists decide."""
    group, where = "Data, evaluation, cost", "Methods, datasets"
    for name, counts in {"brats": (214, 61, 30), "isles": (20, 3, 5)}.items():
        listed = pd.read_csv(paths.manifests() / f"{name}.csv")["split"].value_counts()
        found = tuple(int(listed.get(split, 0)) for split in ("train", "val", "test"))
        words = "{}, {} and {} subjects for training, validation and test"
        claim = f"{datasets.dataset(name).label}: {words.format(*counts)}"
        ours = "{}, {}, {} in the released lists".format(*found)
        yield group, claim, where, ours, "equal", HOLDS if found == counts else FAILS
    brats = pd.read_csv(paths.manifests() / "brats.csv")
    left_out = int((brats["split"] == "excluded").sum())
    site = brats.loc[brats["subject"].str.contains("_2013_"), "split"] == "excluded"
    ours = (
        f"the lists leave out {left_out}; {site.sum()} are of the source 2013, which has {len(site)} in all"
    )
    claim, why = (
        "BraTS: 30 corrupted scans were removed by hand",
        "the lists do not say what was wrong with them",
    )
    yield group, claim, where, ours, why, OPEN if left_out == 30 else FAILS


@dataclass(frozen=True)
class Stack:
    """The slices of one test subject: images in [0, 1] and the mask of the brain, (Z, S, S) each."""

    subject: str
    real: np.ndarray
    synthetic: np.ndarray
    brain: np.ndarray


def stacks(cohort: cohorts.Cohort, target: str, method: str) -> Iterator[Stack]:
    """Yield the true and the synthetic slices of each test subject, one subject at a time."""
    from mudiff.synthesis import sample

    slices = cohort.slices()
    for subject in slices.subjects:
        indices = slices.subject(subject)
        real = (slices.images(indices, target) + 1) / 2  # [-1, 1] -> [0, 1]
        synthetic = sample.read_synthetic(cohort.folder(target, method), subject)
        yield Stack(subject, real, synthetic, slices.brain(indices))


def _background(profile: str) -> Iterator[Row]:
    """Yield the claim that a background within the mask makes scores better, on the first trained task."""
    claim = "Metrics that include the background come out better"
    rows = []
    for (dataset, target), methods in profiles.profile(profile).runs.items():
        cohort = cohorts.known(profile, dataset)
        if "mudiff" not in methods or not (cohort.folder(target, "mudiff") / "synthetic.json").is_file():
            continue
        for stack in stacks(cohort, target, "mudiff"):
            for region, mask in {"all": stack.brain | True, "brain": stack.brain}.items():
                scores = metrics.masked_protocol(stack.real, stack.synthetic, mask)
                rows.append({"subject": stack.subject, "region": region} | scores)
        break
    decided = NO_SCORES
    if rows:
        scores = verdicts.wide(pd.DataFrame(rows), "region", LIMITS)
        decided = verdicts.contest(scores, ["all"], ["brain"])
    yield "Data, evaluation, cost", claim, "Methods, evaluation procedure", *decided


def _cost(profile: str) -> Iterator[Row]:
    """Yield the numbers of parameters of the first task that has both runs.

    They decide nothing: the paper does not give the size of its DDPM, and ours follows from our own width.
    """
    claim = "MU-Diff has more parameters than a conventional diffusion model"
    decided = NO_SCORES
    for dataset, target in profiles.profile(profile).runs:
        mudiff, ddpm = (
            paths.run(profile, f"{dataset}_{target}_{method}") / "weights.safetensors"
            for method in ("mudiff", "ddpm")
        )
        if mudiff.is_file() and ddpm.is_file():
            pair, critic = _parameters(mudiff)
            ours = (
                f"MU-Diff {pair / 1e6:.2f} million and {critic / 1e6:.2f} million of the critic, which only "
                f"training needs; DDPM {sum(_parameters(ddpm)) / 1e6:.2f} million"
            )
            decided = ours, "the paper gives no size of DDPM, and the width of ours is our choice", OPEN
            break
    yield "Data, evaluation, cost", claim, "Discussion", *decided


def _parameters(file: Path) -> tuple[int, int]:
    """Return the number of parameters of the networks that make images, and of what only training needs."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as weights:
        sizes = {name: math.prod(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    training = sum(size for name, size in sizes.items() if name.startswith(("critic.", "attention.")))
    return sum(sizes.values()) - training, training
