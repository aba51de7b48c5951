"""The artefacts: which notebook makes which figure or table, from which datasets and from which code."""

import ast
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mudiff import paths
from mudiff.data import datasets
from mudiff.errors import MudiffError

FIGURE, TABLE = (".png", ".svg", ".txt"), (".csv", ".md", ".tex")
DRAWN = (*FIGURE, ".csv")  # a figure with the numbers that it draws
BOTH = ("_released", "_masked")  # a table under both protocols
_B, _I, _H, _U = "brats", "isles", "healthy", "unseen"


@dataclass(frozen=True)
class Artefact:
    """A figure or table that a notebook makes of one of some datasets; files: its name, a part, a suffix."""

    notebook: str
    title: str
    datasets: tuple[str, ...]  # one is enough; "unseen": see `at_hand`
    suffixes: tuple[str, ...] = FIGURE
    parts: tuple[str, ...] = ("",)

    def files(self, name: str) -> list[str]:
        """Return the names of the files."""
        return [name + part + suffix for part in self.parts for suffix in self.suffixes]


ARTEFACTS = {
    "fig1a": Artefact("00_overview", "Fig. 1a: subjects, splits and contrasts", tuple(datasets.DATASETS)),
    "table1": Artefact("04_whole_brain_metrics", "Table 1: accuracy in the whole brain", (_B, _I), TABLE, BOTH),
    "fig3a": Artefact("04_whole_brain_metrics", "Fig. 3a: synthesis on BraTS", (_B,)),
    "fig3b": Artefact("04_whole_brain_metrics", "Fig. 3b: synthesis on ISLES", (_I,)),
    "supp1": Artefact("04_whole_brain_metrics", "Supplementary Data 1: more of BraTS", (_B,)),
    "supp2": Artefact("04_whole_brain_metrics", "Supplementary Data 2: more of ISLES", (_I,)),
    "table2": Artefact("05_lesion_metrics", "Table 2: accuracy in the lesions", (_B, _I), TABLE, BOTH),
    "fig1d": Artefact("05_lesion_metrics", "Fig. 1d: accuracy in the lesions, per method", (_B, _I)),
    "supp5": Artefact("05_lesion_metrics", "Supplementary Data 5: distributions on BraTS", (_B,)),
    "supp6": Artefact("05_lesion_metrics", "Supplementary Data 6: distributions on ISLES", (_I,)),
    "significance": Artefact("06_significance", "Significance of the differences", (_B, _I), TABLE + FIGURE),
    "fig2b": Artefact("07_mutual_learning", "Fig. 2b: alignment (CKA) of both networks", (_B,), DRAWN),
    "fig2c": Artefact("07_mutual_learning", "Fig. 2c: gates, losses, predictions", (_B,)),
    "fig5c": Artefact("07_mutual_learning", "Fig. 5c: each prediction and both", (_B,)),
    "fig5d": Artefact("07_mutual_learning", "Fig. 5d: accuracy of each prediction and of both", (_B,), DRAWN),
    "fig5a": Artefact("08_attention", "Fig. 5a: maps of the contrast adapter", (_B,), DRAWN),
    "fig5b": Artefact("08_attention", "Fig. 5b: attentive masks", (_B,), DRAWN),
    "fig5b_critic": Artefact("08_attention", "Fig. 5b: what the critic tells apart", (_B,), (".csv",)),
    "fig4a": Artefact("09_motion_robustness", "Fig. 4a: synthesis under motion", (_B,), DRAWN),
    "fig4b": Artefact("09_motion_robustness", "Fig. 4b: accuracy under motion", (_B,), DRAWN),
    "fig4c": Artefact("10_segmentation", "Fig. 4c: Dice with synthetic contrasts", (_B,), TABLE),
    "fig4d": Artefact("10_segmentation", "Fig. 4d: tumour masks", (_B,)),
    "fig5e": Artefact("11_ablations", "Fig. 5e: number of steps T", (_B,), DRAWN),
    "fig5f": Artefact("11_ablations", "Fig. 5f: critic and Fréchet distance", (_B,), DRAWN),
    "fig5g": Artefact("11_ablations", "Fig. 5g: ablations, whole brain", (_B,), DRAWN),
    "fig5h": Artefact("11_ablations", "Fig. 5h: ablations, lesions", (_B,), DRAWN),
    "fig5i": Artefact("11_ablations", "Fig. 5i: pictures of each ablation", (_B,)),
    "supp3": Artefact("12_generalisation", "Supplementary Data 3: unseen subjects", (_U,), TABLE + FIGURE),
    "supp4a": Artefact("12_generalisation", "Supplementary Data 4a: healthy subjects", (_H,)),
    "supp4b": Artefact("12_generalisation", "Supplementary Data 4b: healthy subjects", (_H,), TABLE, BOTH),
    "any1": Artefact("15_any_subset", "Beyond the paper: every target from every subset", (_B,), TABLE + FIGURE),
    "any2": Artefact("15_any_subset", "Beyond the paper: from one contrast to all", (_B,)),
}
"""Name (with which the files begin) -> artefact, in the order of the notebooks."""


@dataclass(frozen=True)
class Analysis:
    """What a notebook that draws needs."""

    reads: str  # "prepared", "synthetic", "scores", "brats" (its main runs), "ablations" or "any" (with them)
    says: str  # printed while it runs
    takes: str = ""  # parameter that the workflow may be given a file or folder for


ANALYSES = {
    "00_overview": Analysis("prepared", "Drawing the overview"),
    "04_whole_brain_metrics": Analysis("synthetic", "Scoring whole brains"),
    "05_lesion_metrics": Analysis("synthetic", "Scoring lesions"),
    "06_significance": Analysis("scores", "Testing differences"),
    "07_mutual_learning": Analysis("brats", "Comparing both networks"),
    "08_attention": Analysis("any", "Looking at masks"),
    "09_motion_robustness": Analysis("brats", "Moving heads", "data_root"),
    "10_segmentation": Analysis("brats", "Segmenting tumours"),
    "11_ablations": Analysis("ablations", "Comparing ablations", "inception"),
    "12_generalisation": Analysis("scores", "Trying other subjects", "data_root"),
    "13_paper_versus_code": Analysis("brats", "Measuring what the differences do"),
    "15_any_subset": Analysis("any", "Leaving contrasts out"),
}
"""Notebook -> what it needs, for all but preparation, training, sampling and the report."""


def at_hand(profile: str) -> list[str]:
    """Return the datasets that are prepared, and "unseen" where there are subjects that no training saw."""
    names = [name for name in datasets.DATASETS if paths.prepared(profile, name).is_dir()]
    return names + ["unseen"] * (paths.unseen(profile, "brats") / "prepared").is_dir()


def files(notebook: str | None = None, available: Collection[str] | None = None) -> list[str]:
    """Return the files that a notebook (or all) writes into the figures' folder from the `available` datasets."""
    there = {*datasets.DATASETS, _U} if available is None else {*available}
    chosen = {k: a for k, a in ARTEFACTS.items() if notebook in (None, a.notebook) and there & {*a.datasets}}
    return [file for name, artefact in chosen.items() for file in artefact.files(name)]


def code(start: str) -> list[str]:
    """Return the files of the package that a notebook or module imports, directly or not."""
    found, waiting = set(), [start]
    while waiting:
        new = _imports(waiting.pop(), paths.root()) - found
        found |= new
        waiting += new
    return sorted(found)


def _imports(file: str, root: Path) -> set[str]:
    """Return the files of the package that one notebook or module imports, anywhere in it."""
    text = (root / file).read_text(encoding="utf-8")
    if file.endswith(".ipynb"):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    own = [name.replace(".", "/") for name in names if f"{name}.".startswith("mudiff.")]
    return {path for name in own for path in (f"{name}.py", f"{name}/__init__.py") if (root / path).is_file()}


def check_figures(folder: Path, available: Collection[str] | None = None) -> None:
    """Refuse a figures' folder without an artefact that the datasets suffice for, or with a file of no notebook."""
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    expected = set(files(available=available))
    if stale := ", ".join(sorted(there - expected)):
        raise MudiffError(f"{folder}: no notebook writes {stale}; delete it.")
    if missing := ", ".join(sorted(expected - there)):
        raise MudiffError(f"{folder}: {missing} missing; run make reproduce.")
