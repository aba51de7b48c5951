"""What the differences between paper and code do to PSNR, measured on phantoms (register: `mudiff.register`)."""

from mudiff.effects.common import Effect
from mudiff.effects.images import jpeg, metric_effects
from mudiff.effects.sampling import (
    random_masks,
    sampling_effects,
    source,
    source_images,
    source_metric_effects,
)
from mudiff.effects.show import base_words, forest, frame, of, table, words
from mudiff.effects.training import CHANGES, base_settings, training_effects

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
