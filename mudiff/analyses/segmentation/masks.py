"""The masks of Fig. 4d."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from mudiff.analyses import segment
from mudiff.analyses.segmentation.scores import METHODS, NAMES, REAL, TASKS, folder, gaps, real_slices
from mudiff.data import datasets, prepare
from mudiff.evaluation import old_tables as tables
from mudiff.plots import old_style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"necrotic": "#ece133", "oedema": "#56b4e9", "enhancing": "#d55e00"}
"""Class -> colour, of the colour-blind palette."""


def fig4d(profile: str, network: nn.Module) -> "Figure":
    """Draw Fig. 4d: masks on the test slice with the largest tumour, tasks as rows.

    Columns: ground truth, all four real contrasts, and the contrasts of the task replaced by MU-Diff's and
    by SynDiff's; a panel without runs says so.

    Parameters
    ----------
    profile, network
        As in `evaluate`.
    """
    slices = real_slices(profile)
    subject, place = _largest(slices)
    here = slices.subject(subject)[place : place + 1]
    truth = segment.truth(slices, subject)[place : place + 1]
    missing = gaps(profile)

    def masks(task: str, method: str) -> np.ndarray | None:
        """Return the predicted classes of the slice, None where a run is missing."""
        if (task, method) in missing:
            return None
        stacks = {t: segment.synthetic(slices, folder(profile, t, method), subject) for t in TASKS[task]}
        replaced = {target: stack[place : place + 1] for target, stack in stacks.items()}
        return segment.predict(network, segment.images(slices, here, replaced))

    rows = {}
    complete = masks("complete", REAL)
    for task in [task for task, replaced in TASKS.items() if replaced]:
        rows[task] = [truth, complete, *(masks(task, method) for method in METHODS[:2])]
    flair, brain = (slices.images(here, "flair")[0] + 1) / 2, slices.brain(here)[0]
    return _draw(rows, flair, brain, _about(profile, subject, slices.index["slice"].iloc[here[0]]))


def _largest(slices: prepare.Slices) -> tuple[str, int]:
    """Return the subject with the largest tumour in one slice, and the slice's place among its own."""
    areas = {s: (slices.lesion(slices.subject(s)) > 0).sum(axis=(1, 2)) for s in slices.subjects}
    subject = max(areas, key=lambda name: areas[name].max())
    return subject, int(areas[subject].argmax())


def _about(profile: str, subject: str, number: int) -> str:
    return (
        "Segmentation of the test slice with the largest tumour, on its real FLAIR. Rows: the contrasts replaced by "
        "synthetic ones (tasks A to F, our reading). Below each mask: Dice of the whole tumour in this slice. "
        f"{style.ORIENTATION} Data: {tables.data_words(profile)}; profile {profile}; subject "
        f"{subject}, slice {number}."
    )


def _draw(
    rows: Mapping[str, Sequence[np.ndarray | None]], flair: np.ndarray, brain: np.ndarray, text: str
) -> "Figure":
    from matplotlib.patches import Patch

    heads = ["Ground truth", "Complete (real)", *(datasets.METHODS[method] for method in METHODS[:2])]
    with style.style():
        figure = style.new_figure(1.2 * len(heads) + 0.5, 1.5 * len(rows) + 0.6)
        axes = figure.subplots(len(rows), len(heads), squeeze=False)
        for line, (task, masks) in zip(axes, rows.items(), strict=True):
            names = "all four" if len(TASKS[task]) == 4 else ",\n".join(map(datasets.LABELS.get, TASKS[task]))
            line[0].set_ylabel(f"{task}: {names}", fontsize=8)
            for axis, mask in zip(line, masks, strict=True):
                _panel(axis, flair, brain, mask, masks[0], sides=axis is axes[0, 0])
        for axis, name in zip(axes[0], heads, strict=True):
            axis.set_title(name, fontsize=8.5)
        handles = [Patch(fc=colour, label=NAMES[name]) for name, colour in COLOURS.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        style.add_caption(figure, text)
    return figure


def _panel(
    axis: "Axes",
    flair: np.ndarray,
    brain: np.ndarray,
    mask: np.ndarray | None,
    truth: np.ndarray,
    sides: bool,
) -> None:
    from matplotlib.colors import to_rgba

    if mask is None:
        style.bare(axis)
        axis.text(0.5, 0.5, "not trained", transform=axis.transAxes, ha="center", va="center", color="0.45")
        return
    style.show(axis, flair, "flair", "top" if sides else "")
    colours = np.array([(0, 0, 0, 0), *(to_rgba(COLOURS[name], 0.75) for name in segment.CLASSES)])
    axis.imshow(colours[mask[0]])
    shown = np.argwhere(brain if brain.any() else np.ones_like(brain))
    (top, left), (bottom, right) = shown.min(axis=0) - 1.5, shown.max(axis=0) + 1.5
    axis.set(xlim=(left, right), ylim=(bottom, top))
    if mask is not truth:
        axis.set_xlabel(f"Dice {segment.dice(mask, truth)['whole']:.3f}", fontsize=7, labelpad=2)
