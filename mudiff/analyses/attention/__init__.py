"""Where the networks look: the adapter's feature maps (Fig. 5a) and the critic's attentive masks (Fig. 5b)."""

from mudiff.analyses.attention import words
from mudiff.analyses.attention.measurements import Measurements, measure, measured, write
from mudiff.analyses.attention.observation import heads, observe, open_run, variants_of
from mudiff.analyses.attention.panels import example, fig5a, fig5b, look, outline, overlay
from mudiff.analyses.attention.regions import ZONES, contrasts, native_weights, reach, sign_flip, zones

__all__ = [
    "ZONES", "Measurements", "contrasts", "example", "fig5a", "fig5b", "heads", "look", "measure", "measured",
    "native_weights", "observe", "open_run", "outline", "overlay", "reach", "sign_flip", "variants_of", "words",
    "write", "zones",
]  # fmt: skip
