"""What F1 and F2 learn from each other: how alike their layers are (Fig. 2b)."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mudiff.data.dataset import Slices
from mudiff.errors import MudiffError
from mudiff.evaluation import cka
from mudiff.methods.base import Method
from mudiff.model.diffusion import SliceNoise, slice_seed
from mudiff.model.generators import StructureNetwork, TextureNetwork


class Layer(NamedTuple):
    """A layer of F1 or F2: its part of the network, its short name, and where its features are found."""

    part: str  # "input": f_c that enters H; "encoder", with the middle; "decoder"; "output": the prediction of x_0
    name: str
    module: nn.Module
    take: Callable[[tuple, Any], Tensor] = lambda _, result: result  # from the module's arguments and result


def layers(network: StructureNetwork | TextureNetwork) -> list[Layer]:
    """Return the layers of F1 or F2 in the order of the computation; notebook 07 explains their names."""
    h = network.encoder_decoder
    found = [Layer("input", "f_c", h, lambda arguments, _: arguments[0])]  # Eqs. 9 and 18
    for k, level in enumerate(h.encoder, start=1):
        blocks = level.blocks if level.attention is None else level.attention
        found += [Layer("encoder", f"enc {k}.{b}", block) for b, block in enumerate(blocks, start=1)]
        if level.down is not None:
            found.append(Layer("encoder", f"down {k}", level, lambda _, result: result[0]))
    middle = zip(("mid 1", "mid att", "mid 2"), (h.middle1, h.middle_attention, h.middle2), strict=True)
    found += [Layer("encoder", *named) for named in middle]
    for k, level in zip(range(len(h.decoder), 0, -1), h.decoder, strict=True):
        modules = {f"dec {k}.{b}": block for b, block in enumerate(level.blocks, start=1)}
        modules |= {f"att {k}": level.attention, f"up {k}": level.up}
        found += [Layer("decoder", *named) for named in modules.items() if named[1] is not None]
    return [*found, Layer("output", "x^p", h)]


def layer_features(network: nn.Module, *given: Tensor) -> Tensor:
    """Return the features of each of a network's L `layers` in one forward pass, (B, L, B) by `cka.factor`."""
    watched, found = layers(network), {}

    def keep(layer: Layer, _: nn.Module, arguments: tuple, result: Any) -> None:
        # Reduced at once: features of all layers at full size would fill the memory.
        found[layer.name] = cka.factor(layer.take(arguments, result))

    with contextlib.ExitStack() as hooks:
        for layer in watched:
            hooks.enter_context(layer.module.register_forward_hook(partial(keep, layer)))
        network(*given)
    return torch.stack([found[layer.name] for layer in watched], dim=1)


def inputs(method: Method, slices: Slices, indices: np.ndarray, t: int) -> tuple[Tensor, ...]:
    """Return what both networks get at step t: x_t (from the true target by Eq. 6), conditions, t and z."""
    rows, settings = slices.index.iloc[indices], method.settings
    seeds = [slice_seed(0, "cka", t, s, z) for s, z in zip(rows.subject, rows["slice"], strict=True)]
    noise = SliceNoise(seeds, method.device)
    x_0 = torch.from_numpy(slices.images(indices, settings.target)[:, None]).to(method.device)
    y = np.stack([slices.images(indices, c) for c in settings.conditions], axis=1)
    steps = torch.full((len(indices),), t, device=method.device)
    x_t = method.schedule.q_sample(x_0, steps + 1, noise.normal(*x_0.shape[1:]))
    return x_t, torch.from_numpy(y).to(method.device), steps, noise.normal(settings.latent)


@torch.inference_mode()
def compare(method: Method, slices: Slices, steps: Sequence[int], count: int = 64) -> pd.DataFrame:
    """Compute CKA between the layers of F1 and F2 at each step on the same `count` random slices, in minibatches.

    Both get the same `inputs`; F2 also gets F1's prediction from them. One row per pair of layers of one part: part,
    f1, f2 (names), cka, t, slices (that were used: four or more).
    """
    chosen = np.random.default_rng(0).permutation(len(slices))[: max(count, 0)]  # mixes subjects and heights
    if len(chosen) < 4:
        raise MudiffError(f"CKA of {len(chosen)} slices: it takes 4 or more.")
    batch = min(cka.BATCH, len(chosen))
    chosen = chosen[: len(chosen) // batch * batch].reshape(-1, batch)
    rows = []
    for t in steps:
        if not 0 <= t < method.schedule.steps:
            raise MudiffError(f"t = {t}: the run has the steps 0 to {method.schedule.steps - 1}.")
        first, second = [], []
        for part in chosen:
            given = inputs(method, slices, part, t)
            first.append(layer_features(method.f1, *given))
            second.append(layer_features(method.f2, *given, method.f1(*given)))
        matrix = cka.alignment(torch.cat(first), torch.cat(second), batch)
        pairs = product(layers(method.f1), layers(method.f2))
        rows += [(a.part, a.name, b.name, float(value), t, chosen.size)
                 for (a, b), value in zip(pairs, matrix.ravel(), strict=True) if a.part == b.part]  # fmt: skip
    return pd.DataFrame(rows, columns=["part", "f1", "f2", "cka", "t", "slices"])
