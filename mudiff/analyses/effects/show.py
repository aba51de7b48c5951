"""The effects of a profile as a table, in words and as one picture."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from mudiff.analyses.effects import cohort, sampling, training
from mudiff.analyses.effects.common import (
    BEYOND,
    CONFIDENCE,
    EXACT,
    EXCLUDES,
    INCLUDES,
    UNKNOWN,
    WITHIN,
    Effect,
)
from mudiff.plots import old_style as style
from mudiff.settings import Settings
from mudiff.workflow import register

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = ("metrics", "sampling", "training", "architecture", "data")
"""Groups of effects, in the order of the notebook."""

_MARKS = {
    EXACT: ("D", "0.35", "0.35"),
    UNKNOWN: ("x", "0.35", "0.35"),
    WITHIN: ("o", "w", style.COLOURS[0]),
    BEYOND: ("o", style.COLOURS[0], style.COLOURS[0]),
    INCLUDES: ("s", "w", style.COLOURS[1]),
    EXCLUDES: ("s", style.COLOURS[1], style.COLOURS[1]),
}
"""Verdict -> shape, filling and edge of its mark."""

_PANELS = (("metrics",), ("sampling",), ("training", "architecture", "data"))


def group(effect: Effect) -> str:
    """Return the group of an effect, which is that of its difference in the register."""
    return register.CHAPTERS[effect.id[0]][0]


def of(effects: Iterable[Effect], *groups: str) -> list[Effect]:
    """Return the effects of some groups, in the order of the register."""
    chosen = [effect for effect in effects if group(effect) in groups]
    return sorted(chosen, key=lambda effect: (effect.id[0], _number(effect.id), effect.id))


def _number(name: str) -> int:
    return int(name[2:]) if name[2:].isdigit() else 99  # "A to D" comes last


def frame(effects: Sequence[Effect]) -> pd.DataFrame:
    """Return effects as numbers: one row each, with id, group, change, PSNR in dB and verdict."""
    rows = [
        {
            "id": one.id,
            "group": group(one),
            "change": one.name,
            "base": one.base,
            "changed": one.changed,
            "difference": one.difference,
            "spread": one.spread,
            "repeats": one.repeats,
            "verdict": one.verdict,
        }
        for one in effects
    ]
    return pd.DataFrame(rows)


def table(effects: Sequence[Effect]) -> str:
    """Return effects as a Markdown table; bold: beyond the spread of seeds, or with an interval that excludes 0."""
    lines = ["| id | change | base (dB) | changed (dB) | effect (dB) | spread (dB) | from | verdict |"]
    lines.append("|---|---|--:|--:|--:|--:|---|---|")
    for one in effects:
        effect = f"{one.difference:+.2f}".replace("-", "−")
        effect = f"**{effect}**" if one.verdict in (BEYOND, EXCLUDES) else effect
        spread = f"± {one.spread:.2f}" if math.isfinite(one.spread) else "–"
        cells = (
            one.id,
            one.name,
            f"{one.base:.2f}",
            f"{one.changed:.2f}",
            effect,
            spread,
            one.repeats,
            one.verdict,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def words(effects: Sequence[Effect]) -> str:
    """Return in words how many of some effects exceed their spread, or exclude 0, and the largest of these."""
    seeds = "sampler's" if effects and all(group(one) == "sampling" for one in effects) else "training"
    sentences = []
    for inside, outside, what in (
        (WITHIN, BEYOND, f"effects are beyond the spread of the {seeds} seeds"),
        (INCLUDES, EXCLUDES, "paired differences have an interval that excludes 0"),
    ):
        judged = [one for one in effects if one.verdict in (inside, outside)]
        found = [one for one in judged if one.verdict == outside]
        if judged:
            sentences.append(f"{len(found)} of {len(judged)} {what}{_largest(found)}.")
    return " ".join(sentences) or "None of these effects has a spread to be compared with."


def _largest(effects: Sequence[Effect]) -> str:
    if not effects:
        return ""
    largest = max(effects, key=lambda one: abs(one.difference))
    change = f"{largest.difference:+.1f}".replace("-", "−")
    return f"; the largest is {largest.id}, {largest.name}, with {change} dB"


def base_words(profile: str) -> str:
    """Return in words what the base of the short trainings is, with its learning rates and the published ones."""
    chosen, settings, published = cohort.extent(profile), training.base_settings(profile), Settings()
    train, _, test = chosen.subjects
    steps = settings.epochs * -(-train * chosen.slices // settings.batch_size)
    rates = f"{settings.learning_rate:g} and {settings.critic_learning_rate:g}"
    theirs = f"{published.learning_rate:g} and {published.critic_learning_rate:g}"
    return (
        f"MU-Diff, variant released, {settings.image_size} pixels, width {settings.width}, {steps} steps on {train} "
        f"phantoms at learning rates {rates} (published: {theirs}), tested on {test}; "
        f"base with {chosen.seeds} seeds, each change with {chosen.repeats}"
    )


def forest(effects: Sequence[Effect], profile: str) -> "Figure":
    """Draw all effects in dB: a panel for metrics, sampling, and trainings, the spread as a band or bar.

    Parameters
    ----------
    effects : sequence of Effect
        Of any groups.
    profile : str
        Name of the profile, for the caption.
    """
    panels = [(names, of(effects, *names)) for names in _PANELS]
    panels = [(names, rows) for names, rows in panels if rows]
    with style.style():
        figure = style.new_figure(7.2, 0.21 * len(effects) + 0.62 * len(panels) + 0.2)
        axes = figure.subplots(
            len(panels), 1, squeeze=False, height_ratios=[len(rows) + 1.4 for _, rows in panels]
        )
        for axis, (names, rows) in zip(axes[:, 0], panels, strict=True):
            _panel(axis, rows)
            axis.set_title(", ".join(names).capitalize(), loc="left", weight="bold")
        axes[-1, 0].set_xlabel("change of the PSNR (dB)")
        figure.legend(handles=_legend(effects), loc="outside upper center", ncols=4)
        style.add_caption(figure, _caption(profile))
    return figure


def _panel(axis: "Axes", rows: Sequence[Effect]) -> None:
    from matplotlib.patches import Rectangle

    for y, one in enumerate(rows):
        marker, fill, edge = _MARKS[one.verdict]
        if math.isfinite(one.spread) and one.interval:
            axis.plot([one.difference - one.spread, one.difference + one.spread], [y, y], color=edge, lw=1.2)
        elif math.isfinite(one.spread):
            axis.add_patch(Rectangle((-one.spread, y - 0.42), 2 * one.spread, 0.84, color="0.87", lw=0))
        axis.plot(one.difference, y, marker, ms=4.5, mfc=fill, mec=edge, mew=1.0)
    low, high = _limits(rows)
    margin = 0.06 * (high - low)
    axis.set(xlim=(low - margin, high + margin), ylim=(len(rows) - 0.4, -0.6))
    axis.set_yticks(range(len(rows)), [f"{one.id}: {one.name}" for one in rows])
    axis.axvline(0, color="0.4", lw=0.8, zorder=1)
    axis.grid(axis="x", lw=0.4, color="0.88")
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _limits(rows: Sequence[Effect]) -> tuple[float, float]:
    """Return the least and the largest value that a panel shows: marks, bands around 0, intervals around marks."""
    values = [one.difference for one in rows]
    for one in rows:
        if math.isfinite(one.spread):
            centre = one.difference if one.interval else 0.0
            values += [centre - one.spread, centre + one.spread]
    least = 0.02 * max(abs(value) for value in values)
    return min(*values, -least), max(*values, least)


def _legend(effects: Sequence[Effect]) -> list[object]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found = [verdict for verdict in _MARKS if any(one.verdict == verdict for one in effects)]
    marks = []
    for verdict in found:
        marker, fill, edge = _MARKS[verdict]
        marks.append(Line2D([], [], marker=marker, ls="", ms=4.5, mfc=fill, mec=edge, label=verdict))
    if set(found) & {WITHIN, BEYOND}:
        marks.append(Patch(color="0.87", label="spread of the seeds"))
    if set(found) & {INCLUDES, EXCLUDES}:
        marks.append(Line2D([], [], color=style.COLOURS[1], lw=1.2, label="interval of a paired difference"))
    return marks


def _caption(profile: str) -> str:
    return (
        "Change of the PSNR (protocol masked, but F-3: released) by one difference at a time; to the right: higher. "
        f"Band: contains {CONFIDENCE:.0%} of the differences that other seeds alone make, of the sampler in panel "
        f"Sampling, else of the training. Bar (B-1, B-2): {CONFIDENCE:.0%} interval of the mean difference of two "
        "scores of the same weights. Metrics and sampling: "
        f"{sampling.source(profile).words}; E-4 takes {cohort.extent(profile).steps} steps. Training, architecture, "
        f"data: {base_words(profile)}. Data: generated phantoms, no patients. Profile {profile}."
    )
