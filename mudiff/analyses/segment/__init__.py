"""A segmentation network on four contrasts: MONAI's U-Net, its training on real slices, masks and Dice."""

from mudiff.analyses.segment.network import (
    CLASSES,
    DATASET,
    RECIPES,
    REGIONS,
    Features,
    Recipe,
    build,
    classes,
    dice,
    images,
    invented,
    predict,
    score,
    synthetic,
    truth,
)
from mudiff.analyses.segment.training import fingerprint, folder, history, train

__all__ = [
    "CLASSES", "DATASET", "RECIPES", "REGIONS", "Features", "Recipe", "build", "classes", "dice", "fingerprint",
    "folder", "history", "images", "invented", "predict", "score", "synthetic", "train", "truth",
]  # fmt: skip
