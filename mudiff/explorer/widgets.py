"""The explorer's widgets: they set a `View` and show its picture and numbers."""

import asyncio
import dataclasses
import html
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as w
import pandas as pd
from ipympl.backend_nbagg import Canvas, FigureManager
from matplotlib.figure import Figure
from matplotlib.widgets import LassoSelector, RectangleSelector

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.explorer import keep, picture
from mudiff.explorer import subject as subjects
from mudiff.explorer.state import ABOVE, DRAWN, Explorer, View
from mudiff.plots import attention as drawings
from mudiff.training import runs

STILL = "The explorer runs in JupyterLab: execute this cell there. The static panel shows the same content."
AMOUNTS = {"motion": (0.0, 0.0, 3.0, 0.5), "noise": (0.0, 0.0, 0.3, 0.02), "brightness": (1.0, 0.5, 1.5, 0.05)}
"""Change -> the amount that changes nothing, the lowest, the highest and the step."""
COPY = "<button onclick='navigator.clipboard.writeText(this.nextElementSibling.innerText)'>copy</button>"
Stage = tuple[Callable[[], Any], Callable[[], Any]]  # what takes long, and what shows the result


class Stopped(Exception):  # noqa: N818 (no error: what the button asks for)
    """The button was pressed, or another change has come."""


class Panel:
    """The value of a notebook's cell: a run and a subject as of `Explorer`, to look at and to change.

    `controls` has a widget per field of `View` (per condition: ``"off", name`` and so on), `data` and `buttons` the
    rest. What goes wrong, from the first run and subject on, is said in one line; what was shown stays.
    """

    def __init__(self, run: Path | str, subject: Path | str | None = None, view: View | None = None) -> None:
        self.explorer: Explorer | None = None
        self.controls: dict[Any, w.Widget] = {}
        self.shown: View | None = None  # what was drawn last, or is being made
        self.polygon: tuple[tuple[float, float], ...] = ()
        self.contribution: pd.DataFrame | None = None
        self.says, self.doubts, self.numbers = w.HTML(), w.HTML(), w.HTML().add_class("jp-RenderedHTMLCommon")
        self.bars, self.progress = w.Image(layout={"display": "none"}), w.IntProgress(layout={"visibility": "hidden"})
        self.figure = Figure(dpi=88)
        self.canvas = Canvas(self.figure)
        FigureManager(self.canvas, 0)
        for part in ("toolbar_visible", "header_visible", "footer_visible", "resizable"):
            setattr(self.canvas, part, False)
        self.data, self.buttons = _data(), {}
        presses = {
            "stop": lambda: self._halt.set(), "reset": lambda: self._set(self.view().unchanged()), "save": self.save,
            "contribution": self.contribute, "open": lambda: self.open(*keep.load(Path(self.data["view"].value))),
        }  # fmt: skip
        for name, press in presses.items():
            self.buttons[name] = w.Button(description=name)
            self.buttons[name].on_click(lambda _, press=press: self._saying(press))
        for name in ("run", "subject", "folder"):
            self.data[name].observe(lambda change, name=name: self._choose(name, change["new"]), "value")
        self.tabs = w.Tab(titles=("data", "change", "view", "region", "keep"))
        line = w.HBox([self.progress, self.buttons["stop"], self.says])
        self.box = w.VBox([self.tabs, line, self.canvas, w.HBox([self.numbers, self.bars])])
        self._setting, self._halt, self._task, self._selector = False, threading.Event(), None, None
        self._saying(lambda: self.open(run, subject, view))

    def open(self, run: Path | str, subject: Path | str | None = None, view: View | None = None) -> None:
        """Show a run and a subject, from a view on; raises what `Explorer` raises, and what was shown stays."""
        explorer = Explorer(run, subject)
        view = explorer.check(view or explorer.first())
        try:
            names = subjects.test_slices(explorer.run, explorer.method.settings).subjects
        except MudiffError:  # none are prepared for this run
            names = []
        folder = "" if explorer.source in names else explorer.source
        complete = [p for p in sorted(explorer.run.parent.iterdir()) if runs.is_complete(p)]
        self.explorer, self.contribution, self._setting = explorer, None, True
        self.data["run"].options = [(p.name, str(p)) for p in complete]
        self.data["subject"].options = [*names, *([""] if folder else [])]
        self.data["run"].value, self.data["folder"].value = str(explorer.run), folder
        self.data["subject"].value = "" if folder else explorer.source
        self.data["keep"].value = self.data["keep"].value or str(explorer.run.parent.parent / "explorer")
        self._setting, self.bars.layout.display = False, "none"
        self.doubts.value = "<br>".join(f"warning: {html.escape(doubt)}" for doubt in explorer.subject.doubts)
        self._set(view, anew=True)

    def _choose(self, name: str, value: str) -> None:
        """Open what was chosen: another run takes the same subject."""
        if value and not self._setting:
            run, source = self.data["run"].value, self.explorer.source if name == "run" and self.explorer else value
            self._saying(lambda: self.open(run, source))

    def view(self) -> View:
        """Return what the widgets are set to."""
        names = dict.fromkeys(key[1] for key in self.controls if isinstance(key, tuple))
        fields = {key: control.value for key, control in self.controls.items() if isinstance(key, str)}
        fields["off"] = tuple(name for name in names if self.controls["off", name].value)
        for field, (none, *_) in AMOUNTS.items():
            amounts = ((name, self.controls[field, name].value) for name in names)
            fields[field] = tuple((name, amount) for name, amount in amounts if amount != none)
        return View(**fields, polygon=self.polygon)

    def _set(self, view: View, anew: bool = False) -> None:
        """Set the widgets to a view, and show it; other targets have other conditions, so widgets are made anew."""
        self.controls, self.polygon, self.shown = (
            _controls(self.explorer, view),
            view.polygon,
            None if anew else self.shown,
        )
        for key, control in self.controls.items():
            control.observe(lambda change, key=key: self._on_change(key), names="value")
        c, b, names = self.controls, self.buttons, self.explorer.names(view)
        rows = [w.HBox([w.Label(datasets.LABELS[n], layout={"width": "4em"}), *(c[k, n] for k in ("off", *AMOUNTS))])
                for n in names]  # fmt: skip
        tabs = (
            [*(self.data[k] for k in ("run", "subject", "folder")), c["target"], c["place"], self.doubts],
            [*rows, w.HBox([c["replacement"], b["reset"], b["contribution"]])],
            [w.HBox([c["layer"], c["variant"], c["own_scale"]]), w.HBox([c["t"], c["network"], c["samples"]])],
            [w.HBox([c["region"], c["threshold"], self.data["tool"]])],
            [w.HBox([self.data["keep"], b["save"]]), w.HBox([self.data["view"], b["open"]])],
        )
        self.tabs.children = [w.VBox(children) for children in tabs]
        self.show(now=anew and not self.explorer.slow)

    def _on_change(self, key: Any) -> None:
        if key == "target":
            chosen = dataclasses.replace(self.explorer.first(), place=self.view().place, target=self.view().target)
            self._saying(lambda: self._set(chosen))
        else:
            self.show()

    def show(self, now: bool = False) -> None:
        """Show the view that the widgets are set to; nothing is computed where it is shown already."""
        explorer, view = self.explorer, self.view()
        if view == self.shown:
            return
        self.shown = view
        amounts = {"replacement": view.off, "threshold": view.region == ABOVE}
        for name, used in amounts.items():
            self.controls[name].disabled = not used
        stages = [(lambda: explorer.compute(view), lambda: self._draw(view))]
        if explorer.slow and not explorer.has(view):
            stages.insert(0, (lambda: explorer.compute(view, preview=True), lambda: self._draw(view, preview=True)))
        self._begin(stages, (2 + view.samples) * explorer.steps, now)

    def contribute(self) -> None:
        """Leave out each condition in turn, and draw what that costs beside the numbers."""
        explorer, view, made = self.explorer, self.view(), []

        def draw() -> None:
            self.contribution, buffer = made[0], io.BytesIO()
            picture.contribution(made[0]).savefig(buffer, format="png", dpi=110)
            self.bars.value, self.bars.layout.display = buffer.getvalue(), ""

        draws = 3 * (1 + len(explorer.names(view)))
        self._begin([(lambda: made.append(explorer.contribution(view)), draw)], draws * explorer.steps)

    def save(self) -> None:
        """Keep the view, see `keep.save`."""
        folder = keep.save(self.explorer, self.view(), Path(self.data["keep"].value), self.contribution)
        self.data["view"].value = str(folder / "view.json")
        self.says.value = f"Saved in {html.escape(str(folder))}"

    def _begin(self, stages: list[Stage], steps: int, now: bool = False) -> None:
        """Do stages one after the other, beside the kernel's loop where there is one; what ran before is stopped."""
        self._halt.set()
        self._halt, before, explorer = threading.Event(), self._task, self.explorer
        halt, self.progress.value, self.progress.max = self._halt, 0, max(steps, 1)
        try:
            loop = None if now else asyncio.get_running_loop()
        except RuntimeError:  # no kernel
            loop = None

        def tick() -> None:
            if halt.is_set():
                raise Stopped
            if loop is not None:
                loop.call_soon_threadsafe(lambda: setattr(self.progress, "value", self.progress.value + 1))

        async def later() -> None:
            if before is not None:
                await asyncio.wait([before])
            explorer.tick = tick
            self.progress.layout.visibility = "visible"
            try:
                for work, draw in stages:
                    await asyncio.to_thread(work)
                    self._saying(draw)
            except (MudiffError, Stopped) as error:
                self._say(error)
            if self._halt is halt:
                self.progress.layout.visibility = "hidden"

        if loop is not None:
            self._task = loop.create_task(later())
            return
        explorer.tick = lambda: None
        for work, draw in stages:
            self._saying(lambda work=work, draw=draw: (work(), draw()))

    def _saying(self, function: Callable[[], Any]) -> None:
        """Call a function, and say in the panel what a user has to know of its failure."""
        self.says.value = ""
        try:
            function()
        except MudiffError as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        """Say what went wrong; the view that failed is not the one that is shown."""
        self.says.value = f"<b>{html.escape(str(error) or 'Stopped; the picture is that of before.')}</b>"
        self.shown = None

    def _draw(self, view: View, preview: bool = False) -> None:
        """Draw what is computed, its numbers, and let the mouse draw a region on it."""
        if view != self.view():  # another change has come
            return
        _, layout = picture.draw(self.explorer, view, self.figure, preview)
        found = self.explorer.statistics(view, preview)
        self.numbers.value = COPY + found.to_html(float_format="{:.4g}".format, border=0, na_rep="–")
        axis = self.figure.axes[0]

        def select(*picked: Any) -> None:
            lasso = len(picked) == 1  # corners; else where the button went down, and up
            (x0, y0), (x1, y1) = (None, None), (None, None)
            if not lasso:
                (x0, y0), (x1, y1) = ((event.xdata, event.ydata) for event in picked)
            self.polygon = layout.pixels(picked[0] if lasso else [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
            self.controls["region"].value = DRAWN
            self.show()

        if self.data["tool"].value == "lasso":
            self._selector = LassoSelector(axis, select)
        else:
            self._selector = RectangleSelector(axis, select, useblit=True, button=[1])
        self.canvas.draw()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show the widgets where they run, and a sentence where they do not."""
        shown = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {"application/vnd.jupyter.widget-view+json": shown, "text/plain": STILL}


def _data() -> dict[str, w.Widget]:
    """Return the widgets that set no field of a view."""
    wide = {"continuous_update": False, "layout": {"width": "40em"}}
    return {
        "run": w.Dropdown(description="run", layout={"width": "40em"}), "subject": w.Dropdown(description="subject"),
        "folder": w.Text(description="or folder", placeholder="of a subject's NIfTI files", **wide),
        "keep": w.Text(description="in folder", **wide), "view": w.Text(description="view.json", **wide),
        "tool": w.ToggleButtons(options=("rectangle", "lasso"), description="by mouse"),
    }  # fmt: skip


def _controls(explorer: Explorer, view: View) -> dict[Any, w.Widget]:
    """Return a widget per field of `View`, set to it; sliders report when they are let go."""
    late, steps = {"continuous_update": False}, max(explorer.steps - 1, 0)
    targets = [(datasets.LABELS[name], name) for name in explorer.targets]
    kinds = [(drawings.VARIANTS[name], name) for name in explorer.variants] or [("none", view.variant)]
    controls = {
        "place": w.IntSlider(view.place, 0, len(explorer.subject.brain) - 1, description="slice", **late),
        "target": w.Dropdown(options=targets, value=view.target, description="target"),
        "replacement": w.Dropdown(options=explorer.replacements, value=view.replacement, description="off means"),
        "samples": w.IntSlider(view.samples, 0, 16, description="samples", **late),
        "layer": w.Dropdown(options=explorer.layers() or [view.layer], value=view.layer, description="layer"),
        "t": w.IntSlider(view.t, 0, steps, description="step t", **late),
        "network": w.Dropdown(options=[1, 2], value=view.network, description="network"),
        "variant": w.Dropdown(options=kinds, value=view.variant, description="mask"),
        "own_scale": w.Checkbox(view.own_scale, description="each its own scale"),
        "region": w.Dropdown(options=list(explorer.regions(view)), value=view.region, description="region"),
        "threshold": w.FloatSlider(view.threshold, min=0, max=1, step=0.01, description="above", **late),
    }  # fmt: skip
    for name in explorer.names(view):
        controls["off", name] = w.Checkbox(name in view.off, description="off", indent=False, layout={"width": "5em"})
        for field, (none, low, high, step) in AMOUNTS.items():
            value = dict(getattr(view, field)).get(name, none)
            controls[field, name] = w.FloatSlider(value, min=low, max=high, step=step, description=field, **late)
    return controls
