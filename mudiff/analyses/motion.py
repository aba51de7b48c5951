"""Motion in the FLAIR condition of T1CE synthesis: what each method makes of it (Fig. 4a and 4b).

The head moves in the raw volume (`mudiff.data.motion`), which is then prepared as the clean one was. T1, T2,
weights and random numbers stay the same, so that FLAIR is all that differs from the clean synthesis.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mudiff import paths
from mudiff.cache import file_hash, kept
from mudiff.data import dataset, files, motion, prepare, volumes
from mudiff.errors import MudiffError
from mudiff.evaluation import scores
from mudiff.training import profiles

DATASET, TARGET, CONTRAST = "brats", "t1ce", "flair"  # the paper's choice: T1CE from T1, T2 and a FLAIR with motion

Stacks = dict[str, np.ndarray]
"""``flair`` and each method -> slices (Z, S, S) in [0, 1]."""


def raw_files(slices: dataset.Slices, root: Path) -> dict[str, Path]:
    """Return the raw FLAIR of every test subject, which must be the files that were prepared."""
    found = files.find_subjects(DATASET, root, problems={}) if root.is_dir() else {}
    raw = {subject: found.get(subject, {}).get(CONTRAST) for subject in slices.subjects}
    for subject, path in raw.items():
        if path is None or file_hash(path) != slices.info["subjects"][subject]["sources"][CONTRAST]["sha256"]:
            raise MudiffError(
                f"{root}: has no FLAIR of test subject {subject}, or another one than was prepared; motion is "
                "applied to raw volumes, so pass data_root, the folder of those that were prepared."
            )
    return raw


def syntheses(
    profile: str, slices: dataset.Slices, raw: Mapping[str, Path], strengths: Sequence[float], methods: Sequence[str]
) -> Iterator[tuple[str, float, Stacks]]:
    """Yield subject, strength, and FLAIR with the syntheses of T1CE from it; what is computed is kept.

    `slices` are the clean test slices, `raw` comes from `raw_files`; strengths run from 0 (the clean data) to 3, see
    `motion.scale`; the profile has runs of the methods and their synthetic test slices.
    """
    from mudiff.synthesis import sample
    from mudiff.training import runs

    names = {m: profiles.settings(profile, DATASET, TARGET, m).run_name for m in methods}
    clean = {m: paths.synthetic(profile, name) for m, name in names.items()}
    data, folder = slices.info["data_hash"], paths.analysis(profile, "motion")
    records = {m: scores.check_record(clean[m], paths.run(profile, names[m]), data, profile) for m in methods}
    load = functools.cache(lambda method: runs.load(paths.run(profile, names[method]), runs.default_device()))
    for (subject, path), strength in itertools.product(raw.items(), strengths):
        indices = slices.subject(subject)
        if strength == 0:
            stacks = {CONTRAST: (slices.images(indices, CONTRAST) + 1) / 2}
            yield subject, 0.0, stacks | {m: sample.read_synthetic(clean[m], subject) for m in methods}
            continue
        movement = motion.draw(subject, strength)
        about = [data, motion.table([movement]).to_csv()]
        compute = functools.partial(_moved, profile, path, movement)
        stacks = {CONTRAST: _kept(folder / f"{CONTRAST}_{strength:g}", subject, compute, *about)}
        for method, record in records.items():
            own = [record["weights"], record["seed"]]
            compute = functools.partial(_synthesise, load, method, slices, indices, stacks[CONTRAST], own[1])
            stacks[method] = _kept(folder / f"{names[method]}_{strength:g}", subject, compute, *about, *own)
        yield subject, float(strength), stacks


def _kept(folder: Path, subject: str, compute: Callable[[], Stacks], *inputs: Any) -> np.ndarray:
    return kept(folder / f"{subject}.npz", compute, *inputs)["slices"].astype(np.float32) / dataset.UINT16_MAX


def _moved(profile: str, path: Path, movement: motion.Movement) -> Stacks:
    """Move a raw volume and prepare it as the clean one was; uint16 (Z, S, S)."""
    volume = volumes.load_volume(path)
    moved = dataclasses.replace(volume, data=motion.move(volume.data, volume.affine, movement))
    return {"slices": prepare.contrast_slices(profiles.preparation(profile, DATASET), moved)[0]}


def _synthesise(
    load: Callable[[str], Any], method: str, slices: dataset.Slices, indices: np.ndarray, flair: np.ndarray, seed: int
) -> Stacks:
    from mudiff.synthesis import sample

    images = sample.sample_slices(load(method), slices, indices, seed, replaced={CONTRAST: flair * 2 - 1})
    return {"slices": np.round(images * dataset.UINT16_MAX).astype(np.uint16)}
