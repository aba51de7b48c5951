"""One training loop for all methods, in one process or several; it stops at SIGTERM and resumes where it stopped.

Everything random follows from the run's seed and the step, so an interrupted run ends as an uninterrupted one.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mudiff import storage
from mudiff.data import dataset
from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, Method, build
from mudiff.model.diffusion import slice_seed
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings
from mudiff.training import processes, runs


def train(
    settings: Settings, prepared: Path, folder: Path, *, device: torch.device | None = None,
    compiled: bool = False, progress: bool = True, save_seconds: float = 60.0,
) -> Path:  # fmt: skip
    """Train a run on `prepared` slices to its end, from where it stopped; a complete run is left alone.

    A run of other settings or data in `folder` is moved aside. The device is by default that of
    `processes.claimed_device`. A resume state is saved every `save_seconds` and at each validation; after
    SIGTERM it is saved and `SystemExit` 143 raised. A `MudiffError` if slices do not fit or losses diverge.
    """
    with processes.joined(), processes.claimed_device(device) as device:
        data_hash = dataset.check(prepared, settings.preparation())
        # Beside the folder, since a run of other settings is moved aside with all that is in it.
        lock, waiting = folder.parent / f".{folder.name}.lock", "another process trains this run; waiting for its end"
        with storage.lock(lock, f"{folder}: {waiting}.") if processes.rank() == 0 else nullcontext():
            processes.barrier()
            if not (runs.matches(folder, settings, data_hash) and runs.is_complete(folder)):
                # Settings that cannot be trained fail here, before they displace a run.
                training = _Training(settings, prepared, folder, device, compiled)
                if processes.rank() == 0:
                    runs.claim(folder, settings, data_hash)
                processes.barrier()
                training.resume()
                _loop(training, progress, save_seconds)
                if processes.rank() == 0:
                    training.finish(data_hash)
    return folder


def _loop(training: "_Training", progress: bool, save_seconds: float) -> None:
    from tqdm.auto import tqdm

    settings, method = training.settings, training.method
    slices, per_epoch, total = training.slices, training.per_epoch, training.total
    began, saved = time.monotonic() - training.seconds, time.monotonic()
    quiet = None if progress and processes.rank() == 0 else True  # None: where the output is no terminal
    bar = tqdm(total=total, initial=training.step, desc=settings.run_name, unit="step", disable=quiet)
    with bar, _stop_signal() as stop:
        while training.step < total:
            epoch, place = divmod(training.step, per_epoch)
            for name, optimiser in method.optimisers.items():
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(training.rates[name], settings, epoch)
            order = epoch_order(len(slices), settings, epoch)
            indices, places = processes.own_part(order, place, settings.batch_size)
            batch = make_batch(slices, indices, settings, training.step, places).to(method.device)
            losses = method.training_step(batch, training.step)
            training.average.update(training.step)
            training.step += 1
            training.seconds = time.monotonic() - began
            for name, value in processes.average(losses).items():
                training.sums[name] = training.sums.get(name, 0) + value
                training.counts[name] = training.counts.get(name, 0) + 1
            bar.update()
            epoch, place = divmod(training.step, per_epoch)
            validates = training.step == total or (place == 0 and epoch % settings.validate_every == 0)
            if validates:
                bar.set_postfix(psnr=f"{training.validate():.2f} dB")
            elif training.step % max(1, per_epoch // 10) == 0:
                training.log()
            stopped = processes.any_process(stop.is_set())
            if validates or stopped or time.monotonic() - saved > save_seconds:
                training.save()
                saved = time.monotonic()
            if stopped:
                raise SystemExit(143)


class _Training:
    """A run in training: its slices, method, averaged weights, and how far it is; rank 0 alone writes."""

    def __init__(self, settings: Settings, prepared: Path, folder: Path, device: torch.device, compiled: bool):
        self.settings, self.folder = settings, folder
        self.slices, self.validation = (dataset.open_slices(prepared, split) for split in ("train", "val"))
        self.method = build(settings).to(device)
        processes.check(self.method)
        self.method.prepare_training()
        if compiled:
            self.method.compile()
        self.average = WeightAverage(self.method, settings.ema_decay)
        self.rates = {name: o.param_groups[0]["lr"] for name, o in self.method.optimisers.items()}
        self.per_epoch = math.ceil(len(self.slices) / settings.batch_size)
        self.total = settings.epochs * self.per_epoch
        self.step, self.best, self.seconds = 0, -math.inf, 0.0
        self.sums: dict[str, Tensor] = {}  # of losses since the last line of the log
        self.counts: dict[str, int] = {}

    def resume(self) -> None:
        """Take up the last saved state, if any; it may be of another number of processes."""
        state = runs.read_state(self.folder)
        if state is not None:
            path, advice = self.folder / "state.pt", "delete it to start this run anew"
            with storage.reading(path, "resume state of these settings", advice):
                self.method.load_state_dict(storage.check_weights(state["weights"], path, advice))
                for name, value in self.average.weights.items():
                    value.copy_(state["average"][name])
                self.sums = {name: value.to(self.method.device) for name, value in state["sums"].items()}
                self.counts = {name: state["counts"][name] for name in self.sums}
                right = [not value.shape for value in self.sums.values()]
                for name, optimiser in self.method.optimisers.items():  # whose other numbers follow from the settings
                    optimiser.load_state_dict(optimiser.state_dict() | {"state": state["optimisers"][name]["state"]})
                    for own, kept in optimiser.state.items():
                        adam = {"step": (), "exp_avg": own.shape, "exp_avg_sq": own.shape}
                        right.append({key: value.shape for key, value in kept.items()} == adam)
                if not all(right):
                    raise ValueError("tensors of other names or shapes")
            self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        if processes.rank() == 0:
            runs.cut_log(self.folder, self.step)
        self.method.distribute()

    def save(self) -> None:
        """Write the state that `resume` takes up, in one move."""
        if processes.rank() == 0:
            state = {name: getattr(self, name) for name in ("step", "best", "seconds", "sums", "counts")}
            state |= {"weights": self.method.state_dict(), "average": self.average.weights}
            state["optimisers"] = {name: o.state_dict() for name, o in self.method.optimisers.items()}
            with storage.atomic_write(self.folder / "state.pt") as temporary, temporary.open("wb") as file:
                torch.save(state, file)  # by a file of Python, whose errors say what went wrong

    def log(self, **extra: float) -> None:
        """Append the mean losses since the last line."""
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        for name in (name for name, value in means.items() if not math.isfinite(value)):
            what = f"the loss {name!r} is no number at step {self.step}: training has diverged"
            advice = "lower learning_rate (--set learning_rate=...) or choose another seed"
            raise MudiffError(f"{self.folder}: {what}; {advice}.")
        if processes.rank() > 0:
            return
        epochs, place = divmod(self.step, self.per_epoch)
        slices = epochs * len(self.slices) + place * self.settings.batch_size
        line = {"step": self.step, "epoch": self.step / self.per_epoch, "slices": slices}
        line |= {f"lr/{name}": o.param_groups[0]["lr"] for name, o in self.method.optimisers.items()}
        line |= {f"loss/{name}": value for name, value in means.items()} | {"seconds": round(self.seconds, 2)}
        runs.append_log(self.folder, line | extra)

    def validate(self) -> float:
        """Measure the validation PSNR, log it, and keep the weights if they are the best so far."""
        if processes.rank() > 0:
            self.log()
            return math.nan
        self.method.eval()
        with self.average.applied():
            psnr = validation_psnr(self.method, self.validation)
            self.log(**{"validation/psnr": psnr})
            if psnr > self.best or not (self.folder / "best.safetensors").is_file():
                runs.save_weights(self.folder / "best.safetensors", self.method.state_dict())
        self.method.train()
        self.best = max(self.best, psnr)  # keeps -inf where psnr is NaN
        return psnr

    def finish(self, data_hash: str) -> None:
        """Write the chosen weights and, as the last file, the provenance."""
        weights, best = self.folder / "weights.safetensors", self.folder / "best.safetensors"
        if self.settings.checkpoint == "last":
            with self.average.applied():
                runs.save_weights(weights, self.method.state_dict())
        elif best.is_file():  # it is gone if a crash came after this line
            best.replace(weights)
        record = runs.provenance(self.settings, data_hash, self.method.device, self.seconds)
        record |= {"slices_seen": self.settings.epochs * len(self.slices), "best_validation_psnr": self.best}
        record |= {"steps": self.step, "processes": processes.count()}
        storage.write_json(self.folder / "provenance.json", record)
        for leftover in ("state.pt", "best.safetensors"):
            (self.folder / leftover).unlink(missing_ok=True)


def learning_rate(start: float, settings: Settings, epoch: int) -> float:
    """Return the learning rate of an epoch (A-4); "linear" would reach 0 in the first epoch after the last."""
    final, epochs = settings.final_learning_rate, settings.epochs
    if settings.schedule == "cosine" and start > final:
        return final + (start - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2
    if settings.schedule == "linear":
        return start * min(1.0, (epochs - epoch) / (epochs - settings.constant_part * epochs))
    return start


def epoch_order(count: int, settings: Settings, epoch: int) -> np.ndarray:
    """Return the order of the slices in an epoch: the same in all ("fixed", C-8), or drawn anew."""
    drawn = 0 if settings.order == "fixed" else epoch
    return np.random.default_rng(slice_seed(settings.seed, "order", drawn)).permutation(count)


def make_batch(
    slices: dataset.Slices, indices: np.ndarray, settings: Settings, step: int, places: range | None = None
) -> Batch:
    """Read training slices; their seeds follow from the run's seed, the step and the places in the joint batch.

    The first part of the training, as long as ``curriculum`` says, is divided among scenarios with one missing
    contrast, with up to two, and so on (MM-GAN's way from easy to hard).
    """
    seeds = [slice_seed(settings.seed, "train", step, place) for place in places or range(len(indices))]
    progress = step / (settings.epochs * math.ceil(len(slices) / settings.batch_size))
    stage = int(progress / settings.curriculum * (settings.targets - 1)) if progress < settings.curriculum else None
    return read_batch(slices, indices, settings, seeds, None if stage is None else 1 + stage)


def read_batch(
    slices: dataset.Slices, indices: np.ndarray, settings: Settings, seeds: Sequence[int], most: int | None = None
) -> Batch:
    """Read slices; with target "any" each draws its scenario by its seed, with at most `most` missing contrasts."""
    conditions = torch.stack([torch.from_numpy(slices.images(indices, c)) for c in settings.conditions], dim=1)
    if settings.targets:
        scenario = Scenario.draw((slice_seed(seed, "scenario") for seed in seeds), settings.targets, most)
        target = scenario.pick(conditions)
    else:
        scenario, target = None, torch.from_numpy(slices.images(indices, settings.target))[:, None]
    brain = torch.from_numpy(slices.brain(indices))[:, None]
    return Batch(target, conditions, brain, torch.tensor(seeds), scenario)


def validation_psnr(method: Method, slices: dataset.Slices) -> float:
    """Return the PSNR in dB of protocol ``masked``, mean over subjects, on evenly spaced validation slices."""
    settings = method.settings
    count = min(settings.validation_slices or len(slices), len(slices))
    indices = np.unique(np.linspace(0, len(slices) - 1, count).round().astype(int))
    subjects, numbers = (slices.index[name].to_numpy()[indices] for name in ("subject", "slice"))
    errors = []
    for part in np.array_split(np.arange(len(indices)), range(8, len(indices), 8)):
        seeds = [slice_seed(0, "sample", subjects[i], numbers[i]) for i in part]
        batch = read_batch(slices, indices[part], settings, seeds).to(method.device)
        x = method.synthesize(batch.conditions, batch.seeds, scenario=batch.scenario)
        errors.append(((x.float() + 1) / 2 - (batch.target + 1) / 2)[:, 0].cpu().numpy())
    squares, brain = np.square(np.concatenate(errors), dtype=np.float64), slices.brain(indices)
    own = [subjects == subject for subject in np.unique(subjects)]
    values = [-10 * math.log10(max(squares[s][brain[s]].mean(), 1e-12)) for s in own if brain[s].any()]
    return float(np.mean(values)) if values else math.nan


class WeightAverage:
    """Exponential moving average of the weights that sampling needs (A-6); nothing where the decay is 0."""

    def __init__(self, method: Method, decay: float) -> None:
        self.method, self.decay = method, decay
        averaged = decay > 0 and method.optimisers  # a solution in closed form has nothing to average
        weights = method.state_dict() if averaged else {}
        self.weights = {k: v.clone() for k, v in weights.items() if not k.startswith(method.training_only)}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the present weights, after `step` earlier updates."""
        decay = min(self.decay, (1 + step) / (10 + step))  # early averages are not the first draw
        present = self.method.state_dict() if self.weights else {}
        for name, average in self.weights.items():
            if average.is_floating_point():
                average.lerp_(present[name], 1 - decay)
            else:
                average.copy_(present[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights inside the block."""
        present = {k: v.clone() for k, v in self.method.state_dict().items() if k in self.weights}
        self.method.load_state_dict(self.weights, strict=False)
        try:
            yield
        finally:
            self.method.load_state_dict(present, strict=False)


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Note SIGTERM, which clusters send at the time limit, so that the loop saves and stops at the next step."""
    received = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
