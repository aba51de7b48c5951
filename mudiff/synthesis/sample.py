"""Synthesis with a trained run: prepared slices, and whole volumes on their own grid."""

import os
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mudiff import cache, storage
from mudiff.data import dataset, datasets, files, volumes
from mudiff.data.doubts import doubts
from mudiff.data.slices import from_slices, normalise, to_slices
from mudiff.errors import MudiffError
from mudiff.methods.base import Callback, Diffusion, Method
from mudiff.model.diffusion import slice_seed
from mudiff.model.scenario import Scenario
from mudiff.settings import Settings
from mudiff.training import runs

BATCH = 8
"""Slices that are sampled at once; has no influence on the result."""

NOISES = ("shared", "independent")
"""Whether all slices of a volume begin with one noise (X-2: fewer stripes across slices) or each with its own."""

Task = tuple[Collection[str], str]
"""Of a run of target "any": the contrasts that are given, and the one to make."""


def sample_slices(
    method: Method, slices: dataset.Slices, indices: np.ndarray, seed: int = 0,
    replaced: Mapping[str, np.ndarray] | None = None, callback: Callback | None = None,
    task: Task | None = None, steps: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Synthesise the prepared slices `indices` (N,), float32 (N, S, S) in [0, 1].

    `seed`, subject and slice number decide a slice's random numbers. `replaced` maps conditions to images
    (N, S, S) in [-1, 1] that take the place of the prepared ones. A run of target "any" takes the `task`, contrasts
    that are given and the one to make. `callback`, `steps`: see `Diffusion.synthesize`.
    """
    _check_steps(method, steps)
    rows = slices.index.iloc[indices]
    seeds = [slice_seed(seed, "sample", s, z) for s, z in zip(rows["subject"], rows["slice"], strict=True)]
    output = np.empty((len(indices), slices.image_size, slices.image_size), np.float32)
    for start in range(0, len(indices), BATCH):
        part = slice(start, start + BATCH)
        y = {c: slices.images(indices[part], c) for c in method.settings.conditions}
        y |= {c: stack[part] for c, stack in (replaced or {}).items() if c in y}
        conditions = torch.from_numpy(np.stack(list(y.values()), axis=1).astype(np.float32))  # (B, n, S, S)
        output[part] = sample_batch(method, conditions, seeds[part], task, steps, callback)
    return output


def sample_batch(
    method: Method, conditions: Tensor, seeds: list[int], task: Task | None, steps: int | None = None,
    callback: Callback | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the slices (B, S, S) in [0, 1] of conditions (B, n, S, S) in [-1, 1]; see `sample_slices`."""
    settings, options = method.settings, {}
    if settings.targets:
        if task is None:
            raise MudiffError(f"run {settings.run_name}: say which contrasts are given and which one to make.")
        options["scenario"] = Scenario.of(settings.conditions, *task, len(seeds)).to(method.device)
    if steps is not None:
        options["steps"] = steps
    x = method.synthesize(conditions.to(method.device), torch.tensor(seeds), callback, **options)  # (B, 1, S, S)
    images = (x[:, 0].float().cpu().numpy() + 1) / 2
    if not np.isfinite(images).all():
        raise MudiffError(f"run {settings.run_name}: its weights lead to NaN or infinite voxels; train it again.")
    return images


def _check_steps(method: Method, steps: int | None) -> None:
    if steps is not None and not isinstance(method, Diffusion):
        raise MudiffError(
            f"--steps {steps}: method {method.settings.method} makes an image in one pass; leave it out."
        )
    if steps is not None and not 0 < steps <= method.schedule.steps:
        raise MudiffError(f"--steps {steps}: expected 1 to {method.schedule.steps}, the steps of this run.")


def synthesize_split(
    run: Path, prepared: Path, split: str, folder: Path, *, device: torch.device | None = None, seed: int = 0
) -> Path:
    """Synthesise every slice of a split: ``<subject>.npy``, uint16 (n, S, S), value / 65535 in [0, 1].

    Finished subjects are kept; slices made by another run or from other data (``synthetic.json``) are replaced.
    """
    from tqdm.auto import tqdm

    method = runs.load(run, device or runs.default_device())
    data_hash = dataset.check(prepared, method.settings.preparation())
    slices = dataset.open_slices(prepared, split)
    key = {"run": method.settings.run_name, "weights": cache.file_hash(run / "weights.safetensors")}
    key |= {"data": data_hash, "split": split, "seed": seed}
    record = folder / "synthetic.json"
    if not record.is_file() and folder.is_dir() and any(folder.iterdir()):
        raise MudiffError(f"{folder}: holds files that are not synthetic slices; choose a new folder.")
    if record.is_file() and {name: storage.read_json(record).get(name) for name in key} != key:
        for old in folder.glob("*.npy"):
            old.unlink()
    storage.write_json(record, key)
    began, count = time.monotonic(), 0
    for subject in tqdm(slices.subjects, desc=f"synthesise {key['run']}", unit="subject", disable=None):
        path = folder / f"{subject}.npy"
        if not path.is_file():
            images = sample_slices(method, slices, slices.subject(subject), seed)
            count += len(images)
            with storage.atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.round(images * 65535).astype(np.uint16), allow_pickle=False)
    if count:
        storage.write_json(record, key | {"seconds_per_slice": round((time.monotonic() - began) / count, 4)})
    return folder


def read_synthetic(folder: Path, subject: str) -> np.ndarray:
    """Return the synthetic slices of a subject, float32 (n, S, S) in [0, 1]; a `MudiffError` without them."""
    path = Path(folder) / f"{subject}.npy"
    with storage.reading(path, "synthetic slices", "delete it and run notebook 03_sampling"):
        return np.load(path, allow_pickle=False).astype(np.float32) / 65535


def synthesize_missing(
    run: Path, subject: Path, folder: Path, *, uncertainty: Path | None = None, **options: Any
) -> list[Path]:
    """Synthesise what the run makes and the subject lacks, as ``<subject>_<contrast>_synthetic.nii.gz``.

    No layout takes such a name for an acquired contrast. `uncertainty` is a folder, too (it may be the same); the
    other options are those of `synthesize_volume`.
    """
    subject, settings = Path(subject).absolute(), runs.load(run).settings
    found = files.find_contrasts(subject)
    own = settings.conditions if settings.targets else (settings.target,)
    made = ", ".join(datasets.LABELS[name] for name in own)
    missing = [name for name in own if name not in found]
    if settings.targets and len(missing) == len(own):
        raise MudiffError(f"{subject}: holds none of {made}, of which this run needs at least one.")
    if not missing:
        advice = "pass --target and --output with --force to make one of them from the others"
        raise MudiffError(f"{subject}: nothing is missing of what this run makes ({made}); {advice}.")
    written, levels = [], [part for part in subject.parts if part.startswith(("sub-", "ses-"))]  # of BIDS
    for name in missing:
        file = f"{'_'.join(levels) or subject.name}_{name}_synthetic"
        spread = None if uncertainty is None else uncertainty / f"{file}_uncertainty.nii.gz"
        output = folder / f"{file}.nii.gz"
        written.append(synthesize_volume(run, subject, name, output, uncertainty=spread, **options))
    return written


def synthesize_volume(
    run: Path, subject: Path | files.Files, target: str, output: Path, *, samples: int = 1,
    uncertainty: Path | None = None, noise: str = "shared", steps: int | None = None, force: bool = False,
    device: torch.device | None = None, precision: str | None = None, seed: int = 0,
) -> Path:  # fmt: skip
    """Synthesise a subject's missing contrast as a whole volume on the grid of its other contrasts.

    In this order: normalise each condition; cut it into axial slices, pad and resize; sample all slices; average the
    samples; resize and pad back; set voxels where every condition is background to 0. `subject` is a folder in any
    layout that `mudiff prepare` reads, or its files; `output` and `uncertainty` are NIfTI files on its grid, in
    [0, 1] of the normalised target: mean and standard deviation of the samples. `precision` is by default that of the
    run; `noise` is one of `NOISES`, `steps` see `Diffusion.synthesize`. A run of target "any" takes what there is,
    also where (`force`) the target is there, too.
    """
    method = runs.load(run, device or runs.default_device(), precision)
    settings, target = method.settings, datasets.contrast(target)
    if samples < 1 or (uncertainty is not None and samples < 2):
        raise MudiffError(f"--samples {samples}: expected at least 1, and at least 2 with --uncertainty.")
    if not settings.targets and target != settings.target:
        own, wanted = (datasets.LABELS[c] for c in (settings.target, target))
        raise MudiffError(f"{run}: this run makes {own}, not {wanted}; pass a run of the wanted target.")
    datasets.known("noise", noise, NOISES)
    _check_steps(method, steps)
    outputs = [Path(path) for path in (output, uncertainty) if path is not None]
    conditions = _conditions(Path(run), settings, subject, target, outputs, force)
    for path in outputs:
        storage.check_writable(path)
    background = np.logical_and.reduce([volume.data <= 0 for volume in conditions.values()])
    stacks, first = {}, next(iter(conditions))
    for name, volume in conditions.items():
        unit = normalise(volume.data, settings.normalisation, volume.path)
        stacks[name], geometry = to_slices(unit, volume.affine, settings.image_size)
    absent = np.zeros_like(stacks[first])
    y = torch.from_numpy(np.stack([stacks.get(c, absent) for c in settings.conditions], axis=1)) * 2 - 1
    drawn = _sample_stack(method, y, samples, seed, (tuple(conditions), target), noise, steps)
    for path, stack in zip(outputs, drawn, strict=False):
        native = from_slices(stack.astype(np.float32), geometry)
        native[background] = 0
        volumes.save_volume(path, np.clip(native, 0, 1), conditions[first])
    return outputs[0]


def _conditions(
    run: Path, settings: Settings, subject: Path | files.Files, target: str, outputs: list[Path], force: bool
) -> dict[str, volumes.Volume]:
    """Read the conditions of a subject, on one grid, once it is clear that nothing of it is overwritten."""
    found = subject if isinstance(subject, dict) else files.find_contrasts(subject)
    if isinstance(subject, dict):
        subject = next(iter(found.values())).parent
    for path in outputs:
        if not path.name.endswith((".nii", ".nii.gz")):
            raise MudiffError(f"{path}: volumes are written as .nii or .nii.gz; choose such a name.")
    written = set(map(os.path.realpath, outputs))
    if len(written) < len(outputs) or written & set(map(os.path.realpath, found.values())):
        raise MudiffError(f"{outputs[0]}: is a file of the subject, or named twice; choose another name.")
    named, needed = datasets.LABELS, settings.conditions
    if settings.targets:
        datasets.known("contrast", target, settings.conditions)
        if target in found and not force:
            advice = "pass --force to make it from the others all the same"
            raise MudiffError(f"{subject}: {named[target]} is there already ({found[target].name}); {advice}.")
        needed = tuple(name for name in settings.conditions if name in found and name != target)
        if not needed:
            known = ", ".join(named[name] for name in settings.conditions if name != target)
            raise MudiffError(f"{subject}: holds none of {known}, of which this run needs at least one.")
    if missing := [c for c in needed if c not in found]:
        others = [run.resolve().parent / f"{settings.dataset}_{datasets.ANY}_{m}" for m in datasets.ANY_METHODS]
        able = [other for other in others if runs.is_complete(other) and set(needed) & found.keys()]
        advice = f"; run {able[0]} can do without" if able else ""
        advice += files.left_out(found, *missing)
        wanted = ", ".join(named[c] for c in missing)
        raise MudiffError(f"{subject}: contrast {wanted} not found, which this run needs{advice}.")
    loaded = {c: volumes.load_volume(found[c]) for c in needed}
    volumes.check_grid(loaded, str(subject))
    for name, doubt in doubts(loaded, 10**6):  # all slices are used
        print("warning:", " ".join(filter(None, (str(subject) + ":", named.get(name), doubt))), file=sys.stderr)
    return loaded


def _sample_stack(
    method: Method, y: Tensor, samples: int, seed: int, task: Task, noise: str, steps: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the samples, float64 (Z, S, S) each, of slices y (Z, n, S, S)."""
    from tqdm.auto import tqdm

    filled = torch.nonzero((y > -1).flatten(1).any(dim=1))[:, 0]  # empty slices stay 0 without sampling
    # Sums of x and x^2 over the samples: memory does not grow with their number.
    total, squares = np.zeros((2, len(y), *y.shape[2:]), np.float64)
    work = [(k, part) for k in range(samples) for part in filled.split(BATCH)]
    label = f"synthesise {datasets.LABELS[task[1]]}"
    for k, part in tqdm(work, desc=label, unit="batch", disable=None):
        own = [(int(z),) if noise == "independent" else () for z in part]
        seeds = [slice_seed(seed, "volume", k, *place) for place in own]
        x = sample_batch(method, y[part], seeds, task, steps)
        total[part.numpy()] += x
        squares[part.numpy()] += np.square(x, dtype=np.float64)
    mean = total / samples
    variance = np.maximum(squares / samples - mean**2, 0) * samples / max(samples - 1, 1)
    return mean, np.sqrt(variance)
