"""Stripes across slices and what more or fewer samples and steps are worth, on whole volumes.

python -m benchmarks.stripes --run results/demo/runs/brats_t1ce_mudiff results/demo/phantoms/brats/PhantomBraTS_014
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mudiff.data import files, masks, volumes
from mudiff.data.slices import normalise, to_slices
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics, tables
from mudiff.settings import Settings
from mudiff.synthesis.sample import synthesize_volume
from mudiff.training import runs

WAYS = {
    "independent noise": {"noise": "independent"},
    "one noise for all slices": {"noise": "shared"},
    "independent, mean of 4": {"noise": "independent", "samples": 4},
    "independent, mean of 8": {"noise": "independent", "samples": 8},
    "one noise, mean of 4": {"noise": "shared", "samples": 4},
    "one noise, mean of 8": {"noise": "shared", "samples": 8},
    "independent, one step": {"noise": "independent", "steps": 1},
    "one noise, one step": {"noise": "shared", "steps": 1},
}
"""What is compared -> options of `synthesize_volume`."""


def energy(stack: np.ndarray, brain: np.ndarray, axis: int = 0) -> float:
    """Return the mean square of the difference of neighbours along an axis of (Z, S, S), where both are brain."""
    first, second = (np.take(brain, range(k, brain.shape[axis] - 1 + k), axis) for k in (0, 1))
    return float(np.square(np.diff(stack, axis=axis))[first & second].mean())


def measure(run: Path, subject: Path, ways: dict[str, dict] = WAYS) -> pd.DataFrame:
    """Return for each way: energy of the gradient across and within slices over the truth's, PSNR, SSIM, seconds.

    ``within`` tells stripes from blur: blur lowers both energies, stripes raise the one across.
    """
    settings: Settings = runs.load(run).settings
    if settings.targets:
        raise MudiffError(f"{run}: makes any contrast; pass a run of one target.")
    found = files.find_contrasts(subject)
    loaded = {c: volumes.load_volume(found[c]) for c in (settings.target, *settings.conditions)}
    units = {c: normalise(v.data, settings.normalisation, v.path) for c, v in loaded.items()}
    stacks = {c: to_slices(unit, loaded[c].affine)[0] for c, unit in units.items()}  # (Z, S, S) of the volume's size
    brain, truth, rows = masks.brain_mask(np.stack(list(stacks.values()))), stacks[settings.target], {}
    for name, options in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            path = synthesize_volume(run, subject, settings.target, Path(folder) / "x.nii", **options)
            seconds = time.monotonic() - began
            made = to_slices(volumes.read(path).data, loaded[settings.target].affine)[0]
        _, scores = metrics.score_subject(truth, made, brain)
        across, *within = (energy(made, brain, axis) / energy(truth, brain, axis) for axis in range(3))
        rows[name] = {"across": across, "within": sum(within) / 2, "psnr": scores["psnr"], "ssim": scores["ssim"]}
        rows[name]["seconds"] = seconds
    return pd.DataFrame.from_dict(rows, orient="index")


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.stripes", description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("subjects", type=Path, nargs="+")
    chosen = parser.parse_args()
    for one in chosen.subjects:
        print(tables.markdown(measure(chosen.run, one).round(3).astype(str), one.name))
