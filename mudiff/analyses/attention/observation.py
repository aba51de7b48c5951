"""One step of all networks as training sees it, and the ways to make a mask of the critic's features (Eq. 28).

Eq. 28 is used in training alone: x_t is the noised truth, both networks predict from it, and the critic sees a
step back from each prediction. The same is done here, on slices that no training saw. Step t = 0 is the last,
to the clean image.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mudiff.errors import MudiffError
from mudiff.methods.base import Method
from mudiff.model.critic import mask_convolution
from mudiff.model.diffusion import SliceNoise, slice_seed
from mudiff.model.layers import initialise
from mudiff.training import runs

DRAWS = 200
"""How many untrained convolutions are drawn (register C-1)."""

IMAGES = ("real", "network 1", "network 2")
"""What the critic judges: the true x_{t-1}, and each network's."""


@dataclass(frozen=True)
class Observation:
    """One step of a batch.

    Attributes
    ----------
    t : int
        The step, 0 .. T-1.
    predictions : tuple of Tensor (B, 1, S, S)
        x^{p1} and x^{p2} (Eqs. 23 and 24).
    samples : list of Tensor (B, 1, S, S)
        x_{t-1}^{p1} and x_{t-1}^{p2} (Eq. 25).
    logits : Tensor (B, 3)
        The critic's, in the order of `IMAGES`; above 0 means "real".
    middles : list of Tensor (B, C, h, w)
        The critic's middle features of both samples (Eq. 28).
    adapted, fused : list of Tensor (B, S, S)
        Mean magnitude over the channels of f_{y_i} (Eq. 13) per condition, and of tau's output (Eq. 17)
        per pair.
    """

    t: int
    predictions: tuple[Tensor, ...]
    samples: list[Tensor]
    logits: Tensor
    middles: list[Tensor]
    adapted: list[Tensor]
    fused: list[Tensor]


@contextlib.contextmanager
def adapter_maps(method: Method) -> Iterator[dict[str, list[Tensor]]]:
    """Yield a dict that holds ``adapted`` and ``fused`` (see `Observation`) after each prediction."""
    kept: dict[str, list[Tensor]] = {}

    def keep(_: nn.Module, inputs: tuple[list[Tensor]], output: list[Tensor]) -> None:
        """Store the magnitudes of what enters and leaves tau."""
        for name, features in (("adapted", inputs[0]), ("fused", output)):
            kept[name] = [f.float().abs().mean(dim=1) for f in features]

    handle = method.f2.contrast_adapter.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


@torch.no_grad()
def observe(method: Method, target: Tensor, conditions: Tensor, seeds: Tensor) -> Iterator[Observation]:
    """Yield each step t = 0 .. T-1 of a batch as training sees it (Algorithm 1).

    Parameters
    ----------
    method : Method
        A trained MU-Diff.
    target : Tensor (B, 1, S, S)
        The truth in [-1, 1].
    conditions : Tensor (B, n, S, S)
        The other contrasts in [-1, 1].
    seeds : Tensor (B,)
        One seed a slice for all noise.
    """
    schedule, device = method.schedule, target.device
    noise = SliceNoise(seeds, device)
    shape = tuple(target.shape[1:])
    for step in range(schedule.steps):
        t = torch.full((len(target),), step, device=device)
        before = schedule.q_sample(target, t, noise.normal(*shape))  # the true x_{t-1}, Eq. 6
        x_t = schedule.q_step(before, t, noise.normal(*shape))  # Eq. 5
        with adapter_maps(method) as maps:
            predictions = method.predict(x_t, conditions, t, noise.normal(method.settings.latent))
        drawn = [noise.normal(*shape) for _ in predictions]
        means = [schedule.posterior_mean(p, x_t, t) for p in predictions]
        samples = [schedule.posterior_sample(m, t, n) for m, n in zip(means, drawn, strict=True)]  # Eq. 25
        judged = method.judge([before, *samples], t, x_t)
        logits = torch.stack([logit for logit, _ in judged], dim=1)
        yield Observation(step, predictions, samples, logits, [m for _, m in judged[1:]], **maps)


def variants_of(method: Method) -> dict[str, nn.Module | None]:
    """Return the run's ways to make a mask, as `mudiff.model.critic.attentive_mask` takes them.

    "channel_mean" is Eq. 28 as printed; "convolution" the run's own, which runs with setting
    ``mask = "channel_mean"`` do not have.
    """
    return {"channel_mean": None} | ({} if method.attention is None else {"convolution": method.attention})


def heads(method: Method, draws: int = DRAWS, seed: int = 0) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Return the ways to make one mask of C features: each a 1x1 convolution, then the sigmoid.

    Returns
    -------
    variants : tuple of str
        The first rows' names, see `variants_of`.
    weight : Tensor (V + draws, C)
        The variants, then convolutions drawn as those of a new run.
    bias : Tensor (V + draws,)
    """
    width = method.critic.middle_width
    generator = torch.Generator().manual_seed(slice_seed(seed, "attention convolution"))
    layers = list(variants_of(method).values())
    for _ in range(draws):
        layers.append(mask_convolution(method.critic))
        initialise(layers[-1], generator)
    mean = torch.full((width,), 1 / width), torch.zeros(())
    rows = [
        mean if k is None else (k.weight.detach()[0, :, 0, 0].cpu(), k.bias.detach()[0].cpu()) for k in layers
    ]
    weight, bias = (torch.stack(group).to(method.device) for group in zip(*rows, strict=True))
    return tuple(variants_of(method)), weight, bias


def open_run(folder: Path, device: torch.device | str | None = None) -> Method:
    """Load a MU-Diff run together with its critic.

    Raises
    ------
    MudiffError
        If there is no run, it is of another method, or its critic was not kept (imported weights).
    """
    from safetensors import safe_open

    method = runs.load(folder, device or runs.default_device())
    if method.settings.method != "mudiff":
        raise MudiffError(f"{folder}: a run of {method.settings.method}; attentive masks need one of mudiff.")
    with safe_open(Path(folder) / "weights.safetensors", "pt") as file:
        absent = {k for k in method.state_dict() if k.startswith(method.training_only)} - set(file.keys())
    if absent:
        raise MudiffError(
            f"{folder}: holds no weights of the critic (the published weights have none), and the masks come "
            "from it; train a run of your own with `mudiff train`."
        )
    return method
