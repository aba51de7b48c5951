"""The one way in which an artefact reaches its files, and the reader of a notebook."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mudiff import storage
from mudiff.evaluation import tables
from mudiff.plots.style import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def publish(
    folder: Path | str, name: str, figure: "Figure | None" = None, frame: pd.DataFrame | None = None,
    table: tables.Tables | None = None, caption: str = "", shown: bool = True,
) -> None:  # fmt: skip
    """Write an artefact's files ``folder/name.*``, the same bytes on every run; `shown` in the notebook that runs.

    A figure becomes ``.png`` and ``.svg``, with its caption (`style.caption`) in ``.txt`` and the SVG; `frame`, the
    tidy numbers, ``.csv``; `table`, what a reader sees, ``.md`` and ``.tex`` with `caption`.
    """
    path = Path(folder) / name
    if frame is not None:
        tables.write_csv(path.with_name(f"{name}.csv"), frame)
    if table is not None:
        tables.write(path, table, caption)
        _display(tables.markdown(table, caption), shown=shown)
    if figure is not None:
        with style():
            svg = {"Date": None, "Creator": None, "Description": figure.get_label()}
            for kind, metadata in (("png", {"Software": None}), ("svg", svg)):
                with storage.atomic_write(path.with_name(f"{name}.{kind}")) as temporary:
                    figure.savefig(temporary, format=kind, dpi=300, metadata=metadata)
        storage.write_text(path.with_name(f"{name}.txt"), figure.get_label() + "\n")
        _display(figure, figure.get_label(), shown=shown)


def _display(*items: object, shown: bool) -> None:
    from IPython import get_ipython
    from IPython.display import Markdown, display

    if shown and get_ipython() is not None:
        display(*(Markdown(item) if isinstance(item, str) else item for item in items))
