"""The explorer's picture: what a view shows, as lines of tiles."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from mudiff.data.datasets import LABELS
from mudiff.explorer.state import CHANGES, LAYERS, Explorer, View
from mudiff.plots import style
from mudiff.plots.tiles import Layout, Tile, compose

ERROR, APART = 0.3, 0.2  # where the colours of differences and of spreads end, part of the intensity range
SHORT = {
    "M1": "$M_1$", "M2": "$M_2$", "x_p1": "$x^{p_1}$", "x_p2": "$x^{p_2}$", "before": "before ρ", "after": "after ρ",
    "adapted": "into τ", "fused": "out of τ", "z_a": "$z_a$", "z_b": "$z_b$",
}  # fmt: skip


def lines(explorer: Explorer, view: View) -> list[list[Tile]]:
    """Return what a view shows: its images, what a change did, and the rows of the chosen layer."""
    rows = [_layer(explorer, view, row) for row in LAYERS[view.layer]]
    return [line for row in (_images(explorer, view), _compared(explorer, view), *rows) if (line := list(row))]


def draw(explorer: Explorer, view: View, given: Figure | None = None) -> tuple[Figure, Layout]:
    """Draw the `lines` of a view, lesion and region outlined; see `compose`."""
    rims = {style.MARK: explorer.subject.labels[view.place] > 0}
    rims |= {} if view.region == "brain" else {style.COLOURS[7]: explorer.region(view)}
    with style.style():
        figure, layout = compose(lines(explorer, view), explorer.subject.brain.any(axis=0), rims, given)
    changes = [f"{LABELS[name]} off ({view.replacement})" for name in view.off]
    changes += [f"{LABELS[n]} with {change} {x:g}" for change in CHANGES for n, x in getattr(view.made_by(), change)]
    figure.set_label(
        f"{LABELS[view.target]} of subject {explorer.subject.name}, slice {view.place + 1} of "
        f"{len(explorer.subject.brain)}, by {explorer.run.name}; {', '.join(changes) or 'nothing changed'}; "
        f"{view.layer}, t = {explorer.step(view)}; the noise is always the same. Below images the PSNR of the brain, "
        f"below maps their range. Outlined: the lesion, and the region in blue. {style.ORIENTATION}"
    )
    return figure, layout


def _grey(explorer: Explorer, view: View, title: str, image: np.ndarray, contrast: str = "") -> Tile:
    """Return a tile of a contrast, by default of the target, then with its PSNR."""
    psnr = np.nan if contrast else explorer.psnr(view, image, explorer.subject.brain[view.place])
    note = "" if np.isnan(psnr) else f"{psnr:.1f} dB"
    return Tile(title, image, scale=style.WINDOWS[contrast or view.target], note=note)


def _images(explorer: Explorer, view: View) -> Iterator[Tile]:
    """Yield conditions as the networks got them, truth, synthesis, its error, and where the networks disagree."""
    made, truth, step = explorer.synthesis(view), explorer.truth(view), explorer.step(view)
    changed = {name for change in CHANGES for name, _ in getattr(view.made_by(), change)}
    for name, image in made.conditions.items():
        how = " (off)" if name in view.off else " (changed)" if name in changed else ""
        yield _grey(explorer, view, LABELS[name] + how, image, name)
    if truth is not None:
        yield _grey(explorer, view, f"true {LABELS[view.target]}", truth, view.target)
    yield _grey(explorer, view, f"after {view.steps} step" if view.steps else "synthesis", made.image)
    if truth is not None:
        yield Tile("error", made.image - truth, "RdBu_r", (-ERROR, ERROR))
    if (apart := made.disagreement(step)) is not None:
        yield Tile(f"$|x^{{p_1}} - x^{{p_2}}|$, t = {step}", apart, "magma", (0, APART))


def _compared(explorer: Explorer, view: View) -> Iterator[Tile]:
    """Yield, where something is changed, the unchanged synthesis and the difference; and the spread, if wanted."""
    if view.made_by() != view.unchanged().made_by():
        image = explorer.normal(view).image
        yield _grey(explorer, view, "unchanged" + " (run any)" * explorer.by_any(view), image)
        yield Tile("changed − unchanged", explorer.synthesis(view).image - image, "RdBu_r", (-ERROR, ERROR))
    if (spread := explorer.spread(view)) is not None:
        yield Tile(f"SD of {view.samples} samples", spread, "magma", (0, APART))


def _layer(explorer: Explorer, view: View, row: tuple[str, ...]) -> Iterator[Tile]:
    """Yield the synthesis and its masks or predictions at all steps, or its maps or gates at one."""
    made, brain, seen = explorer.synthesis(view), explorer.subject.brain[view.place], view.layer
    every = seen in ("masks", "predictions")
    if made.layers and seen != "predictions":
        yield _grey(explorer, view, "synthesis", made.image)
    for (kind, name, t), image in sorted(
        made.layers.items(), key=lambda item: row.index(item[0][0]) if item[0][0] in row else 0
    ):
        if kind not in row or not (every or t == explorer.step(view)) or (seen == "masks" and name != view.variant):
            continue
        title = ", ".join(filter(None, (SHORT[kind], name * (seen != "masks"), f"t = {t}" * every)))
        if seen == "predictions":
            yield _grey(explorer, view, title, image)
            continue
        values = image[brain] if brain.any() else np.zeros(1)
        low, high = float(values.min()), float(values.max())
        scale = (low, high + 1e-12) if view.own_scale else explorer.scale(view, row)
        yield Tile(title, image, "viridis", scale, brain, f"{low:.3g} to {high:.3g}")
