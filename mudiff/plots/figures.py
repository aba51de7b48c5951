"""The artefacts that are figures, one function each.

They take a profile or scores and return a figure with its caption; `save` writes it. What they draw comes
from `mudiff.plots.old_style` and `mudiff.plots.pictures` and takes any number of tasks and methods.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.data import datasets
from mudiff.data.dataset import open_slices
from mudiff.data.masks import lesion_mask
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.evaluation import old_tables as tables
from mudiff.plots import old_style as plots
from mudiff.plots import pictures
from mudiff.plots.old_style import WINDOWS, Example, caption, save, style
from mudiff.plots.pictures import loss_curves, montage, normalisation_steps
from mudiff.training import profiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mudiff.data.dataset import Slices

__all__ = [
    "WINDOWS", "caption", "examples", "examples_of", "fig1a", "fig1d", "fig3a", "fig3b", "loss_curves", "montage",
    "normalisation_steps", "save", "style", "subject_counts", "supp1", "supp2", "supp5", "supp6",
]  # fmt: skip

_AXES = {"psnr": "PSNR$_T$ (dB)", "ssim": "SSIM$_T$", "mae": "MAE$_T$ (fraction of range)"}


def _about(profile: str) -> str:
    return f"Data: {tables.data_words(profile)}; profile {profile}."


# Fig. 1a: the cohorts


def subject_counts(profile: str) -> pd.DataFrame:
    """Return the prepared subjects: one row per prepared dataset, columns train, val and test.

    Raises
    ------
    MudiffError
        If no dataset is prepared.
    """
    counts = {}
    for name in dict.fromkeys(dataset for dataset, _ in tables.prepared_runs(profile)) | dict.fromkeys(
        name for name in datasets.DATASETS if paths.prepared(profile, name).is_dir()
    ):
        folder = paths.prepared(profile, name)
        counts[name] = {}
        for split in ("train", "val", "test"):
            try:
                counts[name][split] = len(open_slices(folder, split).subjects)
            except MudiffError:  # a manifest may leave a split empty
                counts[name][split] = 0
    return pd.DataFrame.from_dict(counts, orient="index")


def fig1a(profile: str) -> "Figure":
    """Draw Fig. 1a: subjects per dataset and split, and which contrasts each task has."""
    text = (
        "Subjects per split, and the contrasts of each synthesis task: a tick is a condition, a cross the target "
        f"that is synthesised, a dash a contrast that the dataset does not have. {_about(profile)}"
    )
    return pictures.cohorts(subject_counts(profile), text)


# Fig. 3 and Supplementary Data 1 and 2: pictures of syntheses


def examples(profile: str, dataset: str, first: int = 0, count: int = 1) -> list[Example]:
    """Load test slices and their syntheses for `plots.comparison`.

    Of each subject the slice with the largest lesion is taken, or the middle one where there is no lesion.

    Parameters
    ----------
    profile, dataset : str
        Names; the profile decides targets and methods.
    first, count : int
        Which test subjects, in the order of the manifest. With too few subjects, those from the start.

    Raises
    ------
    MudiffError
        If data or a run is missing, or the profile has no task on the dataset.
    """
    every = profiles.profile(profile).runs
    chosen = {target: methods for (name, target), methods in every.items() if name == dataset}
    if not chosen:
        raise MudiffError(f"profile {profile} has no task on dataset {dataset!r}; choose another dataset.")
    slices = open_slices(paths.prepared(profile, dataset), "test")
    return examples_of(
        slices,
        dataset,
        chosen,
        lambda target, method: paths.synthetic(
            profile, profiles.settings(profile, dataset, target, method).run_name
        ),
        slices.subjects[first : first + count] or slices.subjects[:count],
    )


def examples_of(
    slices: "Slices",
    dataset: str,
    chosen: Mapping[str, Sequence[str]],
    folder: Callable[[str, str], Path],
    subjects: Sequence[str],
) -> list[Example]:
    """Load slices of any cohort and their syntheses for `plots.comparison`; see `examples`.

    Parameters
    ----------
    slices : Slices
        The true slices.
    dataset : str
        Which decides whether lesion masks are widened.
    chosen : mapping of str to sequence of str
        Target -> methods.
    folder : callable
        Target and method -> folder of the syntheses.
    subjects : sequence of str
        The subjects, one row each for each target.
    """
    from mudiff.synthesis import sample

    rows = []
    for target, methods in chosen.items():
        for subject in subjects:
            indices = slices.subject(subject)
            area = (slices.lesion(indices) > 0).sum(axis=(1, 2))
            place = int(area.argmax()) if area.any() else len(indices) // 2
            here = indices[place : place + 1]
            synthetic = {m: sample.read_synthetic(folder(target, m), subject)[place] for m in methods}
            truth = (slices.images(here, target)[0] + 1) / 2  # [-1, 1] -> [0, 1]
            masks = slices.brain(here)[0], lesion_mask(slices.lesion(here)[0])
            rows.append(_example(dataset, target, truth, synthetic, masks))
    return rows


def _example(
    dataset: str,
    target: str,
    truth: np.ndarray,
    synthetic: Mapping[str, np.ndarray],
    masks: tuple[np.ndarray, np.ndarray],
) -> Example:
    brain, lesion = masks
    dilated = lesion_mask(lesion, datasets.dataset(dataset).dilate)
    ssim = {
        method: tuple(metrics.masked_protocol(truth, image, mask)["ssim"] for mask in (brain, dilated))
        for method, image in synthetic.items()
    }
    return Example(datasets.LABELS[target], target, truth, synthetic, brain, lesion, ssim)


def _compared(profile: str, dataset: str, rows: Sequence[Example], what: str) -> "Figure":
    label = datasets.dataset(dataset).label
    return plots.comparison(
        rows,
        f"{what} on {label}. Rows: missing contrast, synthesised from the others; the test slice with the "
        "subject's largest lesion. Insets: the largest lesion (of a large one the middle), enlarged from the box. "
        f"SSIM of the brain (B) and the lesion (T), protocol masked. {plots.ORIENTATION} {_about(profile)}",
    )


def fig3a(profile: str) -> "Figure":
    """Draw Fig. 3a: BraTS syntheses of the first test subject."""
    return _compared(profile, "brats", examples(profile, "brats"), "Synthesis")


def fig3b(profile: str) -> "Figure":
    """Draw Fig. 3b: ISLES syntheses of the first test subject."""
    return _compared(profile, "isles", examples(profile, "isles"), "Synthesis")


def supp1(profile: str) -> "Figure":
    """Draw Supplementary Data 1: BraTS syntheses of two further test subjects."""
    return _compared(profile, "brats", examples(profile, "brats", first=1, count=2), "Further syntheses")


def supp2(profile: str) -> "Figure":
    """Draw Supplementary Data 2: ISLES syntheses of two further test subjects."""
    return _compared(profile, "isles", examples(profile, "isles", first=1, count=2), "Further syntheses")


# Fig. 1d and Supplementary Data 5 and 6: box plots of lesion scores


def fig1d(scores: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 1d: PSNR, SSIM and MAE in the lesions per dataset and method.

    A dataset's tasks are taken together, as far as every method was trained for them.

    Parameters
    ----------
    scores : DataFrame
        From ``tables.score_runs(profile, "lesion")``.
    profile : str
        Name of the profile.
    """
    every = _slices(scores, None)
    chosen = _comparable(every)
    groups = chosen.dataset.map({name: d.label for name, d in datasets.DATASETS.items()})
    drawn = chosen.groupby("dataset", sort=False).target.unique()
    names = [
        f"{datasets.dataset(d).label} {', '.join(map(datasets.LABELS.get, t))}" for d, t in drawn.items()
    ]
    left = " Tasks that some method was not trained for are left out." if len(chosen) < len(every) else ""
    text = f"Lesion scores, tasks of a dataset together ({'; '.join(names)}).{left} {_counted(chosen)}"
    return pictures.boxes(chosen, groups, _AXES, f"{text} {_about(profile)}")


def _comparable(chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the tasks that have every method of their dataset: a method with easier tasks would look better."""
    methods = chosen.groupby("dataset").method.transform("nunique")
    full = chosen.groupby(["dataset", "target"]).method.transform("nunique") == methods
    return chosen[full] if full.any() else chosen


def supp5(scores: pd.DataFrame, profile: str) -> "Figure":
    """Draw Supplementary Data 5: PSNR and SSIM in the lesions per BraTS task and method; see `fig1d`."""
    return _per_task(scores, profile, "brats")


def supp6(scores: pd.DataFrame, profile: str) -> "Figure":
    """Draw Supplementary Data 6: PSNR and SSIM in the lesions per ISLES task and method; see `fig1d`."""
    return _per_task(scores, profile, "isles")


def _per_task(scores: pd.DataFrame, profile: str, dataset: str) -> "Figure":
    chosen = _slices(scores, dataset)
    label = datasets.dataset(dataset).label
    text = f"Lesion scores on {label} per missing contrast. {_counted(chosen)} {_about(profile)}"
    metrics_shown = {name: _AXES[name] for name in ("psnr", "ssim")}
    return pictures.boxes(chosen, chosen.target.map(datasets.LABELS), metrics_shown, text)


def _slices(scores: pd.DataFrame, dataset: str | None) -> pd.DataFrame:
    """Return the slices with a lesion under protocol ``masked``, of one dataset or of all."""
    chosen = scores[(scores.protocol == "masked") & (scores.unit == "slice") & scores.mae.notna()]
    if dataset:
        chosen = chosen[chosen.dataset == dataset]
    if chosen.empty:
        raise MudiffError(
            f"no lesion scores of {dataset or 'any dataset'}: the test subjects have no lesions."
        )
    return chosen


def _counted(chosen: pd.DataFrame) -> str:
    parts = []
    for name, part in chosen.groupby("dataset", sort=False):
        slices = part[["subject", "slice"]].drop_duplicates()
        parts.append(
            f"{datasets.dataset(name).label} {len(slices)} slices of {slices.subject.nunique()} subjects"
        )
    trained = chosen.groupby(["dataset", "target"]).method.nunique()
    gaps = " A method without a box was not trained for the task." if trained.min() < trained.max() else ""
    return f"Boxes over the slices with a lesion ({'; '.join(parts)}), protocol masked.{gaps}"
