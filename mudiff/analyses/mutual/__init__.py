"""What F1 and F2 learn from each other: their layers, tau, and their predictions apart and together (notebook 07)."""

from mudiff.analyses.mutual.drawings import depth, example_slice, fig2b, fig2c, fig5c, fig5d
from mudiff.analyses.mutual.predictions import (
    alone,
    alone_scores,
    collect,
    disagreement,
    predict,
    scores,
    trace,
)
from mudiff.analyses.mutual.similarity import check_pair, compare, diagonal, layers, matrix, statements
from mudiff.analyses.mutual.tau import tau_steps
from mudiff.analyses.mutual.trained import Trained, compare_steps, kept, open_run

__all__ = [
    "Trained", "alone", "alone_scores", "check_pair", "collect", "compare", "compare_steps", "depth",
    "diagonal", "disagreement", "example_slice", "fig2b", "fig2c", "fig5c", "fig5d", "kept", "layers",
    "matrix", "open_run", "predict", "scores", "statements", "tau_steps", "trace",
]  # fmt: skip
