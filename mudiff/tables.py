"""Tables 1 and 2: scores of every run, their means and deviations, and the files made of them.

A table is one tidy, numeric frame (`table`); `wide`, `markdown` and `latex` only show it. All take any
number of datasets, targets and methods.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mudiff import config, metrics, paths, tasks
from mudiff.errors import MudiffError

REGIONS = ("brain", "lesion")
"""Regions of the scores: Table 1 has the brain, Table 2 the lesions."""

UNITS = {"released": "slice", "masked": "subject"}
"""Protocol -> what mean and standard deviation are taken over (F-7)."""

_DDOF = {"released": 0, "masked": 1}  # F-7: the released code divides by n
_DECIMALS = {"psnr": 2, "ssim": 3, "mae": 3}
_HEADINGS = {"psnr": "PSNR ↑ (dB)", "ssim": "SSIM ↑", "mae": "MAE ↓"}


def score_runs(
    profile: str,
    region: str = "brain",
    runs: Sequence[tuple[str, str]] | None = None,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Score the synthetic test slices of a profile's runs under both protocols.

    Parameters
    ----------
    profile : str
        Name of the profile; its prepared data and synthetic slices must exist.
    region : {"brain", "lesion"}
        For ``lesion``, datasets without lesion masks are left out and the ISLES masks are dilated (section
        "Evaluation procedure").
    runs : sequence of (dataset, target), optional
        Which tasks; by default the profile's whose dataset is prepared.
    methods : sequence of str, optional
        Which methods; by default the profile's.

    Returns
    -------
    DataFrame
        One row per score: dataset, target, method, region, protocol, unit ("slice" or "subject"), subject,
        slice (number in the volume; missing for subjects), psnr, ssim, mae. NaN where there is no lesion.

    Raises
    ------
    MudiffError
        If the region is unknown, or data or a run is missing; the message names the command that makes it.
    """
    from mudiff import data  # these load torch, the rest of this module does not need it

    if region not in REGIONS:
        raise MudiffError(f"region {region!r} is unknown: choose one of {', '.join(REGIONS)}.")
    frames = []
    for dataset, target in prepared_runs(profile) if runs is None else runs:
        if region == "lesion" and not tasks.dataset(dataset).lesions:
            continue
        slices = data.open_slices(paths.prepared(profile, dataset), "test")
        for method in methods or config.profile(profile).methods:
            name = config.settings(profile, dataset, target, method).run_name
            folder = paths.synthetic(profile, name)
            if not folder.is_dir():
                raise MudiffError(
                    f"{folder}: run {name} has no synthetic test slices; make them with "
                    f"`snakemake --config profile={profile}`."
                )
            scores = _score_run(slices, folder, target, region, tasks.dataset(dataset).dilate)
            scores[["dataset", "target", "method", "region"]] = [dataset, target, method, region]
            frames.append(scores)
    columns = ["dataset", "target", "method", "region", "protocol", "unit", "subject", "slice"]
    return pd.concat(frames, ignore_index=True)[[*columns, *metrics.METRICS]]


def prepared_runs(profile: str) -> list[tuple[str, str]]:
    """Return the profile's (dataset, target) pairs whose dataset is prepared.

    Raises
    ------
    MudiffError
        If none is.
    """
    runs = [run for run in config.profile(profile).runs if paths.prepared(profile, run[0]).is_dir()]
    if not runs:
        raise MudiffError(
            f"{paths.results(profile) / 'prepared'}: no dataset is prepared; run "
            f"`snakemake --config profile={profile}`, or `mudiff prepare` on your own data."
        )
    return runs


def prepared_datasets(profile: str) -> list[str]:
    """Return the datasets of `prepared_runs`, each once."""
    return list(dict.fromkeys(dataset for dataset, _ in prepared_runs(profile)))


def _score_run(slices: object, folder: object, target: str, region: str, dilate: bool) -> pd.DataFrame:
    """Score one run's subjects; `slices` is an opened ``mudiff.data.Slices``."""
    from mudiff import sample

    rows = []
    for subject in slices.subjects:
        indices = slices.subject(subject)
        numbers = slices.index["slice"].to_numpy()[indices]
        real = (slices.images(indices, target) + 1) / 2  # [-1, 1] -> [0, 1]  # (Z, S, S)
        synthetic = sample.read_synthetic(folder, subject)
        mask = slices.brain(indices) if region == "brain" else slices.lesion(indices)
        if synthetic.shape != real.shape:
            raise MudiffError(
                f"{folder}: subject {subject} has synthetic slices {synthetic.shape} but prepared ones "
                f"{real.shape}; delete the folder and make it again."
            )
        for protocol in metrics.PROTOCOLS:
            per_slice, whole = metrics.score_subject(
                real, synthetic, mask, protocol, dilate and region == "lesion"
            )
            common = {"protocol": protocol, "subject": str(subject)}
            rows += [
                common | {"unit": "slice", "slice": int(number)} | scores
                for number, scores in zip(numbers, per_slice, strict=True)
            ]
            rows.append(common | {"unit": "subject", "slice": None} | whole)
    return pd.DataFrame(rows).astype({"slice": "Int64"})


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
        Tidy and numeric, in the order of `scores`: dataset, target, method, region, protocol, unit, metric,
        mean, sd, n (units with a defined value), rank (1 is best among the methods), paper (the paper's
        mean, NaN where unknown).

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
        for metric in metrics.METRICS:
            values = group[metric].dropna().to_numpy(float)
            rows.append(
                dict(zip(keys, key, strict=True))
                | {"protocol": protocol, "unit": UNITS[protocol], "metric": metric}
                | {"mean": values.mean() if len(values) else math.nan, "sd": _deviation(values, protocol)}
                | {"n": len(values), "paper": known[metric].get(key, math.nan)}
            )
    frame = pd.DataFrame(rows)
    # "Larger is better" for all but MAE; equal means share a rank.
    merit = frame["mean"].where(frame.metric != "mae", -frame["mean"])
    groups = [frame.dataset, frame.target, frame.metric]
    frame.insert(len(frame.columns) - 1, "rank", merit.groupby(groups).rank(method="min", ascending=False))
    return frame.astype({"rank": "Int64"})


def _deviation(values: np.ndarray, protocol: str) -> float:
    """Return the standard deviation; NaN where it is undefined (too few or infinite values)."""
    ddof = _DDOF[protocol]
    if len(values) <= ddof or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=ddof))


def caption(frame: pd.DataFrame, title: str, profile: str, data: str | None = None) -> str:
    """Return a table's caption: title, data, profile, protocol, what the cells hold and n.

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
    n = ", ".join(f"{tasks.dataset(name).label} {count}" for name, count in counts.items())
    return (
        f"{title}. Data: {data or data_words(profile)}. Profile {profile}, protocol {protocol}: mean ± standard "
        f"deviation over {UNITS[protocol]}s (n: {n}). Best in bold, second best underlined. "
        'Row "paper": the authors\' mean on real data, under protocol released; NA: not known.'
    )


def data_words(profile: str) -> str:
    """Return what a profile's data are, for captions."""
    return "generated phantoms, no patients" if config.profile(profile).phantoms else "patients"


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
    columns = frame[["dataset", "target", "metric"]].drop_duplicates().itertuples(index=False)
    columns = [tuple(column) for column in columns]
    cells = {(r.method, r.dataset, r.target, r.metric): r for r in frame.itertuples()}
    texts: dict[str, list[str]] = {}
    for method in frame.method.unique():
        own = [cells.get((method, *column)) for column in columns]
        texts[tasks.METHODS[method]] = [_cell(row, mark or {}, plus_minus) for row in own]
        if method in set(reference_values().method):
            texts[f"{tasks.METHODS[method]} (paper)"] = [
                "NA" if row is None else _number(row.paper, row.metric) for row in own
            ]
    labels = [(tasks.DATASETS[d].label, tasks.LABELS[t], _HEADINGS[m]) for d, t, m in columns]
    names = ["dataset", "target", "metric"]
    result = pd.DataFrame.from_dict(
        texts, orient="index", columns=pd.MultiIndex.from_tuples(labels, names=names)
    )
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
    lines = [r"\begin{table}[htb]", r"\centering", rf"\caption{{{_escape(text)}}}"]
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
            " & " + " & ".join(_escape(metric) for _, metric in block.columns) + r" \\",
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


def _escape(text: str) -> str:
    for plain, escaped in (("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    for plain, escaped in (("±", r"$\pm$"), ("↑", r"$\uparrow$"), ("↓", r"$\downarrow$"), ("∞", r"$\infty$")):
        text = text.replace(plain, escaped)
    return text


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
    # Six digits: what remains equal when the same numbers are summed in another order.
    csv = frame.to_csv(index=False, float_format="%.6g", na_rep="NA", lineterminator="\n")
    for suffix, content in ((".csv", csv), (".md", markdown(frame, text)), (".tex", latex(frame, text))):
        paths.write_text(paths.Path(f"{path}{suffix}"), content)
