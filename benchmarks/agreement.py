"""Do faster formulations and bfloat16 give the same images? Samples of one training, compared.

    python -m benchmarks.agreement                                  # `demo` networks: a minute or two
    python -m benchmarks.agreement --profile paper --device cuda --steps 300 --batch 16

Trains MU-Diff for some steps on phantoms, samples slices of a phantom that it did not see, with the same weights
and seeds in float32, in bfloat16 and in the released way, and writes benchmarks/results/agreement.csv: PSNR in dB
(data range 1, in the brain) against the truth and against float32, and the largest difference of a voxel.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import report
from benchmarks.released_like import released_like
from mudiff.data import files, prepare
from mudiff.methods.base import Batch, Method, build
from mudiff.model.diffusion import slice_seed
from mudiff.phantoms import cohort
from mudiff.settings import Settings
from mudiff.synthesis import sample
from mudiff.training import profiles
from mudiff.training.runs import default_device

KEY = ("profile", "processor", "device", "formulation", "precision")


def prepared(settings: Settings, folder: Path, subjects: int) -> Path:
    """Prepare phantoms at the size of the settings: the last one for the test, the others for training."""
    cohort.write_cohort("brats", folder / "raw", (subjects, 0, 0), workers=1)
    names = list(files.find_subjects("brats", folder / "raw"))
    splits = ["train"] * (len(names) - 1) + ["test"]
    manifest = pd.DataFrame({"subject": names, "split": splits, "reason": ""})
    place = folder / "prepared"
    prepare.prepare(
        settings.preparation(), folder / "raw", manifest, place, workers=1, progress=False
    ).check()
    return place


def _batch(slices: prepare.Slices, settings: Settings, indices: np.ndarray, step: int) -> Batch:
    read = lambda contrast: torch.from_numpy(slices.images(indices, contrast))  # noqa: E731
    return Batch(
        read(settings.target)[:, None],
        torch.stack([read(contrast) for contrast in settings.conditions], dim=1),
        torch.from_numpy(slices.brain(indices))[:, None],
        torch.tensor([slice_seed("agreement", step, int(index)) for index in indices]),
    )


def trained(settings: Settings, slices: prepare.Slices, steps: int, device: torch.device) -> Method:
    """Return MU-Diff after so many steps."""
    method, rng = build(settings).to(device), np.random.default_rng(0)
    for step in range(steps):
        indices = rng.choice(len(slices), settings.batch_size, replace=False)
        method.training_step(_batch(slices, settings, indices, step).to(device), step)
    return method.eval()


def _psnr(x: np.ndarray, y: np.ndarray, brain: np.ndarray) -> float:
    error = float(np.square(x - y, dtype=np.float64)[brain].mean())
    return float("inf") if error == 0 else -10 * np.log10(error)


def compare(method: Method, slices: prepare.Slices, count: int) -> list[dict[str, object]]:
    """Return a row for each way of sampling the same slices."""
    settings = method.settings
    indices = np.unique(np.linspace(0, len(slices) - 1, count).round().astype(int))
    truth, brain = (slices.images(indices, settings.target) + 1) / 2, slices.brain(indices)
    rounded = build(settings.replace(precision="bfloat16")).to(method.device).eval()
    rounded.load_state_dict(method.state_dict())
    ways = {("ours", "float32"): method, ("ours", "bfloat16"): rounded}
    ways["released way", "float32"] = released_like(method)
    rows, first = [], None
    for (formulation, precision), way in ways.items():
        images = sample.sample_slices(way, slices, indices)
        first = images if first is None else first
        rows.append({
            "formulation": formulation, "precision": precision, "slices": len(indices),
            "psnr_truth": _psnr(images, truth, brain), "psnr_float32": _psnr(images, first, brain),
            "largest_difference": float(np.abs(images - first).max()),
        })  # fmt: skip
    return rows


def main() -> None:
    """Read the command line, train and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", default="demo", choices=list(profiles.PROFILES))
    parser.add_argument("--device", default=str(default_device()))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, help="default: the profile's")
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    arguments = parser.parse_args()
    device, _ = torch.device(arguments.device), report.settle(arguments.threads)
    settings = profiles.settings(arguments.profile, "brats", "t1ce", "mudiff")
    settings = settings.replace(slices=40, batch_size=arguments.batch or settings.batch_size)  # of 2 mm
    with tempfile.TemporaryDirectory() as folder:
        place = prepared(settings, Path(folder), 3)
        method = trained(settings, prepare.open_slices(place, "train"), arguments.steps, device)
        rows = compare(method, prepare.open_slices(place, "test"), arguments.slices)
    common = {"profile": arguments.profile, "processor": report.processor(device), "device": device.type}
    common |= {"image_size": settings.image_size, "steps": arguments.steps}
    report.show(report.write(arguments.output / "agreement.csv", [common | row for row in rows], KEY))


if __name__ == "__main__":
    main()
