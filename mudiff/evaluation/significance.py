"""The artefact "significance": the comparisons as forest plot, table and prose."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mudiff.data import datasets
from mudiff.evaluation import metrics
from mudiff.evaluation import old_statistics as statistics
from mudiff.evaluation import old_tables as tables
from mudiff.plots import old_style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REGIONS = {"brain": "Whole brain", "lesion": "Lesions"}
_AXES = {"psnr": "PSNR gain (dB)", "ssim": "SSIM gain", "mae": "MAE decrease (fraction of range)"}
_DECIMALS = {"psnr": 2, "ssim": 3, "mae": 4}
_MARKERS = {"subject": ("o", style.COLOURS[0], 0.17), "slice": ("s", style.COLOURS[3], -0.17)}
_HEADINGS = ("Metric", "Best baseline", "n", "Difference", "95 % interval", "d_z", "t", "P", "P (Holm)",
             "P (Wilcoxon)", "ICC", "n effective")  # fmt: skip


def caption(frame: pd.DataFrame, profile: str) -> str:
    """Return the table's caption: what is compared and how, the data, the profile.

    Parameters
    ----------
    frame : DataFrame
        From ``stats.compare``.
    profile : str
        Name of the profile.
    """
    text = f"{_about(frame, profile)} Bold: P < 0.05. d_z: mean over standard deviation of the differences."
    if (frame.unit == "slice").any():
        text += (
            " ICC: intraclass correlation of the slices of a subject; n effective: as many independent slices "
            "they are worth."
        )
    return text


def _about(frame: pd.DataFrame, profile: str) -> str:
    tests = frame.groupby("unit", sort=False).p.count()
    family = ", ".join(f"{count} over {unit}s" for unit, count in tests.items())
    return (
        "MU-Diff against the best baseline of each task and metric, paired. Difference: mean of MU-Diff minus best "
        "baseline, for MAE the other way round: positive means that MU-Diff is better. Intervals (95 %) and P: "
        "paired t-test, two-sided. Holm's correction counts all tests of a unit (all tasks, regions, metrics: "
        f"{family}). Data: {tables.data_words(profile)}. Profile {profile}, {_protocols(frame)}."
    )


def _protocols(frame: pd.DataFrame) -> str:
    pairs = frame[["unit", "protocol"]].drop_duplicates().itertuples(index=False)
    return ", ".join(f"{unit}s: protocol {protocol}" for unit, protocol in pairs)


# The forest plot


def forest(frame: pd.DataFrame, profile: str) -> "Figure":
    """Draw the mean differences with their intervals: a panel per metric, a row per task and region.

    Parameters
    ----------
    frame : DataFrame
        From ``stats.compare``.
    profile : str
        Name of the profile.
    """
    places, labels = _places(frame)
    with style.style():
        figure = style.new_figure(8.6, 0.27 * len(labels) + 0.9)
        axes = figure.subplots(1, len(metrics.METRICS), sharey=True)
        for axis, metric in zip(axes, metrics.METRICS, strict=True):
            _panel(axis, frame[frame.metric == metric], places)
            axis.set_xlabel(f"{_AXES[metric]}\n← baseline better   MU-Diff better →")
        axes[0].set_yticks(list(labels), list(labels.values()))
        axes[0].set_ylim(max(labels) + 0.6, min(labels) - 0.6)
        for tick, text in zip(axes[0].get_yticklabels(), labels.values(), strict=True):
            tick.set_fontweight("bold" if text in REGIONS.values() else "normal")
        figure.legend(handles=_legend(frame), loc="outside upper center", ncols=4)
        text = _about(frame, profile) + " An interval clear of zero means P < 0.05 without correction."
        if frame.p.isna().any():
            text += " A cross: no interval, for the reason given in the table."
        style.add_caption(figure, text)
    return figure


def _places(frame: pd.DataFrame) -> tuple[dict[tuple[str, str, str], int], dict[int, str]]:
    """Return the row of each (region, dataset, target) and the label of each row, regions as headings."""
    places: dict[tuple[str, str, str], int] = {}
    labels: dict[int, str] = {}
    for region, part in frame.groupby("region", sort=False):
        labels[len(labels)] = REGIONS[region]
        for dataset, target in part[["dataset", "target"]].drop_duplicates().itertuples(index=False):
            places[region, dataset, target] = len(labels)
            labels[len(labels)] = _task(dataset, target)
    return places, labels


def _task(dataset: str, target: str) -> str:
    return f"{datasets.dataset(dataset).label} {datasets.LABELS[target]}"


def _panel(axis: "Axes", part: pd.DataFrame, places: dict[tuple[str, str, str], int]) -> None:
    for row in part.itertuples():
        marker, colour, offset = _MARKERS[row.unit]
        y = places[row.region, row.dataset, row.target] - offset
        if math.isnan(row.p):
            axis.plot(0 if math.isnan(row.difference) else row.difference, y, "x", ms=4, color=colour)
            continue
        axis.plot((row.low, row.high), (y, y), color=colour, lw=1.1, solid_capstyle="butt")
        fill = colour if row.p_holm < statistics.LEVEL else "w"
        axis.plot(row.difference, y, marker, ms=4, color=colour, mfc=fill, mew=0.9)
    axis.axvline(0, color="0.4", lw=0.8, zorder=0)
    axis.grid(axis="x", lw=0.4, color="0.88")
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.locator_params(axis="x", nbins=5)


def _legend(frame: pd.DataFrame) -> list[object]:
    from matplotlib.lines import Line2D

    protocols = frame.drop_duplicates("unit").set_index("unit").protocol
    marks = [
        Line2D([], [], marker=_MARKERS[u][0], color=_MARKERS[u][1], ms=4, lw=1.1, label=f"over {u}s ({p})")
        for u, p in protocols.items()
    ]
    for fill, label in (("0.3", "filled: P < 0.05 after Holm's correction"), ("w", "hollow: not")):
        marks.append(Line2D([], [], marker="o", ls="", ms=4, color="0.3", mfc=fill, label=label))
    return marks


# The table


def p_value(p: float) -> str:
    """Return a P value as one writes it: "< 0.001", "0.012", "NA"."""
    if math.isnan(p):
        return "NA"
    if p < 0.001:
        return "< 0.001"
    return (
        f"{p:.4f}" if f"{p:.3f}" == f"{statistics.LEVEL:.3f}" else f"{p:.3f}"
    )  # which side of 0.05 must show


def markdown(frame: pd.DataFrame, text: str) -> str:
    """Return the comparisons as Markdown, one block per unit and region, `text` as its caption."""
    lines = [text, ""]
    for title, heads, body, notes in _blocks(frame, "**{}**".format):
        lines += [f"| {' | '.join((title, *heads))} |", "|---|---|---|" + "--:|" * (len(heads) - 2)]
        lines += [f"| {' | '.join(cells)} |" for cells in body]
        lines += ["", *([notes, ""] if notes else [])]
    return "\n".join(lines[:-1]) + "\n"


def latex(frame: pd.DataFrame, text: str) -> str:
    """Return the comparisons as LaTeX (packages booktabs and graphicx), one table per unit and region."""
    lines = []
    for title, heads, body, notes in _blocks(frame, r"\textbf{{{}}}".format):
        shown = f"{title}. {text if not lines else 'Continued.'} {notes}".strip()
        lines += [
            r"\begin{table}[htb]",
            r"\centering",
            rf"\caption{{{_escape(shown)}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{lll{'r' * (len(heads) - 2)}}}",
            r"\toprule",
            " & ".join(_escape(head) for head in ("Task", *heads)) + r" \\",
            r"\midrule",
            *(" & ".join(_escape(cell) for cell in cells) + r" \\" for cells in body),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    for plain, escaped in (("&", r"\&"), ("%", r"\%"), ("d_z", "$d_z$"), ("<", "$<$"), ("−", "$-$")):
        text = text.replace(plain, escaped)
    return text


def _blocks(frame: pd.DataFrame, bold: Callable[[str], str]) -> list[tuple[str, list[str], list, str]]:
    """Return title, headings, rows of texts and notes of each unit and region."""
    blocks = []
    for (unit, protocol, region), part in frame.groupby(["unit", "protocol", "region"], sort=False):
        heads = [h for h in _HEADINGS if unit == "slice" or h not in ("ICC", "n effective")]
        body = [_cells(row, bold)[: 1 + len(heads)] for row in part.itertuples()]
        noted = part[part.reason != ""]
        notes = [f"{_task(r.dataset, r.target)} {r.metric.upper()}: {r.reason}" for r in noted.itertuples()]
        title = f"{REGIONS[region]}, over {unit}s ({protocol})"
        blocks.append((title, heads, body, "; ".join(notes) + "." if notes else ""))
    return blocks


def _cells(row: object, bold: Callable[[str], str]) -> list[str]:
    digits = _DECIMALS[row.metric]
    interval = f"{_number(row.low, digits)} to {_number(row.high, digits)}"
    return [
        _task(row.dataset, row.target),
        row.metric.upper(),
        datasets.METHODS[row.best_baseline] if isinstance(row.best_baseline, str) else "NA",
        str(row.n),
        _number(row.difference, digits),
        "NA" if math.isnan(row.low) else interval,
        _number(row.cohens_dz, 2),
        _number(row.t, 2),
        *(
            bold(p_value(p)) if p < statistics.LEVEL else p_value(p)
            for p in (row.p, row.p_holm, row.p_wilcoxon)
        ),
        "NA" if math.isnan(row.icc) else f"{row.icc:.2f}",
        "NA" if math.isnan(row.n_effective) else f"{row.n_effective:.1f}",
    ]


def _number(value: float, digits: int) -> str:
    return "NA" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def write(frame: pd.DataFrame, path: Path | str, text: str) -> None:
    """Write the comparisons as ``.csv`` (tidy, numeric), ``.md`` and ``.tex`` with the caption `text`.

    Parameters
    ----------
    frame : DataFrame
        From ``stats.compare``.
    path : Path or str
        The files' path without suffix.
    text : str
        The caption, see `caption`; the CSV has none.
    """
    tables.write_files(frame, path, markdown(frame, text), latex(frame, text))


# What holds


def prose(frame: pd.DataFrame, profile: str) -> str:
    """Return, as Markdown, which of the paper's statements hold here, and against which baselines.

    Parameters
    ----------
    frame : DataFrame
        From ``stats.compare``.
    profile : str
        Name of the profile.
    """
    lines = [f"Data: {tables.data_words(profile)}; profile {profile}.", ""]
    for (dataset, region), part in statistics.statements(frame).groupby(["dataset", "region"], sort=False):
        said = part.iloc[0]
        lines += [
            f"**{datasets.dataset(dataset).label}, {REGIONS[region].lower()}.** {said['where']}: {said.statement}.",
            "",
        ]
        for row in part.itertuples():
            lines.append(
                f"* Over {row.unit}s, {row.ours}: **{row.verdict}**; with Holm's correction: {row.verdict_holm}."
            )
        compared = _compared(frame[(frame.dataset == dataset) & (frame.region == region)])
        lines += [f"* Baselines that were compared: {compared}.", ""]
    return "\n".join(lines[:-1]) + "\n"


def _compared(part: pd.DataFrame) -> str:
    """Return the baselines in words, targets with the same ones together."""
    words: dict[str, list[str]] = {}
    for row in part.drop_duplicates("target").itertuples():
        names = [datasets.METHODS[name] for name in row.compared.split()]
        every = len(names) == len(datasets.BASELINES)
        words.setdefault("all six" if every else ", ".join(names) or "none", []).append(
            datasets.LABELS[row.target]
        )
    return "; ".join(f"{', '.join(targets)}: {names}" for names, targets in words.items()) or "none"
