"""Supplementary Data 3 and 4: the table of known and unseen subjects, and the pictures."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mudiff.analyses import cohorts
from mudiff.analyses.cohorts import Chosen, Cohort
from mudiff.analyses.generalisation import COHORTS, REGIONS
from mudiff.data import datasets
from mudiff.evaluation import metrics
from mudiff.evaluation import old_tables as tables
from mudiff.phantoms import signals
from mudiff.plots import figures
from mudiff.plots import old_style as style
from mudiff.plots.old_style import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["caption", "examples", "latex", "markdown", "save", "scanner_settings", "supp3", "supp4a", "write"]

_SETTINGS = {
    "tr": "TR (s)",
    "te": "TE (s)",
    "flip": "flip angle (°)",
    "dose": "contrast agent (standard doses)",
    "null": "inversion time (1 nulls CSF)",
    "b": "b (s/mm²)",
    "thickness": "slice thickness (mm)",
    "coil": "coil inhomogeneity (SD of log)",
    "snr": "signal over noise",
}
_DECIMALS = {"psnr": 2, "ssim": 3, "mae": 3}
_HEADINGS = {"psnr": "PSNR ↑ (dB)", "ssim": "SSIM ↑", "mae": "MAE ↓"}


def scanner_settings(dataset: str) -> pd.DataFrame:
    """Return the ranges of the settings of the known and of the unseen phantoms' scanner.

    The healthy cohort's T1 is not in it: that is a gradient echo with settings of its own.
    """
    rows = {
        (datasets.LABELS[contrast], _SETTINGS[name]): [
            _range(signals.SCANNERS[scanner][contrast][name]) for scanner in (0, cohorts.SCANNER)
        ]
        for contrast in datasets.dataset(dataset).contrasts
        if (dataset, contrast) != ("healthy", "t1")
        for name in signals.SCANNERS[0][contrast]
    }
    index = pd.MultiIndex.from_tuples(rows, names=["contrast", "setting"])
    return pd.DataFrame(list(rows.values()), index, columns=["known", "unseen"])


def _range(limits: tuple[float, float]) -> str:
    return " to ".join(f"{limit:g}" for limit in dict.fromkeys(limits))


def caption(unseen: Cohort, chosen: Chosen) -> str:
    """Return the caption of the table of known and unseen subjects.

    Parameters
    ----------
    unseen : Cohort
        The cohort that the table compares with the known one.
    chosen : mapping of str to sequence of str
        Target -> methods in the table.
    """
    own = cohorts.known(unseen.profile, unseen.dataset)
    return (
        f"Generalisation without retraining. Trained on: {_of_training(unseen)}. Known: {own.words}. Unseen: "
        f"{unseen.words}. {_differences(unseen)}"
        f"Profile {unseen.profile}. Mean ± standard deviation over subjects (protocol masked) or slices (protocol "
        "released). Change: unseen − known; in brackets its 95 % interval (Welch), over subjects only. "
        f"The runs are those of Table 1.{_left_out(unseen, chosen)}"
    )


def _differences(unseen: Cohort) -> str:
    """Return in words what sets the unseen phantoms' scanner apart; nothing for data of the reader's own."""
    if not unseen.phantoms:
        return ""
    frame = scanner_settings(unseen.dataset)
    unlike = frame[frame.known != frame.unseen].index.get_level_values(1).unique()
    return f"Other ranges of {', '.join(name.split(' (')[0] for name in unlike)}; other brains. "


def markdown(frame: pd.DataFrame, text: str) -> str:
    """Return the table as Markdown, one block per region, protocol and target, `text` as its caption."""
    return tables.blocks_markdown(_blocks(frame), text)


def latex(frame: pd.DataFrame, text: str) -> str:
    """Return the table as LaTeX (packages booktabs and graphicx), one tabular per block of `markdown`."""
    return tables.blocks_latex(_blocks(frame), text)


def _blocks(frame: pd.DataFrame) -> list[tuple[list[str], list[list[str]]]]:
    """Return headings, the first a title, and rows of texts of each region, protocol and target."""
    blocks = []
    for (region, protocol, target), part in frame.groupby(["region", "protocol", "target"], sort=False):
        n = " + ".join(str(part[f"{name}_n"].max()) for name in COHORTS)
        title = f"{datasets.LABELS[target]}, {REGIONS[region].lower()}, {protocol} ({n} {part.unit.iloc[0]}s)"
        heads = [f"{_HEADINGS[m]} {name}" for m in metrics.METRICS for name in (*COHORTS, "change")]
        cells = {(row.method, row.metric): _cells(row) for row in part.itertuples()}
        body = [
            [
                datasets.METHODS[method],
                *(text for metric in metrics.METRICS for text in cells[method, metric]),
            ]
            for method in part.method.unique()
        ]
        blocks.append(([title, *heads], body))
    return blocks


def _cells(row: object) -> list[str]:
    """Return mean and deviation of both cohorts, and the change, of one metric."""
    digits = _DECIMALS[row.metric]
    texts = []
    for name in COHORTS:
        mean, deviation = getattr(row, name), getattr(row, f"{name}_sd")
        texts.append("NA" if math.isnan(mean) else f"{mean:.{digits}f} ± {_number(deviation, digits)}")
    limits = f" ({_number(row.low, digits, '+')} to {_number(row.high, digits, '+')})"
    return [*texts, _number(row.change, digits, "+") + ("" if math.isnan(row.low) else limits)]


def _number(value: float, digits: int, sign: str = "") -> str:
    return "NA" if math.isnan(value) else f"{value:{sign}.{digits}f}".replace("-", "−").replace("inf", "∞")


def write(frame: pd.DataFrame, path: Path | str, text: str) -> None:
    """Write the table as ``.csv`` (tidy, numeric), ``.md`` and ``.tex`` with the caption `text`.

    Parameters
    ----------
    frame : DataFrame
        From `mudiff.analyses.generalisation.changes`.
    path : Path or str
        The files' path without suffix.
    text : str
        The caption, see `caption`; the CSV has none.
    """
    tables.write_files(frame, path, markdown(frame, text), latex(frame, text))


def examples(cohort: Cohort, chosen: Chosen, count: int = 1) -> list[style.Example]:
    """Load one slice of each of the first subjects and its syntheses, for `plots.comparison`.

    Of each subject the slice with the largest lesion is taken, or the middle one where there is no lesion.

    Parameters
    ----------
    cohort : Cohort
        Known or unseen.
    chosen : mapping of str to sequence of str
        Target -> methods.
    count : int
        How many subjects of each target.
    """
    slices = cohort.slices()
    return figures.examples_of(slices, cohort.dataset, chosen, cohort.folder, slices.subjects[:count])


def supp3(unseen: Cohort, chosen: Chosen) -> "Figure":
    """Draw Supplementary Data 3: syntheses of unseen subjects, two of them if there is one target."""
    rows = examples(unseen, chosen, count=2 if len(chosen) == 1 else 1)
    return style.comparison(
        rows,
        f"Synthesis for subjects that no training saw, without retraining. Trained on: {_of_training(unseen)}. "
        f"Unseen: {unseen.words}. {_differences(unseen)}Rows: missing contrast, synthesised from the others; the "
        "slice with the subject's largest lesion. Insets: the largest lesion (of a large one the middle), enlarged "
        f"from the box. SSIM of the brain (B) and the lesion (T), protocol masked. {style.ORIENTATION} Profile "
        f"{unseen.profile}.{_left_out(unseen, chosen)}",
    )


def supp4a(healthy: Cohort, chosen: Chosen) -> "Figure":
    """Draw Supplementary Data 4a: syntheses of healthy test subjects, two of them if there is one target."""
    rows = examples(healthy, chosen, count=2 if len(chosen) == 1 else 1)
    return style.comparison(
        rows,
        "Synthesis for healthy subjects. Rows: missing contrast, synthesised from "
        "the others; the middle slice of a test subject. SSIM of the brain (B), protocol masked. "
        f"{style.ORIENTATION} Data: {tables.data_words(healthy.profile)}; profile {healthy.profile}.",
    )


def _left_out(unseen: Cohort, chosen: Chosen) -> str:
    """Return a sentence on the trained targets and methods that were not sampled; nothing if all were."""
    every = cohorts.trained(unseen.profile, unseen.dataset)
    fewer = {method for target in chosen for method in every[target] if method not in chosen[target]}
    names = [datasets.METHODS[method] for method in style.ordered(fewer)]
    names += [datasets.LABELS[target] for target in every if target not in chosen]
    return f" Trained, but not applied here: {', '.join(names)}." if names else ""


def _of_training(unseen: Cohort) -> str:
    label = datasets.dataset(unseen.dataset).label
    return f"{label} ({tables.data_words(unseen.profile)})"
