"""The ablations of MU-Diff (section "Ablation study"); beyond the paper, several samples of a slice."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.cache import file_hash, kept
from mudiff.data.dataset import UINT16_MAX, Slices
from mudiff.settings import Settings
from mudiff.training import profiles


def settings(profile: str, variant: str) -> Settings:
    """Return the settings of an ablation; "full" is the main run where the ablations have its budget."""
    named = profiles.profile(profile).full if variant == "full" else variant
    return profiles.settings(profile, *profiles.ABLATED, "mudiff", named)


def seconds(profile: str, slices: Slices, variants: Sequence[str]) -> pd.DataFrame:
    """Time the sampling of batches of four slices, all variants back to back; kept, so that a figure stays the same.

    Columns variant, seconds (per slice; median of three rounds) and device (on which it was measured).
    """
    folders = {v: paths.run(profile, settings(profile, v).run_name) for v in variants}
    weights = [file_hash(folder / "weights.safetensors") for folder in folders.values()]

    def measure() -> pd.DataFrame:
        import torch

        from mudiff.synthesis import sample
        from mudiff.training import runs

        device, rows = runs.default_device(), np.arange(min(4, len(slices)))
        methods = {v: runs.load(folder, device) for v, folder in folders.items()}
        taken: dict[str, list[float]] = {v: [] for v in methods}
        for _ in range(4):  # the first round warms up
            for variant, method in methods.items():
                began = time.perf_counter()
                sample.sample_slices(method, slices, rows)  # ends on the CPU, so it waits for a GPU
                taken[variant].append((time.perf_counter() - began) / len(rows))
        where = f"a CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else where
        median = [float(np.median(times[1:])) for times in taken.values()]
        return pd.DataFrame({"variant": list(taken), "seconds": median, "device": where})

    return kept(paths.analysis(profile, "ablations") / "seconds.csv", measure, weights)


# Beyond the paper: a diffusion model draws an image, and another seed draws another one


def draw(profile: str, run: Path, slices: Slices, rows: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return what a run of MU-Diff or SynDiff draws for the n slices in `rows`, in [0, 1]; kept by the profile.

    ``samples`` are (count, n, S, S), where sample k has seed k, so that the first is that of notebook 03;
    ``one_step`` (n, S, S) is the mean of the networks' first predictions.
    """

    def sample_all() -> dict[str, np.ndarray]:
        import torch
        from tqdm.auto import tqdm

        from mudiff.synthesis import sample
        from mudiff.training import runs

        method = runs.load(run, runs.default_device())
        first: list[torch.Tensor] = []  # what the networks say when all that they see of the target is noise

        def look(step: dict) -> None:
            if step["t"] == method.settings.steps - 1 and sum(map(len, first)) < len(rows):
                predictions = [step[name] for name in ("x_p1", "x_p2") if name in step]
                first.append(sum(predictions).float().cpu()[:, 0] / len(predictions))

        seeds = tqdm(range(count), desc="draw samples", disable=None)
        samples = [sample.sample_slices(method, slices, rows, seed, callback=look) for seed in seeds]
        images = {"samples": np.stack(samples), "one_step": (torch.cat(first).clamp(-1, 1).numpy() + 1) / 2}
        return {name: np.round(values * UINT16_MAX).astype(np.uint16) for name, values in images.items()}

    file = paths.analysis(profile, "samples") / f"{run.name}.npz"
    weights = file_hash(run / "weights.safetensors")
    stored = kept(file, sample_all, weights, slices.info["data_hash"], rows.tolist(), count)
    return {name: values.astype(np.float32) / UINT16_MAX for name, values in stored.items()}
