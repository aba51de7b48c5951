"""The ablations of MU-Diff (section "Ablation study"): their scores, and Fig. 5e to 5i."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.evaluation import old_scores as scores
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation import old_tables as tables
from mudiff.plots import figures
from mudiff.plots import old_style as style
from mudiff.training import profiles, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mudiff.data.prepare import Slices

STEPS = {"T1": 1, "T2": 2, "full": 4, "T8": 8}
"""Variant -> T of Fig. 5e; the paper tries 2, 4 and 8."""

COMPONENTS = ("full", "abl1", "abl2", "abl3_text", "abl3_caption", "abl4")
"""Variants of Fig. 5g to 5i."""

REAL = "real_halves"
"""Name in Fig. 5f's table of the distance between two halves of the real test subjects."""

_OTHERS = {REAL: "real against real", "full_half": "Full, half", "no_critic_half": "no critic, half"}


def run_name(profile: str, variant: str) -> str:
    """Return the name of a variant's run; "full" is the main run where the ablations have its budget."""
    named = profiles.profile(profile).full if variant == "full" else variant
    return profiles.settings(profile, *profiles.ABLATED, "mudiff", named).run_name


def score(profile: str, variants: Sequence[str], region: str) -> pd.DataFrame:
    """Score variants of MU-Diff on the test subjects, protocol ``masked``.

    Parameters
    ----------
    profile : str
        Name of the profile.
    variants : sequence of str
        Of `profiles.ABLATIONS`.
    region : {"brain", "lesion"}
        Where to score.

    Returns
    -------
    DataFrame
        Columns variant, region, subject, psnr, ssim, mae, one row per variant and subject. A subject without
        a lesion has NaN there.

    Raises
    ------
    MudiffError
        If a run or its synthetic slices are missing; the message says what makes them.
    """
    slices = test_slices(profile)
    frames = []
    for variant in variants:
        named = profiles.profile(profile).full if variant == "full" else variant
        settings = profiles.settings(profile, *profiles.ABLATED, "mudiff", named)
        every = scores.score_run(profile, settings, slices, region)
        chosen = every[(every.protocol == "masked") & (every.unit == "subject")]
        frames.append(chosen[["subject", *metrics.METRICS]].assign(variant=variant, region=region))
    return pd.concat(frames, ignore_index=True)[["variant", "region", "subject", *metrics.METRICS]]


def test_slices(profile: str) -> "Slices":
    """Return the prepared test slices of the ablated task."""
    from mudiff.data import prepare

    return prepare.open_slices(paths.prepared(profile, profiles.ABLATED[0]), "test")


def seconds(profile: str, variants: Sequence[str], count: int = 4, repeats: int = 3) -> dict[str, float]:
    """Time the sampling of variants back to back on the same slices; kept, so that a figure stays the same.

    Parameters
    ----------
    profile : str
        Name of the profile.
    variants : sequence of str
        Of `profiles.ABLATIONS`.
    count, repeats : int
        Slices in a batch, and rounds through all variants.

    Returns
    -------
    dict of str to float
        Variant -> seconds per slice, the median of the rounds.
    """
    import torch

    folders = {v: paths.run(profile, run_name(profile, v)) for v in variants}
    key = {v: paths.read_json(folder / "provenance.json")["fingerprint"] for v, folder in folders.items()}
    file = paths.analysis(profile, "ablations") / "seconds.json"
    if file.is_file() and (kept := paths.read_json(file)).get("runs") == key:
        return kept["seconds"]
    methods = {v: runs.load(folder, runs.default_device()) for v, folder in folders.items()}
    slices = test_slices(profile)
    rows = range(min(count, len(slices)))
    first = next(iter(methods.values()))
    y = np.stack([slices.images(rows, c) for c in first.settings.conditions], axis=1)  # (B, n, S, S)
    given, seeds = torch.from_numpy(y).to(first.device), torch.arange(len(rows))
    taken: dict[str, list[float]] = {v: [] for v in variants}
    for _ in range(repeats + 1):  # the first round warms up
        for variant, method in methods.items():
            began = time.perf_counter()
            method.synthesize(given, seeds).sum().item()  # waits for a GPU
            taken[variant].append((time.perf_counter() - began) / len(rows))
    result = {variant: float(np.median(times[1:])) for variant, times in taken.items()}
    paths.write_json(file, {"runs": key, "seconds": result})
    return result


def differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what each variant loses against the full model, paired by subject.

    Parameters
    ----------
    frame : DataFrame
        From `score`, with the variant "full" and one region.

    Returns
    -------
    DataFrame
        Columns variant, metric, n (subjects), difference (full minus variant, turned for MAE so that above
        zero always means that the full model is better), low, high (95 % interval, Student's t), p.
    """
    rows = []
    for variant in dict.fromkeys(frame.variant[frame.variant != "full"]):
        for metric in metrics.METRICS:
            wide = frame.pivot(index="subject", columns="variant", values=metric).dropna()
            if len(wide):
                result = statistics.paired(
                    statistics.SIGN[metric] * wide["full"], statistics.SIGN[metric] * wide[variant]
                )
                kept = {key: result[key] for key in ("difference", "low", "high", "p")}
                rows.append({"variant": variant, "metric": metric, "n": len(wide)} | kept)
    return pd.DataFrame(rows, columns=["variant", "metric", "n", "difference", "low", "high", "p"])


def verdict(frame: pd.DataFrame) -> str:
    """Say in words of which variants the full model is better, and of which it is worse.

    Parameters
    ----------
    frame : DataFrame
        From `differences`.
    """
    if frame.empty or frame.n.max() < 3:  # an interval of two subjects says nothing
        return "Fewer than three subjects: nothing can be decided."
    better, worse = frame[frame.low > 0], frame[frame.high < 0]
    words = "; ".join(
        f"{opening} "
        + ", ".join(
            f"{profiles.ABLATION_LABELS[v]} ({_listed(part)})" for v, part in found.groupby("variant")
        )
        for opening, found in (("the full model scores higher than", better), ("it scores lower than", worse))
        if len(found)
    )
    decided = len(better) + len(worse)
    return (
        f"With these weights, on these subjects: {words or 'no difference is clear'}. {decided} of "
        f"{len(frame)} comparisons have an interval that excludes zero; of {len(frame)} between equals about "
        f"{0.05 * len(frame):.1f} would."
    )


def _listed(part: pd.DataFrame) -> str:
    return ", ".join(part.metric.str.upper())


# Figures


def _about(profile: str, frame: pd.DataFrame) -> str:
    count = frame.subject.nunique()
    budget = profiles.settings(profile, *profiles.ABLATED, "mudiff", profiles.profile(profile).full)
    dataset, target = profiles.ABLATED
    return (
        f"{datasets.LABELS[target]} on {datasets.dataset(dataset).label}; protocol masked; {count} test "
        f"subject{'s' if count != 1 else ''}, one training run each of {budget.epochs} "
        f"epoch{'s' if budget.epochs != 1 else ''}. {_data(profile)}"
    )


def _data(profile: str) -> str:
    return f"Data: {tables.data_words(profile)}; profile {profile}."


def fig5e(frame: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 5e: accuracy and time of sampling against the number of steps T.

    Parameters
    ----------
    frame : DataFrame
        Columns steps, region, subject, psnr, ssim, mae, seconds (per slice).
    profile : str
        Name of the profile.
    """
    panels = [(r, m) for r in scores.REGIONS for m in ("psnr", "ssim") if (frame.region == r).any()]
    names = {"brain": "whole brain", "lesion": "lesions"}
    with style.style():
        figure = style.new_figure(2.0 * (len(panels) + 1), 2.3)
        axes = figure.subplots(1, len(panels) + 1)
        for axis, (region, metric) in zip(axes, panels, strict=False):
            part = frame[frame.region == region]
            values = part.pivot(index="steps", columns="subject", values=metric)
            axis.plot(values.index, values, color="0.75", lw=0.7)
            axis.plot(values.index, values.mean(axis=1), "o-", color=style.COLOURS[0], ms=4)
            axis.set(title=names[region], ylabel=style.AXES[metric])
        cost = frame.drop_duplicates("steps").set_index("steps").seconds
        axes[-1].plot(cost.index, cost, "o-", color=style.COLOURS[1], ms=4)
        axes[-1].set(title="cost", ylabel="time per slice (s)", ylim=(0, None))
        for axis in axes:
            axis.set_xscale("log", base=2)
            axis.set(xlabel="steps T", xticks=sorted(frame.steps.unique()))
            axis.get_xaxis().set_major_formatter("{x:g}")
        style.add_caption(
            figure,
            "Number of denoising steps T, each with a network trained for it. Grey: each subject; blue: mean. Cost: "
            "batches of four slices on the machine that drew this, all T back to back. "
            f"{_about(profile, frame)}",
        )
    return figure


def fig5f(frame: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 5f: Fréchet distance with and without the critic, and between halves of the real slices.

    Parameters
    ----------
    frame : DataFrame
        Columns variant (also `REAL`, and ``full_half`` for half of the images), features, images, fid.
    profile : str
        Name of the profile.
    """
    kinds = list(dict.fromkeys(frame.features))
    with style.style():
        figure = style.new_figure(5.2 * len(kinds), 1.8)
        for axis, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
            part = frame[frame.features == kind]
            names = part.variant.map(profiles.ABLATION_LABELS | _OTHERS)
            axis.plot(part.fid, names, "o", color=style.COLOURS[0], ms=7)
            for name, value, n in zip(names, part.fid, part.images, strict=True):
                words = f"{value:.3g} ({n} images)"
                axis.annotate(words, (value, name), (8, 0), textcoords="offset points", va="center")
            axis.set(
                xlabel=f"Fréchet distance, features:\n{kind}", xscale="log", ylim=(len(part) - 0.5, -0.5)
            )
            axis.grid(axis="y", lw=0.4, color="0.85")
            axis.margins(x=0.45)
        style.add_caption(
            figure,
            "Fréchet distance of synthetic to real test slices with and without the critic (lower is closer), "
            "and between two halves of the real test subjects, who are different people. With features of the "
            "segmentation network an image is all four contrasts, three of them real in either set. On few images "
            f"the distance is biased upwards: compare rows with the same number. {_data(profile)}",
        )
    return figure


def fig5g(frame: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 5g: the ablations in the whole brain; `frame` from `score`."""
    return _components(frame, profile, "whole brain")


def fig5h(frame: pd.DataFrame, profile: str) -> "Figure":
    """Draw Fig. 5h: the ablations in the lesions; `frame` from `score`.

    Raises
    ------
    MudiffError
        If no test subject has a lesion.
    """
    if frame.psnr.isna().all():
        raise MudiffError("no lesion scores: the test subjects have no lesions, so Fig. 5h cannot be drawn.")
    return _components(frame, profile, "lesions")


def _components(frame: pd.DataFrame, profile: str, region: str) -> "Figure":
    variants = list(dict.fromkeys(frame.variant))
    palette = style.colours([f"mudiff_{v}" for v in variants])
    with style.style():
        figure = style.new_figure(7.6, 0.3 * len(variants) + 0.7)
        axes = figure.subplots(1, len(style.AXES), sharey=True)
        for axis, (metric, label) in zip(axes, style.AXES.items(), strict=True):
            for y, variant in enumerate(variants):
                values = frame.loc[frame.variant == variant, metric].dropna().to_numpy(float)
                _marks(axis, y, values, palette[f"mudiff_{variant}"])
            axis.axvline(frame.loc[frame.variant == "full", metric].mean(), color="0.7", lw=0.8, zorder=0)
            axis.set(xlabel=label, ylim=(len(variants) - 0.5, -0.5))
        axes[0].set(yticks=range(len(variants)), yticklabels=[profiles.ABLATION_LABELS[v] for v in variants])
        style.add_caption(
            figure,
            f"Ablations in the {region}: small marks are subjects, large ones means, grey line the full model. "
            f"{_about(profile, frame)}",
        )
    return figure


def _marks(axis: "Axes", y: float, values: np.ndarray, colour: str) -> None:
    """Draw the subjects and their mean."""
    axis.plot(values, np.full(len(values), y), "|", color=colour, ms=7, alpha=0.8)
    if len(values):
        axis.plot(values.mean(), y, "o", color=colour, mec="0.15", ms=6)


def fig5i(profile: str, variants: Sequence[str] = COMPONENTS, subjects: int = 2) -> "Figure":
    """Draw Fig. 5i: the ablations' syntheses of the slice with the largest lesion of test subjects.

    Parameters
    ----------
    profile : str
        Name of the profile.
    variants : sequence of str
        Columns.
    subjects : int
        Rows.

    Raises
    ------
    MudiffError
        If a run has no synthetic slices.
    """
    slices = test_slices(profile)
    dataset, target = profiles.ABLATED
    named: Mapping[str, Path] = {
        f"mudiff_{v}": paths.synthetic(profile, run_name(profile, v)) for v in variants
    }
    rows = figures.examples_of(
        slices, dataset, {target: list(named)}, lambda _, name: named[name], slices.subjects[:subjects]
    )
    return style.comparison(
        rows,
        f"Ablations of MU-Diff: {datasets.LABELS[target]} on {datasets.dataset(dataset).label}, the test slice with "
        "the subject's largest lesion; insets: the lesion, enlarged from the box. SSIM of the brain (B) and the "
        f"lesion (T), protocol masked. {style.ORIENTATION} {_data(profile)}",
    )


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write the numbers of a figure beside it, as ``.csv``."""
    paths.write_text(Path(f"{path}.csv"), frame.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
