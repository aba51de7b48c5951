"""The report: executed notebooks as HTML pages that need neither a network nor a script.

python -m mudiff.workflow.report demo     # results/demo/report/index.html from the executed notebooks
"""

import functools
import html
import re
import shutil
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mudiff import paths, storage
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.training import profiles
from mudiff.workflow import artefacts


def render_mathematics(text: str, keep: Callable[[str], str]) -> str:
    r"""Replace ``$...$`` and ``$$...$$`` of a Markdown text, outside code, by what `keep` returns for its MathML."""
    from latex2mathml.converter import convert

    def render(match: re.Match) -> str:
        if match["code"]:
            return match["code"]
        latex = match["block"] or match["inline"]
        try:
            mathml = convert(latex.strip(), display="block" if match["block"] else "inline")
        except Exception as error:  # the converter raises many kinds
            raise MudiffError(f"formula {latex!r}: cannot be converted to MathML ({error!r}).") from None
        if re.search(r"&(?!#?\w+;)", mathml):  # alignments come out as stray ampersands
            raise MudiffError(f"formula {latex!r}: alignments are not supported; give each line its own $$.")
        return keep(mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', ""))

    code = r"(?P<code>```.*?```|`[^`\n]+`)"
    block, inline = r"\$\$(?P<block>.+?)\$\$", r"(?<![\\$])\$(?P<inline>[^\s$`](?:[^$\n`]*[^\s$`])?)\$(?!\d)"
    return re.sub(f"{code}|{block}|{inline}", render, text, flags=re.DOTALL)


def render_notebook(path: Path) -> tuple[str, str]:
    """Return title and HTML body of an executed notebook, its formulas as MathML."""
    import nbformat

    book = nbformat.read(path, as_version=4)
    book.metadata.pop("widgets", None)
    kept: list[str] = []  # formulas, put aside until the Markdown is rendered

    def keep(mathml: str) -> str:
        kept.append(mathml)
        return f"\ue000{len(kept) - 1}\ue001"  # private characters pass through the Markdown renderer

    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = render_mathematics(cell.source, keep)
            continue
        cell.outputs = [output for output in cell.get("outputs", []) if not _is_dead(output.get("data", {}))]
        for data in (output.get("data", {}) for output in cell.outputs):
            if "text/markdown" in data:
                data["text/markdown"] = render_mathematics(data["text/markdown"], keep)
    titles = re.findall(r"^# (.+)$", book.cells[0].source, flags=re.MULTILINE)
    body, _ = _exporter().from_notebook_node(book)
    body = re.sub("\ue000(\\d+)\ue001", lambda match: kept[int(match[1])], body)
    body = body.replace("No description has been provided for this image", "Output of the code above")
    body = re.sub(r"<td>([^<]{29,})</td>", r'<td class="long">\1</td>', body)  # these may be broken
    body = re.sub(r"(<table.*?</table>)", r'<div class="wide">\1</div>', body, flags=re.DOTALL)
    return (titles or [path.stem])[0], body


@functools.cache
def _exporter() -> Any:
    """Return the converter, one for all notebooks: to make it costs more than to use it."""
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    exporter = HTMLExporter(template_name="basic")
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    exporter.log.setLevel("ERROR")
    return exporter


def _is_dead(data: dict[str, str]) -> bool:
    """Tell whether an output is nothing but a name for an object, such as a widget that needs a kernel."""
    name = r"\w+\(|<[\w. ]+ at 0x[0-9a-f]+>$|<function "
    return set(data) == {"text/plain"} and bool(re.match(name, data["text/plain"]))


def build(profile: str) -> Path:
    """Write ``results/<profile>/report/``, a page per executed notebook and the artefacts; return ``index.html``."""
    from bs4 import BeautifulSoup
    from pygments.formatters import HtmlFormatter

    profiles.profile(profile)
    executed, figures = paths.results(profile) / "executed", paths.root() / "figures" / profile
    books = sorted(p for p in executed.glob("[0-9]*.ipynb") if not p.name.endswith(".failed.ipynb"))
    if not (last := executed / "14_report.ipynb").exists():
        raise MudiffError(f"{last} not found; run the notebooks with make reproduce.")
    available = artefacts.at_hand(profile) or None
    artefacts.check_figures(figures, available)
    folder = paths.results(profile) / "report"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "figures").mkdir(parents=True)
    for name in artefacts.files(available=available):
        shutil.copy(figures / name, folder / "figures" / name)
    rendered = {path.stem: render_notebook(path) for path in books}
    pages = {stem: "index.html" if stem == "14_report" else f"{stem}.html" for stem in rendered}
    style, page = (Path(__file__).with_name(f"report.{end}").read_text("utf-8") for end in ("css", "html"))
    style += HtmlFormatter(style="default").get_style_defs(".highlight")
    for stem, (title, body) in rendered.items():
        if foreign := BeautifulSoup(body, "html.parser").select("script, link, iframe, [src]:not([src^='data:'])"):
            raise MudiffError(f"{stem}: {str(foreign[0])[:60]} in a cell; a page must hold all that it shows itself.")
        parts = {"title": html.escape(title), "menu": _menu(pages, stem), "body": _relink(body, pages)}
        storage.write_text(folder / pages[stem], page.format(style=style, **parts))
    return folder / "index.html"


def _menu(pages: dict[str, str], here: str) -> str:
    """Return the links to all pages; those of one notebook, a page for each of its jobs, under one heading."""
    groups: dict[str, list[str]] = {}
    for stem in sorted(pages, key=lambda stem: (pages[stem] != "index.html", stem)):
        groups.setdefault(_split(stem)[0], []).append(stem)
    parts = []
    for notebook, stems in groups.items():
        heading = f"{notebook[:2]} {notebook[3:].replace('_', ' ').capitalize()}"
        links = []
        for stem in stems:
            current = ' aria-current="page"' if stem == here else ""
            words = html.escape(_split(stem)[1] if len(stems) > 1 else heading)
            links.append(f'<a href="{pages[stem]}"{current}>{words}</a>')
        shown = " open" if here in stems else ""
        folded = [f"<details{shown}><summary>{heading}</summary>", *links, "</details>"]
        parts += folded if len(stems) > 1 else links
    return "\n".join(parts)


def _split(stem: str) -> tuple[str, str]:
    """Return the notebook of an executed copy, and its job as texts write it: 02_training_brats_t1 -> BraTS T1."""
    notebook, *job = re.split(rf"_(?=(?:{'|'.join(datasets.DATASETS)})(?:_|$))", stem, maxsplit=1)
    names = datasets.LABELS | datasets.METHODS | {k: cohort.label for k, cohort in datasets.DATASETS.items()}
    return notebook, " ".join(names.get(part, part) for part in "".join(job).split("_"))


def _relink(body: str, pages: dict[str, str]) -> str:
    """Point links to notebooks at their pages, and file names of the gallery at the files."""

    def page_of(match: re.Match) -> str:
        stem = Path(urllib.parse.unquote(match[1])).stem
        copies = [page for other, page in pages.items() if other == stem or other.startswith(stem + "_")]
        return f'href="{(copies or ["index.html"])[0]}"'

    body = re.sub(r'href="([^":]+\.ipynb)"', page_of, body)
    return re.sub(r'<code class="file">([^<]+)</code>', r'<a href="figures/\1">\1</a>', body)


if __name__ == "__main__":
    try:
        print(build(" ".join(sys.argv[1:])))
    except MudiffError as error:
        sys.exit(f"Error: {error}")
