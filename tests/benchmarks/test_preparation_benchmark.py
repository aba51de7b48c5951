"""The stages that the benchmark times are those of the preparation."""

import numpy as np
import pytest

from benchmarks import preparation as benchmark
from mudiff.data import files as layouts
from mudiff.data import prepare
from mudiff.settings import Preparation

SMALL = Preparation("brats", image_size=16, slices=4)


def test_the_stages_make_the_slices_of_the_preparation(cohort):
    for subject, files in layouts.find_subjects("brats", cohort[0]).items():
        images = benchmark._stages(SMALL, files, lambda name, work: work())
        np.testing.assert_array_equal(images, prepare.subject_slices(SMALL, subject, files)[0])


def test_rows_have_the_documented_columns_and_a_share(cohort):
    rows = benchmark.measure_stages(SMALL, cohort[0], subjects=2, repeats=1)
    assert {tuple(row) for row in rows} == {benchmark.COLUMNS}
    assert [row["name"] for row in rows][:3] == ["decompression", "conversion", "percentiles"]
    assert all(row["cpu_ms"] >= 0 and row["subjects"] == 2 for row in rows)
    assert np.isnan(benchmark.share_outside(rows))
    cohorts = [
        {"name": "prepare", "workers": 1, "subjects": n, "cpu_ms": n * rows[0]["cpu_ms"]} for n in (4, 2)
    ]
    assert benchmark.share_outside(rows + cohorts) == pytest.approx(0.75)


def test_the_peak_of_a_restart_is_its_own(cohort):
    large = Preparation("brats", image_size=512, slices=12)
    rows = benchmark.measure_cohort(large, cohort[0], subjects=1, workers=1)
    assert [row["name"] for row in rows] == ["prepare", "restart"]
    assert rows[1]["mib"] < rows[0]["mib"] - 20  # the slices alone are 24 MiB


def test_a_large_cohort_is_two_phantoms_under_many_names(tmp_path):
    benchmark.phantoms("isles", tmp_path, 5, spacing=8.0)
    found = layouts.find_subjects("isles", tmp_path)
    assert list(found) == ["1", "2", "3", "4", "5"]
    assert found["5"]["t1"].samefile(found["1"]["t1"])
    assert not found["2"]["t1"].samefile(found["1"]["t1"])
