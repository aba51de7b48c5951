"""Keeping a view: its picture and numbers, what it shows as NIfTI on the subject's grid, and how to open it again."""

import dataclasses
import itertools
import re
from pathlib import Path

import pandas as pd

from mudiff import storage
from mudiff.errors import MudiffError
from mudiff.explorer import picture
from mudiff.explorer.state import Explorer, View
from mudiff.plots import attention as drawings
from mudiff.plots.publish import publish


def save(explorer: Explorer, view: View, folder: Path, contribution: pd.DataFrame | None = None) -> Path:
    """Write a view into a new folder below `folder`, and return it.

    ``view.png``, ``view.svg``, ``view.txt`` (caption), ``view.csv`` (numbers of the regions), ``view.json`` (for
    `load`), a NIfTI file per image that is shown and of the region, see `Subject.save`; and ``contribution.*`` where
    `Explorer.contribution` is given.
    """
    base = f"{explorer.subject.name}_slice{view.place + 1}"
    own = next(f for k in itertools.count(1) if not (f := Path(folder) / f"{base}_{k}").exists())
    numbers = explorer.statistics(view).rename_axis("value").reset_index()
    publish(own, "view", picture.draw(explorer, view)[0], numbers, shown=False)
    if contribution is not None:
        publish(own, "contribution", drawings.contribution(contribution), contribution, shown=False)
    for tile in itertools.chain(*picture.lines(explorer, view)):
        title = tile.title.replace("ρ", "rho").replace("τ", "tau")
        explorer.subject.save(
            own / f"{re.sub(r'[^A-Za-z0-9_]+', '-', title).strip('-')}.nii.gz", view.place, tile.image
        )
    explorer.subject.save(own / "region.nii.gz", view.place, explorer.region(view))
    record = {"run": str(explorer.run), "subject": explorer.subject.source, "view": dataclasses.asdict(view)}
    storage.write_json(own / "view.json", record)
    return own


def load(path: Path) -> tuple[Path, str, View]:
    """Return run, subject and view of a ``view.json``; a `MudiffError` where it is none."""
    form = {"run": str, "subject": str, "view": {"place": range(10**5), "target": str}}
    record = storage.read_json(Path(path), form)
    tupled = lambda x: tuple(map(tupled, x)) if isinstance(x, list) else x  # noqa: E731
    try:
        return Path(record["run"]), record["subject"], View(**{k: tupled(v) for k, v in record["view"].items()})
    except TypeError as error:
        raise MudiffError(f"{path}: no view of the explorer ({error}); save one with its button.") from None
