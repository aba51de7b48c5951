"""The paper's tables as data: datasets, contrasts, targets and methods."""

from collections.abc import Collection
from dataclasses import dataclass

from mudiff.errors import MudiffError

PHANTOM_MARK = "mudiff phantom"
"""How the NIfTI field `descrip` of a phantom's volume begins: it tells phantoms from patients."""

ANY = "any"
"""The target of a run that makes every contrast of its dataset from any subset of the others (X-1)."""

LABELS = {"t1": "T1", "t1ce": "T1CE", "t2": "T2", "flair": "FLAIR", "dwi": "DWI"}
"""Contrast name in code and file names -> name in figures and tables."""

METHODS = {
    "pix2pix": "Pix2Pix", "pgan": "pGAN", "mmgan": "MM-GAN", "hinet": "Hi-Net", "ddpm": "DDPM",
    "syndiff": "SynDiff", "mudiff": "MU-Diff", "linear": "Linear",
}  # fmt: skip
"""Method name in code and file names -> name in figures and tables: the paper's seven, and our floor."""

ANY_METHODS = ("mudiff", "mmgan", "linear")
"""The methods that take target `ANY`."""

BASELINES = ("pix2pix", "pgan", "mmgan", "hinet", "ddpm", "syndiff")
"""The methods that the paper compares MU-Diff with (section "Competing methods")."""


@dataclass(frozen=True)
class Dataset:
    """One cohort of the paper (sections "Datasets" and "Evaluation procedure")."""

    name: str  # in code
    label: str  # in text
    contrasts: tuple[str, ...]  # all that the cohort has, in the order of the slice cache
    # Target -> conditions. Their order is part of the method (register D-3) and is that of the released training
    # code; the paper states none for the healthy cohort, ours is fixed here.
    targets: dict[str, tuple[str, ...]]
    slices: int = 80  # middle axial slices per subject
    lesions: bool = True  # whether there are lesion masks
    dilate: bool = False  # whether lesion masks are dilated for the metrics

    def conditions(self, target: str) -> tuple[str, ...]:
        """Return the conditions of `target`, in the order that the networks take them; of `ANY` all contrasts."""
        if target == ANY:
            return self.contrasts
        return self.targets[known(f"{self.label} target", target, self.targets)]


_FOUR_CONTRASTS = {
    "t1ce": ("flair", "t2", "t1"), "flair": ("t1ce", "t1", "t2"),
    "t2": ("t1ce", "t1", "flair"), "t1": ("flair", "t1ce", "t2"),
}  # fmt: skip

DATASETS = {
    "brats": Dataset("brats", "BraTS", ("t1", "t1ce", "t2", "flair"), _FOUR_CONTRASTS),
    "isles": Dataset("isles", "ISLES", ("t1", "t2", "flair", "dwi"), {
        "flair": ("t1", "t2", "dwi"), "t1": ("t2", "dwi", "flair"),
    }, dilate=True),
    "healthy": Dataset("healthy", "Healthy", ("t1", "t2", "flair"), {
        "flair": ("t1", "t2"), "t2": ("t1", "flair"), "t1": ("flair", "t2"),
    }, slices=100, lesions=False),
    "open_ms": Dataset("open_ms", "Open MS", ("t1", "t1ce", "t2", "flair"), _FOUR_CONTRASTS),
}  # fmt: skip


def known(kind: str, name: str, choices: Collection[str]) -> str:
    """Return `name` if it is one of the choices; a MudiffError lists them."""
    if name not in choices:
        raise MudiffError(f"{kind} {name!r} is unknown: choose one of {', '.join(choices)}.")
    return name


def dataset(name: str) -> Dataset:
    """Return the dataset called `name`."""
    return DATASETS[known("dataset", name, DATASETS)]


def contrast(name: str) -> str:
    """Return the canonical name of a contrast: ``T1CE``, ``T1ce`` and ``t1ce`` are ``t1ce``."""
    if name.lower() not in LABELS:
        raise MudiffError(f"target {name!r} is unknown: choose one of {', '.join(LABELS.values())}.")
    return name.lower()
