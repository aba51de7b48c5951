"""Tables of scores, such as Tables 1 and 2: means and deviations, and the files made of them.

A table is one tidy, numeric frame (`table`); `wide`, `markdown` and `latex` only show it. All take any
number of datasets, targets and methods.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mudiff import paths
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import budget, metrics
from mudiff.evaluation.old_scores import REGIONS, prepared_datasets, prepared_runs, score_runs
from mudiff.training import profiles

__all__ = [
    "FLOOR", "REGIONS", "UNITS", "caption", "data_words", "latex", "markdown", "prepared_datasets",
    "prepared_runs", "reference_values", "score_runs", "table", "wide", "write",
]  # fmt: skip

UNITS = {"released": "slice", "masked": "subject"}
"""Protocol -> what mean and standard deviation are taken over (F-7)."""

FLOOR = "linear"
"""The method that is shown but not ranked: it is ours, no method of the paper."""

_DDOF = {"released": 0, "masked": 1}  # F-7: the released code divides by n
_DECIMALS = {"psnr": 2, "ssim": 3, "mae": 3}
_HEADINGS = {"psnr": "PSNR ↑ (dB)", "ssim": "SSIM ↑", "mae": "MAE ↓"}
_CELL = ["dataset", "target", "metric"]
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "∞": r"$\infty$"}
)


def reference_values() -> pd.DataFrame:
    """Return the paper's values that are known: dataset, target, method, region, psnr, ssim, mae, source."""
    return pd.read_csv(paths.manifests() / "reference_values.csv")


def table(scores: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return mean and standard deviation of every method, target and metric.

    Parameters
    ----------
    scores : DataFrame
        From `score_runs`, one region.
    protocol : {"released", "masked"}
        ``released`` counts slices and divides by n, ``masked`` counts subjects and divides by n - 1.

    Returns
    -------
    DataFrame
        Tidy, in the order of `scores`: dataset, target, method, region, protocol, unit, metric, mean, sd, n
        (units with a defined value), rank (1 is best; missing for the floor), paper (the paper's mean, NaN
        where unknown), run (folder of the run that the numbers come from) and fingerprint (of its settings).
        A method that was not trained for a task has no rows there.

    Raises
    ------
    MudiffError
        If the protocol is unknown or the scores hold none of it.
    """
    if protocol not in metrics.PROTOCOLS:
        raise MudiffError(f"protocol {protocol!r} is unknown: choose one of {', '.join(metrics.PROTOCOLS)}.")
    chosen = scores[(scores.protocol == protocol) & (scores.unit == UNITS[protocol])]
    if chosen.empty:
        raise MudiffError(
            f"the scores hold no {UNITS[protocol]}s of protocol {protocol}; score the runs again."
        )
    known = reference_values().set_index(["dataset", "target", "method", "region"])
    rows = []
    keys = ["dataset", "target", "method", "region"]
    for key, group in chosen.groupby(keys, sort=False):
        source = {name: group[name].iloc[0] if name in group else None for name in ("run", "fingerprint")}
        for metric in metrics.METRICS:
            values = group[metric].dropna().to_numpy(float)
            rows.append(
                dict(zip(keys, key, strict=True))
                | {"protocol": protocol, "unit": UNITS[protocol], "metric": metric}
                | {"mean": values.mean() if len(values) else math.nan, "sd": _deviation(values, protocol)}
                | {"n": len(values), "rank": pd.NA, "paper": known[metric].get(key, math.nan)}
                | source
            )
    frame = pd.DataFrame(rows)
    # "Larger is better" for all but MAE; equal means share a rank.
    merit = frame["mean"].where(frame.metric != "mae", -frame["mean"])[frame.method != FLOOR]
    ranks = merit.groupby([frame[name] for name in _CELL]).rank(method="min", ascending=False)
    return frame.assign(rank=ranks.astype("Int64"))


def _deviation(values: np.ndarray, protocol: str) -> float:
    """Return the standard deviation; NaN where it is undefined (too few or infinite values)."""
    ddof = _DDOF[protocol]
    if len(values) <= ddof or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=ddof))


def caption(frame: pd.DataFrame, title: str, profile: str, data: str | None = None) -> str:
    """Return a table's caption: title, data, profile, protocol, what the cells hold, n, and how it was trained.

    Parameters
    ----------
    frame : DataFrame
        From `table`.
    title : str
        What the table shows, without a full stop.
    profile : str
        Name of the profile.
    data : str, optional
        What the data are; by default the profile says whether they are generated phantoms.
    """
    protocol = frame.protocol.iloc[0]
    counts = frame.groupby("dataset", sort=False).n.max()
    n = ", ".join(f"{datasets.dataset(name).label} {count}" for name, count in counts.items())
    sentences = [
        f"{title}. Data: {data or data_words(profile)}. Profile {profile}, protocol {protocol}: mean ± standard "
        f"deviation over {UNITS[protocol]}s (n: {n}). Best in bold, second best underlined.",
        _floor_words(frame),
        'Row "paper": the authors\' mean on real data, under protocol released. NA: not trained for this task; '
        "of the paper, not known.",
        budget.words(profile, frame) if frame["run"].notna().all() else "",
    ]
    return " ".join(filter(None, sentences))


def _floor_words(frame: pd.DataFrame) -> str:
    """Return a sentence on the floor, and on the cells in which it is better than the best method."""
    cells = frame[frame.method == FLOOR].merge(frame[frame["rank"] == 1].drop_duplicates(_CELL), on=_CELL)
    if cells.empty:
        return ""
    gain = (cells.mean_x - cells.mean_y).where(cells.metric != "mae", cells.mean_y - cells.mean_x)
    count = f"{int((gain > 0).sum()) or 'none'} of {len(cells)} cells"
    return f"{datasets.METHODS[FLOOR]}, the floor, is not ranked; it is better than the best in {count}."


def data_words(profile: str) -> str:
    """Return what a profile's data are, for captions: the prepared ones, or those that it would have."""
    names = [
        name for name in datasets.DATASETS if (paths.prepared(profile, name) / "prepared.json").is_file()
    ]
    generated = {name: _generated(profile, name) for name in names}
    if not generated:
        generated = dict.fromkeys(profiles.profile(profile).phantoms, True)
    if generated and all(generated.values()):
        return "generated phantoms, no patients"
    labels = [datasets.dataset(name).label for name, is_so in generated.items() if is_so]
    return f"patients; of {' and '.join(labels)} generated phantoms" if labels else "patients"


def _generated(profile: str, dataset: str) -> bool:
    """Tell whether the prepared subjects are phantoms: whether their files are those of the phantoms' folder."""
    subjects = paths.read_json(paths.prepared(profile, dataset) / "prepared.json")["subjects"]
    sources = [source for subject in subjects.values() for source in subject["sources"].values()]
    folder = paths.phantoms(profile, dataset)
    made = {(path.name, path.stat().st_mtime_ns) for path in folder.rglob("*.nii*")}
    return all((source["name"], source["mtime_ns"]) in made for source in sources)


def wide(frame: pd.DataFrame, mark: dict[int, str] | None = None, plus_minus: str = "±") -> pd.DataFrame:
    """Return a table as one shows it: methods as rows, texts "mean ± sd" as cells.

    Parameters
    ----------
    frame : DataFrame
        From `table`.
    mark : dict of int to str, optional
        Rank -> format of a marked cell, such as ``{1: "**{}**"}``.
    plus_minus : str
        What stands between mean and deviation.

    Returns
    -------
    DataFrame
        Columns (dataset, target, metric) as labels; one further row "<method> (paper)" for each method of
        which the paper's values are known for some task, NA where not.
    """
    columns = [tuple(column) for column in frame[_CELL].drop_duplicates().itertuples(index=False)]
    cells = {(r.method, r.dataset, r.target, r.metric): r for r in frame.itertuples()}
    texts: dict[str, list[str]] = {}
    for method in sorted(frame.method.unique(), key=list(datasets.METHODS).index):
        own = [cells.get((method, *column)) for column in columns]
        texts[datasets.METHODS[method]] = [_cell(row, mark or {}, plus_minus) for row in own]
        if method in set(reference_values().method):
            texts[f"{datasets.METHODS[method]} (paper)"] = [
                "NA" if row is None else _number(row.paper, row.metric) for row in own
            ]
    labels = [(datasets.DATASETS[d].label, datasets.LABELS[t], _HEADINGS[m]) for d, t, m in columns]
    heads = pd.MultiIndex.from_tuples(labels, names=_CELL)
    result = pd.DataFrame.from_dict(texts, orient="index", columns=heads)
    return result.rename_axis("method")


def _cell(row: object, mark: dict[int, str], plus_minus: str) -> str:
    if row is None or math.isnan(row.mean):
        return "NA"
    text = f"{_number(row.mean, row.metric)} {plus_minus} {_number(row.sd, row.metric)}"
    return mark.get(row.rank, "{}").format(text)


def _number(value: float, metric: str) -> str:
    if math.isnan(value):
        return "NA"
    return "∞" if math.isinf(value) else f"{value:.{_DECIMALS[metric]}f}"


def markdown(frame: pd.DataFrame, text: str) -> str:
    """Return a table as Markdown, one block per dataset, `text` as its caption."""
    shown = wide(frame, {1: "**{}**", 2: "<u>{}</u>"})
    lines = [text, ""]
    for dataset in shown.columns.unique(0):
        block = shown[dataset]
        heads = [f"{target} {metric}" for target, metric in block.columns]
        lines += [f"| {dataset} | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
        lines += [f"| {row[0]} | {' | '.join(row[1:])} |" for row in block.itertuples(name=None)]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def latex(frame: pd.DataFrame, text: str) -> str:
    """Return a table as LaTeX (packages booktabs and graphicx), one tabular per dataset."""
    shown = wide(frame, {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}, r"$\pm$")
    lines = [r"\begin{table}[htb]", r"\centering", rf"\caption{{{text.translate(_LATEX)}}}"]
    for dataset in shown.columns.unique(0):
        block = shown[dataset]
        targets = list(block.columns.unique(0))
        width = len(metrics.METRICS)
        heads = " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{target}}}" for target in targets)
        rules = "".join(
            rf"\cmidrule(lr){{{2 + width * i}-{1 + width * (i + 1)}}}" for i in range(len(targets))
        )
        lines += [
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{l{'c' * len(block.columns)}}}",
            r"\toprule",
            rf"{dataset} & {heads} \\",
            rules,
            " & " + " & ".join(metric.translate(_LATEX) for _, metric in block.columns) + r" \\",
            r"\midrule",
            *(
                " & ".join(cell.replace("∞", r"$\infty$") for cell in row) + r" \\"
                for row in block.itertuples(name=None)
            ),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\medskip",
        ]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def write(frame: pd.DataFrame, path: object, text: str) -> None:
    """Write a table as ``.csv`` (tidy, numeric), ``.md`` and ``.tex`` with the caption `text`.

    Parameters
    ----------
    frame : DataFrame
        From `table`.
    path : Path
        The files' path without suffix.
    text : str
        The caption, see `caption`; the CSV has none.
    """
    write_files(frame, path, markdown(frame, text), latex(frame, text))


Blocks = Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]]
"""Headings and rows of texts, for each of several tables under one caption."""

_PLAIN = str.maketrans(
    {"%": r"\%", "_": r"\_", "±": r"$\pm$", "×": r"$\times$", "✓": r"$\checkmark$", "↑": r"$\uparrow$"}
    | {"↓": r"$\downarrow$", "−": "$-$", "²": "$^2$", "∞": r"$\infty$"}
)


def escape(text: str) -> str:
    """Return a plain text, with Markdown's bold, as LaTeX (package amssymb)."""
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text.translate(_PLAIN))


def blocks_markdown(blocks: Blocks, text: str) -> str:
    """Return tables as Markdown, `text` as their caption."""
    lines = [text, ""]
    for heads, rows in blocks:
        lines += [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    return "\n".join(lines[:-1]) + "\n"


def blocks_latex(blocks: Blocks, text: str, align: str = "r") -> str:
    """Return tables as LaTeX (packages amssymb, booktabs and graphicx), one tabular per block, `text` as caption."""
    lines = [r"\begin{table}[htb]", r"\centering", rf"\caption{{{escape(text)}}}"]
    for heads, rows in blocks:
        lines += [
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{l{align * (len(heads) - 1)}}}",
            r"\toprule",
            " & ".join(map(escape, heads)) + r" \\",
            r"\midrule",
            *(" & ".join(map(escape, row)) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\medskip",
        ]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def write_files(frame: pd.DataFrame, path: object, in_markdown: str, in_latex: str) -> None:
    """Write any table as ``.csv``, ``.md`` and ``.tex``; `path` has no suffix."""
    # Six digits: what remains equal when the same numbers are summed in another order.
    csv = frame.to_csv(index=False, float_format="%.6g", na_rep="NA", lineterminator="\n")
    for suffix, content in ((".csv", csv), (".md", in_markdown), (".tex", in_latex)):
        paths.write_text(paths.Path(f"{path}{suffix}"), content)
