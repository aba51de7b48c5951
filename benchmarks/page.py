"""Write the tables of docs/PERFORMANCE.md from the CSV files, so that no number there is typed in.

    python -m benchmarks.page

Between ``<!-- table: NAME -->`` and ``<!-- end -->`` the page holds what `TABLES` makes; the text around is prose.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks import report
from mudiff import paths
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.training import profiles

PAGE = Path(__file__).parents[1] / "docs" / "PERFORMANCE.md"
RATES = (20, 100, 350)
"""Sustained TFLOP/s for which times are computed."""

WAYS = {"mudiff": "ours", "compiled": "ours, compiled", "released-like": "released way"}
"""Implementation -> name in the table."""

EMPTY = "*Not measured yet.*"
PLACES = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(frame: pd.DataFrame) -> str:
    """Return a table in Markdown, its numbers aligned to the right."""
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) or frame[c].astype(str).str.match(r"^[\d–]").all()
               for c in frame]  # fmt: skip
    lines = ["| " + " | ".join(frame.columns) + " |"]
    lines.append("|" + "|".join("--:" if right else "---" for right in numeric) + "|")
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def digits(value: float, count: int = 3) -> str:
    """Return a number with so many digits that count, without exponent; a dash for NaN."""
    if pd.isna(value):
        return "–"
    shown = f"{float(f'{value:.{count}g}'):,.10f}".rstrip("0").rstrip(".")
    return shown if value else "0"


def _read(folder: Path, name: str) -> pd.DataFrame | None:
    file = folder / f"{name}.csv"
    return pd.read_csv(file) if file.is_file() else None


def machine(folder: Path) -> str:
    """Return the roofs of every processor that was measured."""
    frame = _read(folder, "machine")
    if frame is None:
        return EMPTY
    frame["column"] = frame["quantity"] + ", " + frame["precision"] + " (" + frame["unit"] + ")"
    table = frame.pivot_table(index=["processor", "device", "threads"], columns="column", values="rate_median",
                              sort=False)  # fmt: skip
    return markdown(table.map(digits).reset_index())


def _place(row: pd.Series) -> str:
    """Return the name of a GPU, or how many threads of the CPU are meant."""
    plural = "" if row["threads"] == 1 else "s"
    return row["processor"] if row["device"] != "cpu" else f"CPU, {row['threads']} thread{plural}"


def steps(folder: Path) -> str:
    """Return seconds, rates and memory of all configurations, and how many times as fast ours is."""
    frame = _read(folder, "step")
    if frame is None:
        return EMPTY
    same = ["profile", "method", "phase", "processor", "device", "threads", "batch"]
    base = frame[frame["implementation"] == "released-like"].set_index(same)["seconds_median"]
    rows = []
    order = ["device", "profile", "method", "batch", "threads", "phase", "implementation", "precision"]
    for _, row in frame.sort_values(
        order, ascending=[True, False, *[True] * 3, False, False, False]
    ).iterrows():
        released = base.get(tuple(row[same]), float("nan"))
        rows.append({
            "device": _place(row),
            "images": f"{row['image_size']}², width {row['width']}",
            "method": datasets.METHODS[row["method"]],
            "batch": row["batch"],
            "work": row["phase"],
            "formulation": WAYS[row["implementation"]],
            "precision": row["precision"],
            "s/image": digits(row["seconds_median"]),
            "min–max": f"{digits(row['seconds_min'])}–{digits(row['seconds_max'])}",
            "times as fast": digits(released / row["seconds_median"]),
            "GFLOP/image": digits(row["gflop"], 4),
            "GFLOP/s": digits(row["gflop_per_second"]),
            "of the matrix product": f"{row['share_of_product']:.0%}",
            "memory (GB)": digits(row["memory_gb"]),
            "FLOP/byte": digits(row["flop_per_byte"]),
        })  # fmt: skip
    return markdown(pd.DataFrame(rows))


def scaling(folder: Path) -> str:
    """Return how time grows."""
    frame = _read(folder, "scaling")
    if frame is None:
        return EMPTY
    frame = frame.assign(**{
        "what grows": frame["kind"].map({
            "slices": "slices", "batch": "batch", "threads": "threads of one job", "processes": "jobs at once",
            "ddp": "processes of torchrun",
        }),
        "images": frame["image_size"].astype(str) + "²", "work": frame["phase"],
        "slices at once": frame["batch"], "slices in all": frame["images"],
        "s": frame["seconds_median"].map(digits), "images/s": frame["images_per_second"].map(digits),
        "memory (GB)": frame.get("memory_gb", pd.Series(float("nan"), frame.index)).map(digits),
    })  # fmt: skip
    wanted = ["device", "precision", "what grows", "x", "work", "threads", "slices at once", "slices in all", "s",
              "images/s", "memory (GB)"]  # fmt: skip
    return markdown(frame[wanted].rename(columns={"x": "number"}))


def agreement(folder: Path) -> str:
    """Return how samples of the same weights agree."""
    frame = _read(folder, "agreement")
    if frame is None:
        return EMPTY
    frame["images"] = frame["image_size"].astype(str) + "²"
    frame["PSNR against the truth (dB)"] = frame["psnr_truth"].map("{:.2f}".format)
    frame["less than float32 (dB)"] = (
        frame.groupby(["profile", "processor"])["psnr_truth"].transform("first") - frame["psnr_truth"]
    ).map("{:+.3f}".format)
    frame["PSNR against float32 (dB)"] = frame["psnr_float32"].replace(float("inf"), float("nan")).map(digits)
    frame["largest difference"] = frame["largest_difference"].map("{:.1e}".format)
    wanted = ["device", "images", "formulation", "precision", "slices", "PSNR against the truth (dB)",
              "less than float32 (dB)", "PSNR against float32 (dB)", "largest difference"]  # fmt: skip
    return markdown(frame[wanted])


def preparation(folder: Path) -> str:
    """Return the measurements of the preparation."""
    frame = _read(folder, "preparation")
    if frame is None:
        return EMPTY
    frame = frame[[c for c in frame.columns if frame[c].nunique(dropna=False) > 1]]
    numbers = frame.select_dtypes("number").columns
    return markdown(frame.assign(**{c: frame[c].map(digits) for c in numbers}))


def _sums(folder: Path, by: list[str]) -> pd.DataFrame | None:
    frame = _read(folder, "costs")
    if frame is None:
        return None
    frame["pflop"] = frame["training_pflop"] + frame["validation_pflop"] + frame["test_pflop"]
    return frame.groupby(by, sort=False).agg(
        trainings=("run", "size"), training=("training_pflop", "sum"), validation=("validation_pflop", "sum"),
        test=("test_pflop", "sum"), pflop=("pflop", "sum"), memory=("memory_gb", "max"),
    ).reset_index()  # fmt: skip


def _measured_rate(folder: Path) -> tuple[str, float] | None:
    """Return processor and TFLOP/s of our full-size training in float32 on the CPU, if it was measured."""
    frame = _read(folder, "step")
    if frame is None:
        return None
    ours = (frame["method"] == "mudiff") & (frame["implementation"] == "mudiff") & (frame["device"] == "cpu")
    full = (frame["profile"] == "paper") & (frame["phase"] == "training") & (frame["precision"] == "float32")
    found = frame[ours & full]
    return None if found.empty else (found["processor"].iloc[-1], found["gflop_per_second"].iloc[-1] / 1000)


def _hours(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Add how long the operations of each row take at the measured rate and at those of `RATES`."""
    rates = {f"h at {rate} TFLOP/s (computed)": rate for rate in RATES}
    measured = _measured_rate(folder)
    if measured is not None:
        rates = {f"h at {digits(1000 * measured[1])} GFLOP/s ({measured[0]}, measured)": measured[1]} | rates
    for name, rate in rates.items():
        table[name] = [digits(pflop * 1000 / rate / 3600) for pflop in table["pflop"]]
    for name in ("training", "validation", "test", "pflop", "memory"):
        table[name] = table[name].map(digits)
    names = {"training": "training (PFLOP)", "validation": "validation (PFLOP)", "test": "test set (PFLOP)"}
    return table.rename(columns=names | {"pflop": "in all (PFLOP)", "memory": "memory (GB)"})


def tasks_costs(folder: Path) -> str:
    """Return what MU-Diff costs for each task of the paper."""
    table = _sums(folder, ["run", "dataset", "target"])
    if table is None:
        return EMPTY
    table = table[table["run"] == "mudiff"].drop(columns=["run", "trainings"])
    table["dataset"] = [datasets.dataset(name).label for name in table["dataset"]]
    table["target"] = table["target"].map(datasets.LABELS)
    return markdown(_hours(table, folder))


def matrix_costs(folder: Path) -> str:
    """Return what each method costs over all its tasks, and the whole matrix."""
    frame = _sums(folder, ["run"])
    if frame is None:
        return EMPTY
    total = frame.drop(columns="run").sum().to_dict() | {
        "run": "**whole matrix**",
        "memory": frame["memory"].max(),
    }
    table = pd.concat([frame, pd.DataFrame([total])])
    table["run"] = [profiles.RUN_LABELS.get(name, name) for name in table["run"]]
    return markdown(_hours(table.astype({"trainings": int}), folder))


TABLES: dict[str, Callable[[Path], str]] = {
    "machine": machine,
    "steps": steps,
    "agreement": agreement,
    "scaling": scaling,
    "preparation": preparation,
    "tasks": tasks_costs,
    "matrix": matrix_costs,
}


def filled(text: str, folder: Path) -> str:
    """Return the page with its tables made from the CSV files of a folder.

    Raises
    ------
    MudiffError
        If the page names a table that is unknown, or lacks one.
    """
    named = [name for _, name, _ in PLACES.findall(text)]
    if sorted(named) != sorted(TABLES):
        raise MudiffError(f"{PAGE}: has tables {', '.join(named)}; expected {', '.join(TABLES)}, each once.")
    return PLACES.sub(lambda m: f"{m[1]}\n{TABLES[m[2]](folder)}\n\n{m[3]}", text)


def main() -> None:
    """Write the tables into the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    paths.write_text(PAGE, filled(PAGE.read_text(encoding="utf-8"), report.RESULTS))
    print(PAGE)


if __name__ == "__main__":
    main()
