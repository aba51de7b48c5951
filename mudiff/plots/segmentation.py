"""The masks of Fig. 4d."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mudiff.data import datasets
from mudiff.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"Necrotic core": "#ece133", "Oedema": "#56b4e9", "Enhancing tumour": "#d55e00"}
"""Classes 1 to 3 -> colour, of the colour-blind palette."""


def fig4d(
    flair: np.ndarray, brain: np.ndarray, true: np.ndarray,
    found: Mapping[tuple[str, str], tuple[np.ndarray, float]], tasks: Mapping[str, Sequence[str]],
) -> "Figure":  # fmt: skip
    """Draw masks of one slice over its real FLAIR: the truth and "complete" once, then a column for each task.

    Images are (S, S): `flair` in [0, 1], `brain` is what is shown, `true` has classes 0 to 3. `found` maps task and
    method to classes and Dice of the whole tumour, "complete" first; `tasks` maps tasks to their replaced contrasts.
    """
    from matplotlib.patches import Patch

    complete, *others = found
    methods = list(dict.fromkeys(method for _, method in others))
    columns = [task for task, replaced in tasks.items() if replaced]
    with style.style():
        figure = style.new_figure(7.2, 7.2 / (1 + len(columns)) * len(methods) + 1.1)
        axes = figure.subplots(len(methods), 1 + len(columns), squeeze=False)
        first = {"Ground truth": (true, None), "Complete (real)": found[complete]}
        for axis, (name, mask) in zip(axes[:, 0], first.items(), strict=True):
            _panel(axis, flair, brain, *mask)
            axis.set_title(name, fontsize=7.5)
        for line, task in zip(axes.T[1:], columns, strict=True):
            for axis, method in zip(line, methods, strict=True):
                _panel(axis, flair, brain, *found[task, method])
            names = "all four" if len(tasks[task]) == 4 else ", ".join(map(datasets.LABELS.get, tasks[task]))
            line[0].set_title(f"{task}: {names}", fontsize=7.5)
        for axis, method in zip(axes[:, 1], methods, strict=True):
            axis.set_ylabel(datasets.METHODS[method])
        handles = [Patch(fc=colour, label=name) for name, colour in COLOURS.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _panel(axis: "Axes", flair: np.ndarray, brain: np.ndarray, mask: np.ndarray, dice: float | None) -> None:
    from matplotlib.colors import to_rgba

    style.show(axis, flair, "flair", "" if dice is not None else "top")  # the sides on the truth alone
    axis.imshow(np.array([(0, 0, 0, 0), *(to_rgba(colour, 0.75) for colour in COLOURS.values())])[mask])
    style.crop(axis, style.square(brain))
    if dice is not None:
        axis.set_xlabel(f"Dice {dice:.3f}", fontsize=7, labelpad=2)
