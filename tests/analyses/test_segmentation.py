"""The tasks of Fig. 4c replace the contrasts that they name, and the table says what the scores say."""

import re
from importlib import metadata

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHAPE, head
from torch import nn

from mudiff import paths
from mudiff.analyses import segment, segmentation
from mudiff.analyses.segmentation import masks, scores, table
from mudiff.data import datasets
from mudiff.data import prepare as data
from mudiff.errors import MudiffError
from mudiff.evaluation import old_statistics as statistics
from mudiff.plots import old_style as style
from mudiff.training import profiles

SHADES = {"mudiff": 0.9, "syndiff": 0.7, "linear": 0.3}  # of the truth, as stand-ins for syntheses
CONTRASTS = datasets.dataset("brats").contrasts


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


def tumour(size):
    mask = np.zeros(SHAPE, np.uint8)
    mask[6 : 6 + size, 9:17, 4:8] = 2
    return mask


def prepare(tmp_path, write_subject, rng, masks):
    """Prepare test subjects; FLAIR is dark outside the tumour and graded in it, so that shades lose voxels."""
    rows = []
    names = [f"Brats18_{i}_1" for i in range(len(masks) + 1)]
    for name, mask in zip(names, [tumour(4), *masks], strict=True):
        grade = np.linspace(350, 500, SHAPE[1])[None, :, None]
        flair = np.where(mask > 0, grade, 0.2 * head(rng)).astype(np.int16)
        write_subject(tmp_path / "raw", name, flair=flair, seg=mask)
        rows.append((name, "train" if name == names[0] else "test", ""))
    manifest = pd.DataFrame(rows, columns=["subject", "split", "reason"])
    folder = paths.prepared("smoke", "brats")
    data.prepare(profiles.preparation("smoke", "brats"), tmp_path / "raw", manifest, folder, 1).check()
    return data.open_slices(folder, "test")


def synthesise(slices):
    for contrast in CONTRASTS:
        for method, shade in SHADES.items():
            folder = scores.folder("smoke", contrast, method)
            record = {"run": folder.name, "weights": "w", "data": slices.info["data_hash"], "split": "test"}
            paths.write_json(folder / "synthetic.json", record | {"seed": 0})
            for subject in slices.subjects:
                true = (slices.images(slices.subject(subject), contrast) + 1) / 2
                np.save(folder / f"{subject}.npy", np.round(shade * true * 65535).astype(np.uint16))


@pytest.fixture
def slices(tmp_path, write_subject, rng, monkeypatch):
    """Three test subjects; the tumour of the second is the largest, the third has none."""
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    found = prepare(tmp_path, write_subject, rng, [tumour(4), tumour(8), tumour(0)])
    synthesise(found)
    return found


def remove(target, method):
    path = scores.folder("smoke", target, method)
    (path / "synthetic.json").unlink()
    return path.name


def made_up(rng, n=6):
    """Scores in which MU-Diff loses 0.01 times the number of replaced contrasts, SynDiff thrice that."""
    rows = []
    for task, replaced in segmentation.TASKS.items():
        for method in segmentation.METHODS if replaced else ("real",):
            loss = {"real": 0, "mudiff": 0.01, "syndiff": 0.03, "linear": 0.1}[method] * len(replaced)
            for region in segment.REGIONS:
                for i in range(n):
                    value = 0.9 - 0.02 * i - loss + 0.002 * rng.normal()
                    value = np.nan if region == "necrotic" and i == 0 else value
                    invented = 10 * i + len(replaced) if np.isnan(value) else None
                    rows.append((task, method, region, f"s{i}", value, invented))
    return pd.DataFrame(rows, columns=scores.COLUMNS).astype({"invented": "Int64"})


# The tasks


def test_tasks_are_the_papers_number_and_the_last_is_all_four():
    assert list(segmentation.TASKS) == ["complete", *"ABCDEF"]
    assert segmentation.TASKS["complete"] == () and set(segmentation.TASKS["F"]) == set(CONTRASTS)
    assert len(set(map(frozenset, segmentation.TASKS.values()))) == 7
    assert segmentation.TASKS["A"] == ("t1ce",)


def test_only_the_inputs_of_a_task_are_replaced(slices):
    network = Threshold()
    segmentation.evaluate("smoke", network)
    order = [
        (t, m) for t, r in segmentation.TASKS.items() for m in (segmentation.METHODS if r else ("real",))
    ]
    shown = iter(network.seen)
    for task, method in order:
        for subject in slices.subjects:
            x = next(shown).numpy()
            for place, contrast in enumerate(CONTRASTS):
                true = (slices.images(slices.subject(subject), contrast) + 1) / 2
                shade = SHADES[method] if contrast in segmentation.TASKS[task] else 1
                assert np.allclose(x[:, place], shade * true, atol=2e-5), (task, method, contrast)
    assert next(shown, None) is None


def test_dice_of_every_subject_and_region(slices):
    frame = segmentation.evaluate("smoke", Threshold())
    assert list(frame) == ["task", "method", "region", "subject", "dice", "invented"]
    assert (frame.dice.isna() == frame.invented.notna()).all()
    assert len(frame) == (1 + 6 * 3) * 4 * 3
    assert set(frame.method[frame.task == "complete"]) == {"real"}
    whole = frame[frame.region == "whole"].groupby(["task", "method"]).dice.mean()
    assert frame[frame.subject == slices.subjects[2]].dice.isna().all()  # no tumour
    assert frame[frame.region == "enhancing"].dice.isna().all()
    assert whole["complete", "real"] > 0.95
    assert whole["A", "linear"] == whole["complete", "real"]  # this network looks at FLAIR alone
    assert whole["B", "mudiff"] > whole["B", "syndiff"] + 0.05 > whole["B", "linear"]
    assert whole["E", "syndiff"] == whole["F", "syndiff"] == whole["B", "syndiff"]


def test_chosen_tasks_alone_are_evaluated(slices):
    network = Threshold()
    frame = segmentation.evaluate("smoke", network, ["complete"])
    assert set(frame.task) == {"complete"} and len(network.seen) == 3
    rest = segmentation.evaluate("smoke", network)
    assert len(network.seen) == (1 + 6 * 3) * 3  # "complete" is not predicted again
    assert rest[rest.task == "complete"].equals(frame)


def test_the_code_that_decides_is_known():
    found = scores._code()
    assert len(found) == 4 + 3 and len(set(found)) == 7 and metadata.version("monai") in found


def test_what_is_invented_is_counted(slices):
    class Everywhere(Threshold):
        """Calls all pixels enhancing where T1CE is darker than it should be, else none."""

        def forward(self, x):
            found = super().forward(x)
            found[:, 3] = (x[:, 1].amax(dim=(1, 2)) < 0.8).float()[:, None, None]
            found[:, 2] = 0
            return found

    frame = segmentation.evaluate("smoke", Everywhere())
    found = segmentation.inventions(frame).set_index(["region", "task", "method"])
    pixels = len(slices) * slices.image_size**2
    assert tuple(found.loc[("enhancing", "A", "linear")]) == (3, 3, pixels)  # no subject has any
    assert found.loc[("enhancing", "A", "linear")].voxels > found.loc[("enhancing", "B", "linear")].voxels
    alone = len(slices.subject(slices.subjects[2])) * slices.image_size**2
    assert tuple(found.loc[("whole", "F", "linear")]) == (1, 1, alone)  # the third has no tumour
    assert (found.loc["oedema"].voxels == 0).all() and (found.loc["oedema"].without == 1).all()


def test_scores_are_kept_until_network_syntheses_or_code_change(slices, monkeypatch):
    network = Threshold()
    first = segmentation.evaluate("smoke", network)
    count = len(network.seen)
    again = segmentation.evaluate("smoke", network)
    assert len(network.seen) == count and again.equals(first)
    record = scores.folder("smoke", "t1ce", "mudiff") / "synthetic.json"
    paths.write_json(record, paths.read_json(record) | {"weights": "other"})
    assert segmentation.evaluate("smoke", network).equals(first)
    assert len(network.seen) == count + 3 * 3  # tasks A, E and F of one method, three subjects
    stack = scores.folder("smoke", "t1", "linear") / f"{slices.subjects[0]}.npy"
    np.save(stack, np.load(stack) // 2)  # made anew, under the same record
    segmentation.evaluate("smoke", network)
    assert len(network.seen) == count + 3 * 3 + 2 * 3  # tasks D and F
    monkeypatch.setattr(scores, "_code", lambda: ["new"])
    segmentation.evaluate("smoke", network, ["complete"])
    assert len(network.seen) == count + 3 * 3 + 2 * 3 + 3
    with torch.no_grad():
        network.level += 0.1
    assert not segmentation.evaluate("smoke", network).equals(first)


def test_missing_runs_leave_gaps_that_say_what_to_do(slices):
    name = remove("flair", "syndiff")
    assert segmentation.gaps("smoke") == {(task, "syndiff"): [name] for task in "BEF"}
    frame = segmentation.evaluate("smoke", Threshold())
    there = set(map(tuple, frame[["task", "method"]].drop_duplicates().to_numpy()))
    assert ("B", "syndiff") not in there and ("B", "mudiff") in there and ("A", "syndiff") in there
    text = segmentation.caption(frame, "smoke")
    assert f"NA (B SynDiff, E SynDiff, F SynDiff): no synthetic test slices of {name}; make them" in text
    assert "snakemake --config profile=smoke" in text
    block = segmentation.markdown(frame, text).split("\n\n")[1]
    rows = {line.split(" | ")[0].strip("| "): line for line in block.splitlines()}
    assert rows["B"].count("NA") == 1 and rows["B"].split(" | ")[7] == "NA" and "**" not in rows["B"]
    compared = segmentation.differences(frame)
    assert set(compared.task[compared.second == "syndiff"]) == set("ACD")
    assert "3 could not be compared" in segmentation.verdict(frame).splitlines()[0]


def test_without_any_run_the_real_images_remain(slices):
    for target in CONTRASTS:
        for method in segmentation.METHODS:
            remove(target, method)
    frame = segmentation.evaluate("smoke", Threshold())
    assert set(frame.task) == {"complete"} and segmentation.differences(frame).empty
    assert "6 could not be compared" in segmentation.verdict(frame)
    assert "NA" in segmentation.markdown(frame, segmentation.caption(frame, "smoke"))


@pytest.mark.parametrize("field, message", [("data", "other data"), ("weights", "other weights")])
def test_syntheses_of_other_data_or_weights_are_refused(slices, field, message):
    folder = scores.folder("smoke", "t2", "mudiff")
    paths.write_text(paths.run("smoke", folder.name) / "weights.safetensors", "weights")
    record = paths.read_json(folder / "synthetic.json")
    if field == "data":
        paths.write_json(folder / "synthetic.json", record | {"data": "old"})
    with pytest.raises(MudiffError, match=f"brats_t2_mudiff: made (from|with) {message}.*snakemake"):
        segmentation.evaluate("smoke", Threshold())


def test_test_subjects_without_tumours_are_an_error(tmp_path, write_subject, rng, monkeypatch):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    prepare(tmp_path, write_subject, rng, [tumour(0)])
    with pytest.raises(MudiffError, match="no test subject has a tumour"):
        segmentation.evaluate("smoke", Threshold())
    with pytest.raises(MudiffError, match="no test subject has a tumour"):
        segmentation.fig4d("smoke", Threshold())


def test_masks_of_test_subjects_with_unknown_labels_are_an_error(tmp_path, write_subject, rng, monkeypatch):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    prepare(tmp_path, write_subject, rng, [tumour(4), 3 * tumour(4)])
    with pytest.raises(MudiffError, match=r"Brats18_2_1: the mask has labels 0, 6; expected"):
        segmentation.evaluate("smoke", Threshold())


def test_one_subject_has_no_deviation_and_no_interval(tmp_path, write_subject, rng, monkeypatch):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    synthesise(prepare(tmp_path, write_subject, rng, [tumour(4)]))
    frame = segmentation.evaluate("smoke", Threshold())
    compared = segmentation.differences(frame)
    assert len(compared) == 18 and (compared.n == 1).all() and compared.low.isna().all()
    text = segmentation.caption(frame, "smoke")
    assert "over all prepared slices of a subject" in text
    assert "test subjects: 1." in text and "neither deviation nor interval" in text
    assert "± NA" in segmentation.markdown(frame, text) and "nan" not in segmentation.markdown(frame, text)


# Table and differences


def test_differences_are_paired_and_signed(rng):
    frame = made_up(rng)
    found = segmentation.differences(frame, ["whole", "necrotic"])
    assert len(found) == 2 * 3 * 6
    row = found[(found.region == "whole") & (found.task == "F") & (found.second == "syndiff")].iloc[0]
    part = frame[(frame.region == "whole") & (frame.task == "F")].pivot(
        index="subject", columns="method", values="dice"
    )
    expected = statistics.paired(part.mudiff, part.syndiff)
    assert row["first"] == "mudiff" and row.n == 6
    assert row.difference == pytest.approx(0.08, abs=0.005) and row.low > 0
    assert (row.difference, row.low, row.high, row.p) == pytest.approx(
        tuple(expected[k] for k in ("difference", "low", "high", "p"))
    )
    against_real = found[(found.second == "real") & (found["first"] == "mudiff") & (found.region == "whole")]
    assert (against_real.difference < 0).all() and len(against_real) == 6
    assert (found.n[found.region == "necrotic"] == 5).all()
    family = found[(found.region == "whole") & (found.second == "syndiff")]
    assert np.allclose(family.p_holm, statistics.holm(family.p)) and (family.p_holm >= family.p).all()


def test_inventions_are_summed_over_subjects_without_the_region(rng):
    found = segmentation.inventions(made_up(rng).assign(dice=0.0))
    assert set(found.region) == {"necrotic"} and len(found) == 1 + 6 * 3  # the others are in all subjects
    assert list(found.task) == ["complete", *np.repeat([*"ABCDEF"], 3)]
    last = found.iloc[-1]
    assert (last.task, last.without, last.subjects, last.voxels) == ("F", 1, 1, 4)
    assert (found.iloc[0].without, found.iloc[0].subjects, found.iloc[0].voxels) == (1, 0, 0)


def test_verdict_also_counts_corrected_p_values(rng):
    frame = made_up(rng)
    for task in "ABCDE":  # differences of 0.004 and 0.024 in turn: t = 3.13, p = 0.026, of six tasks 0.13
        here = (frame.region == "whole") & (frame.task == task)
        second = frame.dice[here & (frame.method == "syndiff")].to_numpy()
        frame.loc[here & (frame.method == "mudiff"), "dice"] = second + 0.014 + 0.01 * np.array([-1, 1] * 3)
    found = segmentation.differences(frame)
    part = found[(found["first"] == "mudiff") & (found.second == "syndiff")]
    assert (part.low > 0).all() and (part.p_holm < 0.05).tolist() == [False] * 5 + [True]
    line = segmentation.verdict(frame).splitlines()[0]
    assert "excludes 0 for 6 and 0 of them; corrected (Holm, p < 0.05), 1 and 0 remain." in line
    assert "(Holm, p < 0.05), 0 and 6 remain." in segmentation.verdict(made_up(rng)).splitlines()[1]


def test_verdict_counts_tasks(rng):
    lines = segmentation.verdict(made_up(rng)).splitlines()
    assert lines[0].startswith("* MU-Diff against SynDiff: higher Dice in 6 of 6 tasks, lower in 0")
    assert "excludes 0 for 6 and 0 of them" in lines[0]
    assert lines[1].startswith("* MU-Diff against complete: higher Dice in 0 of 6 tasks, lower in 6")


def test_the_table_shows_what_is_replaced_and_what_is_better(rng, slices):
    frame = made_up(rng)
    blocks = segmentation.markdown(frame, "Text.").split("\n\n")
    assert blocks[0] == "Text." and len(blocks) == 1 + 4 + 1
    head_line, _, *rows = blocks[1].strip().splitlines()
    assert head_line == (
        "| Whole tumour (n = 6) | T1 | T1CE | T2 | FLAIR | complete | MU-Diff | SynDiff | Linear |"
    )
    assert blocks[2].startswith("| Necrotic core (n = 5) |")
    assert re.fullmatch(r"\| complete \| ✓ \| ✓ \| ✓ \| ✓ \| 0\.\d{3} ± 0\.\d{3} \|  \|  \|  \|", rows[0])
    assert rows[5].startswith("| E | ✓ | × | ✓ | × |  | **0.8")
    assert sum(row.count("**") for row in rows) == 2 * 6 and "**" not in rows[0]
    whole = frame[(frame.region == "whole") & (frame.task == "F") & (frame.method == "mudiff")].dice
    assert f"**{whole.mean():.3f} ± {whole.std():.3f}**" in rows[6]
    assert "(+0.0" in blocks[5] and "−" in blocks[5]


def test_the_files_are_tidy_and_escaped(rng, slices, tmp_path):
    frame = made_up(rng)
    remove("t2", "mudiff")
    segmentation.write(frame, tmp_path / "fig4c", segmentation.caption(frame, "smoke"))
    back = pd.read_csv(tmp_path / "fig4c.csv")
    assert list(back) == ["task", "method", "region", "subject", "dice", "invented"] and len(back) == len(
        frame
    )
    assert back.dice.isna().sum() == frame.dice.isna().sum() > 0
    tex = (tmp_path / "fig4c.tex").read_text()
    assert not re.search(r"(?<!\\)[%_]", tex.replace("{%\n", "{\n")) and not set("±×✓−*") & set(tex)
    assert r"brats\_t2\_mudiff" in tex and r"\textbf{0.8" in tex and r"$\checkmark$" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}}") == 5
    for line in (line for line in tex.splitlines() if line.startswith("A &")):
        assert line.count("&") in (8, 3)
    assert (tmp_path / "fig4c.md").read_text().startswith("Dice of a segmentation network")


# The masks


def test_fig4d_shows_the_largest_tumour_and_says_what_is_not_there(slices):
    from matplotlib.text import Text

    remove("flair", "syndiff")
    network = Threshold()
    figure = segmentation.fig4d("smoke", network)
    words = [text.get_text() for text in figure.findobj(Text)]
    assert words.count("not trained") == 3 and words.count("all four") == 0
    assert {"A: T1CE", "E: T1CE,\nFLAIR", "F: all four"} <= set(words)
    assert {"Ground truth", "Complete (real)", "MU-Diff", "SynDiff", "Oedema", "R", "L"} <= set(words)
    areas = (slices.lesion(np.arange(len(slices))) > 0).sum(axis=(1, 2))
    best = int(areas.argmax())
    subject, number = slices.index.iloc[best]
    assert subject == slices.subjects[1]
    assert f"subject {subject}, slice {number}." in style.caption(figure)
    axes = np.array(figure.axes, object).reshape(6, 4)
    flair, colours = (image.get_array() for image in axes[1, 0].images)
    assert np.allclose(flair, (slices.images([best], "flair")[0] + 1) / 2)
    from matplotlib.colors import to_rgb

    assert np.array_equal(colours[..., 3] > 0, slices.lesion([best])[0] > 0)
    inside = np.unique(colours[colours[..., 3] > 0][:, :3], axis=0)
    assert np.allclose(inside, to_rgb(masks.COLOURS["oedema"]))
    assert not axes[1, 3].images and len(axes[1, 2].images) == 2
    truth = segment.classes(slices.lesion([best]))
    real = segment.predict(network, segment.images(slices, np.array([best])))
    assert axes[0, 1].get_xlabel() == f"Dice {segment.dice(real, truth)['whole']:.3f}"
    shaded = 0.9 * (slices.images([best], "flair") + 1) / 2
    fed = segment.predict(network, segment.images(slices, np.array([best]), {"flair": shaded}))
    assert np.array_equal(axes[1, 2].images[1].get_array()[..., 3] > 0, fed[0] > 0) and fed.any()
    assert axes[0, 0].get_xlabel() == "" and axes[1, 2].get_xlabel() != axes[1, 1].get_xlabel()


def test_class_colours_can_be_told_apart_and_each_class_has_one():
    assert set(masks.COLOURS) == set(segment.CLASSES) and set(masks.COLOURS.values()) <= set(style.COLOURS)
    assert len(set(masks.COLOURS.values())) == 3
    assert set(table.NAMES) == set(segment.REGIONS)
