"""The artefacts: which notebook makes which figure or table, and from which datasets."""

import ast
import base64
import html
import io
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mudiff import paths
from mudiff.data import datasets as tasks
from mudiff.errors import MudiffError

FIGURE, TABLE = (".png", ".svg"), (".csv", ".md", ".tex")
DRAWN = (*FIGURE, ".csv")  # a figure with the numbers that it draws
PROTOCOLS = ("_released", "_masked")


@dataclass(frozen=True)
class Artefact:
    """One figure or table: its notebook, its title, the files it is written as, the datasets it can show."""

    notebook: str
    title: str
    suffixes: tuple[str, ...] = FIGURE
    parts: tuple[str, ...] = ("",)
    datasets: tuple[str, ...] = ()  # one of them is enough; empty: whatever is there; "unseen": see `at_hand`

    def files(self, name: str) -> list[str]:
        """Return the names of the files, which begin with the artefact's `name`."""
        return [name + part + suffix for part in self.parts for suffix in self.suffixes]


@dataclass(frozen=True)
class Analysis:
    """What a notebook that draws needs.

    Attributes
    ----------
    reads : str
        "prepared" slices, all "synthetic" ones, "scores", the main "brats" runs, or the "ablations" with them.
    says : str
        What is printed while it runs.
    takes : str
        The parameter that the workflow may be given a file or folder for.
    """

    reads: str
    says: str
    takes: str = ""


ANALYSES = {
    "00_overview": Analysis("prepared", "Drawing the overview"),
    "04_whole_brain_metrics": Analysis("synthetic", "Scoring whole brains"),
    "05_lesion_metrics": Analysis("synthetic", "Scoring lesions"),
    "06_significance": Analysis("scores", "Testing differences"),
    "07_mutual_learning": Analysis("brats", "Comparing both networks"),
    "08_attention": Analysis("brats", "Looking at masks"),
    "09_motion_robustness": Analysis("brats", "Moving heads", "data_root"),
    "10_segmentation": Analysis("brats", "Segmenting tumours"),
    "11_ablations": Analysis("ablations", "Comparing ablations", "inception"),
    "12_generalisation": Analysis("scores", "Trying other subjects", "data_root"),
    "13_paper_versus_code": Analysis("brats", "Measuring what the differences do"),
}
"""Notebook -> what it needs, for all but preparation, training, sampling and the report."""

_LESIONS = ("brats", "isles")

ARTEFACTS = {
    "fig1a": Artefact("00_overview", "Fig. 1a: subjects, splits and contrasts"),
    "table1": Artefact(
        "04_whole_brain_metrics", "Table 1: accuracy in the whole brain", TABLE, PROTOCOLS, _LESIONS
    ),
    "fig3a": Artefact("04_whole_brain_metrics", "Fig. 3a: synthesis on BraTS", datasets=("brats",)),
    "fig3b": Artefact("04_whole_brain_metrics", "Fig. 3b: synthesis on ISLES", datasets=("isles",)),
    "supp1": Artefact("04_whole_brain_metrics", "Supplementary Data 1: more of BraTS", datasets=("brats",)),
    "supp2": Artefact("04_whole_brain_metrics", "Supplementary Data 2: more of ISLES", datasets=("isles",)),
    "table2": Artefact("05_lesion_metrics", "Table 2: accuracy in the lesions", TABLE, PROTOCOLS, _LESIONS),
    "fig1d": Artefact("05_lesion_metrics", "Fig. 1d: accuracy in the lesions, per method", datasets=_LESIONS),
    "supp5": Artefact(
        "05_lesion_metrics", "Supplementary Data 5: distributions on BraTS", datasets=("brats",)
    ),
    "supp6": Artefact(
        "05_lesion_metrics", "Supplementary Data 6: distributions on ISLES", datasets=("isles",)
    ),
    "significance": Artefact(
        "06_significance", "Significance of the differences", TABLE + FIGURE, datasets=_LESIONS
    ),
    "fig2b": Artefact(
        "07_mutual_learning", "Fig. 2b: alignment (CKA) of both networks", DRAWN, datasets=("brats",)
    ),
    "fig2c": Artefact("07_mutual_learning", "Fig. 2c: gates, losses, predictions", datasets=("brats",)),
    "fig5c": Artefact("07_mutual_learning", "Fig. 5c: each prediction and both", datasets=("brats",)),
    "fig5d": Artefact(
        "07_mutual_learning", "Fig. 5d: accuracy of each prediction and of both", DRAWN, datasets=("brats",)
    ),
    "fig5a": Artefact("08_attention", "Fig. 5a: maps of the contrast adapter", DRAWN, datasets=("brats",)),
    "fig5b": Artefact("08_attention", "Fig. 5b: attentive masks", DRAWN, datasets=("brats",)),
    "fig4a": Artefact("09_motion_robustness", "Fig. 4a: synthesis under motion", DRAWN, datasets=("brats",)),
    "fig4b": Artefact("09_motion_robustness", "Fig. 4b: accuracy under motion", DRAWN, datasets=("brats",)),
    "fig4c": Artefact(
        "10_segmentation", "Fig. 4c: Dice with synthetic contrasts", TABLE, datasets=("brats",)
    ),
    "fig4d": Artefact("10_segmentation", "Fig. 4d: tumour masks", datasets=("brats",)),
    "fig5e": Artefact("11_ablations", "Fig. 5e: number of steps T", DRAWN, datasets=("brats",)),
    "fig5f": Artefact("11_ablations", "Fig. 5f: critic and Fréchet distance", DRAWN, datasets=("brats",)),
    "fig5g": Artefact("11_ablations", "Fig. 5g: ablations, whole brain", DRAWN, datasets=("brats",)),
    "fig5h": Artefact("11_ablations", "Fig. 5h: ablations, lesions", DRAWN, datasets=("brats",)),
    "fig5i": Artefact("11_ablations", "Fig. 5i: pictures of each ablation", datasets=("brats",)),
    "supp3": Artefact(
        "12_generalisation", "Supplementary Data 3: unseen subjects", TABLE + FIGURE, datasets=("unseen",)
    ),
    "supp4a": Artefact(
        "12_generalisation", "Supplementary Data 4a: synthesis on healthy brains", datasets=("healthy",)
    ),
    "supp4b": Artefact(
        "12_generalisation",
        "Supplementary Data 4b: accuracy on healthy brains",
        TABLE,
        PROTOCOLS,
        ("healthy",),
    ),
}
"""Every artefact, in the order of the notebooks (Fig. 1b, 1c and 2a of the paper are drawings)."""


def possible(name: str, datasets: Collection[str] | None = None) -> bool:
    """Tell whether an artefact can be made from `datasets` (None: all of the paper's)."""
    wanted = ARTEFACTS[name].datasets
    return datasets is None or not wanted or not set(wanted).isdisjoint(datasets)


def at_hand(profile: str) -> list[str]:
    """Return the datasets that are prepared, and "unseen" where there are subjects that no training saw."""
    names = [name for name in tasks.DATASETS if paths.prepared(profile, name).is_dir()]
    return [*names, "unseen"] if (paths.unseen(profile, "brats") / "prepared").is_dir() else names


def files(notebook: str | None = None, datasets: Collection[str] | None = None) -> list[str]:
    """Return the names of the files that `notebook` (or all of them) writes into the figures' folder."""
    chosen = {k: a for k, a in ARTEFACTS.items() if notebook in (None, a.notebook) and possible(k, datasets)}
    return [file for name, artefact in chosen.items() for file in artefact.files(name)]


def code(start: str) -> list[str]:
    """Return the files of the package that a notebook or module imports, directly or not."""
    root = paths.root()
    found: set[Path] = set()
    waiting = [root / start]
    while waiting:
        new = _imports(waiting.pop(), root) - found
        found |= new
        waiting += new
    return sorted(str(path.relative_to(root)) for path in found)


def _imports(path: Path, root: Path) -> set[Path]:
    """Return the files of the package that one notebook or module imports, anywhere in it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = (root / f"{name.replace('.', '/')}{end}" for name in names for end in (".py", "/__init__.py"))
    return {file for file in files if file.is_relative_to(root / "mudiff") and file.is_file()}


def check_figures(folder: Path, datasets: Collection[str] | None = None) -> None:
    """Check that a figures' folder holds every artefact that `datasets` suffice for, and nothing else.

    Raises
    ------
    MudiffError
        If a file is missing, or is there and no notebook writes it: it may be left from another time.
    """
    there = {path.name for path in Path(folder).iterdir() if not path.name.startswith(".")}
    expected = set(files(datasets=datasets))
    if there - expected:
        raise MudiffError(f"{folder}: no notebook writes {', '.join(sorted(there - expected))}; delete it.")
    if expected - there:
        raise MudiffError(f"{folder}: {', '.join(sorted(expected - there))} missing; run make reproduce.")


def gallery(folder: Path) -> Any:
    """Return a thumbnail of every artefact with the notebook that makes it, as HTML for a notebook's output.

    Parameters
    ----------
    folder : Path
        The figures' folder.
    """
    from IPython.display import HTML

    tiles = []
    for name, artefact in ARTEFACTS.items():
        there = [Path(folder) / file for file in artefact.files(name) if (Path(folder) / file).exists()]
        pictures = [path for path in there if path.suffix == ".png"]
        shown = _thumbnail((pictures or there)[0], artefact.title) if there else "<p>not made</p>"
        names = " ".join(f'<code class="file">{path.name}</code>' for path in there)
        tiles.append(
            f'<figure class="tile">{shown}<figcaption><b>{html.escape(artefact.title)}</b><br>'
            f'{names}<br>from <a href="{artefact.notebook}.ipynb">{artefact.notebook}</a></figcaption></figure>'
        )
    return HTML('<div class="gallery">' + "".join(tiles) + "</div>")


def _thumbnail(path: Path, title: str, width: int = 360) -> str:
    if path.suffix == ".csv":
        return _preview(path)
    from PIL import Image

    with Image.open(path) as image:
        image.thumbnail((width, width))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def _preview(path: Path) -> str:
    """Return what a thumbnail has room for: the best methods of each task, or Dice; else the table's beginning."""
    import pandas as pd

    frame = pd.read_csv(path)
    if {"metric", "rank"} <= set(frame):
        return _best_methods(frame)
    if {"task", "method", "dice"} <= set(frame):
        whole = frame[frame["region"] == "whole"]
        small = whole.pivot_table(index="task", columns="method", values="dice", sort=False)
        small = small.rename(columns=tasks.METHODS).rename_axis(columns=None).reset_index()
        text = "<small>Dice of the whole tumour, mean over subjects</small>"
        return text + small.to_html(index=False, border=0, float_format="{:.3f}".format, na_rep="–")
    return frame.iloc[:5, :4].to_html(index=False, border=0, float_format="{:.3g}".format, na_rep="–")


def _best_methods(frame: Any) -> str:
    psnr = frame[(frame["metric"] == "psnr") & frame["rank"].isin((1, 2))]
    task = psnr["dataset"].map(lambda d: tasks.DATASETS[d].label) + " " + psnr["target"].map(tasks.LABELS)
    cell = psnr["method"].map(tasks.METHODS) + psnr["mean"].map(" {:.2f}".format)
    place = psnr["rank"].map({1: "best", 2: "second best"})
    small = cell.groupby([task.rename("task"), place], sort=False).agg(", ".join).unstack()
    small = (
        small.reindex(index=task.unique(), columns=["best", "second best"]).fillna("–").rename_axis("task")
    )
    text = f"<small>PSNR in dB, protocol {html.escape(frame['protocol'][0])}</small>"
    return text + small.rename_axis(columns=None).reset_index().to_html(index=False, border=0)
