"""What the differences between paper and code do to PSNR, measured on phantoms (`mudiff.workflow.register`)."""

from mudiff.analyses.effects.common import Effect
from mudiff.analyses.effects.images import jpeg, metric_effects
from mudiff.analyses.effects.sampling import (
    random_masks,
    sampling_effects,
    source,
    source_images,
    source_metric_effects,
)
from mudiff.analyses.effects.show import base_words, forest, frame, of, table, words
from mudiff.analyses.effects.training import CHANGES, base_settings, training_effects

__all__ = [
    "CHANGES",
    "Effect",
    "base_settings",
    "base_words",
    "forest",
    "frame",
    "jpeg",
    "metric_effects",
    "of",
    "random_masks",
    "sampling_effects",
    "source",
    "source_images",
    "source_metric_effects",
    "table",
    "training_effects",
    "words",
]
