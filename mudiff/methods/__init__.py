"""One file per method behind one interface; `build` makes any of them from its settings."""

import torch

from mudiff.methods.base import Batch, Method
from mudiff.settings import Settings

__all__ = ["Batch", "Method", "build"]


def build(settings: Settings) -> Method:
    """Return the method that `settings` names, with weights drawn from its seed.

    Parameters
    ----------
    settings : Settings
        Method, its sizes, dataset and target (which fix the number of conditions).
    """
    from mudiff.methods.ddpm import DDPM
    from mudiff.methods.hinet import HiNet
    from mudiff.methods.linear import Linear
    from mudiff.methods.mmgan import MMGAN
    from mudiff.methods.mudiff import MUDiff
    from mudiff.methods.pgan import PGAN
    from mudiff.methods.pix2pix import Pix2Pix
    from mudiff.methods.syndiff import SynDiff

    kinds: dict[str, type[Method]] = {
        "pix2pix": Pix2Pix,
        "pgan": PGAN,
        "mmgan": MMGAN,
        "hinet": HiNet,
        "ddpm": DDPM,
        "syndiff": SynDiff,
        "mudiff": MUDiff,
        "linear": Linear,
    }
    return kinds[settings.method](settings, torch.Generator().manual_seed(settings.seed))
