"""Memory-mapped reading of prepared slices."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mudiff.data import prepare
from mudiff.errors import MudiffError
from mudiff.settings import Preparation

SMALL = Preparation("brats", image_size=16, slices=4)


@pytest.fixture
def prepared(cohort, tmp_path):
    root, manifest = cohort
    prepare.prepare(SMALL, root, manifest, tmp_path / "prepared", workers=1, progress=False)
    return tmp_path / "prepared"


def test_slices_are_indexed_by_subject_and_number(prepared):
    slices = prepare.open_slices(prepared, "train")
    assert len(slices) == 12
    assert slices.subjects == ["Brats18_A_1", "Brats18_B_1", "Brats18_C_1"]
    assert slices.subject("Brats18_B_1").tolist() == [4, 5, 6, 7]
    assert slices.index.loc[5].tolist() == ["Brats18_B_1", 5]
    assert (slices.image_size, slices.contrasts) == (16, ("t1", "t1ce", "t2", "flair"))


def test_images_are_in_the_range_of_the_networks_in_any_order(prepared):
    slices = prepare.open_slices(prepared, "train")
    indices = [11, 0, 5, 5]
    images = slices.images(indices, "t2")
    assert (images.dtype, images.shape) == (np.float32, (4, 16, 16))
    assert images.min() == -1
    assert images.max() <= 1
    stored = [
        np.load(prepared / f"train/Brats18_{s}_1.npy")[row, 2] for s, row in (("C", 3), ("A", 0), ("B", 1))
    ]
    np.testing.assert_allclose((images[:3] + 1) / 2, np.stack(stored) / 65535, atol=1e-6)
    np.testing.assert_array_equal(images[2], images[3])
    assert (images[np.stack([*stored, stored[2]]) == 0] == -1).all()
    np.testing.assert_array_equal(slices.images(np.array([11]), "t2")[0], images[0])
    brain, labels = slices.brain(indices), slices.lesion(indices)
    assert (brain.dtype, labels.dtype, brain.shape, labels.shape) == (
        bool,
        np.uint8,
        (4, 16, 16),
        (4, 16, 16),
    )
    assert brain[0].any()
    assert slices.images([], "t1").shape == (0, 16, 16)


def test_reading_does_not_load_the_split(prepared):
    slices = prepare.open_slices(prepared, "train")
    slices.images(range(12), "t1")
    assert isinstance(slices._open("Brats18_A_1.npy"), np.memmap)
    assert slices._open("Brats18_A_1.npy") is slices._open("Brats18_A_1.npy")


def large(folder, subjects, slices, size):
    """Return the slices of a cohort whose subjects share one file: only the number of names is large."""
    (folder / "train").mkdir(parents=True)
    np.save(
        folder / "train/0.npy", np.arange(slices * 4 * size**2, dtype=np.uint16).reshape(-1, 4, size, size)
    )
    np.save(folder / "train/0.masks.npy", np.ones((slices, 2, size, size), np.uint8))
    for number in range(1, subjects):
        for suffix in (".npy", ".masks.npy"):
            os.link(folder / f"train/0{suffix}", folder / f"train/{number}{suffix}")
    rows = [(str(subject), number) for subject in range(subjects) for number in range(slices)]
    info = {"settings": {"dataset": "brats", "image_size": size}}
    return prepare.Slices(folder, "train", pd.DataFrame(rows, columns=["subject", "slice"]), info)


def test_a_batch_takes_memory_for_itself_alone(tmp_path):
    slices = large(tmp_path, 2, 200, 64)  # 6.5 MB a subject
    slices.images([0], "t1")
    tracemalloc.start()  # numpy reports its arrays to it; pages of a map belong to the system
    images = slices.images([3, 250], "t2")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.nbytes <= peak < 10 * images.nbytes


def test_large_cohorts_do_not_run_out_of_open_files(tmp_path):
    slices = large(tmp_path, 150, 2, 8)
    for index in range(0, 300, 2):
        assert slices.brain([index]).all()
        np.testing.assert_array_equal(slices.images([index], "t1ce"), slices.images([0], "t1ce"))
    if Path("/proc/self/maps").exists():
        maps = Path("/proc/self/maps").read_text()
        assert maps.count(str(tmp_path)) <= 100
    assert slices.subject("149").tolist() == [298, 299]


def test_reading_errors(prepared, tmp_path):
    slices = prepare.open_slices(prepared, "train")
    with pytest.raises(MudiffError, match="'dwi' is unknown"):
        slices.images([0], "dwi")
    with pytest.raises(MudiffError, match="'Z' is not in"):
        slices.subject("Z")
    with pytest.raises(MudiffError, match="split 'training' is unknown"):
        prepare.open_slices(prepared, "training")
    with pytest.raises(MudiffError, match="no prepared slices; run `mudiff prepare`"):
        prepare.open_slices(tmp_path / "none", "train")
    (prepared / "train/Brats18_A_1.npy").write_bytes(b"damaged")
    (prepared / "train/Brats18_B_1.npy").write_bytes(b"")
    for index in (0, 4):
        with pytest.raises(MudiffError, match=r"Brats18_[AB]_1\.npy: cannot be read .*; delete it and run"):
            slices.images([index], "t1")


def test_check_returns_the_data_hash_or_says_what_differs(prepared, tmp_path):
    assert prepare.check(prepared, SMALL) == prepare.open_slices(prepared, "val").info["data_hash"]
    with pytest.raises(MudiffError, match="image_size 16, not 32, slices 4, not 8"):
        prepare.check(prepared, Preparation("brats", image_size=32, slices=8))
    with pytest.raises(MudiffError, match="no prepared slices"):
        prepare.check(tmp_path / "none", SMALL)
