"""One training loop for all methods, in one process or several; it stops at SIGTERM and resumes where it stopped."""

import signal
import threading
import time
from pathlib import Path

import torch

from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.model.diffusion import slice_seed
from mudiff.settings import Settings
from mudiff.training import processes, runs
from mudiff.training.trainer import Trainer, epoch_order, learning_rate, make_batch, validation_psnr

__all__ = ["Trainer", "epoch_order", "learning_rate", "make_batch", "train", "validation_psnr"]


class _StopRequest:
    """Notes SIGTERM, so that the loop saves and stops at the next step (clusters send it at the time limit)."""

    def __enter__(self) -> "_StopRequest":
        self.received = False
        self.previous = None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, *_: object) -> None:
        self.received = True

    def __exit__(self, *_: object) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)


def train(
    settings: Settings,
    prepared: Path,
    folder: Path,
    *,
    device: torch.device | None = None,
    compiled: bool = False,
    progress: bool = True,
    save_seconds: float = 60.0,
) -> Path:
    """Train a run to its end, from where it stopped; a complete run is left alone.

    Processes that ``torchrun`` started train one run together, each on a part of every batch.

    Parameters
    ----------
    settings : Settings
        The run's settings.
    prepared : Path
        Folder of the prepared slices (`mudiff prepare`).
    folder : Path
        Folder of the run. A run of other settings or data that lies there is moved aside.
    device : torch.device, optional
        The GPU if there is one, else the CPU.
    compiled : bool
        Whether torch.compile fuses the networks' steps (`Method.compile`).
    progress : bool
        Whether to show a bar with the time left (never in a log file).
    save_seconds : float
        Seconds between two resume states; validation saves one too.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    MudiffError
        If the slices do not fit the settings, or a file cannot be read or written.
    SystemExit
        143, after SIGTERM: the state is saved and the same command resumes.
    """
    with processes.joined():
        with processes.together():
            device = device or runs.default_device()
            data_hash = prepare.check(prepared, settings.preparation())
        _check_gpus(device)
        with processes.first_holds(runs.locked(folder)):
            ended = lambda: runs.matches(folder, settings, data_hash) and runs.is_complete(folder)  # noqa: E731
            if not processes.first_says(ended):
                trainer = _start(settings, prepared, folder, device, data_hash, compiled)
                with _StopRequest() as stop:
                    _run(trainer, stop, progress, save_seconds)
                processes.first(trainer.finish, data_hash)
    return folder


def _check_gpus(device: torch.device) -> None:
    if processes.count() > 1:
        on_gpu = device.type == "cuda"
        number = slice_seed(torch.cuda.get_device_properties(device).uuid) if on_gpu else 0
        gpus = [gpu for gpu in processes.agree(number) if gpu]  # 0: a process on the CPU
        with processes.together():
            if len(set(gpus)) < len(gpus):
                raise MudiffError(
                    f"device {device}: several processes would share a GPU; start one for each GPU, without --device."
                )


def _start(
    settings: Settings, prepared: Path, folder: Path, device: torch.device, data_hash: str, compiled: bool
) -> Trainer:
    """Return the trainer where the run stopped last, the same in all processes."""
    with processes.together():
        # Built first: settings that cannot be trained must not displace a run.
        trainer = Trainer(settings, prepared, folder, device, compiled)
    processes.first(runs.claim, folder, settings, data_hash)
    with processes.together():
        trainer.resume()
    steps = processes.agree(trainer.step)
    with processes.together():
        if len(set(steps)) > 1:
            raise MudiffError(f"{folder}/state.pt: the processes find different ones; start them again.")
    trainer.method.distribute()
    return trainer


_NOTHING, _SAVE, _STOP = range(3)  # what one process may wish for, and all do


def _run(trainer: Trainer, stop: _StopRequest, progress: bool, save_seconds: float) -> None:
    from tqdm.auto import tqdm

    settings = trainer.settings
    log_every = max(1, trainer.per_epoch // 10)
    began, saved = time.monotonic() - trainer.seconds, time.monotonic()
    with tqdm(
        total=trainer.total,
        initial=trainer.step,
        desc=settings.run_name,
        unit="step",
        disable=None if progress and trainer.leads else True,  # None: quiet where the output is no terminal
    ) as bar:
        while trainer.step < trainer.total:
            trainer.take_step()
            bar.update()
            trainer.seconds = time.monotonic() - began
            epoch, place = divmod(trainer.step, trainer.per_epoch)
            ended = trainer.step == trainer.total
            if (place == 0 and epoch % settings.validate_every == 0) or ended:
                bar.set_postfix(psnr=f"{trainer.validate():.2f} dB")
                trainer.save()
                saved = time.monotonic()
            elif trainer.step % log_every == 0:
                trainer.log()
            due = _SAVE if time.monotonic() - saved > save_seconds else _NOTHING
            wish = max(processes.agree(_STOP if stop.received else due))
            if wish != _NOTHING:
                trainer.save()
                saved = time.monotonic()
            if wish == _STOP:
                raise SystemExit(143)
