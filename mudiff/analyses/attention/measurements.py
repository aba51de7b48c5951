"""Means of the masks and of the feature maps over zones of the test slices, kept beside the run's results."""

import contextlib
import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mudiff import paths
from mudiff.analyses.attention.observation import DRAWS, Observation, heads, observe, open_run
from mudiff.analyses.attention.regions import ZONES, native_weights, zones
from mudiff.cache import RECIPE_VERSION
from mudiff.data import dataset
from mudiff.data.dataset import Slices
from mudiff.methods.base import Method
from mudiff.model.diffusion import slice_seed

MOST = 12
"""How many slices of each subject are measured, unless all are asked for."""

KINDS = ("image", "adapted", "fused")
"""Maps of a condition: its intensity, |f_{y_i}| (Eq. 13) and |f^w| of the pair it begins (Eq. 17)."""


@dataclass(frozen=True)
class Measurements:
    """Means of masks and maps over zones, per subject; NaN where a subject has no such zone.

    Attributes
    ----------
    subjects, conditions, variants : array of str
        Names along the axes below.
    masks : array (subject, 2 networks, T, V + draws, 3 zones)
        Mean mask values; the first V are `variants`, the others drawn convolutions.
    spread : array (subject, 2 networks, T, V)
        Standard deviation of a mask over its own pixels in the brain, mean over slices.
    maps : array (subject, T, 3 kinds, n conditions, 3 zones)
        Mean map values; kinds as in `KINDS`.
    logits : array (slices, T, 3)
        The critic's logits, of the true x_{t-1} and of both networks'; see `observation.IMAGES`.
    native : array ()
        Image pixels along one side of a mask's own pixel.
    """

    subjects: np.ndarray
    conditions: np.ndarray
    variants: np.ndarray
    masks: np.ndarray
    spread: np.ndarray
    maps: np.ndarray
    logits: np.ndarray
    native: np.ndarray

    def zone_means(self) -> pd.DataFrame:
        """Return the masks of `variants` as rows: variant, network, t, zone, subject, mean."""
        own = np.moveaxis(self.masks[..., : len(self.variants), :], (3, 1, 2, 4), (0, 1, 2, 3))
        names = {"variant": self.variants, "network": (1, 2), "t": range(own.shape[2])}
        return _tidy(own, **names, zone=ZONES, subject=self.subjects)

    def map_means(self) -> pd.DataFrame:
        """Return the maps as rows: map, condition, t, zone, subject, mean."""
        values = np.moveaxis(self.maps, (2, 3, 1, 4), (0, 1, 2, 3))
        names = {"map": KINDS, "condition": self.conditions, "t": range(values.shape[2])}
        return _tidy(values, **names, zone=ZONES, subject=self.subjects)

    def drawn(self, zone: str = "lesion") -> np.ndarray:
        """Return zone minus elsewhere of the drawn convolutions, mean over networks and steps: (draws, subject).

        Subjects without lesion are left out.
        """
        means = self.masks[:, :, :, len(self.variants) :].mean(axis=(1, 2))  # (subject, draws, zone)
        change = means[..., ZONES.index(zone)] - means[..., ZONES.index("elsewhere")]
        return change[np.isfinite(change).all(axis=1)].T

    def discrimination(self) -> pd.DataFrame:
        """Return how well the critic tells true steps from the networks', per step.

        Columns t, auc_1, auc_2 (chance that it ranks a true x_{t-1} above one of network j; 0.5 is
        guessing), loss (Eq. 27, as `mudiff.model.losses.critic_loss`) and guess, the loss of the best constant
        answer.
        """
        from scipy import stats

        rows = []
        for t, (real, *fakes) in enumerate(self.logits.transpose(1, 2, 0)):
            ranks = [stats.mannwhitneyu(real, fake).statistic / len(real) ** 2 for fake in fakes]
            loss = np.logaddexp(0, -real).mean() + sum(np.logaddexp(0, fake).mean() for fake in fakes)
            guess = np.log(3) + 2 * np.log(1.5)  # one true and two false: the best constant is 1/3
            rows.append({"t": t, "auc_1": ranks[0], "auc_2": ranks[1], "loss": loss, "guess": guess})
        return pd.DataFrame(rows)


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write measurements as CSV, six digits: what remains equal when the same numbers are summed in another order."""
    paths.write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _tidy(values: np.ndarray, **axes: object) -> pd.DataFrame:
    """Return an array as one row per value that is not NaN; `axes` names its axes and their places."""
    index = pd.MultiIndex.from_product([list(places) for places in axes.values()], names=list(axes))
    return pd.Series(values.ravel(), index, name="mean").dropna().reset_index()


def chosen_slices(slices: Slices, most: int = MOST) -> np.ndarray:
    """Return the indices of test slices to measure: with a lesion; of a lesion-free set, any.

    Parameters
    ----------
    slices : Slices
        The test slices.
    most : int
        How many of each subject at most, evenly spaced; 0: all.
    """
    lesion = np.array([slices.lesion([i]).any() for i in range(len(slices))], bool)
    usable = lesion if lesion.any() else np.ones(len(slices), bool)
    chosen = []
    for subject in slices.subjects:
        own = slices.subject(subject)
        own = own[usable[own]]
        count = min(len(own), most or len(own))
        chosen.append(own[((np.arange(count) + 0.5) * len(own) / max(count, 1)).astype(int)])
    return np.concatenate(chosen)


class _Batch:
    """Some test slices on the method's device, and sums over their zones."""

    def __init__(self, method: Method, slices: Slices, indices: np.ndarray, seed: int) -> None:
        device, settings = method.device, method.settings
        rows = slices.index.iloc[indices]
        self.names = list(rows["subject"])
        keys = zip(rows["subject"], rows["slice"], strict=True)
        self.seeds = torch.tensor([slice_seed(seed, "attention", *key) for key in keys])
        read = lambda name: torch.from_numpy(slices.images(indices, name)).to(device)  # noqa: E731
        self.target = read(settings.target)[:, None]
        self.conditions = torch.stack([read(name) for name in settings.conditions], dim=1)
        areas = zones(slices.lesion(indices), slices.brain(indices))
        self.areas = torch.from_numpy(areas).to(device).float()  # (B, Z, S, S)

    def mask_sums(self, middle: Tensor, weight: Tensor, bias: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of all heads' masks over the zones (B, H, Z), and their spread in the brain (B, H)."""
        within = native_weights(self.areas, middle.shape[-1])  # (B, Z, h, w)
        mask = torch.einsum("hc,bcyx->bhyx", weight, middle) + bias[:, None, None]
        mask = torch.sigmoid(mask)  # (B, H, h, w)
        brain = within.sum(dim=1, keepdim=True)
        brain = brain / brain.sum(dim=(2, 3), keepdim=True).clamp_min(1e-12)
        mean = (mask * brain).sum(dim=(2, 3), keepdim=True)
        deviation = ((mask - mean).square() * brain).sum(dim=(2, 3)).sqrt()
        sums = torch.einsum("bhyx,bzyx->bhz", mask, within)
        return sums.double().cpu().numpy(), deviation.double().cpu().numpy()

    def map_sums(self, seen: Observation, pairs: list[tuple[int, int]]) -> np.ndarray:
        """Return the sums of all maps over the zones, (B, kinds, n, Z); NaN where no pair begins with a condition."""
        images = [(y + 1) / 2 for y in self.conditions.unbind(dim=1)]
        first = {i: seen.fused[k] for k, (i, _) in enumerate(pairs)}
        nothing = torch.full_like(images[0], np.nan)
        fused = [first.get(i, nothing) for i in range(len(images))]
        stack = torch.stack([torch.stack(group, dim=1) for group in (images, seen.adapted, fused)], dim=1)
        return torch.einsum("bknyx,bzyx->bknz", stack, self.areas).double().cpu().numpy()


def measure(method: Method, slices: Slices, most: int = MOST, seed: int = 0) -> Measurements:
    """Measure masks, maps and logits on the test slices of `chosen_slices`.

    The slices are taken in a seeded order, so that a batch mixes subjects as in training: the critic's
    answer depends on the spread within its batch.

    Parameters
    ----------
    method : Method
        From `open_run`.
    slices : Slices
        The test slices.
    most : int
        Slices of each subject at most, 0: all.
    seed : int
        Of the order, all noise and the drawn convolutions.
    """
    from tqdm.auto import tqdm

    variants, weight, bias = heads(method, seed=seed)
    steps, subjects = method.schedule.steps, slices.subjects
    order = np.random.default_rng(seed).permutation(chosen_slices(slices, most))
    conditions = method.settings.conditions
    masks = np.zeros((len(subjects), 2, steps, len(weight), len(ZONES)))
    maps = np.zeros((len(subjects), steps, len(KINDS), len(conditions), len(ZONES)))
    spread = np.zeros((len(subjects), 2, steps, len(variants)))
    pixels, counts = np.zeros((len(subjects), len(ZONES))), np.zeros(len(subjects))
    logits, native = np.zeros((len(order), steps, 3)), 1
    parts = np.array_split(np.arange(len(order)), -(-len(order) // method.settings.batch_size))
    for places in tqdm(parts, desc="masks and maps", unit="batch", disable=None):
        batch = _Batch(method, slices, order[places], seed)
        owners = [subjects.index(name) for name in batch.names]
        np.add.at(pixels, owners, batch.areas.sum(dim=(2, 3)).cpu().numpy())
        np.add.at(counts, owners, 1)
        for seen in observe(method, batch.target, batch.conditions, batch.seeds):
            logits[places, seen.t] = seen.logits.cpu().numpy()
            np.add.at(maps[:, seen.t], owners, batch.map_sums(seen, method.f2.contrast_adapter.pairs))
            for j, middle in enumerate(seen.middles):
                native = slices.image_size // middle.shape[-1]
                sums, deviation = batch.mask_sums(middle, weight, bias)
                np.add.at(masks[:, j, seen.t], owners, sums)
                np.add.at(spread[:, j, seen.t], owners, deviation[:, : len(variants)])
    with np.errstate(invalid="ignore"):  # 0 / 0: a zone that a subject does not have
        masks, maps = (x / _beside(pixels, x) for x in (masks, maps))
        spread = spread / counts[:, None, None, None]
    names = (np.array(value) for value in (subjects, conditions, variants))
    return Measurements(*names, masks, spread, maps, logits, np.array(native))


def _beside(pixels: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return pixels (subject, zone) with axes of one between, so that they divide x (subject, ..., zone)."""
    return pixels.reshape(len(pixels), *(1,) * (x.ndim - 2), -1)


def measured(profile: str, run: Path, slices: Slices, most: int = MOST, seed: int = 0) -> Measurements:
    """Return `measure` of a run, kept under ``analyses/attention`` while weights, data, recipe and code stay.

    Raises
    ------
    MudiffError
        As `open_run`, or if the prepared slices are not those of the run's settings.
    """
    method = open_run(run)
    prepared = paths.prepared(profile, method.settings.dataset)
    sources = [
        Path(run) / "weights.safetensors",
        *(Path(__file__).with_name(f"{name}.py") for name in ("observation", "measurements", "regions")),
    ]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources]
    slices_hash = dataset.check(prepared, method.settings.preparation())
    # The recipe stands for the code of networks, critic and diffusion.
    key = json.dumps([RECIPE_VERSION, *digests, slices_hash, most, seed, DRAWS])
    path = paths.analysis(profile, "attention") / f"{method.settings.run_name}.npz"
    names = [field.name for field in fields(Measurements)]
    with contextlib.suppress(OSError, ValueError, KeyError), np.load(path, allow_pickle=False) as kept:
        if kept["key"].item() == key:
            return Measurements(**{name: kept[name] for name in names})
    result = measure(method, slices, most, seed)
    with paths.atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), **{name: getattr(result, name) for name in names})
    return result
