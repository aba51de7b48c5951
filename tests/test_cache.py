"""What is kept is read back as it was, and computed anew when anything that it depends on has changed."""

import functools

import numpy as np
import pandas as pd
import pytest

from mudiff import cache

COLUMNS = {"subject": ["NA", "007", 'é,"x'], "slice": pd.array([3, None, 5], "Int64")}
FRAME = pd.DataFrame(COLUMNS | {"psnr": [0.1 + 0.2, np.inf, np.nan], "held": [True, False, True]})


def counted(result):
    """Return a function that computes `result`, and the list that grows at each call."""
    calls = []

    def compute():
        calls.append(1)
        return result

    return compute, calls


def test_frames_and_arrays_are_read_back_as_they_were(tmp_path):
    compute, calls = counted(FRAME)
    for _ in range(2):
        pd.testing.assert_frame_equal(cache.kept(tmp_path / "scores.csv", compute, "weights", 3), FRAME)
    assert len(calls) == 1
    compute, calls = counted({"map": np.arange(6, dtype=np.float32).reshape(2, 3), "t": np.int64(3)})
    for _ in range(2):
        read = cache.kept(tmp_path / "maps.npz", compute)
        assert read["map"].dtype == np.float32 and read["map"].shape == (2, 3) and read["t"] == 3
    assert len(calls) == 1


def test_other_inputs_recipe_or_code_compute_anew(tmp_path, monkeypatch):
    compute, calls = counted(FRAME)
    path = tmp_path / "scores.csv"
    cache.kept(path, compute, "weights")
    cache.kept(path, compute, "other weights")
    monkeypatch.setattr(cache, "RECIPE_VERSION", -1)
    cache.kept(path, compute, "other weights")
    monkeypatch.setattr(cache, "file_hash", lambda path: "edited")
    cache.kept(path, functools.partial(compute), "other weights")
    assert len(calls) == 4


@pytest.mark.parametrize("name", ["scores.csv", "scores.npz"])
def test_a_damaged_file_is_computed_anew(tmp_path, name):
    compute, calls = counted(FRAME if name.endswith("csv") else {"a": np.ones(100)})
    path = tmp_path / name
    cache.kept(path, compute)
    path.write_bytes(path.read_bytes()[:-9])
    cache.kept(path, compute)
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    compute, calls = counted(FRAME)
    assert len(cache.kept(tmp_path / "file" / "scores.csv", compute)) == 3 and len(calls) == 1
