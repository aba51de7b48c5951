"""Synthesis with a trained run: test slices, and whole volumes on their own grid."""

import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mudiff import paths
from mudiff.data import datasets, prepare, volumes
from mudiff.data import files as layouts
from mudiff.errors import MudiffError
from mudiff.methods import Method
from mudiff.model.diffusion import slice_seed
from mudiff.training import runs

BATCH = 8
"""Slices that are sampled together; has no influence on the result."""


def _unit(x: Tensor) -> np.ndarray:
    """Return slices (B, 1, S, S) in [-1, 1] as float32 (B, S, S) in [0, 1]."""
    return (x[:, 0].float().cpu().numpy() + 1) / 2


def sample_slices(method: Method, slices: prepare.Slices, indices: np.ndarray, seed: int = 0) -> np.ndarray:
    """Synthesise prepared slices.

    Parameters
    ----------
    method : Method
        A trained method.
    slices : Slices
        Prepared slices.
    indices : np.ndarray
        Which of them.
    seed : int
        With subject and slice number it decides a slice's random numbers.

    Returns
    -------
    np.ndarray
        float32 (N, S, S) in [0, 1].
    """
    rows = slices.index.iloc[indices]
    seeds = [slice_seed(seed, "sample", s, z) for s, z in zip(rows["subject"], rows["slice"], strict=True)]
    output = np.empty((len(indices), slices.image_size, slices.image_size), np.float32)
    for start in range(0, len(indices), BATCH):
        chosen = slice(start, start + BATCH)
        y = np.stack([slices.images(indices[chosen], c) for c in method.settings.conditions], axis=1)
        x = method.synthesize(torch.from_numpy(y).to(method.device), torch.tensor(seeds[chosen]))
        output[chosen] = _unit(x)
    return output


def synthesize_split(
    run: Path, prepared: Path, split: str, folder: Path, *, device: torch.device | None = None, seed: int = 0
) -> Path:
    """Synthesise every slice of a split and write one file a subject; finished subjects are kept.

    Writes ``<subject>.npy``, uint16 (n, S, S) with value / 65535 in [0, 1], and ``synthetic.json``. Slices
    of another run or of other data that lie in the folder are removed.

    Parameters
    ----------
    run : Path
        Folder of a complete run.
    prepared : Path
        Folder of the prepared slices.
    split : str
        ``train``, ``val`` or ``test``.
    folder : Path
        Where to write.
    device : torch.device, optional
        The GPU if there is one, else the CPU.
    seed : int
        Seed of all slices.

    Raises
    ------
    MudiffError
        If the run or the slices are missing, or do not fit each other.
    """
    from tqdm.auto import tqdm

    method = runs.load(run, device or runs.default_device())
    data_hash = prepare.check(prepared, method.settings.preparation())
    slices = prepare.open_slices(prepared, split)
    key = {
        "run": method.settings.run_name,
        "weights": hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest(),
        "data": data_hash,
        "split": split,
        "seed": seed,
    }
    began = time.monotonic()
    record = folder / "synthetic.json"
    if folder.is_dir() and (not record.is_file() or {k: paths.read_json(record).get(k) for k in key} != key):
        for old in folder.glob("*.npy"):  # of another run, or nobody knows of which
            old.unlink()
    paths.write_json(record, key)
    count = 0
    for subject in tqdm(slices.subjects, desc=f"synthesise {key['run']}", unit="subject", disable=None):
        path = folder / f"{subject}.npy"
        if not path.is_file():
            images = sample_slices(method, slices, slices.subject(subject), seed)
            count += len(images)
            with paths.replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.round(images * 65535).astype(np.uint16), allow_pickle=False)
    if count:
        seconds = (time.monotonic() - began) / count
        paths.write_json(record, key | {"seconds_per_slice": round(seconds, 4)})
    return folder


def read_synthetic(folder: Path, subject: str) -> np.ndarray:
    """Return the synthetic slices of a subject, float32 (n, S, S) in [0, 1].

    Raises
    ------
    MudiffError
        If they are missing or damaged.
    """
    path = Path(folder) / f"{subject}.npy"
    try:
        return np.load(path, allow_pickle=False).astype(np.float32) / 65535
    except FileNotFoundError:
        raise MudiffError(
            f"{path}: synthetic slices not found; make them with notebook 03_sampling."
        ) from None
    except (ValueError, OSError, EOFError) as error:
        raise MudiffError(
            f"{path}: damaged ({error}); delete it and run notebook 03_sampling again."
        ) from None


def _load_conditions(method: Method, folder: Path) -> dict[str, volumes.Volume]:
    """Read the conditions of a subject's folder, on one grid."""
    files = layouts.find_contrasts(folder)
    wanted = method.settings.conditions
    missing = [datasets.LABELS[c] for c in wanted if c not in files]
    if missing:
        raise MudiffError(
            f"{folder}: contrast {', '.join(missing)} not found; this run needs "
            f"{', '.join(datasets.LABELS[c] for c in wanted)} to make {datasets.LABELS[method.settings.target]}."
        )
    loaded = {c: volumes.load_volume(files[c]) for c in wanted}
    volumes.check_grid(loaded, str(folder))
    return loaded


def _check_request(subject: Path, output: Path, uncertainty: Path | None, samples: int) -> None:
    """Check what `synthesize_volume` is asked for before anything is computed."""
    if samples < 1 or (uncertainty is not None and samples < 2):
        raise MudiffError(f"--samples {samples}: expected at least 1, and at least 2 with --uncertainty.")
    for path in filter(None, (output, uncertainty)):
        if not str(path).endswith((".nii", ".nii.gz")):
            raise MudiffError(f"{path}: volumes are written as .nii or .nii.gz; choose such a name.")
    outputs = [Path(path).resolve() for path in (output, uncertainty) if path is not None]
    sources = {path.resolve() for path in layouts.find_contrasts(subject).values()}
    if len(set(outputs)) < len(outputs) or sources & set(outputs):
        raise MudiffError(f"{output}: is a file of the subject, or named twice; choose names of its own.")


def _sample_stack(method: Method, y: Tensor, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over the samples, float64 (Z, S, S) each, of slices y (Z, n, S, S)."""
    from tqdm.auto import tqdm

    filled = torch.nonzero((y > -1).flatten(1).any(dim=1))[:, 0]  # empty slices stay 0 without sampling
    # Sums of x and x^2 over the samples: memory does not grow with their number.
    total, squares = np.zeros((2, len(y), *y.shape[2:]), np.float64)
    work = [(k, part) for k in range(samples) for part in filled.split(BATCH)]
    for k, part in tqdm(work, desc=f"synthesise {method.settings.run_name}", unit="batch", disable=None):
        seeds = torch.tensor([slice_seed(seed, "volume", k, int(z)) for z in part])
        x = _unit(method.synthesize(y[part].to(method.device), seeds))
        places = part.numpy()  # numpy takes a tensor of one element for a number
        total[places] += x
        squares[places] += np.square(x, dtype=np.float64)
    mean = total / samples
    variance = np.maximum(squares / samples - mean**2, 0) * samples / max(samples - 1, 1)
    return mean, np.sqrt(variance)


def synthesize_volume(
    run: Path,
    subject: Path,
    target: str,
    output: Path,
    *,
    samples: int = 1,
    uncertainty: Path | None = None,
    device: torch.device | None = None,
    precision: str | None = None,
    seed: int = 0,
) -> Path:
    """Make a subject's missing contrast as a whole volume on the grid of its other contrasts.

    In this order: read the conditions and check that they share one grid; normalise each volume; cut into
    axial slices, pad and resize; sample all slices; average the samples; resize and pad back; set voxels where every
    condition is background to 0.

    Parameters
    ----------
    run : Path
        Folder of a complete run.
    subject : Path
        Folder of the subject, in any of the layouts that `mudiff prepare` reads.
    target : str
        The contrast to make; must be the run's target.
    output : Path
        NIfTI file with the shape, affine and header geometry of the input, values in [0, 1] of the
        normalised target.
    samples : int
        Volumes to draw and average.
    uncertainty : Path, optional
        NIfTI file for the standard deviation of the samples (two or more), in the same units.
    device : torch.device, optional
        The GPU if there is one, else the CPU.
    precision : str, optional
        "float32" or "bfloat16" (docs/PERFORMANCE.md has times); the run's own where none is given.
    seed : int
        The seeds of all slices and samples derive from it.

    Raises
    ------
    MudiffError
        If the run makes another target, a contrast is missing, or a volume cannot be used.
    """
    method = runs.load(run, device or runs.default_device(), precision)
    settings = method.settings
    if datasets.contrast(target) != settings.target:
        raise MudiffError(
            f"{run}: this run makes {datasets.LABELS[settings.target]}, not "
            f"{datasets.LABELS[datasets.contrast(target)]}; pass a run of the wanted target."
        )
    _check_request(Path(subject), output, uncertainty, samples)
    loaded = _load_conditions(method, Path(subject))
    stacks, background, geometry = [], True, None
    for volume in loaded.values():
        unit = volumes.normalise(volume.data, settings.normalisation, volume.path)
        background = background & (volume.data <= 0)
        slices, geometry = volumes.to_slices(unit, volume.affine, settings.image_size)
        stacks.append(slices)
    y = torch.from_numpy(np.stack(stacks, axis=1)) * 2 - 1  # (Z, n, S, S) in [-1, 1]
    like = next(iter(loaded.values()))

    mean, deviation = _sample_stack(method, y, samples, seed)
    results = [(output, mean)] if uncertainty is None else [(output, mean), (uncertainty, deviation)]
    for path, stack in results:
        native = volumes.from_slices(stack.astype(np.float32), geometry)
        native[background] = 0
        volumes.save_volume(Path(path), np.clip(native, 0, 1), like)
    return Path(output)
