"""Tables of scores, such as Tables 1 and 2, and the one writer of tables: CSV, Markdown and LaTeX."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mudiff import paths, storage
from mudiff.data import dataset, datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics
from mudiff.training import profiles

UNITS = {"released": "slice", "masked": "subject"}
"""Protocol -> what mean and standard deviation are taken over, n - 1 below subjects and n below slices (F-7)."""

FLOOR = "linear"
"""The method that is shown but not ranked: it is ours, no method of the paper."""

DECIMALS = {"psnr": 2, "ssim": 3, "mae": 3}
HEADINGS = {"psnr": "PSNR ↑ (dB)", "ssim": "SSIM ↑", "mae": "MAE ↓"}
"""Metric -> column of a table; the arrow says where better is."""

_DDOF = {"released": 0, "masked": 1}  # F-7: the released code divides by n
_RUN = ["dataset", "target", "method", "region"]

Tables = pd.DataFrame | Mapping[str, pd.DataFrame]
"""What a reader sees: cells of text, in which ``**`` is bold and ``<u>`` underlines; several with their titles."""


def about(profile: str, data: str | None = None) -> str:
    """Return the sentence of every caption that says on which data, and with which profile and λ_c, it was made."""
    weight = profiles.profile(profile).sizes.get("mudiff", {}).get("weight_adversarial")
    own = f" (λ_c {weight:g}, A-1)" if weight else ""
    return f"Data: {data or origin(profile)}; profile {profile}{own}."


def origin(profile: str) -> str:
    """Return what a profile's prepared data are, as ``prepared.json`` records it: phantoms, patients, or both."""
    folders = {one.label: paths.prepared(profile, name) for name, one in datasets.DATASETS.items()}
    found = {k: dataset.origin(v) for k, v in folders.items() if (v / "prepared.json").is_file()}
    if "unknown" in found.values():
        return "of unknown origin"
    labels = [label for label, data in found.items() if data == "phantoms"]
    if len(labels) == len(found):  # so too where nothing is prepared yet: the profile would make phantoms
        return "generated phantoms, no patients"
    return f"patients; of {' and '.join(labels)} generated phantoms" if labels else "patients"


def table(scores: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return mean and standard deviation of every method, target and metric of the `scores.score_runs` of a region.

    Rows are in the order of `scores`, with the columns dataset, target, method, region, protocol, unit, metric, mean,
    sd (see `UNITS`), n (units with a defined value), rank (1 is best; missing for the floor), paper (the paper's mean
    under ``released``, NaN where unknown), run and weights that the numbers come from.
    """
    chosen = scores[(scores.protocol == protocol) & (scores.unit == UNITS.get(protocol))]
    if chosen.empty:
        raise MudiffError(f"the scores hold nothing of protocol {protocol!r}; expected released or masked.")
    known = pd.read_csv(paths.manifests() / "reference_values.csv").set_index(_RUN)  # the paper's
    rows = []
    for key, group in chosen.groupby(_RUN, sort=False):
        source = {name: group[name].iloc[0] if name in group else None for name in ("run", "weights")}
        for metric in metrics.METRICS:
            values = group[metric].dropna().to_numpy(float)
            paper = known[metric].get(key, math.nan) if protocol == "released" else math.nan
            mean = values.mean() if len(values) else math.nan
            defined = len(values) > _DDOF[protocol] and np.isfinite(values).all()
            sd = values.std(ddof=_DDOF[protocol]) if defined else math.nan
            names = dict(zip(_RUN, key, strict=True)) | {"protocol": protocol, "unit": UNITS[protocol]}
            found = {"mean": mean, "sd": sd, "n": len(values), "rank": pd.NA, "paper": paper}
            rows.append(names | {"metric": metric} | found | source)
    frame = pd.DataFrame(rows)
    # "Larger is better" for all but MAE; equal means share a rank.
    merit = frame["mean"].where(frame.metric != "mae", -frame["mean"])[frame.method != FLOOR]
    tasks = merit.groupby([frame[name] for name in ("dataset", "target", "metric")])
    return frame.assign(rank=tasks.rank(method="min", ascending=False).astype("Int64"))


def caption(frame: pd.DataFrame, title: str, profile: str) -> str:
    """Return the caption of a `table`: title, what the cells hold, n, data and profile."""
    protocol = frame.protocol.iloc[0]
    counts = frame.groupby("dataset", sort=False).n.max().items()
    n = ", ".join(f"{datasets.dataset(name).label} {count}" for name, count in counts)
    return (
        f"{title}. Protocol {protocol}: mean ± standard deviation over {UNITS[protocol]}s (n: {n}). Best in bold, "
        f"second best underlined; {datasets.METHODS[FLOOR]}, the floor, is not ranked. {about(profile)}"
    )


def wide(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return a `table` as one shows it: for each dataset, methods as rows and "mean ± sd" as cells.

    Where the paper's values are known for some task, "<method> (paper)" is one row more, under ``released``.
    """
    shown = {}
    for cohort, part in frame.groupby("dataset", sort=False):
        columns = list(dict.fromkeys(zip(part.target, part.metric, strict=True)))
        cells = {(row.method, row.target, row.metric): row for row in part.itertuples()}
        rows: dict[str, list[str]] = {}
        for method in sorted(part.method.unique(), key=list(datasets.METHODS).index):
            own = [cells.get((method, *column)) for column in columns]
            rows[datasets.METHODS[method]] = ["NA" if row is None else _cell(row) for row in own]
            if part.paper[part.method == method].notna().any():
                values = ["NA" if row is None else number(row.paper, DECIMALS[row.metric]) for row in own]
                rows[f"{datasets.METHODS[method]} (paper)"] = values
        heads = [f"{datasets.LABELS[target]} {HEADINGS[metric]}" for target, metric in columns]
        shown[datasets.dataset(cohort).label] = pd.DataFrame.from_dict(rows, orient="index", columns=heads)
    return shown


def _cell(row: object) -> str:
    if math.isnan(row.mean):
        return "NA"
    text = f"{number(row.mean, DECIMALS[row.metric])} ± {number(row.sd, DECIMALS[row.metric])}"
    return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(row.rank, text)


def number(value: float, decimals: int, sign: bool = False) -> str:
    """Return a number as tables show it: fixed decimals, a true minus sign, NA and ∞."""
    if math.isnan(value):
        return "NA"
    text = "∞" if math.isinf(value) else f"{value:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", "−")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write numbers: six digits, which stay equal when the same numbers are summed in another order; NA."""
    storage.write_text(path, frame.to_csv(index=False, float_format="%.6g", na_rep="NA", lineterminator="\n"))


def write(path: Path, tables: Tables, text: str) -> None:
    """Write tables of text as ``.md`` and ``.tex`` under one caption; `path` has no suffix."""
    storage.write_text(path.with_name(f"{path.name}.md"), markdown(tables, text))
    storage.write_text(path.with_name(f"{path.name}.tex"), latex(tables, text))


def _named(tables: Tables) -> list[tuple[str, pd.DataFrame]]:
    return [("", tables)] if isinstance(tables, pd.DataFrame) else list(tables.items())


def markdown(tables: Tables, text: str, align: str = "--:") -> str:
    """Return tables as Markdown, `text` as their caption; the index is the first column, `align` is of the others."""
    blocks = [text]
    for title, frame in _named(tables):
        lines = [f"| {' | '.join([title, *frame.columns])} |", "|---|" + f"{align}|" * len(frame.columns)]
        lines += [f"| {' | '.join(map(str, row))} |" for row in frame.itertuples(name=None)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%_#$"}
    | {"±": r"$\pm$", "×": r"$\times$", "✓": r"$\checkmark$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    | {"−": "$-$", "²": "$^2$", "∞": r"$\infty$", "τ": r"$\tau$", "ρ": r"$\rho$", "≥": r"$\geq$"}
)


def _escape(text: object) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", str(text).translate(_LATEX))
    text = re.sub(r"<u>(.+?)</u>", r"\\underline{\1}", text)
    return text.replace("<", "$<$").replace(">", "$>$")


def latex(tables: Tables, text: str) -> str:
    """Return tables as LaTeX (packages amssymb, booktabs, graphicx, rotating): a tabular each, `text` as caption."""
    # Upright, a table of four tasks would have too small letters.
    kind = "sidewaystable" if max(len(frame.columns) for _, frame in _named(tables)) > 11 else "table"
    lines = [rf"\begin{{{kind}}}[htb]", r"\centering", rf"\caption{{{_escape(text)}}}"]
    for title, frame in _named(tables):
        heads, *rows = (
            " & ".join(map(_escape, row)) + r" \\" for row in [[title, *frame.columns], *frame.itertuples(name=None)]
        )
        lines += [r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{l{'r' * len(frame.columns)}}}", r"\toprule"]
        lines += [heads, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}}", r"\par\medskip"]
    return "\n".join([*lines, rf"\end{{{kind}}}"]) + "\n"
