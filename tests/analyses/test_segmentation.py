"""The tasks of Fig. 4c replace the contrasts that they name, and methods are compared subject by subject."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHAPE, head, prepare_subjects, refused, run_cells, write_synthetic
from torch import nn

from mudiff import paths, storage
from mudiff.data import dataset, datasets
from mudiff.evaluation import statistics

SHADES = {"mudiff": 0.9, "syndiff": 0.7, "linear": 0.3}  # of the truth, as stand-ins for syntheses
CONTRASTS = datasets.dataset("brats").contrasts
NOTEBOOK = "10_segmentation"
TASKS = run_cells(NOTEBOOK, "TASKS = ", "TASKS = ")["TASKS"]


class Threshold(nn.Module):
    """Calls oedema what is bright in FLAIR, and records what it is shown."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.65))
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        bright = (x[:, 3] > self.level).float()
        return torch.stack([0.5 + 0 * bright, 0 * bright, bright, 0 * bright], dim=1)


def made(contrast, method):
    return paths.synthetic("smoke", f"brats_{contrast}_{method}")


def evaluate(slices, network, tasks=TASKS):
    """Return what the notebook makes of a network: its Dice of the tasks."""
    given = {"profile": "smoke", "slices": slices, "network": network}
    return run_cells(NOTEBOOK, "METHODS, REAL", "def evaluate(", **given)["evaluate"](tasks)


@pytest.fixture
def cohort(tmp_path, write_subject, rng, monkeypatch):
    """Prepare test subjects; FLAIR is dark outside the tumour and graded in it, so that shades lose voxels."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    grade = np.linspace(350, 500, SHAPE[1])[None, :, None]

    def write(*sizes):
        subjects = []
        for i, size in enumerate((4, *sizes)):
            mask = np.zeros(SHAPE, np.uint8)
            mask[6 : 6 + size, 9:17, 4:8] = 2
            flair = np.where(mask > 0, grade, 0.2 * head(rng)).astype(np.int16)
            subjects.append(("test" if i else "train", {"flair": flair, "seg": mask}))
        slices = dataset.open_slices(prepare_subjects(write_subject, subjects), "test")
        for contrast in CONTRASTS:
            for method, shade in SHADES.items():
                write_synthetic(slices, made(contrast, method), contrast, lambda true, shade=shade: shade * true)
        return slices

    return write


@pytest.fixture
def slices(cohort):
    """Three test subjects; the tumour of the second is the largest, the third has none."""
    return cohort(4, 8, 0)


def test_only_the_inputs_of_a_task_are_replaced_and_every_subject_and_region_has_its_dice(slices, tmp_path):
    assert list(TASKS) == ["complete", *"ABCDEF"]
    assert set(TASKS["F"]) == set(CONTRASTS)
    network = Threshold()
    frame, shown = evaluate(slices, network), iter(network.seen)
    for replaced, method in ((r, m) for r in TASKS.values() for m in (SHADES if r else ("real",))):
        for subject in slices.subjects:
            x = next(shown).numpy()
            assert x.dtype == np.float32 and x.min() == 0 and x.max() <= 1
            for place, contrast in enumerate(CONTRASTS):
                true = (slices.images(slices.subject(subject), contrast) + 1) / 2
                shade = SHADES[method] if contrast in replaced else 1
                assert np.allclose(x[:, place], shade * true, atol=2e-5), (replaced, method, contrast)
    assert next(shown, None) is None
    assert list(frame) == ["task", "method", "region", "subject", "dice", "invented"]
    assert (frame.dice.isna() == frame.invented.notna()).all() and len(frame) == (1 + 6 * 3) * 4 * 3
    whole = frame[frame.region == "whole"].groupby(["task", "method"]).dice.mean()
    assert frame[frame.subject == slices.subjects[2]].dice.isna().all()  # no tumour
    assert frame[frame.region == "enhancing"].dice.isna().all()
    assert whole["complete", "real"] > 0.95
    assert whole["A", "linear"] == whole["complete", "real"]  # this network looks at FLAIR alone
    assert whole["B", "mudiff"] > whole["B", "syndiff"] + 0.05 > whole["B", "linear"]
    assert whole["E", "syndiff"] == whole["F", "syndiff"] == whole["B", "syndiff"]
    given = {"profile": "smoke", "network": network, "slices": slices, "folder": tmp_path}
    blocks = run_cells(NOTEBOOK, "METHODS, REAL", 'publish(folder, "fig4c"', **given)["blocks"]
    table = blocks["Whole tumour (n = 2)"]
    dice = frame[(frame.region == "whole") & (frame.task == "B") & (frame.method == "mudiff")].dice
    assert table.loc["B", "MU-Diff"] == f"**{dice.mean():.3f} ± {dice.std():.3f}**"  # better than SynDiff
    assert table.map(lambda cell: "**" in cell).sum().sum() == 3  # in tasks B, E and F


def test_scores_are_kept_until_network_or_syntheses_change(slices):
    network = Threshold()
    first = evaluate(slices, network)
    assert evaluate(slices, network, {"complete": ()}).equals(first[first.task == "complete"])
    record = made("t1ce", "mudiff") / "synthetic.json"
    # The same images again; other weights: tasks A, E and F of one method, three subjects.
    for change, more in (({}, 0), ({"seconds_per_slice": 2.0}, 0), ({"weights": "other"}, 3 * 3)):
        storage.write_json(record, storage.read_json(record) | change)
        assert evaluate(slices, network).equals(first)
        assert len(network.seen) == (1 + 6 * 3) * 3 + more
    with torch.no_grad():
        network.level += 0.1
    assert not evaluate(slices, network).equals(first)


def test_outdated_syntheses_and_a_cohort_without_tumours_are_errors(slices, cohort):
    record = made("t2", "mudiff") / "synthetic.json"
    storage.write_json(record, storage.read_json(record) | {"data": "old"})
    refused(r"brats_t2_mudiff: made from other data.*snakemake", evaluate, slices, Threshold())
    cohort(0)
    cells = {"prepared": paths.prepared("smoke", "brats"), "network": Threshold()}
    refused("no test subject has a tumour", run_cells, NOTEBOOK, "unet.ill(", "unet.ill(", **cells)


def test_differences_are_paired_and_signed(rng):
    regions = ["whole", "necrotic"]
    columns = [(task, method) for task in "ABCDEF" for method in SHADES] + [("complete", "real")]
    rows = [(*column, region, f"s{i}", rng.random()) for column in columns for region in regions for i in range(6)]
    frame = pd.DataFrame(rows, columns=["task", "method", "region", "subject", "dice"])
    frame.loc[(frame.region == "necrotic") & (frame.subject == "s0"), "dice"] = np.nan
    given = {"scores": frame, "TASKS": TASKS, "REAL": "real"}
    found = run_cells(NOTEBOOK, "compared = ", "compared = ", **given)["compared"]
    assert len(found) == 2 * 3 * 6 and (found.n[found.region == "necrotic"] == 5).all()
    wide = frame[frame.region == "whole"].pivot(index="subject", columns=["task", "method"], values="dice")
    of_task = found[(found.region == "whole") & (found.task == "F")].set_index(["first", "second"])
    for pair in (("mudiff", "syndiff"), ("mudiff", "real"), ("syndiff", "real")):
        first, second = (wide["complete" if name == "real" else "F", name] for name in pair)
        row = of_task.loc[pair, ["n", "difference", "low", "high", "p"]]
        expected = statistics.paired(first, second)
        assert row.to_dict() == pytest.approx({name: expected[name] for name in row.index})
    family = found[(found.region == "whole") & (found.second == "syndiff")]
    assert np.allclose(family.p_holm, statistics.holm(family.p)) and (family.p_holm >= family.p).all()
