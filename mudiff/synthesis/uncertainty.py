"""Beyond the paper: one step in place of T, the mean of several samples, and what their spread is worth.

A diffusion model draws an image; another seed draws another one. The mean of several draws has less noise,
and where the draws differ the model is unsure. Whether that spread marks true errors is measured here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mudiff import paths
from mudiff.cache import RECIPE_VERSION
from mudiff.data import datasets
from mudiff.data.dataset import Slices, open_slices
from mudiff.data.masks import lesion_mask
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.evaluation import old_tables as tables
from mudiff.model.diffusion import slice_seed
from mudiff.plots import old_style as style
from mudiff.training import runs

TYPE = "float32"
EXTENTS = {"smoke": (2, 4), "demo": (6, 8), "paper": (20, 16)}
"""Profile -> slices per subject and samples of each."""


@dataclass(frozen=True)
class Draws:
    """Several samples of some test slices, all in [0, 1].

    Attributes
    ----------
    subject : array (n,) of str
        Whose slice it is.
    truth, one_step : array (n, S, S)
        The real slice, and the mean of both networks' first predictions, from pure noise.
    samples : array (N, n, S, S)
        The draws.
    brain, lesion : array (n, S, S) of bool
        Masks.
    """

    subject: np.ndarray
    truth: np.ndarray
    one_step: np.ndarray
    samples: np.ndarray
    brain: np.ndarray
    lesion: np.ndarray


def draw(
    profile: str, run: Path, prepared: Path, slices: int | None = None, samples: int | None = None
) -> Draws:
    """Draw several samples of evenly spaced test slices of each subject; kept, and drawn once.

    Parameters
    ----------
    profile : str
        Name of the profile.
    run : Path
        Folder of a complete run of MU-Diff or SynDiff.
    prepared : Path
        Folder of the prepared slices.
    slices, samples : int, optional
        How many per subject, and how many of each; by default those of `EXTENTS`.

    Raises
    ------
    MudiffError
        If the run or the slices are missing, or a number is too small.
    """
    per_subject, count = (
        usual if given is None else given
        for given, usual in zip((slices, samples), EXTENTS[profile], strict=True)
    )
    if per_subject < 1 or count < 4:
        raise MudiffError(
            f"slices = {per_subject}, samples = {count}: expected 1 slice and 4 samples or more."
        )
    method = runs.load(run, runs.default_device())
    test = open_slices(prepared, "test")
    rows = np.concatenate([_spread(test.subject(subject), per_subject) for subject in test.subjects])
    weights = hashlib.sha256((Path(run) / "weights.safetensors").read_bytes()).hexdigest()
    parts = (weights, test.info["data_hash"], rows.tolist(), count, RECIPE_VERSION)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    path = paths.analysis(profile, "uncertainty") / f"{Path(run).name}_{key[:12]}.npy"
    if not path.is_file():
        values = np.round(_draw(method, test, rows, count) * 65535).astype(np.uint16)
        with paths.atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)
    values = np.load(path, allow_pickle=False).astype(TYPE) / 65535  # (1 + N, n, S, S)
    truth = (test.images(rows, method.settings.target) + 1) / 2
    lesion = np.stack([lesion_mask(mask) for mask in test.lesion(rows)])
    subject = test.index["subject"].to_numpy(str)[rows]
    return Draws(subject, truth, values[0], values[1:], test.brain(rows) > 0, lesion)


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """Return `count` evenly spaced entries, none at the ends."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices)) + 2)[1:-1]
    return indices[np.unique(places.round().astype(int))]


def _draw(method: runs.Method, test: Slices, rows: np.ndarray, count: int) -> np.ndarray:
    """Return the one-step prediction and the samples, float32 (1 + N, n, S, S) in [0, 1]."""
    from tqdm.auto import tqdm

    y = np.stack([test.images(rows, c) for c in method.settings.conditions], axis=1)  # (n, C, S, S)
    names = list(zip(*test.index.iloc[rows][["subject", "slice"]].to_numpy().T, strict=True))
    images = np.empty((1 + count, len(rows), *y.shape[2:]), TYPE)
    work = [(k, start) for k in range(count) for start in range(0, len(rows), 8)]
    for k, start in tqdm(work, desc="draw samples", unit="batch", disable=None):
        here = slice(start, start + 8)
        seeds = torch.tensor([slice_seed(0, "draw", k, *name) for name in names[here]])
        trace: list[dict] = []
        given = torch.from_numpy(y[here]).to(method.device)
        images[1 + k, here] = _unit(method.synthesize(given, seeds, trace.append))
        if k == 0:  # what the networks say when all that they see of the target is noise
            first = [trace[0][name] for name in ("x_p1", "x_p2") if name in trace[0]]
            images[0, here] = _unit(sum(first) / len(first))
    return images


def _unit(x: torch.Tensor) -> np.ndarray:
    return ((x[:, 0].float().clamp(-1, 1) + 1) / 2).cpu().numpy()


def accuracy(draws: Draws) -> pd.DataFrame:
    """Return masked PSNR and SSIM in the brain of the one-step prediction and of means of 1, 2, 4 .. N samples.

    Returns
    -------
    DataFrame
        Columns what, samples (0 for one step), subject, psnr, ssim, over a subject's drawn slices together.
    """
    count = len(draws.samples)
    sizes = [2**k for k in range(count.bit_length()) if 2**k <= count]
    stacks = {("one step", 0): draws.one_step}
    stacks |= {(f"mean of {n}" if n > 1 else "one sample", n): draws.samples[:n].mean(axis=0) for n in sizes}
    rows = []
    for (what, n), stack in stacks.items():
        for subject in dict.fromkeys(draws.subject):
            own = draws.subject == subject
            scores = metrics.score_subject(draws.truth[own], stack[own], draws.brain[own], "masked", False)[1]
            rows.append(
                {"what": what, "samples": n, "subject": subject}
                | {name: scores[name] for name in ("psnr", "ssim")}
            )
    return pd.DataFrame(rows)


def calibration(draws: Draws, bins: int = 10) -> pd.DataFrame:
    """Compare the spread of the samples with the error of their mean, in classes of equal size.

    Were the truth one more draw, the root mean square error of the mean of n draws would be
    sqrt(1 + 1/n) times their standard deviation. One half of the draws sorts the voxels into classes and the
    other half is judged: sorted by themselves, few draws look too sure where their spread is small by chance.

    Parameters
    ----------
    draws : Draws
        From `draw`, four samples or more.
    bins : int
        Number of classes.

    Returns
    -------
    DataFrame
        Columns sd (root mean square of the voxelwise standard deviation of the judged half, with n - 1),
        error (root mean square error of its mean), expected (sd times sqrt(1 + 1/n)), voxels, a row per class.
    """
    half = len(draws.samples) // 2
    order = np.argsort(draws.samples[:half].std(axis=0)[draws.brain], kind="stable")
    judged = draws.samples[half:]
    spread = judged.std(axis=0, ddof=1)[draws.brain]
    error = (judged.mean(axis=0) - draws.truth)[draws.brain]
    rows = [
        {"sd": np.sqrt(np.square(spread[part]).mean()), "error": np.sqrt(np.square(error[part]).mean()),
         "voxels": len(part)}
        for part in np.array_split(order, bins) if len(part)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.assign(expected=frame.sd * np.sqrt(1 + 1 / len(judged)))[
        ["sd", "error", "expected", "voxels"]
    ]


def by_subject(draws: Draws) -> pd.DataFrame:
    """Return what the spread says, subject by subject.

    Returns
    -------
    DataFrame
        Columns subject, correlation (Spearman's, of spread and absolute error over the brain's voxels), lesion
        and elsewhere (mean spread inside the lesion and in the rest of the brain; NaN without a lesion),
        auc (chance that a lesion voxel has more spread than another one; 0.5 is chance).
    """
    from scipy.stats import mannwhitneyu, spearmanr

    spread = draws.samples.std(axis=0, ddof=1)
    error = np.abs(draws.samples.mean(axis=0) - draws.truth)
    rows = []
    for subject in dict.fromkeys(draws.subject):
        own = draws.subject == subject
        brain, lesion = draws.brain[own], draws.lesion[own] & draws.brain[own]
        s, e, inside = spread[own][brain], error[own][brain], lesion[brain]
        row = {"subject": subject, "correlation": float(spearmanr(s, e).statistic)}
        if inside.any() and not inside.all():
            row |= {"lesion": float(s[inside].mean()), "elsewhere": float(s[~inside].mean())}
            row["auc"] = float(
                mannwhitneyu(s[inside], s[~inside]).statistic / (inside.sum() * (~inside).sum())
            )
        rows.append(row)
    return pd.DataFrame(rows, columns=["subject", "correlation", "lesion", "elsewhere", "auc"])


def picture(draws: Draws, frame: pd.DataFrame, target: str, profile: str) -> "style.Figure":
    """Draw the slice with the largest lesion: truth, mean, error, spread; and the calibration curve.

    Parameters
    ----------
    draws : Draws
        From `draw`.
    frame : DataFrame
        From `calibration`.
    target : str
        The contrast.
    profile : str
        Name of the profile.
    """
    place = int(draws.lesion.sum(axis=(1, 2)).argmax())
    mean, spread = draws.samples.mean(axis=0)[place], draws.samples.std(axis=0, ddof=1)[place]
    error = np.abs(mean - draws.truth[place])
    with style.style():
        figure = style.new_figure(9.6, 2.2)
        axes = figure.subplots(1, 6, width_ratios=(1, 1, 1, 1, 1, 1.3))
        grey = {"truth": draws.truth[place], "one sample": draws.samples[0][place], "mean": mean}
        for axis, (name, image) in zip(axes, grey.items(), strict=False):
            style.show(axis, image, target)
            axis.set_title(name)
        for axis, (name, image) in zip(
            axes[3:5], {"error of mean": error, "SD": spread}.items(), strict=True
        ):
            style.bare(axis)
            shown = axis.imshow(np.where(draws.brain[place], image, np.nan), cmap="viridis", vmin=0)
            axis.set_title(name)
            figure.colorbar(shown, ax=axis, location="bottom", shrink=0.9, pad=0.02)
        for axis in axes[:5]:
            if draws.lesion[place].any():
                axis.contour(draws.lesion[place], levels=[0.5], colors=style.MARK, linewidths=0.7)
        axes[5].plot(frame.sd, frame.error, "o-", color=style.COLOURS[0], ms=3, label="found")
        axes[5].plot(frame.sd, frame.expected, "--", color="0.4", lw=1, label="calibrated")
        axes[5].set(
            xlabel="SD of the samples", ylabel="error of their mean (RMS)", xlim=(0, None), ylim=(0, None)
        )
        axes[5].legend()
        style.add_caption(
            figure,
            f"{len(draws.samples)} samples of {datasets.LABELS[target]}, as fractions of the range; lesion outlined. "
            f"Right: {len(frame)} classes of equal size over the brain voxels of {len(draws.truth)} test slices. "
            f"Data: {tables.data_words(profile)}; profile {profile}.",
        )
    return figure


def in_words(frame: pd.DataFrame, calibrated: pd.DataFrame) -> Sequence[str]:
    """Say what `by_subject` and `calibration` found: one sentence each."""
    ratio = float(np.sqrt(np.square(calibrated.error).mean() / np.square(calibrated.expected).mean()))
    sentences = [
        f"The error of the mean is {ratio:.1f} times what the spread promises"
        + (": the samples are too sure of themselves." if ratio > 1.1 else "."),
        f"Spread and error correlate with {frame.correlation.mean():.2f} (Spearman, mean of {len(frame)} subjects).",
    ]
    marked = frame.dropna(subset="auc")
    if len(marked):
        sentences.append(
            f"A lesion voxel has more spread than another one in {marked.auc.mean():.0%} of pairs (50 % is chance; "
            f"subjects from {marked.auc.min():.0%} to {marked.auc.max():.0%})."
        )
    return sentences
