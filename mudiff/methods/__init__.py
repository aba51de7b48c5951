"""One file per method behind one interface; `build` makes any of them from its settings."""

import torch

from mudiff.methods.method import Batch, Method
from mudiff.settings import Settings

__all__ = ["Batch", "Method", "build"]


def build(settings: Settings) -> Method:
    """Return the method that `settings` names, with weights drawn from its seed.

    Parameters
    ----------
    settings : Settings
        Method, its sizes, dataset and target (which fix the number of conditions).
    """
    from mudiff.methods.linear import Linear
    from mudiff.methods.mudiff import MUDiff

    kind = {"mudiff": MUDiff, "linear": Linear}[settings.method]
    return kind(settings, torch.Generator().manual_seed(settings.seed))
