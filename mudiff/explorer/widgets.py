"""The explorer's widgets: they set a `View` and show its picture and numbers."""

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
from traitlets import TraitError

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.explorer import keep, picture
from mudiff.explorer.state import ABOVE, CHANGES, DRAWN, Explorer, View
from mudiff.plots import attention as drawings
from mudiff.plots import tiles
from mudiff.training import runs

STILL = "The explorer runs in JupyterLab: execute this cell there. The static panel shows the same content."
COPY = "<button onclick='navigator.clipboard.writeText(this.nextElementSibling.innerText)'>copy</button>"
LATE = {"continuous_update": False}  # sliders and texts report when they are left
WIDE = {"layout": {"width": "45em"}}


class Panel:
    """The value of a notebook's cell: a run and a subject as of `Explorer`, to look at and to change.

    `controls` has a widget per field of `View` (per condition: ``"off", name`` and so on), `others` and `buttons` the
    rest. What goes wrong, from the first run and subject on, is said in one line; what was shown stays.
    """

    def __init__(self, run: Path | str, subject: Path | str | None = None, view: View | None = None) -> None:
        self.explorer: Explorer | None = None
        self.controls: dict[Any, w.Widget] = {}
        self.shown: View | None = None  # what was drawn last, or is being made
        self.polygon: tuple[tuple[float, float], ...] = ()
        self.contribution: pd.DataFrame | None = None
        # The picture; a canvas that is resized in the browser shows parts of the one before, so it has one size.
        self.canvas = Canvas(Figure((tiles.SIDE * tiles.LENGTH, 4.5 * tiles.SIDE), dpi=88))
        FigureManager(self.canvas, 0)
        for part in ("toolbar_visible", "header_visible", "footer_visible", "resizable", "syncing_data_url"):
            setattr(self.canvas, part, False)
        self.says, self.doubts, self.caption = w.HTML(), w.HTML(), w.HTML()
        self.bars, self.below = w.Image(), w.HBox()
        self.numbers = w.HTML().add_class("jp-RenderedHTMLCommon")  # as JupyterLab shows a frame
        self.others = {
            "run": w.Dropdown(description="run", **WIDE), "subject": w.Dropdown(description="subject"),
            "mouse": w.ToggleButtons(options=("rectangle", "lasso"), description="by mouse"),
        }  # fmt: skip
        texts = {"folder": "or a folder", "keep": "in folder", "view": "view.json"}
        self.others |= {name: w.Text(description=words, **LATE, **WIDE) for name, words in texts.items()}
        presses = {
            "stop": lambda: self._halt.set(), "reset": lambda: self._set(self.view().unchanged()), "save": self.save,
            "contribution": self.contribute, "open": lambda: self.open(*keep.load(Path(self.others["view"].value))),
        }  # fmt: skip
        self.buttons = {name: w.Button(description=name) for name in presses}
        for name, press in presses.items():
            self.buttons[name].on_click(lambda _, press=press: self._saying(press))
        for name in ("run", "subject", "folder"):
            self.others[name].observe(lambda change, name=name: self._choose(name, change["new"]), "value")
        self.others["mouse"].observe(lambda _: self._saying(lambda: self._draw(self.view())), "value")
        self.pages = {name: w.VBox() for name in ("data", "change", "view", "region", "keep")}
        self.tabs, self.progress = w.Tab(list(self.pages.values()), titles=tuple(self.pages)), w.IntProgress()
        self.working = w.HBox([self.progress, self.buttons["stop"]], layout={"display": "none"})
        self.box = w.VBox([self.tabs, self.working, self.says, self.canvas, self.caption, self.below])
        self._setting, self._halt, self._made = False, threading.Event(), set()
        self._turn, self._thread = threading.Lock(), None
        self._saying(lambda: self.open(run, subject, view))

    def open(self, run: Path | str, subject: Path | str | None = None, view: View | None = None) -> None:
        """Show a run and a subject, from a view on; raises what `Explorer` raises, and what was shown stays."""
        explorer = Explorer(run, subject)
        controls = _controls(explorer, view := view or explorer.first())
        names, source, own = explorer.prepared, explorer.subject.source, self.others
        self.explorer, self.contribution, self.below.children, self._setting = explorer, None, [self.numbers], True
        own["run"].options = [(p.name, str(p)) for p in sorted(explorer.run.parent.iterdir()) if runs.is_complete(p)]
        own["subject"].options = [*names, *([] if source in names else [""])]
        own["run"].value, own["folder"].value = str(explorer.run), "" if source in names else source
        own["subject"].value = source if source in names else ""
        own["keep"].value = own["keep"].value or str(explorer.run.parent.parent / "explorer")
        self._setting, self.shown, self._made = False, None, set()
        self.doubts.value = "<br>".join(f"warning: {html.escape(doubt)}" for doubt in explorer.subject.doubts)
        self._set(view, controls)

    def _choose(self, name: str, value: str) -> None:
        """Open what was chosen: another run takes the same subject."""
        if value and not self._setting:
            source = self.explorer.subject.source if name == "run" and self.explorer else value
            self._saying(lambda: self.open(self.others["run"].value, source))

    def view(self) -> View:
        """Return what the widgets are set to."""
        values = {key: control.value for key, control in self.controls.items()}
        names = [key[1] for key in values if key[0] == "off"]
        fields = {key: value for key, value in values.items() if isinstance(key, str)}
        for change, (none, *_) in CHANGES.items():
            fields[change] = tuple((name, x) for name in names if (x := values[change, name]) != none)
        return View(**fields, off=tuple(name for name in names if values["off", name]), polygon=self.polygon)

    def _set(self, view: View, controls: dict[Any, w.Widget] | None = None) -> None:
        """Show a view with widgets made anew, since each target has other conditions."""
        self.controls, self.polygon = controls or _controls(self.explorer, view), view.polygon
        for key, control in self.controls.items():
            react = self._retarget if key == "target" else self.show
            control.observe(lambda _, react=react: self._saying(react), "value")
        c, b, o, names = self.controls, self.buttons, self.others, self.explorer.names(view)
        rows = [[w.Label(datasets.LABELS[n]), *(c[k, n] for k in ("off", *CHANGES))] for n in names]
        tabs = {
            "data": [[o["run"]], [o["subject"], o["folder"]], [c["target"], c["place"]], [self.doubts]],
            "change": [*rows, [c["replacement"], b["reset"], b["contribution"]]],
            "view": [[c["layer"], c["variant"], c["own_scale"]], [c["t"], c["network"], c["samples"]], [c["steps"]]],
            "region": [[c["region"], c["threshold"], o["mouse"]]],
            "keep": [[o["keep"], b["save"]], [o["view"], b["open"]]],
        }  # fmt: skip
        for name, lines in tabs.items():
            self.pages[name].children = [w.HBox(line) for line in lines]
        self.show()

    def _retarget(self) -> None:
        self._set(dataclasses.replace(self.explorer.first(), place=self.view().place, target=self.view().target))

    def show(self) -> None:
        """Show the view that the widgets are set to; nothing is computed where it is shown already."""
        explorer, view = self.explorer, self.view()
        if view == self.shown:
            return
        self.shown = view
        self.controls["replacement"].disabled, self.controls["threshold"].disabled = (
            not view.off,
            view.region != ABOVE,
        )
        views, made = [view], view.made_by()
        if explorer.slow and not view.steps and made not in self._made:
            views.insert(0, dataclasses.replace(view, steps=1))
        stages = [(lambda v=v: explorer.compute(v), lambda v=v: self._draw(v)) for v in views]
        self._begin([*stages, (lambda: self._made.add(made), lambda: None)], (2 + view.samples) * explorer.steps)

    def contribute(self) -> None:
        """Leave out each condition in turn, and draw what that costs beside the numbers."""
        explorer, view, found, buffer = self.explorer, self.view(), [], io.BytesIO()

        def draw() -> None:
            self.contribution = found[0]
            drawings.contribution(self.contribution).savefig(buffer, format="png", dpi=110)
            self.bars.value, self.below.children = buffer.getvalue(), [self.numbers, self.bars]

        steps = 3 * (1 + len(explorer.names(view))) * explorer.steps
        self._begin([(lambda: found.append(explorer.contribution(view)), draw)], steps)

    def save(self) -> None:
        """Keep the view, see `keep.save`."""
        folder = keep.save(self.explorer, self.view(), Path(self.others["keep"].value), self.contribution)
        self.others["view"].value, self.says.value = str(folder / "view.json"), f"Saved in {html.escape(str(folder))}"

    def _begin(self, stages: list[tuple[Callable, Callable]], steps: int) -> None:
        """Do stages, work and then what shows it, in a thread of their own; what ran before is stopped."""
        explorer, halt = self.explorer, threading.Event()
        self._halt.set()
        self._halt = halt

        def tick() -> None:
            if halt.is_set():
                raise InterruptedError("Stopped; the picture is that of before.")
            self.progress.value += 1

        def run() -> None:
            with self._turn:  # what ran before has ended
                if self._halt is not halt:
                    return
                explorer.tick, self.progress.value, self.progress.max = tick, 0, max(steps, 1)
                self.working.layout.display = ""
                try:
                    for work, draw in stages:
                        work()
                        draw()
                except Exception as error:  # in a thread nobody would see it
                    if self._halt is halt:  # else a later change has come, which is shown next
                        self._say(error)
                if self._halt is halt:
                    self.working.layout.display = "none"

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def wait(self) -> "Panel":
        """Wait until what is being made is shown; for scripts, where nobody looks meanwhile."""
        if self._thread is not None:
            self._thread.join()
        return self

    def _saying(self, function: Callable[[], Any]) -> None:
        """Call a function, and say in the panel what a user has to know of its failure."""
        self.says.value = ""
        try:
            function()
        except (MudiffError, TraitError) as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        self.says.value, self.shown = f"<b>{html.escape(str(error))}</b>", None

    def _draw(self, view: View) -> None:
        """Draw what is computed, and its numbers, and let the mouse draw a region on it."""
        if dataclasses.replace(view, steps=0) != dataclasses.replace(self.view(), steps=0):  # another change has come
            return
        figure, layout = picture.draw(self.explorer, view, self.canvas.figure)
        found = self.explorer.statistics(view)
        self.numbers.value = COPY + found.to_html(float_format="{:.4g}".format, border=0, na_rep="–")

        def select(*drawn: Any) -> None:
            """Make what was drawn the region: corners of a lasso, or where the mouse was pressed and released."""
            corners = drawn[0]
            if len(drawn) == 2:
                (x0, y0), (x1, y1) = ((event.xdata, event.ydata) for event in drawn)
                corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
            self.polygon, self.controls["region"].value = layout.pixels(corners), DRAWN
            self.show()

        selector = LassoSelector if self.others["mouse"].value == "lasso" else RectangleSelector
        self._selector = selector(figure.axes[0], select)  # ends when nothing refers to it
        self.canvas.draw()
        self.caption.value = html.escape(figure.get_label())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show the widgets where they run, and a sentence where they do not."""
        shown = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {"application/vnd.jupyter.widget-view+json": shown, "text/plain": STILL}


def _controls(explorer: Explorer, view: View) -> dict[Any, w.Widget]:
    """Return a widget per field of `View`, set to it."""
    label, last = datasets.LABELS, max(explorer.steps - 1, 0)
    choices = {
        "target": ("target", [(label[name], name) for name in explorer.targets]),
        "replacement": ("off means", explorer.replacements), "layer": ("layer", explorer.layers or [view.layer]),
        "network": ("network", (1, 2)), "region": ("region", explorer.regions),
        "variant": ("mask", [(drawings.VARIANTS[v], v) for v in explorer.variants] or [("none", view.variant)]),
    }  # fmt: skip
    controls = {name: w.Dropdown(options=options, value=getattr(view, name), description=title)
                for name, (title, options) in choices.items()}  # fmt: skip
    controls |= {
        "place": w.IntSlider(view.place, 0, len(explorer.subject.brain) - 1, description="slice, from 0", **LATE),
        "steps": w.IntSlider(view.steps, 0, last, description="steps", tooltip="0: all", **LATE),
        "samples": w.IntSlider(view.samples, 0, 16, description="samples", **LATE),
        "t": w.IntSlider(view.t, 0, last, description="step t", **LATE),
        "own_scale": w.Checkbox(view.own_scale, description="each its own scale"),
        "threshold": w.FloatSlider(view.threshold, min=0, max=1, step=0.01, description="above", **LATE),
    }  # fmt: skip
    for name in explorer.names(view):
        controls["off", name] = w.Checkbox(name in view.off, description="off", indent=False, layout={"width": "5em"})
        for change, (none, low, high, step) in CHANGES.items():
            options = {"min": low, "max": high, "step": step, "description": change} | LATE
            controls[change, name] = w.FloatSlider(dict(getattr(view, change)).get(name, none), **options)
    return controls
