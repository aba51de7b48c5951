"""Scores of runs: each synthetic test slice against the truth, computed once and kept beside the slices."""

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from mudiff import paths
from mudiff.data import datasets as tasks
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.settings import Settings
from mudiff.training import profiles

REGIONS = ("brain", "lesion")
"""Regions of the scores: Table 1 has the brain, Table 2 the lesions."""

_RUN = ["dataset", "target", "method", "region"]
_SCORES = ["protocol", "unit", "subject", "slice", *metrics.METRICS]


def score_runs(
    profile: str,
    region: str = "brain",
    runs: Sequence[tuple[str, str]] | None = None,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Score the synthetic test slices of a profile's runs under both protocols.

    The scores of each run are kept in ``scores_<region>.csv`` beside its slices, and used again as long as
    slices, truth, masks and scoring code are the same.

    Parameters
    ----------
    profile : str
        Name of the profile; its prepared data and synthetic slices must exist.
    region : {"brain", "lesion"}
        For ``lesion``, datasets without lesion masks are left out and the ISLES masks are dilated (section
        "Evaluation procedure").
    runs : sequence of (dataset, target), optional
        Which tasks; by default the profile's whose dataset is prepared.
    methods : sequence of str, optional
        Which methods; by default those that the profile trains for the task.
    datasets : sequence of str, optional
        Which datasets, where `runs` does not say it; by default all.

    Returns
    -------
    DataFrame
        One row per score: dataset, target, method, region, protocol, unit ("slice" or "subject"), subject,
        slice (number in the volume; missing for subjects), psnr, ssim, mae, run (its folder's name) and
        fingerprint (of its settings). NaN where there is no lesion. No rows where no dataset has lesions.

    Raises
    ------
    MudiffError
        If a name is unknown, or data or a run is missing or outdated; the message says what to run.
    """
    from mudiff.data import prepare

    if region not in REGIONS:
        raise MudiffError(f"region {region!r} is unknown: choose one of {', '.join(REGIONS)}.")
    frames = []
    for dataset, target in prepared_runs(profile, datasets) if runs is None else runs:
        if region == "lesion" and not tasks.dataset(dataset).lesions:
            continue
        slices = prepare.open_slices(paths.prepared(profile, dataset), "test")
        for method in _methods(profile, dataset, target, methods):
            settings = profiles.settings(profile, dataset, target, method)
            scores = score_run(profile, settings, slices, region)
            scores[_RUN] = [dataset, target, method, region]
            scores["run"] = settings.run_name
            scores["fingerprint"] = _fingerprint(paths.run(profile, settings.run_name))
            frames.append(scores)
    columns = [*_RUN, *_SCORES, "run", "fingerprint"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def prepared_runs(profile: str, datasets: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Return the profile's (dataset, target) pairs whose dataset is prepared, of `datasets` or of all.

    Raises
    ------
    MudiffError
        If none is.
    """
    wanted = [run for run in profiles.profile(profile).runs if datasets is None or run[0] in datasets]
    runs = [run for run in wanted if paths.prepared(profile, run[0]).is_dir()]
    if not runs:
        which = "no dataset" if datasets is None else f"none of {', '.join(datasets)}"
        raise MudiffError(
            f"{paths.results(profile) / 'prepared'}: {which} is prepared; run "
            f"`snakemake --config profile={profile}`, or `mudiff prepare` on your own data."
        )
    return runs


def prepared_datasets(profile: str) -> list[str]:
    """Return the datasets of `prepared_runs`, each once."""
    return list(dict.fromkeys(dataset for dataset, _ in prepared_runs(profile)))


def _methods(profile: str, dataset: str, target: str, wanted: Sequence[str] | None) -> list[str]:
    trained = profiles.profile(profile).runs.get((dataset, target))
    if trained is None:
        raise MudiffError(f"profile {profile} has no task {target} of {dataset}; choose one of its tasks.")
    return [m for m in trained if wanted is None or m in [tasks.method(w) for w in wanted]]


def _fingerprint(run: Path) -> str | None:
    record = run / "provenance.json"
    return paths.read_json(record).get("fingerprint") if record.is_file() else None


def score_run(profile: str, settings: Settings, slices: Any, region: str) -> pd.DataFrame:
    """Return the scores of one run: those kept beside its slices where they are of the same content, else new ones.

    Parameters
    ----------
    profile : str
        Name of the profile.
    settings : Settings
        Of the run.
    slices : mudiff.data.prepare.Slices
        The true test slices.
    region : {"brain", "lesion"}
        Where to score.

    Returns
    -------
    DataFrame
        Columns protocol, unit, subject, slice, psnr, ssim, mae, as in `score_runs`.

    Raises
    ------
    MudiffError
        If the run or its slices are missing or outdated.
    """
    folder = paths.synthetic(profile, settings.run_name)
    record = check_record(folder, paths.run(profile, settings.run_name), slices.info["data_hash"], profile)
    dilate = region == "lesion" and tasks.dataset(settings.dataset).dilate
    key = _key(folder, record, region, dilate)
    kept = folder / f"scores_{region}.csv"
    scores = _read(kept, key)
    if scores is None:
        scores = score_slices(slices, folder, settings.target, region, dilate)
        with contextlib.suppress(MudiffError):  # where nothing can be written they are computed each time
            _write(kept, key, scores)
    return scores


def check_record(folder: Path, run: Path, data_hash: str, profile: str) -> dict[str, Any]:
    """Return ``synthetic.json`` if the slices beside it are of the present run and of the present data.

    Parameters
    ----------
    folder : Path
        The synthetic slices.
    run : Path
        The run that they are of.
    data_hash : str
        Of the prepared slices.
    profile : str
        Named in the command that an error proposes.

    Raises
    ------
    MudiffError
        If there are no synthetic slices, or of other data or weights.
    """
    path, command = folder / "synthetic.json", f"`snakemake --config profile={profile}`"
    if not path.is_file():
        raise MudiffError(f"{folder}: run {run.name} has no synthetic test slices; make them with {command}.")
    record = paths.read_json(path)
    weights = run / "weights.safetensors"
    if record.get("data") != data_hash:
        raise MudiffError(
            f"{folder}: made from other data than is prepared now; make it again with {command}."
        )
    if weights.is_file() and record.get("weights") != file_hash(weights):
        raise MudiffError(f"{folder}: made with other weights than {run} has; make it again with {command}.")
    return record


def _key(folder: Path, record: dict[str, Any], region: str, dilate: bool) -> str:
    """Return the hash of everything that the scores depend on."""
    parts = contents(folder, record) | {"region": region, "dilate": dilate, "code": _code()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def contents(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return what identifies the synthetic slices of a folder: their record, and the hash of each file."""
    parts = {name: record.get(name) for name in ("run", "weights", "data", "split", "seed")}
    return parts | {"slices": {path.name: file_hash(path) for path in sorted(folder.glob("*.npy"))}}


@functools.cache
def _code() -> list[str]:
    return code(
        ("evaluation/metrics", "evaluation/scores", "synthesis/sample", "data/dataset"),
        ("numpy", "scipy", "scikit-image"),
    )


def code(modules: Sequence[str], packages: Sequence[str]) -> list[str]:
    """Return what decides how values are computed: hashes of our modules, versions of packages.

    Parameters
    ----------
    modules : sequence of str
        Within the package, such as ``"data/dataset"``.
    packages : sequence of str
        As they are installed.
    """
    hashes = [file_hash(Path(__file__).parents[1] / f"{module}.py") for module in modules]
    return [*hashes, *(metadata.version(package) for package in packages)]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, key: str) -> pd.DataFrame | None:
    """Return kept scores, or None where there are none of this key or the file is damaged."""
    try:
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if head != _head(key, body):
        return None
    undefined = {column: [""] for column in ("slice", *metrics.METRICS)}  # a subject may be called "NA"
    kinds = dict.fromkeys(("protocol", "unit", "subject"), str) | {"slice": "Int64"}
    return pd.read_csv(
        io.StringIO(body),
        dtype=kinds,
        keep_default_na=False,
        na_values=undefined,
        float_precision="round_trip",
    ).astype(dict.fromkeys(metrics.METRICS, float))


def _write(path: Path, key: str, scores: pd.DataFrame) -> None:
    body = scores[_SCORES].to_csv(index=False, lineterminator="\n")  # floats as short as they read back equal
    paths.write_text(path, f"{_head(key, body)}\n{body}")


def _head(key: str, body: str) -> str:
    return f"# made from {key}, content {hashlib.sha256(body.encode()).hexdigest()}"


def score_slices(slices: Any, folder: Path, target: str, region: str, dilate: bool) -> pd.DataFrame:
    """Score the syntheses of one run, whatever cohort they are of, and keep nothing.

    Parameters
    ----------
    slices : mudiff.data.prepare.Slices
        The true slices.
    folder : Path
        The synthetic ones, a file per subject.
    target : str
        The contrast.
    region : {"brain", "lesion"}
        Where to score.
    dilate : bool
        Whether lesion masks are widened.

    Returns
    -------
    DataFrame
        Columns protocol, unit, subject, slice, psnr, ssim, mae, as in `score_runs`.
    """
    from mudiff.synthesis import sample  # loads torch, which scores that are kept do not need

    rows = []
    for subject in slices.subjects:
        indices = slices.subject(subject)
        numbers = slices.index["slice"].to_numpy()[indices]
        real = (slices.images(indices, target) + 1) / 2  # [-1, 1] -> [0, 1]  # (Z, S, S)
        synthetic = sample.read_synthetic(folder, subject)
        mask = slices.brain(indices) if region == "brain" else slices.lesion(indices)
        if synthetic.shape != real.shape:
            raise MudiffError(
                f"{folder}: subject {subject} has synthetic slices {synthetic.shape} but prepared ones "
                f"{real.shape}; delete the folder and make it again."
            )
        for protocol in metrics.PROTOCOLS:
            per_slice, whole = metrics.score_subject(real, synthetic, mask, protocol, dilate)
            common = {"protocol": protocol, "subject": str(subject)}
            rows += [
                common | {"unit": "slice", "slice": int(number)} | scores
                for number, scores in zip(numbers, per_slice, strict=True)
            ]
            rows.append(common | {"unit": "subject", "slice": None} | whole)
    return pd.DataFrame(rows)[_SCORES].astype({"slice": "Int64"})
