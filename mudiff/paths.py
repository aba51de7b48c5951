"""Where things live: the project's folders and the manifests."""

import os
from collections.abc import Callable
from pathlib import Path


def root() -> Path:
    """Return the project's folder: ``MUDIFF_ROOT``, else the nearest parent that holds notebooks/."""
    if os.environ.get("MUDIFF_ROOT"):
        return Path(os.environ["MUDIFF_ROOT"]).resolve()
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "notebooks").is_dir() and (folder / "data_manifests").is_dir():
                return folder
    return Path.cwd()  # an installed package without a checkout works in the current folder


def results(profile: str) -> Path:
    """Return ``results/<profile>``: phantoms, prepared data, runs, executed notebooks, report."""
    return root() / "results" / profile


def _part(part: str) -> Callable[[str, str], Path]:
    return lambda profile, name: results(profile) / part / name


# Folders of a profile and, in this order, of
phantoms = _part("phantoms")  # a dataset: its generated cohort
prepared = _part("prepared")  # a dataset: the slice cache
run = _part("runs")  # a run, by its name
synthetic = _part("synthetic")  # a run: its synthetic test slices
unseen = _part("unseen")  # a test cohort that no training of the profile saw: its slices and syntheses
analysis = _part("analyses")  # an analysis: what took long to compute


def figures(profile: str) -> Path:
    """Return ``results/<profile>/figures``, where interactive runs of the notebooks draw."""
    return results(profile) / "figures"


def manifests() -> Path:
    """Return the folder of the published splits and reference values."""
    package = Path(__file__).resolve().parent
    places = (root(), package.parent, package)  # the project, the checkout of the code, an installed wheel
    return next((p / "data_manifests" for p in places if (p / "data_manifests").is_dir()), places[0])
