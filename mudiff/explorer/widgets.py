"""The explorer's pictures, and the widgets that set a `View` and show its picture and numbers."""

import dataclasses
import html
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.evaluation import metrics, tables
from mudiff.explorer.state import REGIONS, REPLACEMENTS, Explorer, View
from mudiff.plots import attention as drawings
from mudiff.plots import style
from mudiff.plots.style import draw_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STILL = "The explorer runs in JupyterLab: execute this cell there. The static panel shows the same content."
OFF = dict(zip(REPLACEMENTS, ("left out, by the run of target any", "black", "its mean in the brain"), strict=True))
LARGEST = 0.2  # of the difference's colours, fraction of the intensity range


def changes(view: View) -> str:
    """Return what the view changes, in words."""
    parts = [f"{datasets.LABELS[name]} off" for name in view.off]
    parts += [f"{datasets.LABELS[view.moved]} with motion {view.strength:g}"] if view.moved else []
    return ", ".join(parts) or "nothing changed"


def draw(explorer: Explorer, view: View) -> "Figure":
    """Draw a view: conditions as the networks got them, truth, syntheses, difference, mask and region."""
    normal, changed = explorer.normal(view), explorer.synthesis(view)
    target, columns = explorer.method.settings.target, max(4, len(explorer.names) + 1)
    with style.style():
        figure = style.new_figure(1.75 * columns, 3.9)
        axes = figure.subplots(2, columns)
        for axis, name, image in zip(axes[0], explorer.names, changed.conditions, strict=False):
            off = " (off)" if name in view.off else " (moved)" if name == view.moved else ""
            _grey(axis, image, name, datasets.LABELS[name] + off)
        _grey(axes[0, -1], explorer.truth(view), target, "truth")
        whole = " (run any)" if view.leaves_out else ""
        _grey(axes[1, 0], normal.image, target, f"synthesis, unchanged{whole}")
        _grey(axes[1, 1], changed.image, target, "synthesis, changed")
        bar = draw_error(axes[1, 2], changed.image - normal.image, LARGEST)
        axes[1, 2].set_title("difference", fontsize=8)
        brain = explorer.zone(view, "brain")
        shown = drawings.mask(axes[1, 3], explorer.mask(view), brain, explorer.scale(view))
        axes[1, 3].set_title(f"$M_{view.network}$, {drawings.VARIANTS[view.variant]}, t = {view.t}", fontsize=8)
        for axis, colours in zip(axes[1, 2:4], (bar, shown), strict=True):
            figure.colorbar(colours, ax=axis, shrink=0.7, pad=0.02)
        for axis in (axes[1, 1], axes[1, 3]):
            drawings.outline(axis, explorer.zone(view, view.region))
        for axis in axes.ravel():
            if axis.has_data():
                style.crop(axis, style.square(brain))
            else:
                axis.remove()
    return figure


def _grey(axis: "Axes", image: np.ndarray, contrast: str, title: str) -> None:
    style.show(axis, image, contrast)
    axis.set_title(title, fontsize=8)


def scenarios(explorer: Explorer, view: View) -> dict[str, View]:
    """Return what the static panel shows: nothing changed, each condition off, and motion in FLAIR."""
    start = view.unchanged()
    found = [start, *(dataclasses.replace(start, off=(name,)) for name in explorer.names)]
    first = "flair" if "flair" in explorer.names else explorer.names[0]
    found += [dataclasses.replace(start, moved=first, strength=strength) for strength in (1.0, 3.0)]
    return {changes(v): v for v in found}


def static(explorer: Explorer, view: View, profile: str) -> "Figure":
    """Draw the explorer's content where no widget runs: one column per change, see `scenarios`."""
    views, target = scenarios(explorer, view), explorer.method.settings.target
    truth, brain = explorer.truth(view), explorer.zone(view, "brain")
    lesion = explorer.slices.lesion([explorer.index(view)])[0] > 0
    with style.style():
        figure = style.new_figure(1.45 * len(views) + 0.9, 5.0)
        axes = figure.subplots(3, len(views))
        for column, (title, chosen) in zip(axes.T, views.items(), strict=True):
            image = explorer.synthesis(chosen).image
            _grey(column[0], image, target, title.replace(" with", "\nwith"))
            psnr = metrics.masked_protocol(truth, image, brain)["psnr"]
            normal = explorer.normal(chosen).image
            before = metrics.masked_protocol(truth, normal, brain)["psnr"]
            column[0].set_xlabel(f"{before:.1f} → {psnr:.1f} dB", fontsize=7, labelpad=2)
            change = draw_error(column[1], image - normal, LARGEST)
            mask = drawings.mask(column[2], explorer.mask(chosen), brain, explorer.scale(view))
            for axis in column:
                drawings.outline(axis, lesion)
                style.crop(axis, style.square(brain))
        for axis, name in zip(axes[:, 0], ("synthesis", "difference", f"$M_{view.network}$"), strict=True):
            axis.set_ylabel(name)
        figure.colorbar(change, ax=list(axes[1]), shrink=0.8, pad=0.01, label="changed − unchanged")
        figure.colorbar(mask, ax=list(axes[2]), shrink=0.8, pad=0.01, label="M")
        slices = len(explorer.slices.subject(view.subject))
        text = (
            f"{datasets.LABELS[target]} of subject {view.subject}, slice {view.place + 1} of {slices}, sampled with "
            f"the same noise from changed conditions: one is off ({OFF[view.replacement]}), or has motion (strength "
            "1 is mild, 3 severe). Lesion outlined; PSNR of the brain without and with the change, by one run. Mask: "
            f"{drawings.VARIANTS[view.variant]}, t = {view.t}, with the range of its values."
        )
        style.caption(figure, text, tables.about(profile))
    return figure


class Panel:
    """The value of a notebook's cell: `controls`, one per field of `View`, its `picture` and its `numbers`."""

    def __init__(self, explorer: Explorer, view: View | None = None) -> None:
        import ipywidgets

        self.explorer, self.controls = explorer, _controls(explorer, view or explorer.first())
        self.picture = ipywidgets.Image(format="png")
        self.numbers = ipywidgets.HTML().add_class("jp-RenderedHTMLCommon")  # as JupyterLab shows a frame
        shown = ipywidgets.VBox([self.picture, self.numbers])
        self.box = ipywidgets.HBox([ipywidgets.VBox(list(self.controls.values()), layout={"flex": "none"}), shown])
        for control in self.controls.values():
            control.observe(self._on_change, names="value")
        self.refresh()

    def view(self) -> View:
        """Return what the widgets are set to."""
        return View(**{name: control.value for name, control in self.controls.items()})

    def refresh(self) -> None:
        """Compute and show the present view; controls without effect on it are greyed."""
        view = self.view()
        drawn = view.region == "rectangle"
        used = {"replacement": view.off, "strength": view.moved, "rows": drawn, "columns": drawn}
        for name, needed in used.items():
            self.controls[name].disabled = not needed
        try:
            figure = draw(self.explorer, view)
            found = pd.Series(self.explorer.statistics(view)).to_frame(view.region)
            self.numbers.value = found.to_html(float_format="{:.4g}".format, border=0)
        except MudiffError as error:
            self.numbers.value = f"<b>{html.escape(str(error))}</b>"
            return
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)  # the page shrinks it to the cell's width
        self.picture.value = buffer.getvalue()

    def _on_change(self, change: Any) -> None:
        """Show the new view; another subject has other slices: go to the one with its largest lesion."""
        if change["owner"] is self.controls["subject"]:
            start, place = self.explorer.first(change["new"]), self.controls["place"]
            place.unobserve(self._on_change, "value")  # it would draw a second time
            place.max = max(place.max, start.place)
            place.value = start.place
            place.max = len(self.explorer.slices.subject(start.subject)) - 1
            place.observe(self._on_change, "value")
        self.refresh()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show the widgets where they run, and a sentence where they do not."""
        shown = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {"application/vnd.jupyter.widget-view+json": shown, "text/plain": STILL}


def _controls(explorer: Explorer, view: View) -> dict[str, Any]:
    """Return a widget per field of `View`; sliders report when they are let go."""
    import ipywidgets as w

    names = [(datasets.LABELS[name], name) for name in explorer.names]
    kinds = [(drawings.VARIANTS[name], name) for name in explorer.variants]
    last, places = explorer.slices.image_size - 1, len(explorer.slices.subject(view.subject))
    late = {"continuous_update": False}
    return {
        "subject": w.Dropdown(options=explorer.slices.subjects, value=view.subject, description="subject"),
        "place": w.IntSlider(view.place, 0, places - 1, description="slice", **late),
        "off": w.SelectMultiple(options=names, value=view.off, rows=len(names), description="off"),
        "replacement": w.Dropdown(options=explorer.replacements, value=view.replacement, description="replaced by"),
        "moved": w.Dropdown(options=[("none", ""), *names], value=view.moved, description="motion in"),
        "strength": w.FloatSlider(view.strength, min=0, max=3, step=0.5, description="strength", **late),
        "t": w.IntSlider(view.t, 0, explorer.method.schedule.steps - 1, description="step t", **late),
        "network": w.Dropdown(options=[1, 2], value=view.network, description="network"),
        "variant": w.Dropdown(options=kinds, value=view.variant, description="mask"),
        "region": w.Dropdown(options=REGIONS, value=view.region, description="region"),
        "rows": w.IntRangeSlider(value=view.rows, min=0, max=last, description="rows", **late),
        "columns": w.IntRangeSlider(value=view.columns, min=0, max=last, description="columns", **late),
    }
