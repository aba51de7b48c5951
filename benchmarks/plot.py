"""Draw the measurements: roofline, time per image beside the released way, how time grows.

    python -m benchmarks.plot                                    # what step.csv and scaling.csv hold for the CPU
    python -m benchmarks.plot --device cuda --precision bfloat16

Writes benchmarks/results/performance_<device>.png and .svg.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from benchmarks import report
from mudiff.errors import MudiffError
from mudiff.plots import old_style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    ("mudiff", "float32"): "mudiff, float32",
    ("mudiff", "bfloat16"): "mudiff, bfloat16",
    ("compiled", "float32"): "compiled, float32",
    ("compiled", "bfloat16"): "compiled, bfloat16",
    ("released-like", "float32"): "released way, float32",
}
COLOURS = dict(zip(LABELS, (style.COLOURS[i] for i in (0, 2, 7, 4, 1)), strict=True))
MARKERS = {"training": "o", "sampling": "^"}


def read(folder: Path, name: str, device: str) -> pd.DataFrame:
    """Return a device's rows of a CSV file of measurements, those of the last-named processor.

    Raises
    ------
    MudiffError
        If there are none.
    """
    file = folder / f"{name}.csv"
    frame = pd.read_csv(file) if file.is_file() else pd.DataFrame({"device": []})
    frame = frame[frame["device"] == device]
    if frame.empty:
        raise MudiffError(
            f"{file}: holds no measurement on {device}; run python -m benchmarks.{name} --device {device} first."
        )
    return frame[frame["processor"] == frame["processor"].iloc[-1]]


def draw(folder: Path, device: str, precision: str = "float32") -> "Figure":
    """Draw all panels for one device from the CSV files in a folder; `precision` is that of the last one."""
    steps, scaling = read(folder, "step", device), read(folder, "scaling", device)
    steps = steps[(steps["method"] == "mudiff") & (steps["threads"] == steps["threads"].max())]
    scaling = scaling[
        (scaling["precision"] == precision) & (scaling["profile"] == scaling["profile"].iloc[-1])
    ]
    with style.style():
        figure = style.new_figure(10, 3.4)
        roof, bars, growth, parallel = figure.subplots(1, 4, width_ratios=(1.5, 1.2, 1, 1))
        _roofline(roof, steps)
        _bars(bars, steps)
        _growth(growth, scaling)
        _parallel(parallel, scaling)
        for axis, letter in zip((roof, bars, growth, parallel), "abcd", strict=True):
            axis.set_title(letter, loc="left", fontweight="bold")
        style.add_caption(figure, _caption(steps, scaling))
    return figure


def _roofline(axis: "Axes", steps: pd.DataFrame) -> None:
    """Draw the rate over the counted intensity under the roofs that were measured in the same runs."""
    bandwidth = steps["bandwidth"].max()  # GB/s
    roofs = {name: steps[f"product_{name}"].max() for name in ("float32", "bfloat16")}
    low, high = (
        steps["flop_per_byte"].min() / 3,
        max(steps["flop_per_byte"].max(), max(roofs.values()) / bandwidth) * 3,
    )
    x = np.geomspace(low, high, 200)
    for name, line in (("float32", "-"), ("bfloat16", "--")):
        axis.plot(x, np.minimum(bandwidth * x, roofs[name]), line, color="0.4", lw=1)
        axis.annotate(f"product, {name}", (high, roofs[name]), ha="right", va="bottom", fontsize=6.5, color="0.3",
                      xytext=(0, 1.5), textcoords="offset points")  # fmt: skip
    for place, (_, row) in enumerate(steps.iterrows()):
        key = (row["implementation"], row["precision"])
        face = COLOURS[key] if row["image_size"] == steps["image_size"].max() else "none"
        axis.plot(row["flop_per_byte"], row["gflop_per_second"], MARKERS[row["phase"]], color=COLOURS[key], mfc=face,
                  ms=5, zorder=3 + place)  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=(low, high), xlabel="Intensity (FLOP per byte, counted)",
             ylabel="Rate (GFLOP/s)")  # fmt: skip
    _plain_ticks(axis)


def _plain_ticks(axis: "Axes") -> None:
    """Label both logarithmic axes with plain numbers: 1, 2, 5, 10 where there is room, else powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for one, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        one.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        one.set_major_formatter(StrMethodFormatter("{x:g}"))
        one.set_minor_formatter(NullFormatter())


def _bars(axis: "Axes", steps: pd.DataFrame) -> None:
    """Draw the time per image at the largest size."""
    large = steps[steps["image_size"] == steps["image_size"].max()]
    large = large[large["batch"] == large["batch"].min()]
    there = set(zip(large["implementation"], large["precision"], strict=True))
    labels = {key: label for key, label in LABELS.items() if key in there}
    width = 0.8 / len(labels)
    for place, (key, label) in enumerate(labels.items()):
        rows = large[(large["implementation"] == key[0]) & (large["precision"] == key[1])].set_index("phase")
        for k, phase in enumerate(phase for phase in MARKERS if phase in rows.index):
            middle, low, high = rows.loc[phase, ["seconds_median", "seconds_min", "seconds_max"]]
            x = k + (place - (len(labels) - 1) / 2) * width
            axis.bar(x, middle, width * 0.92, color=COLOURS[key], yerr=[[middle - low], [high - middle]],
                     error_kw={"lw": 0.8}, label=label if k == 0 else None)  # fmt: skip
            shown = f"{middle:.2g}" if middle < 100 else f"{middle:.0f}"
            axis.annotate(shown, (x, high), ha="center", va="bottom", fontsize=6.5, xytext=(0, 1),
                          textcoords="offset points")  # fmt: skip
    axis.set_xticks(range(len(MARKERS)), ["training\nstep", "sampling"])
    axis.set(ylabel=f"Time per {large['image_size'].iloc[0]}² image (s)")
    axis.margins(y=0.35)
    axis.legend(loc="upper right", fontsize=6.5, handlelength=1)


def _growth(axis: "Axes", scaling: pd.DataFrame) -> None:
    """Draw the time of sampling over slices, and the time per image over the batch."""
    scaling = scaling[scaling["threads"] == scaling["threads"].max()]
    rows = scaling[scaling["kind"] == "slices"].sort_values("x")
    axis.plot(
        rows["x"], rows["seconds_median"], "^-", color=style.COLOURS[0], ms=4, label="sampling, all slices"
    )
    if len(rows):
        last = rows.iloc[-1]
        axis.plot(
            rows["x"], last["seconds_median"] * rows["x"] / last["x"], ":", color="0.5", lw=1, label="linear"
        )
    for phase, marker in MARKERS.items():
        rows = scaling[(scaling["kind"] == "batch") & (scaling["phase"] == phase)].sort_values("x")
        if rows.empty:
            continue
        axis.plot(rows["x"], rows["seconds_median"] / rows["x"], f"{marker}--", color=style.COLOURS[3], ms=4, lw=1,
                  mfc="none", label=f"{phase}, per image of a batch")  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="Slices, or images in a batch", ylabel="Time (s)")
    axis.margins(y=0.4)
    _plain_ticks(axis)
    axis.legend(fontsize=6, handlelength=1.5, loc="upper left")


def _parallel(axis: "Axes", scaling: pd.DataFrame) -> None:
    """Draw the throughput of training over threads and processes."""
    kinds = {
        "threads": "threads of one job",
        "processes": "jobs, one thread each",
        "ddp": "processes of torchrun",
    }
    most = 1
    for (kind, label), colour in zip(kinds.items(), style.COLOURS[:3], strict=True):
        rows = scaling[(scaling["kind"] == kind) & (scaling["phase"] == "training")].sort_values("x")
        if len(rows):
            axis.plot(rows["x"], rows["images_per_second"], "o-", color=colour, ms=4, label=label)
            most = max([most, *rows["x"]])
    axis.set(xlabel="Threads or processes", ylabel="Training (images/s)", xticks=range(1, int(most) + 1))
    axis.set_ylim(bottom=0)
    axis.margins(x=0.15, y=0.35)
    if axis.lines:
        axis.legend(fontsize=6, handlelength=1.5, loc="lower right")


def _caption(steps: pd.DataFrame, scaling: pd.DataFrame) -> str:
    """Return what was measured on what, for under the figure."""
    first = steps.iloc[0]
    sizes = sorted(set(steps["image_size"]), reverse=True)
    hollow = (
        f" Filled: {sizes[0]}² images, hollow: {sizes[-1]}²." if len(sizes) > 1 else f" {sizes[0]}² images."
    )
    small = f"{scaling['profile'].iloc[-1]} networks" if len(scaling) else "nothing measured yet"
    plural = "" if first["threads"] == 1 else "s"
    threads = f", {first['threads']} thread{plural}" if first["device"] == "cpu" else ""
    return (
        f"Measured on {first['processor']}{threads}, torch {first['torch']}. a: rate over counted intensity; "
        "circles: training step, triangles: sampling with T = 4; lines: matrix product and triad bandwidth of the "
        "same run."
        f"{hollow} b: medians, bars from the smallest to the largest. c, d: {small}."
    )


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "bfloat16"), help="of panels c, d"
    )
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    arguments = parser.parse_args()
    figure = draw(arguments.output, arguments.device, arguments.precision)
    for file in style.save(figure, arguments.output / f"performance_{arguments.device}"):
        print(file)


if __name__ == "__main__":
    main()
