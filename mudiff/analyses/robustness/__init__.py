"""Motion in the FLAIR condition of T1CE synthesis: MU-Diff against SynDiff (Fig. 4a and 4b)."""

from mudiff.analyses.robustness.figures import fig4a, fig4b, write
from mudiff.analyses.robustness.losses import losses, score, verdict
from mudiff.analyses.robustness.study import (
    CONTRAST,
    DATASET,
    METHODS,
    STRENGTHS,
    TARGET,
    Study,
    study,
    synthesise,
)

__all__ = [
    "CONTRAST", "DATASET", "METHODS", "STRENGTHS", "TARGET", "Study", "fig4a", "fig4b", "losses", "score", "study",
    "synthesise", "verdict", "write",
]  # fmt: skip
