"""Fixtures: a seeded generator and tiny NIfTI cohorts in the layouts of the datasets."""

import json
import linecache
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from nibabel import orientations

from mudiff import paths, storage
from mudiff.data import prepare
from mudiff.data.dataset import Preparation, Slices, open_slices
from mudiff.errors import MudiffError
from mudiff.methods.base import Batch, Method, build
from mudiff.settings import Settings
from mudiff.training import profiles, runs

torch.set_num_threads(1)  # tests are small: threads that wait for each other on a busy machine cost minutes

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("MUDIFF_REAL_DATA", REPOSITORY / "../shared/data"))
REFERENCE = Path(os.environ.get("MUDIFF_REFERENCE", REPOSITORY / "../shared/reference"))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (20, 26, 12)  # (X, Y, Z)
PATIENCE = 600  # seconds for a step in a browser, on a machine that is busy with other things


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2024)


def refused(words: str, function: Callable, *arguments: object, **options: object) -> None:
    """Check that a call is refused by one line that says so, where `words` are a regular expression."""
    with pytest.raises(MudiffError, match=words) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray = LPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def head(rng: np.random.Generator, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Return noise in an ellipsoid that fills most of the grid, int16, background 0."""
    axes = np.meshgrid(*(np.linspace(-1.15, 1.15, n) for n in shape), indexing="ij")
    return (rng.integers(100, 1000, shape) * (sum(a**2 for a in axes) < 1)).astype(np.int16)


def reoriented(data: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the same anatomy stored in another voxel order, such as "RAS", with the affine that says so."""
    wanted = orientations.axcodes2ornt(codes)
    stored = nibabel.Nifti1Image(data, affine)
    stored = stored.as_reoriented(orientations.ornt_transform(nibabel.io_orientation(affine), wanted))
    return np.asarray(stored.dataobj), stored.affine


def lesion(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for label, reach in ((4, 2), (1, 1)):
        mask[tuple(slice(n // 2 - reach, n // 2 + reach) for n in shape)] = label
    return mask


@pytest.fixture
def write_subject(rng: np.random.Generator) -> Callable[..., dict[str, Path]]:
    """Write one BraTS subject: ``write_subject(root, "Brats18_A_1", t1=array, ...)`` -> contrast -> file."""

    def write(root: Path, name: str, affine: np.ndarray = LPS, **given: np.ndarray) -> dict[str, Path]:
        data = {c: head(rng) for c in ("t1", "t1ce", "t2", "flair")} | {"seg": lesion()} | given
        path = f"{root}/{name}/{name}_{{}}.nii.gz"
        return {c: write_nifti(Path(path.format(c)), array, affine) for c, array in data.items()}

    return write


@pytest.fixture
def cohort(tmp_path: Path, write_subject: Callable[..., dict[str, Path]]) -> tuple[Path, pd.DataFrame]:
    """Return the folder of five BraTS subjects and their manifest (3 train, 1 val, 1 test)."""
    splits = {"A": "train", "B": "train", "C": "train", "D": "val", "E": "test"}
    for name in splits:
        write_subject(tmp_path / "raw", f"Brats18_{name}_1")
    rows = [(f"BraTS19_{name}_1", split, "") for name, split in splits.items()]
    return tmp_path / "raw", pd.DataFrame(rows, columns=["subject", "split", "reason"])


SMALL = {
    "image_size": 16, "slices": 4, "width": 4, "multipliers": (1, 2), "blocks": 1, "embedding": 8,
    "critic_width": 4, "critic_blocks": 2, "batch_size": 5, "epochs": 3, "validation_slices": 3, "steps": 2,
}  # fmt: skip
"""Fields of `Settings` that train in a second."""


@pytest.fixture
def prepared(cohort: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    """Return the folder of the cohort's prepared slices, of the size of `SMALL`."""
    root, manifest = cohort
    prepare.prepare(Settings(**SMALL).preparation(), root, manifest, tmp_path / "prepared", 1)
    return tmp_path / "prepared"


def prepare_subjects(write_subject, subjects, preparation: Preparation | None = None) -> Path:
    """Write and prepare subjects, (split, given arrays) each, in ``MUDIFF_ROOT``, and return their folder."""
    rows = []
    for i, (split, given) in enumerate(subjects):
        name = given.get("name", f"Brats18_{i}_1")
        write_subject(paths.root() / "raw", name, **{k: array for k, array in given.items() if k != "name"})
        rows.append((name, split, ""))
    manifest = pd.DataFrame(rows, columns=["subject", "split", "reason"])
    preparation, folder = preparation or profiles.preparation("smoke", "brats"), paths.prepared("smoke", "brats")
    prepare.prepare(preparation, paths.root() / "raw", manifest, folder, 1, progress=False)
    return folder


LIVELY = {
    "image_size": 32, "width": 8, "multipliers": (1, 2), "blocks": 1, "embedding": 16, "critic_width": 4,
    "critic_blocks": 4, "slices": 6, "batch_size": 3, "steps": 3,
}  # fmt: skip


def lively(**changes: object) -> Method:
    """Return a method whose last layers are off zero, so that predictions and masks differ between places."""
    method = build(Settings(**LIVELY | changes)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in (method.f1, method.f2):
            network.encoder_decoder.output.weight.normal_(0, 0.3, generator=generator)
    return method


@pytest.fixture
def lively_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_subject) -> Slices:
    """Return the prepared slices of three test subjects of profile smoke, the last without lesion."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    subjects = [("train", {}), ("test", {}), ("test", {}), ("test", {"seg": np.zeros(SHAPE, np.uint8)})]
    return open_slices(prepare_subjects(write_subject, subjects, Settings(**LIVELY).preparation()), "test")


def save_run(method: Method, folder: Path | None = None, without: tuple[str, ...] = ()) -> Path:
    """Write a method as a run, else that of profile smoke; weights that begin as `without` says are left out."""
    folder = folder or paths.run("smoke", "brats_t1ce_mudiff")
    runs.claim(folder, method.settings, "data")
    kept = {k: v for k, v in method.state_dict().items() if not k.startswith(without)}
    runs.save_weights(folder / "weights.safetensors", kept)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Return a context of the system's Chromium, driven by Playwright; without one, what needs it is skipped."""
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    works = lambda path: subprocess.run([path, "--version"], capture_output=True).returncode == 0  # noqa: E731
    if not (chromium := next(filter(works, found), None)):
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=options, timeout=1000 * PATIENCE)
        context = opened.new_context()
        context.set_default_timeout(1000 * PATIENCE)
        yield context
        opened.close()


def score_rows(values: dict, region: str = "brain", unit: str = "subject", slices: int = 1) -> pd.DataFrame:
    """Return scores as `score_runs` does from {method, or (dataset, target, method): [PSNR of each unit]}."""
    tasks = {key if isinstance(key, tuple) else ("brats", "t1ce", key): given for key, given in values.items()}
    rows = [
        {"dataset": dataset, "target": target, "method": method, "region": region, "unit": unit}
        | {"protocol": {"subject": "masked", "slice": "released"}[unit]}
        | {"subject": f"s{i // slices}", "slice": i % slices if unit == "slice" else None}
        | {"psnr": psnr, "ssim": psnr / 40, "mae": 1 / psnr, "run": f"{dataset}_{target}_{method}", "weights": "w"}
        for (dataset, target, method), given in tasks.items()
        for i, psnr in enumerate(given)
    ]
    return pd.DataFrame(rows).astype({"slice": "Int64"})


def write_synthetic(slices: Slices, folder: Path, contrast: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write as a run's synthetic slices what `change` makes of each subject's true ones (Z, S, S) in [0, 1]."""
    record = {"weights": "0123456789abcdef", "data": slices.info["data_hash"], "split": "test", "seed": 0}
    storage.write_json(folder / "synthetic.json", record)
    for subject in slices.subjects:
        synthetic = change((slices.images(slices.subject(subject), contrast) + 1) / 2)
        np.save(folder / f"{subject}.npy", np.round(np.clip(synthetic, 0, 1) * 65535).astype(np.uint16))
    return folder


def some_slices(count: int, conditions: int = 3, size: int = 16) -> Batch:
    """Return a batch of uniform noise, all of it brain, seeded by its size."""
    g = torch.Generator().manual_seed(count)
    target, others = (torch.rand(count, c, size, size, generator=g) * 2 - 1 for c in (1, conditions))
    return Batch(target, others, torch.ones(count, 1, size, size) > 0, torch.arange(count))


def unmoved(method: Method, batch: Batch, steps: int) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Take training steps; return the parameters that stayed as they were, and the last losses."""
    before, state = {k: v.clone() for k, v in method.named_parameters()}, torch.random.get_rng_state()
    for step in range(steps):
        losses = method.training_step(batch, step)
    assert torch.equal(state, torch.random.get_rng_state())  # nothing is drawn from the global state
    assert all(v.isfinite().all() for v in (*losses.values(), *method.parameters()))
    return [k for k, v in method.named_parameters() if torch.equal(v, before[k])], losses


def hsic(k: torch.Tensor, l: torch.Tensor) -> torch.Tensor:  # noqa: E741
    """Return the unbiased HSIC_1 of two Gram matrices (N, N), by its definition (Song et al. 2012, Eq. 5)."""
    n, (k, l) = len(k), (m - torch.diag(m.diagonal()) for m in (k, l))  # noqa: E741
    rest = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l).sum() / (n - 2)
    return ((k * l.T).sum() + rest) / (n * (n - 3))


def cka_by_definition(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the minibatch CKA of two layers from their features (B, ...), in float64."""
    grams = [[(f := x.flatten(1).double()) @ f.T for x in pair] for pair in batches]
    sums = [sum(hsic(pair[i], pair[j]) for pair in grams) for i, j in ((0, 1), (0, 0), (1, 1))]
    return float(sums[0] / (sums[1] * sums[2]).sqrt())


def run_cells(notebook: str, first: str, last: str, /, **given: object) -> dict[str, object]:
    """Run a notebook's imports and its cells from that with text `first` to that with `last`, on given names.

    Parameters that are not given have the notebook's own values.
    """
    cells = json.loads((REPOSITORY / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    parameters, imports, *rest = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    start, end = (next(k for k, source in enumerate(rest) if text in source) for text in (first, last))
    imports = [line for line in imports.splitlines() if line.startswith(("from ", "import "))]
    names: dict[str, object] = {}
    exec(parameters, names)
    names |= given
    for number, source in enumerate(("\n".join(imports), *rest[start : end + 1])):
        name = f"<{notebook}, cell {number}>"
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name  # where `cache.kept` looks
        exec(compile(source, name, "exec"), names)
    return names
