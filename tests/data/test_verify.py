"""What `verify` finds, and work in several processes."""

import os
import re

import numpy as np
import pytest
from conftest import LPS, SHAPE, head, lesion, refused, write_nifti

from mudiff.data import verify
from mudiff.data.prepare import each_subject
from mudiff.errors import MudiffError


def findings(cohort, **options):
    root, manifest = cohort
    return verify.verify("brats", root, manifest, **{"workers": 1, "progress": False} | options)


CORNER = np.zeros(SHAPE, np.float32)
CORNER[0, 0, 0] = 1
MOVED = LPS + 9 * np.eye(4, k=3)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("t1ce", lambda path, data: path.unlink(), "is missing"),
        ("t2", lambda path, data: path.write_bytes(path.read_bytes()[:-200]), "to its end"),
        ("t1", lambda path, data: write_nifti(path, data[:, :, :10]),
         "not on the grid of t1ce, t2, flair, mask: 20x26x10 .*; they have 20x26x12"),
        ("seg", lambda path, data: write_nifti(path, data, MOVED),
         r"not on the grid of t1, t1ce, t2, flair: .*origin \(9, 0, 0\)"),
        ("t2", lambda path, data: write_nifti(path, np.float32(data > 0)), "all voxels above 0 are 1"),
        ("seg", lambda path, data: write_nifti(path, data - CORNER), "1 voxels are no labels"),
    ],
)  # fmt: skip
def test_each_fault_is_found_where_it_is(cohort, rng, name, change, says):
    change(cohort[0] / f"Brats18_B_1/Brats18_B_1_{name}.nii.gz", np.float32(lesion() if name == "seg" else head(rng)))
    ((subject, where, problem),) = findings(cohort)
    assert (subject, where) == ("Brats18_B_1", {"seg": "mask"}.get(name, name))
    assert re.search(says, problem) and "\n" not in problem, problem


def test_folder_and_manifest_are_compared(cohort, rng):
    root, manifest = cohort
    write_nifti(root / "Brats18_D_1/Brats18_D_1_t1.nii", head(rng))  # a second t1
    (root / "Brats18_E_1/Brats18_E_1_t1.nii").write_text("broken, and a second t1, but excluded")
    changed = manifest.assign(subject=["BraTS19_Z_1", *manifest["subject"][1:]])
    changed.loc[4, "split"] = "excluded"
    found = {(subject, problem.split(":")[0]) for subject, _, problem in findings((root, changed))}
    assert found == {
        ("BraTS19_Z_1", "is in the manifest but not in the data folder (did you mean Brats18_A_1?)."),
        ("Brats18_A_1", "is in the data folder but not in the manifest."),
        ("Brats18_D_1", "Brats18_D_1"),
    }


def test_results_and_errors_come_back_with_their_jobs():
    jobs = [("1",), ("2",), ("x",)]
    for workers in (1, 2):
        results = dict(each_subject(_number, jobs, workers, "test", progress=False))
        assert isinstance(results.pop(("x",)), MudiffError) and results == {("1",): 1, ("2",): 2}
    assert list(each_subject(_number, [], 2, "test", progress=False)) == []
    refused(r"a process died.*fewer workers", list, each_subject(os._exit, [(1,), (1,)], 2, "test", progress=False))


def _number(text):
    if not text.isdigit():
        raise MudiffError(f"{text} is no number")
    return int(text)
