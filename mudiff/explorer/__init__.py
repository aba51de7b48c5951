"""An explorer of masks and syntheses: choose a slice, a step, a region; switch conditions off or move them."""

from mudiff.explorer.pictures import draw, scenarios, static
from mudiff.explorer.state import REGIONS, REPLACEMENTS, Explorer, Synthesis, View
from mudiff.explorer.widgets import STILL, Panel

__all__ = [
    "REGIONS", "REPLACEMENTS", "STILL", "Explorer", "Panel", "Synthesis", "View", "draw", "scenarios", "static",
]  # fmt: skip
