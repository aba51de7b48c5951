"""The embedded default: layouts, determinism, and whether the contrasts behave like MRI."""

import nibabel
import numpy as np
import pytest
from conftest import refused
from threadpoolctl import threadpool_limits

from mudiff.data import datasets, files, manifests
from mudiff.phantoms import anatomy, cohort, signals

SPACING = 5.0


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """One small cohort per dataset, written once."""
    root = tmp_path_factory.mktemp("phantoms")
    counts = {"brats": (1, 1, 1), "isles": (1, 1, 1), "healthy": (1, 0, 1)}
    for dataset, count in counts.items():
        cohort.write_cohort(dataset, root / dataset, count, spacing=SPACING, workers=1, progress=False)
    return root


def load(folder, dataset, number):
    files = cohort.subject_files(dataset, folder / dataset, number)
    return {name: np.asarray(nibabel.load(file).dataobj) for name, file in files.items()}


def test_subjects_are_found_as_those_of_the_real_datasets_and_listed_by_split(cohorts):
    for dataset in ("brats", "healthy", "isles"):
        splits = manifests.read_manifest(dataset, cohorts / dataset / "manifest.csv")
        found = files.find_subjects(dataset, cohorts / dataset).values()
        numbers = range(1, len(splits) + 1)
        assert list(found) == [cohort.subject_files(dataset, cohorts / dataset, number) for number in numbers]
        assert splits["split"].tolist() == [s for s in manifests.SPLITS if (dataset, s) != ("healthy", "val")]


@pytest.mark.parametrize(("dataset", "axes"), [("brats", "LPS"), ("isles", "LPS"), ("healthy", "RAS")])
def test_volumes_look_like_files_from_a_scanner(cohorts, dataset, axes):
    files = cohort.subject_files(dataset, cohorts / dataset, 1)
    images = {name: nibabel.load(file) for name, file in files.items()}
    chosen, reference = datasets.dataset(dataset), images["t1"]
    assert set(images) == {*chosen.contrasts, "mask"} - ({"mask"} if not chosen.lesions else set())
    brain = np.asarray(reference.dataobj) > 0
    mark = f"{datasets.PHANTOM_MARK} {cohort.Recipe(dataset, spacing=SPACING).fingerprint}"
    for name, image in images.items():
        data = np.asarray(image.dataobj)
        assert image.header["descrip"].item().decode() == mark
        assert data.dtype == np.int16 and "".join(nibabel.aff2axcodes(image.affine)) == axes
        assert np.allclose(image.header.get_zooms(), SPACING)
        assert np.array_equal(image.affine, reference.affine)
        if name != "mask":  # all contrasts have one brain; outside is exactly 0
            assert np.array_equal(data > 0, brain) and data.max() > 50
    assert 1.0 < brain.sum() * SPACING**3 / 1e6 < 2.2 and not brain[[0, -1]].any()  # litres


def test_workers_order_and_counts_do_not_change_a_subject(cohorts, tmp_path):
    cohort.write_cohort("brats", tmp_path / "brats", (0, 1, 3), spacing=SPACING, workers=2, progress=False)
    for number in (1, 3):
        again, before = load(tmp_path, "brats", number), load(cohorts, "brats", number)
        assert all(np.array_equal(again[name], before[name]) for name in before)
    assert not np.array_equal(before["t1"], load(cohorts, "brats", 1)["t1"])


def test_the_number_of_threads_changes_no_voxel():
    made = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            made.append(cohort.make_subject(cohort.Recipe("brats", spacing=3.0), 4))  # three voxels did
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])


def test_seed_and_scanner_change_what_they_should(cohorts):
    before = load(cohorts, "brats", 1)
    other_seed = cohort.make_subject(cohort.Recipe("brats", seed=7, spacing=SPACING), 1)
    assert not np.array_equal(other_seed["mask"], before["mask"])
    other_scanner = cohort.make_subject(cohort.Recipe("brats", spacing=SPACING, scanner=1), 1)
    assert np.array_equal(other_scanner["mask"], before["mask"])  # the same brain
    assert np.array_equal(other_scanner["t1"] > 0, before["t1"] > 0)
    assert not np.array_equal(other_scanner["t1"], before["t1"])


def test_only_missing_subjects_or_those_of_another_recipe_are_made(tmp_path):
    def write(seed=2024):
        cohort.write_cohort("healthy", tmp_path, (1, 0, 1), seed, SPACING, workers=1, progress=False)
        files = [cohort.subject_files("healthy", tmp_path, n)["t1"] for n in (1, 2)]
        return [file.stat().st_mtime_ns for file in files]

    first = write()
    assert write() == first
    cohort.subject_files("healthy", tmp_path, 2)["flair"].unlink()
    second = write()
    assert second[0] == first[0] and second[1] > first[1]
    cohort.subject_files("healthy", tmp_path, 1)["t2"].write_bytes(b"cut short")
    third = write()
    assert third[0] > second[0] and third[1] == second[1]
    assert min(write(seed=1)) > max(third)
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.parametrize("dataset", ["brats", "isles", "healthy"])
def test_tissues_have_the_order_of_each_contrast(cohorts, dataset):
    volumes, rng = load(cohorts, dataset, 1), cohort.Recipe(dataset, spacing=SPACING).generator(1, "anatomy")
    body = anatomy.draw_anatomy(dataset, 1, anatomy.Grid(SPACING), rng)
    if dataset == "healthy":  # stored right, anterior, superior
        volumes = {contrast: data[::-1, ::-1] for contrast, data in volumes.items()}
    level = {
        contrast: {t: np.median(data[body.brain][body.fractions[t] > 0.85]) for t in ("white", "grey", "csf")}
        for contrast, data in volumes.items() if contrast != "mask"
    }  # fmt: skip
    for contrast in {"t1", "t1ce"} & set(level):
        assert level[contrast]["white"] > level[contrast]["grey"] > level[contrast]["csf"]
    assert level["t2"]["csf"] > level["t2"]["grey"] > level["t2"]["white"]
    assert level["flair"]["grey"] > level["flair"]["white"] > 2 * level["flair"]["csf"]
    if "dwi" in level:
        assert level["dwi"]["grey"] > 2 * level["dwi"]["csf"]


def test_tumours_have_an_enhancing_rim_a_dark_core_and_bright_oedema(cohorts):
    for number in (1, 2, 3):
        volumes = load(cohorts, "brats", number)
        mask = volumes["mask"]
        assert set(np.unique(mask)) == {0, 1, 2, 4}
        healthy = (volumes["t1"] > 0) & (mask == 0)
        assert not mask[volumes["t1"] == 0].any()

        def level(contrast, label):
            data = volumes[contrast]  # noqa: B023
            return np.median(data[mask == label]) / np.median(data[healthy])  # noqa: B023

        assert level("t1ce", 4) > max(1.2, 1.25 * level("t1", 4), level("t1ce", 1))
        assert level("flair", 2) > 1.2 and level("t2", 2) > 1.2 and level("t2", 1) > level("t2", 4)


def test_strokes_are_bright_on_diffusion_and_come_in_all_sizes(cohorts):
    volumes_of_lesions = []
    for number in (1, 2, 3):
        volumes = load(cohorts, "isles", number)
        lesion, brain = volumes["mask"] > 0, volumes["t1"] > 0
        assert set(np.unique(volumes["mask"])) == {0, 1}
        volumes_of_lesions.append(lesion.sum() * SPACING**3 / 1000)  # ml
        for contrast, factor in (("dwi", 1.3), ("flair", 1.1), ("t2", 1.1)):
            data = volumes[contrast]
            assert np.median(data[lesion]) > factor * np.median(data[brain & ~lesion]), contrast
    territorial, middle, microscopic = volumes_of_lesions
    assert territorial > 20 and territorial > middle > microscopic < 5


def test_signal_equations_agree_with_values_worked_by_hand():
    tissue = signals.Tissue(t1=1.0, t2=0.1, t2star=0.05, pd=0.8, adc=1.0, uptake=1.0)

    def measured(tissue=tissue, tr=1.0, te=0.1, **own):
        return pytest.approx(signals.measure(tissue, {"tr": tr, "te": te} | own), abs=1e-9)

    recovered = 0.8 * (1 - np.exp(-1))
    assert recovered * np.exp(-1) == measured()
    assert recovered * np.exp(-2) == measured(b=1000)
    ti = 4.2 * np.log(2 / (1 + np.exp(-5 / 4.2)))  # nulls CSF
    assert 0.8 * abs(1 - 2 * np.exp(-ti) + np.exp(-5)) * np.exp(-1) == measured(tr=5.0, null=1.0)
    assert measured(signals.TISSUES["csf"], tr=5.0, null=1.0) == 0
    # At 90 degrees the spoiled gradient echo is a saturation recovery with T2* decay.
    assert recovered * np.exp(-2) == measured(flip=90)
    enhanced = 0.8 * (1 - np.exp(-(1 + 2 * 4.5)))  # relaxivities of Rohrer et al.: 4.5 and 6.3
    assert enhanced * np.exp(-0.1 * (10 + 2 * 6.3)) == measured(dose=2.0)
    assert enhanced * np.exp(-0.1 * (20 + 2 * 6.3)) == measured(dose=2.0, flip=90)


def test_random_fields_are_standardised_and_do_not_depend_on_the_voxel_size():
    fields = {s: anatomy.Grid(s).field(np.random.default_rng(3), 20.0) for s in (4.0, 2.0)}
    assert abs(fields[2.0].mean()) < 0.15
    assert fields[2.0].std() == pytest.approx(1, abs=0.15)
    coarse = fields[2.0].reshape(43, 2, 51, 2, 40, 2).mean((1, 3, 5))
    assert np.abs(coarse - fields[4.0]).max() < 0.1


def test_bad_requests_are_one_clear_line(tmp_path):
    refused("'open_ms' is unknown", cohort.write_cohort, "open_ms", tmp_path / "cohort", (1, 1, 1))
    for counts in ((0, 0, 0), (1, -1, 1)):
        refused("three", cohort.write_cohort, "brats", tmp_path / "cohort", counts)
    assert not (tmp_path / "cohort").exists()
