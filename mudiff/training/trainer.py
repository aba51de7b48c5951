"""The moves of training, the same for all methods: order, schedule, averaging, validation, checkpoints, resume."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mudiff import paths
from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, Method, build
from mudiff.model.diffusion import slice_seed
from mudiff.settings import Settings
from mudiff.synthesis.sample import sample_slices
from mudiff.training import processes, runs
from mudiff.training.memory import keep_freed_memory


def learning_rate(start: float, settings: Settings, epoch: int) -> float:
    """Return the learning rate of an epoch: constant, a cosine down to the final one (A-4), or linear to 0.

    "linear" is constant for `constant_part` of the epochs and would reach 0 in the first epoch after the
    last. For the cosine, a start below the final rate stays as it is.
    """
    if settings.schedule == "cosine" and start > settings.final_learning_rate:
        final = settings.final_learning_rate
        return final + (start - final) * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
    if settings.schedule == "linear":
        constant = settings.constant_part * settings.epochs
        return start * min(1.0, (settings.epochs - epoch) / (settings.epochs - constant))
    return start


def epoch_order(count: int, settings: Settings, epoch: int) -> np.ndarray:
    """Return the order of the slices in an epoch: the same in all ("fixed", C-8), or drawn anew."""
    drawn = 0 if settings.order == "fixed" else epoch
    return np.random.default_rng(slice_seed(settings.seed, "order", drawn)).permutation(count)


def make_batch(
    slices: prepare.Slices, indices: np.ndarray, settings: Settings, step: int, places: range | None = None
) -> Batch:
    """Read training slices; their seeds follow from the run's seed, the step and the place in the batch.

    `places` of the batch are read, all without it.
    """
    places = range(len(indices)) if places is None else places
    indices = indices[places.start : places.stop]
    read = lambda contrast: torch.from_numpy(slices.images(indices, contrast))  # noqa: E731
    seeds = [slice_seed(settings.seed, "train", step, place) for place in places]
    return Batch(
        target=read(settings.target)[:, None],
        conditions=torch.stack([read(c) for c in settings.conditions], dim=1),
        brain=torch.from_numpy(slices.brain(indices))[:, None],
        seeds=torch.tensor(seeds),
    )


def validation_psnr(method: Method, slices: prepare.Slices) -> float:
    """Return the masked PSNR in dB (data range 1) on evenly spaced validation slices.

    The squared error is pooled over the brain voxels of each subject, the PSNR averaged over subjects,
    as in the tables of protocol ``masked``.
    """
    settings = method.settings
    count = min(settings.validation_slices or len(slices), len(slices))
    indices = np.unique(np.linspace(0, len(slices) - 1, count).round().astype(int))
    synthetic = sample_slices(method, slices, indices)  # (N, S, S) in [0, 1]
    real = (slices.images(indices, settings.target) + 1) / 2
    brain = slices.brain(indices)
    subjects = slices.index["subject"].to_numpy()[indices]
    values = []
    for subject in np.unique(subjects):
        chosen = subjects == subject
        error = (synthetic[chosen] - real[chosen])[brain[chosen]]
        if error.size:
            values.append(-10 * math.log10(max(float(np.square(error, dtype=np.float64).mean()), 1e-12)))
    return float(np.mean(values)) if values else math.nan


class WeightAverage:
    """Exponential moving average of a method's weights (register A-6); off when the decay is 0.

    The decay is warmed up as (1 + step) / (10 + step), so that early averages are not the first draw.
    """

    def __init__(self, method: Method, decay: float) -> None:
        self.method, self.decay = method, decay
        averaged = decay > 0 and method.optimisers  # a solution in closed form has nothing to average
        self.average = {k: v.clone() for k, v in method.state_dict().items()} if averaged else None

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the present weights, after `step` earlier updates."""
        if self.average is not None:
            decay = min(self.decay, (1 + step) / (10 + step))
            for name, value in self.method.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[dict[str, Tensor]]:
        """Use the averaged weights inside the block; yields them (the present ones where it is off)."""
        if self.average is None:
            yield self.method.state_dict()
            return
        present = {k: v.clone() for k, v in self.method.state_dict().items()}
        self.method.load_state_dict(self.average)
        try:
            yield self.average
        finally:
            self.method.load_state_dict(present)


class Trainer:
    """The state of one run and the moves of the loop; everything random follows from seed and step.

    In several processes each has one, and all make the same moves: each trains on its part of the batches,
    the first alone validates, averages the weights and writes.

    Parameters
    ----------
    settings : Settings
        The run's settings.
    prepared : Path
        Folder of the prepared slices.
    folder : Path
        Folder of the run, already claimed.
    device : torch.device
        Where to train.
    compiled : bool
        Whether torch.compile fuses the networks' steps.
    """

    def __init__(
        self, settings: Settings, prepared: Path, folder: Path, device: torch.device, compiled: bool = False
    ) -> None:
        self.settings, self.folder, self.device = settings, folder, device
        self.slices = prepare.open_slices(prepared, "train")
        self.validation = prepare.open_slices(prepared, "val")
        self.method = build(settings).to(device)
        self.rates = {name: o.param_groups[0]["lr"] for name, o in self.method.optimisers.items()}
        if processes.count() > 1 and not self.method.several_processes:
            raise MudiffError(
                f"method {settings.method}: trains in one process only; start it without torchrun, "
                "or with --nproc-per-node 1."
            )
        self.method.prepare_training()
        keep_freed_memory()
        if compiled:
            self.method.compile()
        self.leads = processes.rank() == 0
        self.average = WeightAverage(self.method, settings.ema_decay if self.leads else 0.0)
        self.per_epoch = math.ceil(len(self.slices) / settings.batch_size)
        self.total = settings.epochs * self.per_epoch
        self.step, self.best, self.seconds = 0, -math.inf, 0.0
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def resume(self) -> None:
        """Take up the last saved state, if there is one."""
        state = runs.read_state(self.folder)
        if state is not None:
            self.method.load_state_dict(state["weights"])
            for name, optimiser in self.method.optimisers.items():
                optimiser.load_state_dict(state["optimisers"][name])
            if self.average.average is not None:
                self.average.average = {k: v.to(self.device) for k, v in state["average"].items()}
            self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
            self.sums = {k: v.to(self.device) * self.leads for k, v in state["sums"].items()}
            self.counts = state["counts"]
        if self.leads:
            runs.cut_log(self.folder, self.step)

    def save(self) -> None:
        """Write the state that `resume` takes up, whatever the number of processes then."""
        self.sums = {k: v * self.leads for k, v in processes.add_up(self.sums).items()}
        processes.first(self._save)

    def _save(self) -> None:
        state = {
            "weights": self.method.state_dict(),
            "optimisers": {name: o.state_dict() for name, o in self.method.optimisers.items()},
            "average": self.average.average or {},
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "sums": self.sums,
            "counts": self.counts,
        }
        runs.save_state(self.folder, state)

    def take_step(self) -> None:
        """Train on the next batch."""
        epoch, place = divmod(self.step, self.per_epoch)
        for name, optimiser in self.method.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(self.rates[name], self.settings, epoch)
        order = epoch_order(len(self.slices), self.settings, epoch)
        size = self.settings.batch_size
        indices = order[place * size : (place + 1) * size]
        part = processes.part_of(len(indices))
        with processes.together():
            batch = make_batch(self.slices, indices, self.settings, self.step, part.places).to(self.device)
        with processes.taking(part):
            values = self.method.training_step(batch, self.step)
        self.average.update(self.step)
        self.step += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + part.of(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def log(self) -> None:
        """Append the mean losses since the last line."""
        processes.first(self._log, self._mean_losses())

    def _mean_losses(self) -> dict[str, float]:
        """Return the mean losses since they were last asked for, over the batches of all processes."""
        means = {name: float(v) / self.counts[name] for name, v in processes.add_up(self.sums).items()}
        self.sums, self.counts = {}, {}
        with processes.together():
            for name, value in means.items():
                if not math.isfinite(value):
                    raise MudiffError(
                        f"{self.folder}: the loss {name!r} is no number at step {self.step}: training has "
                        "diverged; lower learning_rate (--set learning_rate=...) or choose another seed."
                    )
        return means

    def _log(self, losses: dict[str, float], **extra: float) -> None:
        line = {"step": self.step, "epoch": self.step / self.per_epoch}
        epochs, place = divmod(self.step, self.per_epoch)
        line["slices"] = epochs * len(self.slices) + place * self.settings.batch_size
        for name, optimiser in self.method.optimisers.items():
            line[f"lr/{name}"] = optimiser.param_groups[0]["lr"]
        line |= {f"loss/{name}": value for name, value in losses.items()}
        runs.append_log(self.folder, line | {"seconds": round(self.seconds, 2)} | extra)

    def validate(self) -> float:
        """Measure validation PSNR, keep the weights if they are the best so far, and log it.

        Only the first process knows the result; the others wait, and return NaN.
        """
        losses = self._mean_losses()  # first: it refuses losses that diverged
        psnr = processes.first(self._validate, losses)
        return math.nan if psnr is None else psnr

    def _validate(self, losses: dict[str, float]) -> float:
        self.method.eval()
        with self.average.applied() as weights:
            psnr = validation_psnr(self.method, self.validation)
            self._log(losses, **{"validation/psnr": psnr})
            if psnr > self.best or not (self.folder / "best.safetensors").is_file():
                runs.save_weights(self.folder / "best.safetensors", weights, self.settings)
            self.best = max(self.best, psnr)  # keeps -inf where psnr is NaN
        self.method.train()
        return psnr

    def finish(self, data_hash: str) -> None:
        """Write the last and the chosen weights and, as the last file, the provenance."""
        with self.average.applied() as weights:
            runs.save_weights(self.folder / "last.safetensors", weights, self.settings)
            if self.settings.checkpoint == "last":
                runs.save_weights(self.folder / "weights.safetensors", weights, self.settings)
        best = self.folder / "best.safetensors"
        if (
            self.settings.checkpoint == "best" and best.is_file()
        ):  # it is gone if a crash came after this line
            best.replace(self.folder / "weights.safetensors")
        record = runs.provenance(self.settings, data_hash, self.device, self.seconds)
        record |= {"steps": self.step, "slices_seen": self.settings.epochs * len(self.slices)}
        record["processes"] = processes.count()
        record["best_validation_psnr"] = self.best
        paths.write_json(self.folder / "provenance.json", record)
        for leftover in ("state.pt", "best.safetensors"):
            (self.folder / leftover).unlink(missing_ok=True)
