"""Keeping a view: its picture and numbers, what it shows as NIfTI on the subject's grid, and how to open it again."""

import dataclasses
import itertools
import re
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from mudiff import storage
from mudiff.data import volumes
from mudiff.data.slices import from_slices
from mudiff.errors import MudiffError
from mudiff.explorer.picture import draw
from mudiff.explorer.state import LAYERS, Explorer, View
from mudiff.plots import attention as drawings
from mudiff.plots.publish import publish


def save(explorer: Explorer, view: View, folder: Path, contribution: pd.DataFrame | None = None) -> Path:
    """Write a view into a new folder below `folder`, and return it.

    ``view.png``, ``view.svg``, ``view.txt`` (caption), ``view.csv`` (numbers of the regions), ``view.json`` (for
    `load`), one NIfTI file per image, mask and map, float32 on the subject's own grid, 0 outside the slice; and
    ``contribution.*`` where `Explorer.contribution` is given.
    """
    base = f"{explorer.subject.name}_slice{view.place + 1}"
    own = next(f for k in itertools.count(1) if not (f := Path(folder) / f"{base}_{k}").exists())
    numbers = explorer.statistics(view).rename_axis("value").reset_index()
    publish(own, "view", draw(explorer, view)[0], numbers, shown=False)
    if contribution is not None:
        publish(own, "contribution", drawings.contribution(contribution), contribution, shown=False)
    first, geometry = explorer.subject.geometry.kept[0] + view.place, explorer.subject.geometry
    slice_alone = dataclasses.replace(geometry, kept=(first, first + 1))
    header = nibabel.Nifti1Header()
    header.set_data_shape(geometry.shape)
    header.set_xyzt_units("mm")
    like = volumes.Volume(np.zeros(0), geometry.affine, header, own)
    for name, image in _images(explorer, view).items():
        native = from_slices(image[None].astype(np.float32), slice_alone)
        volumes.save_volume(own / f"{name}.nii.gz", native, like)
    record = {"run": str(explorer.run), "subject": explorer.subject.source, "view": dataclasses.asdict(view)}
    storage.write_json(own / "view.json", record)
    return own


def _images(explorer: Explorer, view: View) -> dict[str, np.ndarray]:
    """Return what a view shows, by file name: conditions, syntheses, error, region, and its layer at all steps."""
    made, normal, truth = explorer.synthesis(view), explorer.normal(view), explorer.truth(view)
    found = {f"condition_{name}": image for name, image in made.conditions.items()}
    found |= {"synthesis": made.image, "unchanged": normal.image, "region": explorer.region(view)}
    found |= {} if truth is None else {"truth": truth, "error": made.image - truth}
    found |= {"spread": explorer.spread(view)} if view.samples > 1 else {}
    for (kind, name, t), image in made.layers.items():
        if kind in itertools.chain(*LAYERS[view.layer]) or kind.startswith("x_p"):
            found[re.sub(r"\W+", "-", f"{kind}_{name}_t{t}" if name else f"{kind}_t{t}")] = image
    return found


def load(path: Path) -> tuple[Path, str, View]:
    """Return run, subject and view of a ``view.json``; a `MudiffError` where it is none."""
    record = storage.read_json(
        Path(path), {"run": str, "subject": str, "view": {"place": range(10**5), "target": str}}
    )
    tupled = lambda x: tuple(map(tupled, x)) if isinstance(x, list) else x  # noqa: E731
    try:
        return Path(record["run"]), record["subject"], View(**{k: tupled(v) for k, v in record["view"].items()})
    except TypeError as error:
        raise MudiffError(f"{path}: no view of the explorer ({error}); save one with its button.") from None
