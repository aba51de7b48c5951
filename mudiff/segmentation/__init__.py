"""Are synthetic contrasts as good as real ones to a segmentation network? Fig. 4c and 4d."""

from mudiff.plots import save
from mudiff.segmentation.masks import fig4d
from mudiff.segmentation.scores import METHODS, TASKS, differences, evaluate, gaps, inventions, verdict
from mudiff.segmentation.table import caption, latex, markdown, write

__all__ = [
    "METHODS", "TASKS", "caption", "differences", "evaluate", "fig4d", "gaps", "inventions", "latex", "markdown",
    "save", "verdict", "write",
]  # fmt: skip
