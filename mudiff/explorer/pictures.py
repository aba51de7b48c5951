"""What the explorer shows: the view of the moment, and a static panel of the same content."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mudiff.analyses.attention import outline, overlay, words
from mudiff.data import datasets
from mudiff.evaluation import metrics
from mudiff.evaluation import old_tables as tables
from mudiff.explorer.state import Explorer, View
from mudiff.plots import old_style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGEST = 0.2  # of the difference's colours, fraction of the intensity range


def changes(explorer: Explorer, view: View) -> str:
    """Return what the view changes, in words."""
    parts = [f"{datasets.LABELS[name]} off" for name in view.off]
    if view.moved:
        parts.append(f"{datasets.LABELS[view.moved]} with motion {view.strength:g}")
    return ", ".join(parts) or "nothing changed"


def draw(explorer: Explorer, view: View) -> "Figure":
    """Draw a view: conditions as the networks got them, truth, syntheses, difference, mask and region."""
    normal, changed = explorer.synthesis(view.unchanged()), explorer.synthesis(view)
    columns = max(4, len(explorer.names) + 1)
    with style.style():
        figure = style.new_figure(1.75 * columns, 3.7)
        axes = figure.subplots(2, columns)
        for axis, name, image in zip(axes[0], explorer.names, changed.conditions, strict=False):
            off = " (off)" if name in view.off else " (moved)" if name == view.moved else ""
            _grey(axis, image, view, datasets.LABELS[name] + off)
        _grey(axes[0, -1], explorer.truth(view), view, "truth")
        _grey(axes[1, 0], normal.image, view, "synthesis, unchanged")
        _grey(axes[1, 1], changed.image, view, changes(explorer, view))
        _difference(axes[1, 2], changed.image - normal.image)
        axes[1, 2].set_title("difference")
        shown = overlay(
            axes[1, 3], changed.image, _mask(explorer, view), _limits(explorer, view), view.opacity
        )
        axes[1, 3].set_title(f"$M_{view.network}$, {words.VARIANTS[view.variant]}, t = {view.t}")
        figure.colorbar(shown, ax=axes[1, 3], shrink=0.7, pad=0.02)
        for axis in (axes[1, 1], axes[1, 3]):
            outline(axis, explorer.zone(view, view.region))
        for axis in axes.ravel():
            if not axis.has_data():
                axis.remove()
    return figure


def _mask(explorer: Explorer, view: View) -> np.ndarray:
    """Return the mask in the brain, NaN elsewhere: zero padding makes the image's border stand out."""
    return np.where(explorer.zone(view, "brain"), explorer.mask(view), np.nan)


def _limits(explorer: Explorer, view: View) -> tuple[float, float]:
    """Return the range of the mask in the brain."""
    mask = _mask(explorer, view)
    return (float(np.nanmin(mask)), float(np.nanmax(mask))) if np.isfinite(mask).any() else (0.0, 1.0)


def _grey(axis: "Axes", image: np.ndarray, view: View, title: str) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=view.white)
    style.bare(axis)
    axis.set_title(title, fontsize=8)


def _difference(axis: "Axes", difference: np.ndarray) -> None:
    shown = axis.imshow(difference, cmap="RdBu_r", vmin=-_LARGEST, vmax=_LARGEST)
    style.bare(axis)
    axis.figure.colorbar(shown, ax=axis, shrink=0.7, pad=0.02)


def scenarios(explorer: Explorer, view: View) -> dict[str, View]:
    """Return what the static panel shows: each condition off, motion in the first, and both in words."""
    start = view.unchanged()
    found = [start, *(dataclasses.replace(start, off=(name,)) for name in explorer.names)]
    first = "flair" if "flair" in explorer.names else explorer.names[0]
    found += [dataclasses.replace(start, moved=first, strength=strength) for strength in (1.0, 3.0)]
    return {changes(explorer, v): v for v in found}


def static(explorer: Explorer, view: View, profile: str) -> "Figure":
    """Draw the explorer's content where no widget runs: one column per change, see `scenarios`."""
    views = scenarios(explorer, view)
    truth, brain = explorer.truth(view), explorer.zone(view, "brain")
    normal = explorer.synthesis(view.unchanged()).image
    names = ("synthesis", "difference", f"$M_{view.network}$, t = {view.t}")
    limits = _limits(explorer, view.unchanged())
    with style.style():
        figure = style.new_figure(1.45 * len(views) + 0.9, 4.9)
        axes = figure.subplots(3, len(views))
        for column, (title, chosen) in zip(axes.T, views.items(), strict=True):
            image = explorer.synthesis(chosen).image
            _grey(column[0], image, view, title.replace(" with", "\nwith"))
            psnr = metrics.masked_protocol(truth, image, brain)["psnr"]
            column[0].set_xlabel(f"{psnr:.1f} dB", fontsize=7, labelpad=2)
            change = column[1].imshow(image - normal, cmap="RdBu_r", vmin=-_LARGEST, vmax=_LARGEST)
            style.bare(column[1])
            mask = overlay(column[2], image, _mask(explorer, chosen), limits, view.opacity)
            for axis in column:
                outline(axis, explorer.slices.lesion([explorer.index(view)])[0] > 0)
        for axis, name in zip(axes[:, 0], names, strict=True):
            axis.set_ylabel(name)
        figure.colorbar(change, ax=list(axes[1]), shrink=0.8, pad=0.01).set_label("changed − unchanged")
        figure.colorbar(mask, ax=list(axes[2]), shrink=0.8, pad=0.01).set_label("M")
        style.add_caption(
            figure,
            f"{datasets.LABELS[explorer.method.settings.target]} of subject {view.subject}, slice {view.place + 1} "
            f"of {explorer.count(view.subject)}, sampled with the same noise from changed conditions: one is "
            "off (replaced by background), or has motion (strength 1 is mild, 3 severe). Lesion outlined; PSNR of "
            f"the brain against the truth. Mask: {words.VARIANTS[view.variant]}, shown in the brain, on the scale "
            f"that it has when nothing is changed. Data: {tables.data_words(profile)}; profile {profile}.",
        )
    return figure
