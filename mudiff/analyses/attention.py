"""Where the networks look: the features that tau mixes (Fig. 5a) and the critic's attentive masks (Fig. 5b).

The masks act in training alone, so all is measured in the state that training has it in, on test slices: x_t is the
noised truth, both networks predict from it, and the critic sees a step back from each prediction.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from mudiff import cache, paths
from mudiff.data import datasets
from mudiff.data.dataset import Slices, check
from mudiff.data.masks import lesion_mask
from mudiff.errors import MudiffError
from mudiff.methods.base import Method
from mudiff.model.critic import attentive_mask, mask_convolution
from mudiff.model.diffusion import SliceNoise, slice_seed
from mudiff.model.layers import initialise
from mudiff.model.scenario import Scenario
from mudiff.training import runs

ZONES = ("lesion", "boundary", "elsewhere")  # lesion without its rim, band along the rim, rest of the brain
# Maps of a condition: its intensity, |f_{y_i}| (Eq. 13) and |f^w| of the pair that it begins (Eq. 17).
KINDS = ("image", "adapted", "fused")
DRAWS = 50  # untrained convolutions (register C-1)
MOST = 12  # slices of each subject that are measured, unless all are asked for
KEYS = ["what", "name", "of", "t", "zone", "subject"]  # of a mean, see `measure`


def has_critic(folder: Path, method: Method) -> bool:
    """Tell whether a run's weights hold all that its attentive masks come from."""
    from safetensors import safe_open

    with safe_open(Path(folder) / "weights.safetensors", "pt") as file:
        needed = (name for name in method.state_dict() if name.startswith(method.training_only))
        return method.settings.method == "mudiff" and set(needed) <= set(file.keys())


def open_run(folder: Path) -> Method:
    """Load a MU-Diff run together with its critic; imported weights have none and are refused."""
    method = runs.load(folder, runs.default_device())
    if method.settings.method != "mudiff":
        raise MudiffError(f"{folder}: a run of {method.settings.method}; attentive masks need one of mudiff.")
    if not has_critic(folder, method):
        raise MudiffError(
            f"{folder}: holds no weights of the critic (the published weights have none), and the masks come from "
            "it; train a run of your own with `mudiff train`."
        )
    return method


def reach(size: int) -> int:
    """Return how many pixels the boundary reaches to either side of the rim: 3 at 256x256, 1 or more."""
    return max(1, round(3 * size / 256))


def zones(labels: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Divide slices, lesion labels and brain masks (N, S, S), into disjoint `ZONES`, bool (N, 3, S, S).

    The boundary is dilation minus erosion of the lesion by a 3x3 square, `reach` times each, in the brain.
    """
    lesion = lesion_mask(labels)
    tissue = np.asarray(brain, bool) | lesion
    square, times = np.ones((1, 3, 3), bool), reach(lesion.shape[-1])
    wide = ndimage.binary_dilation(lesion, square, times)
    # Beyond the image's edge nothing is known: the lesion goes on there rather than ends.
    narrow = ndimage.binary_erosion(lesion, square, times, border_value=1)
    return np.stack([narrow, wide & ~narrow & tissue, tissue & ~wide], axis=1)


@dataclass(frozen=True)
class Observation:
    """One step t of a batch; `adapted` and `fused` are mean magnitudes over the channels, (B, S, S)."""

    t: int
    predictions: tuple[Tensor, ...]  # x^{p1} and x^{p2} (Eqs. 23 and 24), (B, 1, S, S)
    logits: Tensor  # (B, 3): the critic's, of the true x_{t-1} and of both networks'; above 0 means "real"
    middles: list[Tensor]  # (B, C, h, w): the critic's features of both networks' x_{t-1} (Eqs. 25 and 28)
    adapted: list[Tensor]  # what enters tau, per condition
    fused: list[Tensor]  # what leaves it, per pair


@contextlib.contextmanager
def listen(network: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Note what F2 makes of the conditions, each time that it is called: name -> features, (B, C, H, W) each.

    ``before`` and ``after`` rho, per condition (Eqs. 12 and 13); what enters tau, ``adapted``, and leaves it,
    ``fused`` per pair (Eq. 17); its gates ``z_a`` and ``z_b`` (Eqs. 14 and 16). Of a network without, less.
    """
    heard: dict[str, list[Tensor]] = {}
    mapper, tau, hooks = network.mapper, getattr(network, "contrast_adapter", None), []

    def hear(layer: nn.Module, note: Callable[[tuple, Any], dict[str, list[Tensor]]]) -> None:
        hooks.append(layer.register_forward_hook(lambda _, given, output: heard.update(note(given, output))))

    def part(name: str, k: int, features: Tensor) -> dict[str, list[Tensor]]:
        return {name: [*heard.get(name, [])[:k], features]}

    if mapper.conditions[0].modulation is not None:
        for k, block in enumerate(mapper.conditions):
            hear(block.modulation, lambda given, out, k=k: part("before", k, given[0]) | part("after", k, out))
    if tau is not None:
        hear(tau, lambda given, out: {"adapted": given[0], "fused": out})
        for name, gates in (("z_a", tau.gate_a), ("z_b", tau.gate_b)):
            for k, gate in enumerate(gates):
                hear(gate, lambda given, out, name=name, k=k: part(name, k, out.sigmoid()))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def observe(method: Method, slices: Slices, indices: Sequence[int], seed: int = 0) -> Iterator[Observation]:
    """Yield the steps t = 0 (the last of sampling) to T-1 of some slices as training sees them (Algorithm 1)."""
    schedule, settings, rows = method.schedule, method.settings, slices.index.iloc[indices]
    keys = zip(rows["subject"], rows["slice"], strict=True)
    noise = SliceNoise([slice_seed(seed, "attention", *key) for key in keys], method.device)
    images = np.stack([slices.images(indices, c) for c in (settings.target, *settings.conditions)], axis=1)
    target, conditions = torch.from_numpy(images).to(method.device).tensor_split([1], dim=1)
    shape = target.shape[1:]
    for step in range(schedule.steps):
        t = torch.full((len(target),), step, device=method.device)
        before = schedule.q_sample(target, t, noise.normal(*shape))  # the true x_{t-1}
        x_t = schedule.q_step(before, t, noise.normal(*shape))
        with listen(method.f2) as heard:
            predictions = method.predict(x_t, conditions, t, noise.normal(settings.latent))
        means = [schedule.posterior_mean(x_0, x_t, t) for x_0 in predictions]
        samples = [schedule.posterior_sample(m, t, noise.normal(*shape)) for m in means]  # Eq. 25
        judged = method.judge([before, *samples], t, x_t)
        logits = torch.stack([logit for logit, _ in judged], dim=1)
        maps = {name: [f.float().abs().mean(dim=1) for f in heard[name]] for name in ("adapted", "fused")}
        yield Observation(step, predictions, logits, [m for _, m in judged[1:]], **maps)


def variants(method: Method) -> dict[str, nn.Module | None]:
    """Return the layers of `model.critic.attentive_mask`: none (Eq. 28 as printed), and the run's own if any."""
    return {"channel_mean": None} | ({} if method.attention is None else {"convolution": method.attention})


@torch.no_grad()
def sampled(
    method: Method, step: dict[str, Tensor | int], heard: dict[str, list[Tensor]], noise: SliceNoise,
    scenario: Scenario | None, masks: list[str],
) -> dict[tuple[str, str, int], np.ndarray]:  # fmt: skip
    """Return what one `step` of sampling shows, where no truth goes in: kind, name and t -> image (S, S).

    ``x_p1`` and ``x_p2`` in [0, 1]; ``M1`` and ``M2`` for each of the `variants` that are named as `masks`; and mean
    magnitudes over the channels of what is `heard`, see `listen`, by condition or pair.
    """
    settings, x_t, found = method.settings, step["x_t"], {}
    predictions = [step[name] for name in ("x_p1", "x_p2") if name in step]
    for j, x_0 in enumerate(predictions, start=1):
        found[f"x_p{j}", ""] = (x_0[0, 0] + 1) / 2
    if masks:
        t = torch.full((1,), step["t"], device=method.device)
        means = [method.schedule.posterior_mean(x_0, x_t, t) for x_0 in predictions]
        before = [method.schedule.posterior_sample(m, t, noise.normal(*x_t.shape[1:])) for m in means]  # Eq. 25
        judged = enumerate(method.judge(before, t, x_t, scenario), start=1)
        for (j, (_, middle)), name in product(judged, masks):
            found[f"M{j}", name] = attentive_mask(middle, settings.image_size, variants(method)[name])[0, 0]
    labels = [datasets.LABELS[name] for name in settings.conditions]
    for kind, features in heard.items():
        each = kind in ("before", "after", "adapted")
        names = (
            labels if each else [f"{labels[i]}, {labels[j]}" for i, j in method.f2.contrast_adapter.pairs] or labels
        )
        for name, feature in zip(names, features, strict=True):
            found[kind, name] = feature[0].float().abs().mean(dim=0)
    return {(*key, step["t"]): image.float().cpu().numpy() for key, image in found.items()}


def heads(method: Method, draws: int = DRAWS, seed: int = 0) -> tuple[list[str], Tensor, Tensor]:
    """Return names, weights (V + draws, C) and biases: `variants`, then convolutions drawn as those of a new run."""
    generator = torch.Generator().manual_seed(slice_seed(seed, "attention convolution"))
    layers = variants(method) | {f"draw {k}": mask_convolution(method.critic) for k in range(draws)}
    for name in list(layers)[len(layers) - draws :]:
        initialise(layers[name], generator)
    width = method.critic.middle_width
    mean = torch.full((width,), 1 / width), torch.zeros(())
    rows = [mean if k is None else (k.weight.detach()[0, :, 0, 0].cpu(), k.bias.detach()[0].cpu())
            for k in layers.values()]  # fmt: skip
    weight, bias = (torch.stack(group).to(method.device) for group in zip(*rows, strict=True))
    return list(layers), weight, bias


def chosen_slices(slices: Slices, most: int = MOST) -> np.ndarray:
    """Return test slices with a lesion (of a lesion-free set, any), of each subject at most so many; 0: all."""
    lesion = np.array([slices.lesion([i]).any() for i in range(len(slices))], bool)
    chosen = []
    for subject in slices.subjects:
        own = slices.subject(subject)
        own = own[lesion[own]] if lesion.any() else own
        count = min(len(own), most or len(own))
        chosen.append(own[((np.arange(count) + 0.5) * len(own) / max(count, 1)).astype(int)])  # evenly spaced
    return np.concatenate(chosen)


def _sums(names: list[tuple], subjects: list[str], images: Tensor, areas: Tensor) -> pd.DataFrame:
    """Return sums of images (B, K, S, S) over areas (B, Z, S, S), by what, name, of, t (K `names`), zone, subject."""
    sums = torch.einsum("bkyx,bzyx->bkz", images.float(), areas).double()
    values = {"sum": sums, "pixels": areas.sum(dim=(2, 3)).double()[:, None].expand_as(sums)}
    keys = [(*name, zone, subject) for subject in subjects for name in names for zone in ZONES]
    index = pd.MultiIndex.from_tuples(keys, names=KEYS)
    return pd.DataFrame({name: x.cpu().numpy().ravel() for name, x in values.items()}, index)


def measure(method: Method, slices: Slices, most: int = MOST, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure masks, maps and logits on `chosen_slices`, in a seeded order, so that a batch mixes subjects.

    Return a row per mean over a zone that a subject has: what ("mask", "control": the mask in the zones of another
    head, or "map"), name (a variant or "draw 3"; one of `KINDS`), of (the network, "1" or "2"; the condition), t,
    zone, subject, mean; and the critic's logits per slice and t: subject, t, real, fake_1, fake_2.
    """
    names, weight, bias = heads(method, seed=seed)
    conditions, pairs = method.settings.conditions, method.f2.contrast_adapter.pairs
    kinds = [*product(KINDS[:2], conditions), *(("fused", conditions[i]) for i, _ in pairs)]
    every = chosen_slices(slices, most)
    others = np.roll(every, len(every) // 2)  # they lie by subject, so half of them further is another head
    order, batch = np.random.default_rng(seed).permutation(len(every)), method.settings.batch_size
    rows, logits = [], []
    for part, other in ((every[k], others[k]) for k in np.array_split(order, -(-len(order) // batch))):
        owners = slices.index["subject"].iloc[part].tolist()
        labelled = (zones(slices.lesion(chosen), slices.brain(chosen)) for chosen in (part, other))
        areas, foreign = (torch.from_numpy(x).to(method.device).float() for x in labelled)
        foreign *= areas.sum(dim=1, keepdim=True)  # (B, 3, S, S), inside the brain
        images = [torch.from_numpy(slices.images(part, c) + 1).to(method.device) / 2 for c in conditions]
        for seen in observe(method, slices, part, seed):
            maps = torch.stack([*images, *seen.adapted, *seen.fused], dim=1)
            rows.append(_sums([("map", *kind, seen.t) for kind in kinds], owners, maps, areas))
            for network, middle in zip("12", seen.middles, strict=True):
                feature = torch.einsum("hc,bcyx->bhyx", weight, middle) + bias[:, None, None]
                masks = F.interpolate(feature.sigmoid(), areas.shape[-2:], mode="bilinear")  # Eq. 28
                for what, where in (("mask", areas), ("control", foreign)):
                    rows.append(_sums([(what, name, network, seen.t) for name in names], owners, masks, where))
            found = dict(zip(("real", "fake_1", "fake_2"), seen.logits.double().cpu().numpy().T, strict=True))
            logits.append(pd.DataFrame({"subject": owners, "t": seen.t} | found))
    total = pd.concat(rows).groupby(KEYS, sort=False).sum().query("pixels > 0")
    means = (total["sum"] / total.pixels).rename("mean").reset_index()
    return means, pd.concat(logits, ignore_index=True)


def measured(profile: str, run: Path, slices: Slices, most: int = MOST) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `measure` of a run, kept under ``analyses/attention``; errors as of `open_run`."""
    method = open_run(run)
    data = check(paths.prepared(profile, method.settings.dataset), method.settings.preparation())
    folder = paths.analysis(profile, "attention") / method.settings.run_name
    key = cache.file_hash(Path(run) / "weights.safetensors"), data, most
    both = functools.cache(lambda: measure(method, slices, most))
    means = cache.kept(folder / "means.csv", lambda: both()[0], *key)
    return means, cache.kept(folder / "logits.csv", lambda: both()[1], *key)
