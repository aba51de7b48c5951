"""How alike the layers of F1 and F2 are (section "Effectiveness of mutually learned feature representation").

Both networks get the same x_t, conditions, t and z, and `evaluation.cka` compares what their layers make of it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mudiff.data.dataset import Slices
from mudiff.errors import MudiffError
from mudiff.evaluation.cka import BATCH, alignment, factor
from mudiff.methods.base import Method
from mudiff.model.diffusion import SliceNoise, slice_seed
from mudiff.model.generators import StructureNetwork, TextureNetwork

PARTS = ("input", "encoder", "decoder", "output")
"""Parts of a network: f_c that enters H; encoder with the middle; decoder; the prediction of x_0."""


@dataclass(frozen=True)
class Layer:
    """A layer of F1 or F2: its part of the network, its short name, and where its features are found."""

    part: str
    name: str
    module: nn.Module
    take: Callable[[tuple, Tensor | tuple], Tensor]  # from the module's arguments and result


def layers(network: StructureNetwork | TextureNetwork) -> list[Layer]:
    """Return the layers of F1 or F2 in the order of the computation.

    ``enc 2.1`` is the first residual block of the encoder's second level (with its attention, if any), ``down 2``
    the way down from there with the input pyramid, ``mid`` the blocks between, ``dec`` and ``up`` the way back.
    """
    h = network.encoder_decoder
    found = [Layer("input", "f_c", h, lambda arguments, _: arguments[0])]  # Eqs. 9 and 18
    for k, level in enumerate(h.encoder, start=1):
        blocks = level.blocks if level.attention is None else level.attention
        found += [Layer("encoder", f"enc {k}.{b}", block, _result) for b, block in enumerate(blocks, start=1)]
        if level.down is not None:
            found.append(Layer("encoder", f"down {k}", level, lambda _, result: result[0]))
    middle = {"mid 1": h.middle1, "mid att": h.middle_attention, "mid 2": h.middle2}
    found += [Layer("encoder", name, module, _result) for name, module in middle.items()]
    for k, level in zip(range(len(h.decoder), 0, -1), h.decoder, strict=True):
        found += [
            Layer("decoder", f"dec {k}.{b}", block, _result) for b, block in enumerate(level.blocks, start=1)
        ]
        after = {f"att {k}": level.attention, f"up {k}": level.up}
        found += [Layer("decoder", n, module, _result) for n, module in after.items() if module is not None]
    return [*found, Layer("output", "x^p", h, _result)]


def _result(_: tuple, result: Tensor) -> Tensor:
    return result


@contextlib.contextmanager
def _recorded(watched: Sequence[Layer]) -> Iterator[list[Tensor | None]]:
    """Yield a list that holds the features of each layer after a forward pass."""
    features: list[Tensor | None] = [None] * len(watched)

    def keep(place: int) -> Callable:
        """Return a hook that keeps the features of one layer."""

        def hook(_module: nn.Module, arguments: tuple, result: Tensor | tuple) -> None:
            # Reduced at once: features of all layers at full size would fill the memory.
            features[place] = factor(watched[place].take(arguments, result))

        return hook

    handles = [layer.module.register_forward_hook(keep(i)) for i, layer in enumerate(watched)]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def pack(x_t: Tensor, x_p1: Tensor, conditions: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """Return everything that F1 and F2 take as one tensor (B, (2 + n) H W + 1 + latent)."""
    return torch.cat([x_t.flatten(1), x_p1.flatten(1), conditions.flatten(1), t[:, None].float(), z], dim=1)


def _unpack(packed: Tensor, n_conditions: int, size: int) -> tuple[Tensor, ...]:
    pixels = (2 + n_conditions) * size**2
    images = packed[:, :pixels].view(len(packed), -1, size, size)
    x_t, x_p1, conditions = images.split([1, 1, n_conditions], dim=1)
    return x_t, x_p1, conditions, packed[:, pixels].long(), packed[:, pixels + 1 :]


def layer_features(
    method: Method, network: StructureNetwork | TextureNetwork
) -> Callable[[Tensor], list[Tensor]]:
    """Return a function of F1 or F2: packed inputs of a minibatch -> the `factor` of each of its `layers`."""
    settings, watched = method.settings, layers(network)

    def features(packed: Tensor) -> list[Tensor]:
        x_t, x_p1, conditions, t, z = _unpack(packed, len(settings.conditions), settings.image_size)
        guide = (x_p1,) if isinstance(network, TextureNetwork) else ()
        with _recorded(watched) as found:
            network(x_t, conditions, t, z, *guide)
        return found

    return features


def check_pair(method: Method) -> tuple[StructureNetwork, TextureNetwork]:
    """Return F1 and F2.

    Raises
    ------
    MudiffError
        If the run does not have both.
    """
    f1, f2 = getattr(method, "f1", None), getattr(method, "f2", None)
    if f1 is None or f2 is None:
        raise MudiffError(
            f"run {method.settings.run_name}: has no pair of networks F1 and F2 to compare; choose a run of "
            "method mudiff with both."
        )
    return f1, f2


@torch.inference_mode()
def inputs(method: Method, slices: Slices, indices: Sequence[int], t: int, seed: int = 0) -> Tensor:
    """Return what both networks get for some slices at one step, packed (N, D): the same x_t, conditions, t and z.

    x_t is drawn from the true target by Eq. 6, as in training; F2 is also given F1's prediction of it.

    Parameters
    ----------
    method : Method
        A run of MU-Diff.
    slices : Slices
        Prepared slices.
    indices : sequence of int
        Which of them.
    t : int
        Time step 0 .. T-1.
    seed : int
        With subject and slice number it decides noise and z of a slice.
    """
    f1, _ = check_pair(method)
    if not 0 <= t < method.schedule.steps:
        raise MudiffError(f"t = {t}: the run has the steps 0 to {method.schedule.steps - 1}.")
    packed = []
    for part in np.array_split(np.asarray(indices), -(-len(indices) // BATCH)):
        rows = slices.index.iloc[part]
        seeds = [slice_seed(seed, "cka", t, s, z) for s, z in zip(rows.subject, rows["slice"], strict=True)]
        noise = SliceNoise(seeds, method.device)
        x_0 = torch.from_numpy(slices.images(part, method.settings.target)[:, None]).to(method.device)
        y = np.stack([slices.images(part, c) for c in method.settings.conditions], axis=1)
        conditions = torch.from_numpy(y).to(method.device)
        steps = torch.full((len(part),), t, device=method.device)
        x_t = method.schedule.q_sample(x_0, steps + 1, noise.normal(*x_0.shape[1:]))
        z = noise.normal(method.settings.latent)
        packed.append(pack(x_t, f1(x_t, conditions, steps, z), conditions, steps, z))
    return torch.cat(packed)


def compare(
    method: Method, slices: Slices, t: int, count: int = 64, seed: int = 0, alike: bool = False
) -> pd.DataFrame:
    """Compute CKA between the layers of F1 and F2 of one run, part by part.

    Parameters
    ----------
    method : Method
        A run of MU-Diff.
    slices : Slices
        Prepared slices; `count` of them are drawn, or all taken where there are fewer.
    t : int
        Time step 0 .. T-1.
    count : int
        Slices, in minibatches of `BATCH`.
    seed : int
        Seed of the choice and of the noise.
    alike : bool
        Whether a minibatch has slices of about one height in the head, instead of any.

    Returns
    -------
    DataFrame
        One row per pair of layers of one part: part, f1, f2 (names), cka, t, slices (that were used).

    Raises
    ------
    MudiffError
        If the run is no pair of networks, t no step of it, or there are fewer than four slices.
    """
    f1, f2 = check_pair(method)
    count = max(count, 0)  # a negative end would count from the other side
    chosen = np.random.default_rng(seed).permutation(len(slices))[
        :count
    ]  # a batch mixes subjects and heights
    if alike:
        chosen = chosen[np.argsort(slices.index["slice"].to_numpy()[chosen], kind="stable")]
    batch = min(BATCH, len(chosen)) or 1
    chosen = chosen[: len(chosen) // batch * batch]
    firsts, seconds = layers(f1), layers(f2)
    packed = inputs(method, slices, chosen, t, seed).split(batch) if len(chosen) else ()
    with torch.inference_mode():
        found = [
            [torch.stack(features(part), dim=1) for part in packed]
            for features in (layer_features(method, f1), layer_features(method, f2))
        ]
    matrix = alignment(*(torch.cat(parts) if parts else torch.zeros(0, 1) for parts in found), batch)
    rows = [
        {
            "part": a.part,
            "f1": a.name,
            "f2": b.name,
            "cka": float(matrix[i, j]),
            "t": t,
            "slices": len(chosen),
        }
        for i, a in enumerate(firsts)
        for j, b in enumerate(seconds)
        if a.part == b.part
    ]
    return pd.DataFrame(rows)


def diagonal(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `compare` in which a layer is compared with its counterpart."""
    return frame[frame.f1 == frame.f2]


def matrix(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    """Return the CKA values of a part at one step: layers of F1 as rows, of F2 as columns, in their order."""
    chosen = frame[frame.part == part]
    wide = chosen.pivot(index="f1", columns="f2", values="cka")
    return wide.loc[chosen.f1.unique(), chosen.f2.unique()]


def statements(frame: pd.DataFrame) -> pd.DataFrame:
    """Put the paper's four statements on Fig. 2b into numbers, for all pairs of layers and for counterparts.

    Its "first", "initial" and "final" layers are the first and the last third here, rounded up; of all pairs
    those with both layers in it.

    Parameters
    ----------
    frame : DataFrame
        From `compare`, one step.

    Returns
    -------
    DataFrame
        Two rows per statement: statement, layers ("all pairs" or "counterparts"), ours (text), holds.
    """
    rows = []
    for kind in ("all pairs", "counterparts"):
        encoder, decoder = (_thirds(matrix(frame, part), kind) for part in ("encoder", "decoder"))
        low, high = (encoder["all"] < 0.55).mean(), (decoder["first"] > 0.7).mean()
        rises, falls = (part["last"].mean() - part["first"].mean() for part in (encoder, decoder))
        found = (
            ("Most encoder values are below 0.55", f"{low:.0%} of them", low > 0.5),
            ("The first encoder layers are more dissimilar than the later ones", _change(encoder), rises > 0),
            ("Many values of the initial decoder layers are above 0.7", f"{high:.0%} of them", high > 0.5),
            (
                "Towards the final decoder layers features are more distinct again",
                _change(decoder),
                falls < 0,
            ),
        )
        rows += [
            {"order": i, "statement": s, "layers": kind, "ours": ours, "holds": "yes" if holds else "no"}
            for i, (s, ours, holds) in enumerate(found)
        ]
    return pd.DataFrame(rows).sort_values("order", kind="stable", ignore_index=True).drop(columns="order")


def _thirds(wide: pd.DataFrame, kind: str) -> dict[str, np.ndarray]:
    """Return the values of the first third of the layers, of the last, and of all."""
    third = -(-len(wide) // 3)
    blocks = {"first": slice(third), "last": slice(-third, None), "all": slice(None)}
    values = {name: wide.to_numpy()[chosen, chosen] for name, chosen in blocks.items()}
    return {n: v.diagonal() if kind == "counterparts" else v.ravel() for n, v in values.items()}


def _change(thirds: dict[str, np.ndarray]) -> str:
    return f"mean {thirds['first'].mean():.2f} in the first third, {thirds['last'].mean():.2f} in the last"
