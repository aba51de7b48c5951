"""A run of MU-Diff that is analysed, and the numbers that are kept of it.

What takes long is kept under ``results/<profile>/analyses/mutual`` with a key of weights, data, settings and code.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from mudiff import paths
from mudiff.analyses.mutual.similarity import check_pair, compare
from mudiff.cache import RECIPE_VERSION
from mudiff.data import prepare
from mudiff.data.prepare import Slices
from mudiff.evaluation import cka, metrics
from mudiff.methods.base import Method, build
from mudiff.training import runs


@dataclass(frozen=True)
class Trained:
    """A run of MU-Diff with the test slices, and where its analysis is kept.

    Attributes
    ----------
    profile : str
        Name of the profile.
    run : Path
        Folder of the run.
    method : Method
        Its networks, ready to sample.
    slices : Slices
        The prepared test slices.
    folder : Path
        Where predictions and numbers are kept.
    key : dict
        What they depend on: weights, data and the version of the recipe, which stands for the networks' code.
    """

    profile: str
    run: Path
    method: Method
    slices: Slices
    folder: Path
    key: dict[str, Any]


def open_run(profile: str, dataset: str = "brats", target: str = "t1ce", method: str = "mudiff") -> Trained:
    """Open a run for the analysis.

    Parameters
    ----------
    profile, dataset, target : str
        Names.
    method : str
        ``mudiff``, or with a variant such as ``mudiff_abl4``.

    Raises
    ------
    MudiffError
        If the run is missing or has no pair of networks, or the slices are missing or of another preparation.
    """
    run = paths.run(profile, f"{dataset}_{target}_{method}")
    loaded = runs.load(run, runs.default_device())
    check_pair(loaded)
    prepared = paths.prepared(profile, dataset)
    key = {
        "recipe": RECIPE_VERSION,
        "run": run.name,
        "data": prepare.check(prepared, loaded.settings.preparation()),
    }
    key["weights"] = hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()
    folder = paths.analysis(profile, "mutual") / run.name
    return Trained(profile, run, loaded, prepare.open_slices(prepared, "test"), folder, key)


def kept(trained: Trained, name: str, compute: Callable[[], pd.DataFrame], **settings: Any) -> pd.DataFrame:
    """Return a table kept from another time, or compute and keep it.

    Parameters
    ----------
    trained : Trained
        Whose table it is.
    name : str
        Name of the file in its folder.
    compute : callable
        Makes the table.
    **settings
        What it depends on beside weights, data and code.
    """
    path = trained.folder / f"{name}.json"
    key = trained.key | {"code": code(), "settings": settings}
    if path.is_file() and (record := paths.read_json(path))["key"] == key:
        return pd.DataFrame(**record["table"])
    table = compute()
    paths.write_json(path, {"key": key, "table": table.to_dict("split", index=False)})
    return table


def compare_steps(
    trained: Trained,
    steps: Sequence[int] | None = None,
    count: int = 64,
    *,
    untrained: bool = False,
    alike: bool = False,
) -> pd.DataFrame:
    """Return CKA between the layers of F1 and F2 at several steps, kept from another time where possible.

    Parameters
    ----------
    trained : Trained
        The run.
    steps : sequence of int, optional
        Time steps of the code, 0 .. T-1; by default all.
    count : int
        Test slices.
    untrained : bool
        Whether the networks have random weights drawn from the run's seed, as a control.
    alike : bool
        Whether minibatches have slices of about one height in the head.

    Returns
    -------
    DataFrame
        As `mudiff.analyses.mutual.compare`, steps one below the other.
    """
    chosen = list(range(trained.method.schedule.steps)) if steps is None else list(steps)

    def compute() -> pd.DataFrame:
        """Align the layers at every step anew."""
        from tqdm.auto import tqdm

        method = trained.method
        if untrained:
            method = build(method.settings).to(method.device).eval()
        bar = tqdm(chosen, desc="compare layers", unit="step", disable=None)
        return pd.concat(
            [compare(method, trained.slices, t, count, alike=alike) for t in bar], ignore_index=True
        )

    name = "cka" + "_untrained" * untrained + "_alike" * alike
    return kept(trained, name, compute, steps=chosen, count=count)


def code() -> list[str]:
    """Return what decides how numbers are computed: this package, its tools and torch-cka."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(cka.__file__), Path(metrics.__file__)]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.stem != "drawings"]
    return [*hashes, metadata.version("torch-cka")]
