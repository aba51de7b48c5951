"""What the paper claims of its analyses, decided by the CSV files that the other notebooks leave.

Each claim names the artefact whose CSV decides it, and the rule of `analysis_rules` that reads it. Where the file
is missing, the claim cannot be decided.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pandas as pd

from mudiff.errors import MudiffError
from mudiff.evaluation import analysis_rules as rules
from mudiff.evaluation.verdicts import COLUMNS, OPEN, Decided
from mudiff.workflow import artefacts

MASKS = {
    "convolution": "by an untrained 1 x 1 convolution, as in the code",
    "channel_mean": "by the mean over the channels, as in the text (Eq. 28)",
}
"""Variant of the masks -> how they are made of the critic's features."""

REGIONS = {"brain": "whole brain", "lesion": "lesions"}
PARTS = {
    "abl1": "abl1, one network alone",
    "abl2": "abl2, two networks like F1 without feature adaptation",
    "abl3_text": "abl3 as in the text, without the contrast-aware adaptation tau",
    "abl3_caption": "abl3 as in the caption, without the target-specific adaptation rho",
    "abl4": "abl4, without the mask loss",
}
"""Ablation -> what it is."""


@dataclass(frozen=True)
class Claim:
    """A claim: its group, its words, where the paper makes it, whose CSV decides it, and how.

    Where two artefacts are named, their rows come together, told apart by column ``artefact``.
    """

    group: str
    words: str
    where: str
    artefact: str
    decide: Callable[[pd.DataFrame], Decided]


def decide(folder: Path) -> pd.DataFrame:
    """Compare the claims on the analyses with the CSV files of a figures' folder.

    Parameters
    ----------
    folder : Path
        The figures' folder.

    Returns
    -------
    DataFrame
        As `mudiff.evaluation.old_claims.decide`; a claim whose CSV is missing names the notebook that makes it.

    Raises
    ------
    MudiffError
        If a CSV cannot be read or lacks a column.
    """
    frames = cache(partial(read, Path(folder)))
    rows = [(c.group, c.words, c.where, *_decide(c, frames)) for c in CLAIMS]
    return pd.DataFrame(rows, columns=COLUMNS)


def read(folder: Path, artefact: str) -> pd.DataFrame | None:
    """Return the CSV of an artefact, None where it is not there.

    Raises
    ------
    MudiffError
        If it cannot be read.
    """
    file = folder / f"{artefact}.csv"
    if not file.is_file():
        return None
    try:
        return pd.read_csv(file, dtype={"subject": str})
    except (ValueError, OSError) as error:
        raise MudiffError(
            f"{file}: cannot be read ({error}); run notebook {_maker(artefact)} again."
        ) from None


def missing(artefact: str) -> Decided:
    """Return what is said of a claim whose CSV is not there."""
    return f"{artefact}.csv is not there; notebook {_maker(artefact)} makes it", "", OPEN


def _maker(artefact: str) -> str:
    return artefacts.ARTEFACTS[artefact.partition("_")[0]].notebook


def _decide(claim: Claim, frames: Callable[[str], pd.DataFrame | None]) -> Decided:
    found = {artefact: frames(artefact) for artefact in claim.artefact.split()}
    for artefact, frame in found.items():
        if frame is None:
            return missing(artefact)
    frame = pd.concat([frame.assign(artefact=artefact) for artefact, frame in found.items()])
    try:
        return claim.decide(frame)
    except KeyError as error:
        raise MudiffError(
            f"{claim.artefact}.csv: no {error} in it; run notebook {_maker(artefact)} again."
        ) from None


# The claims

_MUTUAL, _LAYERS = "Mutual learning", "Results, mutually learned representation; Fig. 2b"
_SHIFT, _DICE = "Results, robustness to motion; Fig. 4b", "Results, lesion segmentation; Fig. 4c"
_ABLATION = "Methods, ablation study; Fig. 5{}"

CLAIMS = (
    Claim(
        _MUTUAL,
        "Encoders learn dissimilar representations: most CKA values are below 0.55",
        _LAYERS,
        "fig2b",
        partial(rules.share, part="encoder", threshold=0.55, above=False),
    ),
    Claim(
        _MUTUAL,
        "The first encoder layers are more dissimilar than the later ones",
        _LAYERS,
        "fig2b",
        partial(rules.order, part="encoder", sense=1),
    ),
    Claim(
        _MUTUAL,
        "Many CKA values of the first decoder layers are above 0.7",
        _LAYERS,
        "fig2b",
        partial(rules.share, part="decoder", threshold=0.7, above=True, first=True),
    ),
    Claim(
        _MUTUAL,
        "Towards the last decoder layers the representations become distinct again",
        _LAYERS,
        "fig2b",
        partial(rules.order, part="decoder", sense=-1),
    ),
    *(
        Claim(
            _MUTUAL,
            f"The mutual prediction is better than that of each network alone: {words}",
            "Methods, training and inference; Fig. 5d",
            "fig5d",
            partial(rules.mutual, region=region),
        )
        for region, words in REGIONS.items()
    ),
    Claim(
        "Attention",
        "Features of FLAIR concentrate on the lesion, more than the image does",
        "Results, adaptive feature selection; Fig. 5a (the image as a control is ours)",
        "fig5a",
        partial(rules.concentrated, condition="flair"),
    ),
    *(
        Claim(
            "Attention",
            f"The masks M1 and M2 are higher on lesion boundaries than in lesions and elsewhere: {words}",
            "Results, lesion uncertainty; Fig. 5b",
            "fig5b",
            partial(rules.boundary, variant=variant),
        )
        for variant, words in MASKS.items()
    ),
    *(
        Claim("Motion", f"{words}: {name}", _SHIFT, "fig4b", partial(how, region=region))
        for words, how in {
            "MU-Diff keeps its scores when FLAIR has motion artefacts": rules.kept,
            "MU-Diff beats SynDiff when FLAIR has motion artefacts": rules.with_motion,
            "Motion artefacts cost MU-Diff less than SynDiff": rules.robust,
        }.items()
        for region, name in REGIONS.items()
    ),
    *(
        Claim(
            "Segmentation",
            f"Dice of the whole tumour is higher with MU-Diff's than with SynDiff's images: task {task}",
            _DICE,
            "fig4c",
            partial(rules.segments, task=task),
        )
        for task in rules.TASKS
    ),
    Claim(
        "Segmentation",
        'In many tasks Dice with MU-Diff\'s images is close to "complete"',
        _DICE,
        "fig4c",
        rules.closeness,
    ),
    Claim(
        "Segmentation",
        'Dice with MU-Diff\'s T1CE surpasses "complete"',
        _DICE,
        "fig4c",
        partial(rules.surpasses, task=rules.T1CE_TASK),
    ),
    *(
        Claim("Ablations", f"{words}: {name}", _ABLATION.format("e"), "fig5e", partial(how, region=region))
        for words, how in {
            "T = 4 is better than T = 2": rules.more_steps,
            "T = 4 is enough: from 4 to 8 steps less is gained than from 2 to 4": rules.enough_steps,
        }.items()
        for region, name in REGIONS.items()
    ),
    Claim("Ablations", "The critic lowers the FID", _ABLATION.format("f"), "fig5f", rules.critic),
    *(
        Claim(
            "Ablations",
            f"The full model is better than {words}: {name}",
            _ABLATION.format("g" if region == "brain" else "h"),
            "fig5g" if region == "brain" else "fig5h",
            partial(rules.contributes, variant=variant),
        )
        for region, name in REGIONS.items()
        for variant, words in PARTS.items()
    ),
    Claim(
        "Ablations",
        "The parts contribute more within lesions than in the whole brain",
        _ABLATION.format("g, 5h"),
        "fig5g fig5h",
        rules.especially,
    ),
)
"""The claims that one CSV decides, in the order of the notebooks."""
