"""The explorer's widgets: they set a `View` and show its picture and numbers."""

import html
import io
from typing import Any

from mudiff.analyses.attention import words
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.explorer import pictures
from mudiff.explorer.state import REGIONS, REPLACEMENTS, Explorer, View

STILL = "The explorer runs in JupyterLab: execute this cell there. The static panel shows the same content."
"""What stands in place of the widgets where a notebook is only read."""

_DPI = 80  # of the picture: sharp enough, and small in the notebook's file
_ROWS = {
    "pixels": ("pixels", "{:d}"),
    "mask": ("mask, mean", "{:.4f}"),
    "mask_sd": ("mask, standard deviation", "{:.4f}"),
    "mask_brain": ("mask, mean in the brain", "{:.4f}"),
    "truth": ("intensity of the truth", "{:.3f}"),
    "normal": ("of the synthesis, unchanged", "{:.3f}"),
    "changed": ("of the synthesis, changed", "{:.3f}"),
    "psnr_normal": ("PSNR of the unchanged (dB)", "{:.2f}"),
    "psnr_changed": ("PSNR of the changed (dB)", "{:.2f}"),
    "psnr_between": ("PSNR between both (dB)", "{:.2f}"),
}


class Panel:
    """The widgets of an explorer; a notebook shows it as the value of a cell.

    Attributes
    ----------
    controls : dict of str to Widget
        Field of `View` -> its widget.
    picture : Image
        The view, as PNG.
    numbers : HTML
        The statistics of the region, or what is wrong with the choice.
    box : VBox
        All of them.
    """

    def __init__(self, explorer: Explorer, view: View | None = None) -> None:
        import ipywidgets

        self.explorer = explorer
        self._resting = False
        self.controls = _controls(explorer, view or explorer.first())
        self.picture = ipywidgets.Image(format="png")
        self.numbers = ipywidgets.HTML()
        left = ipywidgets.VBox(list(self.controls.values()))
        self.box = ipywidgets.HBox([left, ipywidgets.VBox([self.picture, self.numbers])])
        for name, control in self.controls.items():
            control.observe(self._on_subject if name == "subject" else self._on_change, names="value")
        self.refresh()

    def view(self) -> View:
        """Return what the widgets are set to."""
        return View(**{name: control.value for name, control in self.controls.items()})

    def refresh(self) -> None:
        """Compute and show the present view."""
        view = self.view()
        try:
            figure = pictures.draw(self.explorer, view)
            self.numbers.value = _table(self.explorer, view)
        except MudiffError as error:
            self.numbers.value = f"<b>{html.escape(str(error))}</b>"
            return
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI)
        self.picture.value = buffer.getvalue()

    def _on_change(self, _: Any) -> None:
        if not self._resting:
            self.refresh()

    def _on_subject(self, _: Any) -> None:
        """Another subject has other slices: go to the one with its largest lesion."""
        start = self.explorer.first(self.controls["subject"].value)
        place = self.controls["place"]
        self._resting = True  # the slice's own change would draw a second time
        try:
            place.max = max(place.max, start.place)
            place.value = start.place
            place.max = self.explorer.count(start.subject) - 1
        finally:
            self._resting = False
        self.refresh()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show the widgets where they run, and a sentence where they do not."""
        shown = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {"application/vnd.jupyter.widget-view+json": shown, "text/plain": STILL}


def _controls(explorer: Explorer, view: View) -> dict[str, Any]:
    """Return a widget per field of `View`; sliders report when they are let go."""
    import ipywidgets as w

    names = [(datasets.LABELS[name], name) for name in explorer.names]
    last = explorer.slices.image_size - 1
    late = {"continuous_update": False}
    choices: dict[str, Any] = {
        "subject": w.Dropdown(options=explorer.slices.subjects, value=view.subject, description="subject"),
        "place": w.IntSlider(view.place, 0, explorer.count(view.subject) - 1, description="slice", **late),
        "off": w.SelectMultiple(options=names, value=view.off, rows=len(names), description="off"),
        "replacement": w.Dropdown(
            options=[(text, name) for name, text in REPLACEMENTS.items()],
            value=view.replacement,
            description="replaced by",
        ),
        "moved": w.Dropdown(options=[("none", ""), *names], value=view.moved, description="motion in"),
        "strength": w.FloatSlider(
            value=view.strength, min=0, max=3, step=0.5, description="strength", **late
        ),
        "t": w.IntSlider(view.t, 0, explorer.method.schedule.steps - 1, description="step t", **late),
        "network": w.Dropdown(options=[1, 2], value=view.network, description="network"),
        "variant": w.Dropdown(
            options=[(words.VARIANTS[name], name) for name in explorer.variants],
            value=view.variant,
            description="mask",
        ),
        "opacity": w.FloatSlider(value=view.opacity, min=0, max=1, step=0.1, description="opacity", **late),
        "white": w.FloatSlider(value=view.white, min=0.3, max=1, step=0.1, description="white at", **late),
        "region": w.Dropdown(options=REGIONS, value=view.region, description="region"),
        "rows": w.IntRangeSlider(value=view.rows, min=0, max=last, description="rows", **late),
        "columns": w.IntRangeSlider(value=view.columns, min=0, max=last, description="columns", **late),
    }
    return choices


def _table(explorer: Explorer, view: View) -> str:
    """Return the statistics of the view's region as an HTML table."""
    values = explorer.statistics(view)
    cells = "".join(
        f"<tr><td>{text}</td><td style='text-align:right'>{shape.format(values[name])}</td></tr>"
        for name, (text, shape) in _ROWS.items()
    )
    return f"<b>region: {view.region}</b><table>{cells}</table>"
