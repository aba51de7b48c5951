"""Effects of training, architecture and data: short trainings, each with one setting changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mudiff.analyses.effects import cohort
from mudiff.analyses.effects.cohort import DATASET, TARGET
from mudiff.analyses.effects.common import Effect, compare, crossed, digest, kept, paired, subject_psnr, unit
from mudiff.data import prepare
from mudiff.settings import Settings
from mudiff.synthesis import sample
from mudiff.training import profiles, runs, train

FIRST_SEED = 1024
"""Seed of the base and of every change; repetitions count on from it."""


@dataclass(frozen=True)
class Change:
    """One departure from the base.

    Attributes
    ----------
    id : str
        The difference of the register, or the chapters of the whole variant ``text``.
    name : str
        In words.
    fields : dict
        The changed fields of `Settings`; those of one difference, nothing else.
    site : str
        Where the training subjects come from, see `cohort.prepared`.
    """

    id: str
    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    site: str = "first"


CHANGES = {
    "weights": Change(
        "A-1", "loss weights of the README's figure", {"weight_supervised": 1.0, "weight_adversarial": 0.5}
    ),
    "betas": Change("A-2", "Adam β 0.1, 0.2", {"beta1": 0.1, "beta2": 0.2}),
    "constant": Change("A-4", "constant learning rates", {"schedule": "constant"}),
    "no_r1": Change("A-5", "no R1 penalty", {"r1_gamma": 0.0}),
    "channel_mean": Change("C-1", "mask: mean over channels", {"mask": "channel_mean"}),
    "trained_mask": Change("C-1", "mask: layer trained", {"mask": "trained"}),
    "detached": Change("C-2", "masks detached", {"mask_detached": True}),
    "shuffled": Change("C-8", "every epoch shuffled", {"order": "shuffled"}),
    "pair": Change("D-2", "gates see the pair", {"gates": "pair"}),
    "chain": Change("D-3", "pairs as a chain", {"pairs": "chain"}),
    "minmax": Change("B-4", "min-max, on the base's scale", {"normalisation": "minmax"}),
    "second": Change("B-1", "training at the second site", site="second"),
    "both": Change("B-2", "both sites in training", site="both"),
    "text": Change("A to D", "variant text as a whole", profiles.TEXT | {"variant": "text"}),
}
"""Name of the training's folder -> the change."""

Scores = Mapping[str, list[dict[str, float]]]
"""Name of the setting -> what `train_one` returned, seed by seed."""


def base_settings(profile: str) -> Settings:
    """Return the settings that every change starts from: variant ``released``, small."""
    chosen = cohort.extent(profile)
    sizes = chosen.sizes | {"slices": chosen.slices, "seed": FIRST_SEED}
    return profiles.settings("paper", DATASET, TARGET, "mudiff", validate_every=sizes["epochs"], **sizes)


def train_one(profile: str, name: str, repeat: int = 0) -> dict[str, float]:
    """Train one setting, if that is not done yet, and return its scores.

    Parameters
    ----------
    profile : str
        Name of the profile.
    name : str
        A key of `CHANGES`, or "base".
    repeat : int
        Added to `FIRST_SEED`: weights, order and noise are drawn anew.

    Returns
    -------
    dict of str to float
        PSNR in dB (protocol ``masked``, mean over test subjects) at the "first" site, and at the "second" where
        sites are compared, on the base's scale; "own" is the first site's on the setting's own scale.
    """
    change = Change("", "") if name == "base" else CHANGES[name]
    settings = base_settings(profile).replace(**change.fields)
    settings = settings.replace(seed=FIRST_SEED + repeat)
    slices = cohort.prepared(profile, change.site, settings.normalisation)
    run = train.train(
        settings, slices, cohort.folder(profile) / "trainings" / f"{name}_{repeat}", progress=False
    )
    sites = ("first", "second") if name in ("base", "second", "both") else ("first",)
    tests = {site: cohort.prepared(profile, site, settings.normalisation) for site in sites}
    scales = {site: cohort.prepared(profile, site) for site in tests}
    hashes = [
        prepare.open_slices(folder, "test").info["data_hash"]
        for folder in (*tests.values(), *scales.values())
    ]
    key = {"weights": digest(run / "weights.safetensors"), "data": hashes}
    return kept(run / "score.json", key, lambda: _score(run, tests, scales))


def _score(run: Path, tests: dict[str, Path], scales: dict[str, Path]) -> dict[str, float]:
    method = runs.load(run, runs.default_device())
    scores = {}
    for site, folder in tests.items():
        slices, scale = prepare.open_slices(folder, "test"), prepare.open_slices(scales[site], "test")
        indices = np.arange(len(slices))
        synthetic = sample.sample_slices(method, slices, indices)
        brain, subjects = slices.brain(indices), slices.index["subject"].to_numpy()
        own, common = unit(slices, indices, TARGET), unit(scale, indices, TARGET)
        if site == "first":
            scores["own"] = subject_psnr(own, synthetic, brain, subjects)
        scores[site] = subject_psnr(common, rescaled(synthetic, own, common, subjects), brain, subjects)
    return scores


def rescaled(synthetic: np.ndarray, own: np.ndarray, common: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Bring slices from their own normalisation to a common one (B-4).

    Both normalisations are linear in the measured signal where the common one does not clip, so the line
    through the truth in both gives the factors of each volume.

    Parameters
    ----------
    synthetic : array (N, S, S)
        In [0, 1] of the own normalisation.
    own, common : array (N, S, S)
        The truth in both.
    subjects : array of str (N,)
        Whose each slice is.

    Returns
    -------
    array (N, S, S) in [0, 1]
    """
    if np.array_equal(own, common):
        return synthetic
    result = np.empty_like(synthetic)
    for name in np.unique(subjects):
        mine = subjects == name
        linear = (common[mine] > 0.02) & (common[mine] < 0.98)
        slope, offset = np.polyfit(own[mine][linear], common[mine][linear], 1)
        result[mine] = np.clip(slope * synthetic[mine] + offset, 0, 1)
    return result


def training_effects(profile: str, names: tuple[str, ...] = ()) -> list[Effect]:
    """Return the effects of the changes called `names`, trained where that is not done yet.

    Parameters
    ----------
    profile : str
        Name of the profile; `cohort.EXTENTS` says how much it trains.
    names : tuple of str, optional
        Keys of `CHANGES`; by default those of the profile.
    """
    from tqdm.auto import tqdm

    chosen = cohort.extent(profile)
    names = names or chosen.changes or tuple(CHANGES)
    work = [("base", k) for k in range(chosen.seeds)]
    work += [(name, k) for name in names for k in range(chosen.repeats)]
    scores: dict[str, list[dict[str, float]]] = {}
    for name, repeat in tqdm(work, desc="short trainings", unit="training", disable=None):
        scores.setdefault(name, []).append(train_one(profile, name, repeat))
    return [*_setting_effects(scores, names), *_site_effects(scores, names)]


def _take(scores: Scores, name: str, what: str) -> list[float]:
    return [score[what] for score in scores[name]]


def _setting_effects(scores: Scores, names: tuple[str, ...]) -> list[Effect]:
    """Return the effects of changed settings at the first site."""
    base = _take(scores, "base", "first")
    effects = []
    for name in (name for name in names if CHANGES[name].fields):
        change = CHANGES[name]
        effects.append(compare(change.id, change.name, base, _take(scores, name, "first")))
        if name == "minmax":
            own = _take(scores, name, "own")
            effects.append(compare(change.id, "min-max, each on its own scale", base, own))
    return effects


def _site_effects(scores: Scores, names: tuple[str, ...]) -> list[Effect]:
    """Return what sites do: B-1 by trainings at either one, tested at both, and B-2 by the mixed training.

    A site left out differs in two ways: the weights do not know it, and its images may be harder or easier
    for any weights. One direction has both; the crossed rows have one each.
    """
    here, there = (_take(scores, "base", site) for site in ("first", "second"))
    effects = [paired("B-1", "one way: trained at site 1, tested at 2", here, there)]
    if "second" in names:
        first, second = (_take(scores, "second", site) for site in ("first", "second"))
        effects.append(crossed("B-1", "both ways: site not trained at", (here, second), (there, first)))
        effects.append(crossed("B-1", "both ways: images of site 2", (here, first), (there, second)))
    if "both" in names:
        first, second = (_take(scores, "both", site) for site in ("first", "second"))
        effects.append(compare("B-2", "both sites trained, tested at site 2", there, second))
        mean = np.mean([first, second], axis=0)
        effects.append(paired("B-2", "both sites trained, tested at site 1 alone", mean, first))
    return effects
