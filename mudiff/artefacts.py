"""The artefacts: which notebook makes which figure or table, and what they say of the paper's claims."""

import base64
import html
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudiff import tasks
from mudiff.errors import MudiffError

if TYPE_CHECKING:
    import pandas as pd

FIGURE, TABLE = (".png", ".svg"), (".csv", ".md", ".tex")
PROTOCOLS = ("_released", "_masked")


@dataclass(frozen=True)
class Artefact:
    """One figure or table: its notebook, its title, the files it is written as, the dataset it shows."""

    notebook: str
    title: str
    suffixes: tuple[str, ...] = FIGURE
    parts: tuple[str, ...] = ("",)
    dataset: str | None = None  # None: whatever is there

    def files(self, name: str) -> list[str]:
        """Return the names of the files, which begin with the artefact's `name`."""
        return [name + part + suffix for part in self.parts for suffix in self.suffixes]


ARTEFACTS = {
    "fig1a": Artefact("00_overview", "Fig. 1a: subjects, splits and contrasts"),
    "table1": Artefact("04_whole_brain_metrics", "Table 1: accuracy in the whole brain", TABLE, PROTOCOLS),
    "fig3a": Artefact("04_whole_brain_metrics", "Fig. 3a: synthesis on BraTS", dataset="brats"),
    "fig3b": Artefact("04_whole_brain_metrics", "Fig. 3b: synthesis on ISLES", dataset="isles"),
    "supp1": Artefact("04_whole_brain_metrics", "Supplementary Data 1: more of BraTS", dataset="brats"),
    "supp2": Artefact("04_whole_brain_metrics", "Supplementary Data 2: more of ISLES", dataset="isles"),
    "table2": Artefact("05_lesion_metrics", "Table 2: accuracy in the lesions", TABLE, PROTOCOLS),
    "fig1d": Artefact("05_lesion_metrics", "Fig. 1d: accuracy in the lesions, per method"),
    "supp5": Artefact("05_lesion_metrics", "Supplementary Data 5: distributions on BraTS", dataset="brats"),
    "supp6": Artefact("05_lesion_metrics", "Supplementary Data 6: distributions on ISLES", dataset="isles"),
}
"""Every artefact there is so far, in the order of the notebooks."""


def possible(name: str, datasets: Collection[str] | None = None) -> bool:
    """Tell whether an artefact can be made from `datasets` (None: all of the paper's)."""
    return datasets is None or ARTEFACTS[name].dataset in (None, *datasets)


def files(notebook: str | None = None, datasets: Collection[str] | None = None) -> list[str]:
    """Return the names of the files that `notebook` (or all of them) writes into the figures' folder."""
    chosen = {k: a for k, a in ARTEFACTS.items() if notebook in (None, a.notebook) and possible(k, datasets)}
    return [file for name, artefact in chosen.items() for file in artefact.files(name)]


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
        picture = _thumbnail(there[0], artefact.title) if there else "<p>not made</p>"
        names = " ".join(f'<code class="file">{path.name}</code>' for path in there)
        tiles.append(
            f'<figure class="tile">{picture}<figcaption><b>{html.escape(artefact.title)}</b><br>'
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
    """Return the PSNR columns of a table, which fit into a thumbnail."""
    import pandas as pd

    frame = pd.read_csv(path)
    task = frame["dataset"].map(lambda d: tasks.DATASETS[d].label) + " " + frame["target"].map(tasks.LABELS)
    frame = frame.assign(task=task, method=frame["method"].map(tasks.METHODS))
    psnr = frame[frame["metric"] == "psnr"]
    small = psnr.pivot_table(index="task", columns="method", values="mean", sort=False).rename_axis(
        columns=None
    )
    caption = f"<small>PSNR in dB, protocol {html.escape(frame['protocol'][0])}</small>"
    return caption + small.round(2).reset_index().to_html(index=False, border=0)


BASELINES = "Pix2Pix, pGAN, MM-GAN, Hi-Net, DDPM and SynDiff"
METRICS = {"psnr": ("PSNR", 1, "{:+.2f} dB"), "ssim": ("SSIM", 1, "{:+.3f}"), "mae": ("MAE", -1, "{:+.4f}")}


def claims(brain: "pd.DataFrame", lesion: "pd.DataFrame") -> "pd.DataFrame":
    """Compare the paper's claims with the scores at hand.

    Parameters
    ----------
    brain, lesion : pandas.DataFrame
        Scores of the whole brain and of the lesions, as `mudiff.tables.score_runs` returns them.

    Returns
    -------
    pandas.DataFrame
        Columns claim, where, ours, tolerance, verdict. A claim about a difference holds where the mean
        paired difference per subject is beyond two standard errors in every metric, does not hold where
        it is beyond them on the wrong side in any, and cannot be decided otherwise.
    """
    import pandas as pd

    rows = []
    for scores, region, where in ((brain, "whole brain", "Table 1"), (lesion, "lesions", "Table 2")):
        rows.append(
            (f"MU-Diff beats {BASELINES}: {region}", where, "baselines not trained", "", "cannot be decided")
        )
        masked = scores[(scores["protocol"] == "masked") & (scores["unit"] == "subject")]
        for (dataset, target), part in masked.groupby(["dataset", "target"], sort=False):
            label = f"{tasks.LABELS[target]} on {tasks.dataset(dataset).label}"
            claim = f"MU-Diff beats a linear fit: {region}, {label}"
            rows.append((claim, f"{where}; the linear floor is ours", *_compare(part)))
    return pd.DataFrame(rows, columns=["claim", "where", "ours", "tolerance", "verdict"])


def _compare(part: "pd.DataFrame") -> tuple[str, str, str]:
    """Return MU-Diff minus Linear in words, the tolerance, and the verdict."""
    tolerance = "2 standard errors"
    wide = {
        metric: part.pivot_table(index="subject", columns="method", values=metric, observed=True)
        for metric in METRICS
    }
    if not {"mudiff", "linear"} <= set(wide["psnr"].columns):
        return "not trained", tolerance, "cannot be decided"
    words, signs = [], []
    for metric, (name, better, shape) in METRICS.items():
        difference = (wide[metric]["mudiff"] - wide[metric]["linear"]).dropna()
        words.append(f"{name} {shape.format(difference.mean())}")
        error = difference.std() / len(difference) ** 0.5 if len(difference) > 2 else float("inf")
        signs.append(better * difference.mean() / error if error > 0 else 0.0)
    verdict = "cannot be decided"
    if min(signs) > 2:
        verdict = "holds"
    elif min(signs) < -2:
        verdict = "does not hold"
    return f"{', '.join(words)}; n = {len(difference)} subjects", tolerance, verdict
