"""How the runs behind a table were trained, in words, from the records that each run keeps."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mudiff import paths
from mudiff.data import datasets
from mudiff.settings import Settings
from mudiff.training import profiles


@dataclass(frozen=True)
class _Run:
    """A run's task and method, its settings, and what its provenance says of the slices it saw."""

    dataset: str
    target: str
    method: str
    settings: dict[str, Any]
    seen: int | None
    data: str | None

    @property
    def task(self) -> str:
        """Dataset and target, as texts name them."""
        return f"{datasets.dataset(self.dataset).label} {datasets.LABELS[self.target]}"

    @property
    def budget(self) -> tuple[Any, ...]:
        """What must agree for two runs to have had the same training slices."""
        return self.seen, self.settings.get("epochs"), self.settings.get("batch_size"), self.data


def words(profile: str, frame: pd.DataFrame) -> str:
    """Return sentences on the training budget, the checkpoints, and what departs from the published recipes.

    Parameters
    ----------
    profile : str
        Name of the profile.
    frame : DataFrame
        Rows with dataset, target, method and run, such as `mudiff.evaluation.old_tables.table` makes them.

    Returns
    -------
    str
        Sentences that end with a full stop. Equal budgets are claimed only for tasks whose runs record
        equal ones.
    """
    named = frame[["dataset", "target", "method", "run"]].drop_duplicates().itertuples(index=False)
    runs = [_read(profile, *row) for row in named]
    known = [run for run in runs if run.seen is not None]
    sentences = [_equal(known), _different(known), _checkpoints(known), *_departures(known)]
    unknown = [f"{datasets.METHODS[run.method]} ({run.task})" for run in runs if run.seen is None]
    if unknown:
        sentences.append(f"No record of the training of {', '.join(unknown)}.")
    return " ".join(filter(None, sentences))


def _read(profile: str, dataset: str, target: str, method: str, run: str) -> _Run:
    folder = paths.run(profile, run)
    records = [
        paths.read_json(folder / name) if (folder / name).is_file() else {}
        for name in ("settings.json", "provenance.json")
    ]
    settings = records[0].get("settings", {})
    return _Run(dataset, target, method, settings, records[1].get("slices_seen"), records[1].get("data"))


def _by_task(runs: list[_Run]) -> dict[str, list[_Run]]:
    """Return the runs of each task, without the linear fit, which is no matter of epochs."""
    groups: dict[str, list[_Run]] = {}
    for run in runs:
        if run.method != "linear":
            groups.setdefault(run.task, []).append(run)
    return groups


def _equal(runs: list[_Run]) -> str:
    """Return a sentence on the tasks whose methods had the same budget."""
    tasks_of: dict[str, list[str]] = {}
    for task, group in _by_task(runs).items():
        if len({run.budget for run in group}) == 1:
            tasks_of.setdefault(_amount(group[0]), []).append(task)
    if not tasks_of:
        return ""
    amounts = [f"{amount} ({_joined(names)})" for amount, names in tasks_of.items()]
    text = f"Within a task every method was trained on the same slices: {', '.join(amounts)}"
    floor = any(run.method == "linear" and run.settings.get("epochs") == 1 for run in runs)
    return text + ("; linear fit: each training slice once." if floor else ".")


def _amount(run: _Run) -> str:
    epochs = run.settings.get("epochs")
    return f"{run.seen:,} in {epochs} epoch{'' if epochs == 1 else 's'}"


def _joined(names: list[str]) -> str:
    """Return "BraTS T1CE, T2; ISLES T1" for tasks in that order."""
    targets: dict[str, list[str]] = {}
    for name in names:
        dataset, target = name.rsplit(" ", 1)
        targets.setdefault(dataset, []).append(target)
    return "; ".join(f"{dataset} {', '.join(own)}" for dataset, own in targets.items())


def _different(runs: list[_Run]) -> str:
    """Return a sentence for each task whose methods had unlike budgets."""
    sentences = []
    for task, group in _by_task(runs).items():
        if len({run.budget for run in group}) > 1:
            amounts = [
                f"{datasets.METHODS[run.method]} {_amount(run)}, batch {run.settings.get('batch_size')}"
                for run in group
            ]
            data = ", on unlike data" if len({run.data for run in group}) > 1 else ""
            sentences.append(f"Training budgets differ for {task}: slices seen {'; '.join(amounts)}{data}.")
    return " ".join(sentences)


def _checkpoints(runs: list[_Run]) -> str:
    """Return a sentence on which checkpoint of each run was taken."""
    best, last = "Checkpoint of the best validation PSNR", "after the last epoch"
    trained = [run for run in runs if run.method != "linear"]
    others = [
        f"{datasets.METHODS[r.method]} ({r.task})" for r in trained if r.settings.get("checkpoint") != "best"
    ]
    if not trained:
        return ""
    if len(others) == len(trained):
        return f"Checkpoint {last}."
    return f"{best}; {last} for {', '.join(others)}." if others else f"{best}."


def _departures(runs: list[_Run]) -> list[str]:
    """Return what else a reader must know to compare with the published baselines."""
    sentences = []
    if any(run.method == "pgan" and not run.settings.get("vgg16") for run in runs):
        sentences.append("pGAN was trained without its perceptual term (no VGG16 weights given).")
    rates = {
        (run.settings.get("learning_rate"), run.settings.get("critic_learning_rate"))
        for run in runs
        if run.method != "linear"
    }
    fields = ("learning_rate", "critic_learning_rate")
    own = {
        tuple(recipe.get(field, getattr(Settings, field)) for field in fields)
        for recipe in profiles.RECIPES.values()
    }
    if len(rates) == 1 and not rates & own:  # a small profile sets them for all methods alike
        generator, critic = next(iter(rates))
        sentences.append(f"Learning rates of all small networks: {generator:g}, of critics {critic:g}.")
    published = profiles.RECIPES["ddpm"]["steps"]
    steps = {run.settings.get("steps", published) for run in runs if run.method == "ddpm"}
    if any(count < published for count in steps):
        sentences.append(f"DDPM with {', '.join(map(str, sorted(steps)))} steps, published: {published}.")
    return sentences
