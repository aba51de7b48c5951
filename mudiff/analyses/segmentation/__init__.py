"""Are synthetic contrasts as good as real ones to a segmentation network? Fig. 4c and 4d."""

from mudiff.analyses.segmentation.masks import fig4d
from mudiff.analyses.segmentation.scores import (
    METHODS,
    TASKS,
    differences,
    evaluate,
    gaps,
    inventions,
    verdict,
)
from mudiff.analyses.segmentation.table import caption, latex, markdown, write
from mudiff.plots.old_style import save

__all__ = [
    "METHODS", "TASKS", "caption", "differences", "evaluate", "fig4d", "gaps", "inventions", "latex", "markdown",
    "save", "verdict", "write",
]  # fmt: skip
