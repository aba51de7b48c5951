"""Memory-mapped reading of prepared slices."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from conftest import refused

from mudiff import storage
from mudiff.data import dataset
from mudiff.data.dataset import Preparation


def test_slices_are_read_in_any_order_in_the_range_of_the_networks(prepared):
    slices = dataset.open_slices(prepared, "train")
    assert len(slices) == 12
    assert slices.subjects == ["Brats18_A_1", "Brats18_B_1", "Brats18_C_1"]
    assert slices.subject("Brats18_B_1").tolist() == [4, 5, 6, 7]
    assert slices.index.loc[5].tolist() == ["Brats18_B_1", 5]
    assert (slices.image_size, slices.contrasts) == (16, ("t1", "t1ce", "t2", "flair"))
    indices = [11, 0, 5, 5]
    images = slices.images(indices, "t2")
    assert (images.dtype, images.shape) == (np.float32, (4, 16, 16))
    assert images.min() == -1 and images.max() <= 1
    rows = (("C", 3), ("A", 0), ("B", 1), ("B", 1))
    stored = np.stack([np.load(prepared / f"train/Brats18_{s}_1.npy")[row, 2] for s, row in rows])
    np.testing.assert_allclose((images + 1) / 2, stored / 65535, atol=1e-6)
    assert (images[stored == 0] == -1).all()
    np.testing.assert_array_equal(slices.images(np.array([11]), "t2")[0], images[0])
    brain, labels = slices.brain(indices), slices.lesion(indices)
    assert (brain.dtype, labels.dtype) == (bool, np.uint8)
    assert brain.shape == labels.shape == (4, 16, 16) and brain[0].any()
    assert slices.images([], "t1").shape == (0, 16, 16)


def one_subject(folder, slices, size, labels=0):
    """Return the slices of a subject that is written without a preparation."""
    (folder / "train").mkdir(parents=True)
    np.save(folder / "train/0.npy", np.ones((slices, 4, size, size), np.uint16))
    masks = np.ones((slices, 2, size, size), np.uint8)
    masks[:, 1] = labels
    np.save(folder / "train/0.masks.npy", masks)
    index = pd.DataFrame({"subject": "0", "slice": range(slices)})
    return dataset.Slices(folder, "train", index, {"settings": {"dataset": "brats", "image_size": size}})


def test_a_batch_takes_memory_for_itself_alone(tmp_path):
    slices = one_subject(tmp_path, 200, 64)  # 6.5 MB
    slices.images([0], "t1")
    tracemalloc.start()  # numpy reports its arrays to it; pages of a map belong to the system
    images = slices.images([3, 150], "t2")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.nbytes <= peak < 10 * images.nbytes


def test_the_example_has_the_largest_lesion_else_it_is_the_middle_slice(tmp_path):
    labels = np.zeros((5, 8, 8), np.uint8)
    labels[1, :2, :3], labels[3, :3, :3] = 4, 1
    assert one_subject(tmp_path / "a", 5, 8, labels).example("0") == 3
    assert one_subject(tmp_path / "b", 5, 8).example("0") == 2


def test_slices_prepared_anew_are_read_anew(prepared):
    slices, file = dataset.open_slices(prepared, "train"), prepared / "train/Brats18_A_1.npy"
    before = slices.images([0], "t1")
    with storage.atomic_write(file) as temporary:
        np.save(temporary, 65535 - np.load(file))
    np.testing.assert_allclose(slices.images([0], "t1"), -before, atol=1e-6)


def test_reading_errors(prepared, tmp_path):
    slices = dataset.open_slices(prepared, "train")
    refused("image_size 16, not 32, slices 4, not 8", dataset.check, prepared, Preparation("brats", 32, 8))
    refused("'dwi' is unknown", slices.images, [0], "dwi")
    refused("'Z' is not in", slices.subject, "Z")
    refused("split 'training' is unknown", dataset.open_slices, prepared, "training")
    refused("no prepared slices; run `mudiff prepare`", dataset.open_slices, tmp_path / "none", "train")
    (prepared / "train/Brats18_A_1.npy").write_bytes(b"damaged")
    (prepared / "train/Brats18_B_1.npy").write_bytes(b"")
    np.save(prepared / "train/Brats18_C_1.npy", np.zeros((1, 4, 16, 16), np.uint16))
    for index in (0, 4, 8):
        refused(r"Brats18_[ABC]_1\.npy: no prepared slices .*; delete it and run", slices.images, [index], "t1")


@pytest.mark.parametrize(
    "bad", ["[]", '{"failed": 3}', "split,subject\ntrain,a\n", "split,subject,slice\nval,Brats18_D_1,3\n"]
)
def test_records_of_another_form_are_named(prepared, bad):
    name = "slices.csv" if bad.startswith("split") else "prepared.json"
    (prepared / name).write_text(bad)
    refused(rf"{name}: no ", dataset.open_slices, prepared, "val")
