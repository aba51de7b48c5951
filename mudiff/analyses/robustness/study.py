"""What is compared, checked: runs, raw FLAIR, movements; and the syntheses with moved FLAIR."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mudiff import cache, paths
from mudiff.data import datasets, motion
from mudiff.data import files as layouts
from mudiff.errors import MudiffError
from mudiff.training import profiles

if TYPE_CHECKING:
    from mudiff.data.prepare import Slices

DATASET, TARGET, CONTRAST = "brats", "t1ce", "flair"
"""The paper's choice: T1CE from T1, T2 and a FLAIR with motion."""

METHODS = ("mudiff", "syndiff")
"""The paper's choice: MU-Diff and the second best of its Table 1 on BraTS."""

STRENGTHS = {"smoke": (3,), "demo": (1, 2, 3), "paper": (1, 2, 3)}
"""Profile -> strengths of the motion: mild, moderate and severe, see ``motion.SCALE``; "smoke" has time for one."""


@dataclass(frozen=True)
class Study:
    """What is compared: test subjects, runs and strengths, all checked.

    Attributes
    ----------
    profile : str
        Whose runs and test subjects.
    methods : tuple of str
        MU-Diff and others.
    strengths : tuple of float
        Above 0, rising.
    files : dict of str to Path
        Test subject -> its raw FLAIR, in the order of the slices.
    seed : int
        Seed of the movements.
    """

    profile: str
    methods: tuple[str, ...]
    strengths: tuple[float, ...]
    files: dict[str, Path]
    seed: int

    def slices(self) -> "Slices":
        """Return the clean test slices."""
        from mudiff.data import prepare

        return prepare.open_slices(paths.prepared(self.profile, DATASET), "test")

    def movement(self, subject: str, strength: float) -> motion.Movement:
        """Return how a subject moves."""
        return motion.draw(subject, strength, self.seed)

    def parameters(self) -> pd.DataFrame:
        """Return all movements as ``motion.table`` has them."""
        return motion.table(self.movement(subject, s) for s in self.strengths for subject in self.files)

    def run_name(self, method: str) -> str:
        """Return the name of a method's run."""
        return profiles.settings(self.profile, DATASET, TARGET, method).run_name

    def folder(self, name: str, strength: float) -> Path:
        """Return the folder of a method's syntheses, or of the FLAIR slices (``CONTRAST``) after motion."""
        if name == CONTRAST:
            return paths.analysis(self.profile, "motion") / f"{CONTRAST}_{strength:g}"
        run = self.run_name(name)
        if strength == 0:
            return paths.synthetic(self.profile, run)
        return paths.analysis(self.profile, "motion") / f"{run}_{strength:g}"


def study(
    profile: str,
    data_root: Path | str | None = None,
    strengths: Sequence[float] | None = None,
    methods: Sequence[str] = METHODS,
    seed: int = motion.SEED,
) -> Study:
    """Check that everything is there for the comparison.

    Parameters
    ----------
    profile : str
        Name of the profile.
    data_root : Path or str, optional
        Folder of the raw volumes that were prepared; by default that of the profile's phantoms.
    strengths : sequence of float, optional
        Above 0, at most 3; by default those of `STRENGTHS`.
    methods : sequence of str
        Whose runs.
    seed : int
        Seed of the movements.

    Raises
    ------
    MudiffError
        If a strength is out of range, a run is missing, or the raw FLAIR of a test subject is missing or is
        another than the one that was prepared.
    """
    from mudiff.data import prepare
    from mudiff.training import runs

    wanted = STRENGTHS[profiles.profile(profile).name] if strengths is None else strengths
    rising = tuple(sorted({float(s) for s in wanted if motion.scale(s) > 0}))
    if not rising:
        raise MudiffError("strengths of motion: none is above 0; give at least one, up to 3.")
    methods = tuple(dict.fromkeys(datasets.method(method) for method in methods))
    for method in methods:
        run = paths.run(profile, profiles.settings(profile, DATASET, TARGET, method).run_name)
        if not runs.is_complete(run):
            raise MudiffError(
                f"{run}: no complete run of {datasets.METHODS[method]}; train it with `mudiff train --dataset "
                f"{DATASET} --target {TARGET} --method {method} --profile {profile}`, then run notebook 03_sampling."
            )
    slices = prepare.open_slices(paths.prepared(profile, DATASET), "test")
    return Study(profile, methods, rising, _raw_files(profile, slices, data_root), seed)


def _raw_files(profile: str, slices: "Slices", data_root: Path | str | None) -> dict[str, Path]:
    """Return the raw FLAIR of each test subject, after a check that it is the one that was prepared."""
    root = Path(data_root) if data_root is not None else paths.phantoms(profile, DATASET)
    label = datasets.LABELS[CONTRAST]
    remedy = "pass data_root, the folder of the volumes that were prepared"
    if not root.is_dir():
        raise MudiffError(f"{root}: raw volumes not found, and motion is applied to these; {remedy}.")
    found = layouts.find_subjects(DATASET, root, problems={})
    files = {}
    for subject in slices.subjects:
        if CONTRAST not in found.get(subject, {}):
            raise MudiffError(f"{root}: has no {label} of test subject {subject}; {remedy}.")
        files[subject] = found[subject][CONTRAST]
        prepared = slices.info["subjects"][subject]["sources"][CONTRAST]["sha256"]
        if _hash(files[subject]) != prepared:
            raise MudiffError(
                f"{files[subject]}: is another file than the {label} that was prepared; {remedy}."
            )
    return files


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Moved FLAIR, and what the runs make of it


class _Moved:
    """The slices of one subject with FLAIR replaced: what ``sample.sample_slices`` needs of `Slices`."""

    def __init__(self, slices: "Slices", subject: str, stack: np.ndarray):
        self.index, self.image_size = slices.index, slices.image_size
        self._slices, self._stack = slices, stack  # (n, S, S) in [0, 1]
        self._first = slices.subject(subject)[0]

    def images(self, indices: np.ndarray, contrast: str) -> np.ndarray:
        """Return slices of one contrast, float32 (B, S, S) in [-1, 1]."""
        if contrast != CONTRAST:
            return self._slices.images(indices, contrast)
        return self._stack[np.asarray(indices) - self._first] * 2 - 1


def synthesise(found: Study) -> int:
    """Move the FLAIR of every test subject and synthesise T1CE with it, at each strength by each method.

    Both are kept under ``paths.analysis(profile, "motion")``, a file per subject, and made anew when
    weights, data, movements or the code of the motion change. The random numbers of a slice are those of its
    clean synthesis, so that FLAIR is all that differs.

    Parameters
    ----------
    found : Study
        From `study`.

    Returns
    -------
    int
        Slices that were synthesised now; 0 where all were kept.
    """
    from tqdm.auto import tqdm

    from mudiff.synthesis import sample
    from mudiff.training import runs

    slices = found.slices()
    work = [(name, s) for name in (CONTRAST, *found.methods) for s in found.strengths]
    missing = [(*job, subject) for job in work for subject in _unfinished(found, slices, *job)]
    method, loaded, count = None, "", 0
    for name, strength, subject in tqdm(missing, desc="motion", unit="volume", disable=None):
        if name == CONTRAST:
            movement = found.movement(subject, strength)
            preparation = profiles.preparation(found.profile, DATASET)
            stack = motion.moved_slices(preparation, found.files[subject], movement)
        else:
            if loaded != name:
                method = runs.load(paths.run(found.profile, found.run_name(name)), runs.default_device())
                loaded = name
            moved = _Moved(slices, subject, sample.read_synthetic(found.folder(CONTRAST, strength), subject))
            seed = paths.read_json(found.folder(name, 0) / "synthetic.json")["seed"]
            images = sample.sample_slices(method, moved, slices.subject(subject), seed)
            stack = np.round(images * 65535).astype(np.uint16)
            count += len(stack)
        file = found.folder(name, strength) / f"{subject}.npy"
        with paths.atomic_write(file) as temporary, temporary.open("wb") as opened:
            np.save(opened, stack, allow_pickle=False)
    return count


def _unfinished(found: Study, slices: "Slices", name: str, strength: float) -> list[str]:
    """Return the subjects that a folder lacks, after removing what other weights, data, movements or code made."""
    folder = found.folder(name, strength)
    movements = motion.table(found.movement(subject, strength) for subject in found.files)
    key: dict[str, Any] = {
        "data": slices.info["data_hash"],
        "movements": hashlib.sha256(movements.to_csv().encode()).hexdigest(),
        "recipe": cache.RECIPE_VERSION,  # of preparation and sampling
        "code": [_hash(Path(motion.__file__)), *(metadata.version(p) for p in ("torchio", "simpleitk"))],
    }
    if name != CONTRAST:
        clean = found.folder(name, 0) / "synthetic.json"
        if not clean.is_file():
            raise MudiffError(
                f"{clean.parent}: holds no synthetic test slices; make them with notebook 03_sampling."
            )
        key["weights"] = _hash(paths.run(found.profile, found.run_name(name)) / "weights.safetensors")
        key["seed"] = paths.read_json(clean)["seed"]
    record = folder / "motion.json"
    if not record.is_file() or paths.read_json(record) != key:
        for old in folder.glob("*.npy"):  # of another key, or nobody knows of which
            old.unlink()
        paths.write_json(record, key)
    return [subject for subject in found.files if not (folder / f"{subject}.npy").is_file()]
