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
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mudiff import paths
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.training import profiles
from mudiff.workflow import artefacts

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<nav><input type="checkbox" id="contents"><label for="contents">Contents</label>
<div class="menu">{menu}</div></nav>
<main>{body}</main>
</body>
</html>
"""

_OBJECT = re.compile(
    r"\w+\(|<[\w. ]+ at 0x[0-9a-f]+>$|<function "
)  # text that stands for an object or a widget


def render_mathematics(text: str, keep: Callable[[str], str]) -> str:
    r"""Replace ``$...$`` and ``$$...$$`` of a Markdown text by MathML, outside code.

    Parameters
    ----------
    text : str
        Markdown.
    keep : callable
        Takes the MathML and returns what stands for it until the Markdown is rendered.

    Raises
    ------
    MudiffError
        If a formula cannot be converted.
    """
    from latex2mathml.converter import convert

    def render(match: re.Match) -> str:
        """Return one formula as MathML, code as it is."""
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
    kept: list[str] = []

    def keep(mathml: str) -> str:
        """Put a formula aside and return the mark that stands for it."""
        kept.append(mathml)
        return f"\ue000{len(kept) - 1}\ue001"  # private characters pass through the Markdown renderer

    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = render_mathematics(cell.source, keep)
        cell.update({"outputs": [o for o in cell.outputs if not _is_dead(o)]} if "outputs" in cell else {})
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = render_mathematics(output.data["text/markdown"], keep)
    titles = re.findall(r"^# (.+)$", book.cells[0].source, flags=re.MULTILINE) if book.cells else []
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


def _is_dead(output: Any) -> bool:
    """Tell whether an output is nothing but a name for an object, such as a widget that needs a kernel."""
    data = output.get("data", {})
    return set(data) == {"text/plain"} and bool(_OBJECT.match(data["text/plain"]))


def build(profile: str, figures: Path | None = None) -> Path:
    """Write ``results/<profile>/report/``: one page per executed notebook, and the artefacts.

    Everything that the pages show lies in that folder; they need neither a network nor a script.

    Parameters
    ----------
    profile : str
        Name of the profile.
    figures : Path, optional
        The figures' folder; ``figures/<profile>`` if not given.

    Returns
    -------
    Path
        ``index.html``, the page of 14_report.

    Raises
    ------
    MudiffError
        If the notebooks have not been executed, an artefact is missing or left over, or a page would
        need something from outside.
    """
    from pygments.formatters import HtmlFormatter

    profiles.profile(profile)
    executed = paths.results(profile) / "executed"
    figures = figures or paths.root() / "figures" / profile
    books = sorted(p for p in executed.glob("[0-9]*.ipynb") if not p.name.endswith(".failed.ipynb"))
    if not (executed / "14_report.ipynb").exists():
        raise MudiffError(f"{executed / '14_report.ipynb'} not found; run the notebooks with make reproduce.")
    available = artefacts.at_hand(profile) or None
    artefacts.check_figures(figures, available)
    folder = paths.results(profile) / "report"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "figures").mkdir(parents=True)
    for name in artefacts.files(available=available):
        shutil.copy(figures / name, folder / "figures" / name)
    rendered = {path.stem: render_notebook(path) for path in books}
    pages = {stem: "index.html" if stem == "14_report" else f"{stem}.html" for stem in rendered}
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    code_style = HtmlFormatter(style="default").get_style_defs(".highlight")
    for stem, (title, body) in rendered.items():
        text = PAGE.format(
            title=html.escape(title),
            style=style + code_style,
            menu=_menu(pages, stem),
            body=_relink(body, pages),
        )
        paths.write_text(folder / pages[stem], text)
    check_pages(folder)
    return folder / "index.html"


def _menu(pages: dict[str, str], here: str) -> str:
    """Return the links to all pages; those of one notebook, a page for each of its jobs, under one heading."""
    groups: dict[str, list[str]] = {}
    for stem in sorted(pages, key=lambda stem: (pages[stem] != "index.html", stem)):
        groups.setdefault(_split(stem)[0], []).append(stem)
    parts = []
    for notebook, stems in groups.items():
        number, _, name = notebook.partition("_")
        heading = f"{number} {name.replace('_', ' ').capitalize()}"
        links = []
        for stem in stems:
            current = ' aria-current="page"' if stem == here else ""
            words = _split(stem)[1] if len(stems) > 1 else heading
            links.append(f'<a href="{pages[stem]}"{current}>{html.escape(words)}</a>')
        if len(stems) > 1:
            shown = " open" if here in stems else ""
            links = [f"<details{shown}><summary>{heading}</summary>", *links, "</details>"]
        parts += links
    return "\n".join(parts)


def _split(stem: str) -> tuple[str, str]:
    """Return the notebook of an executed copy, and its job as texts write it: 02_training_brats_t1 -> BraTS T1."""
    notebook, *job = re.split(rf"_(?=(?:{'|'.join(datasets.DATASETS)})(?:_|$))", stem, maxsplit=1)
    names = {name: cohort.label for name, cohort in datasets.DATASETS.items()}
    names |= datasets.LABELS | datasets.METHODS
    return notebook, " ".join(names.get(part, part) for part in "".join(job).split("_"))


def _relink(body: str, pages: dict[str, str]) -> str:
    """Point links to notebooks at their pages, and file names of the gallery at the files."""

    def page_of(match: re.Match) -> str:
        stem = Path(urllib.parse.unquote(match[1])).stem
        copies = [page for other, page in pages.items() if other == stem or other.startswith(stem + "_")]
        return f'href="{(copies or ["index.html"])[0]}"'

    body = re.sub(r'href="([^":]+\.ipynb)"', page_of, body)
    return re.sub(r'<code class="file">([^<]+)</code>', r'<a href="figures/\1">\1</a>', body)


class _Sources(HTMLParser):
    """Collects what a page loads, where it links to, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag's references."""
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag == "script" or (tag != "a" and (values.get("src") or values.get("href"))):
            self.loaded.append(values.get("src") or values.get("href") or "inline script")
        self.anchors.update(values[key] for key in ("id", "name") if values.get(key))


def check_pages(folder: Path) -> None:
    """Check that the pages of a folder stand alone.

    Raises
    ------
    MudiffError
        If a page loads a script, a style or an image from outside, or links to a file or anchor that is
        not there.
    """
    parsed = {}
    for page in sorted(Path(folder).glob("*.html")):
        text = page.read_text(encoding="utf-8")
        parsed[page.name] = _Sources()
        parsed[page.name].feed(text)
        if re.search(r"url\(\s*['\"]?(?!data:)|@import", text[: text.find("</head>")]):
            raise MudiffError(f"{page}: the style loads something from outside.")
    for name, sources in parsed.items():
        for target in sources.loaded:
            if not target.startswith("data:") and (":" in target or not (Path(folder) / target).exists()):
                raise MudiffError(f"{Path(folder) / name}: loads {target!r}, which is not in the report.")
        for target in sources.links:
            file, _, anchor = target.partition("#")
            if ":" in file:  # a link to the web is the reader's choice
                continue
            file = urllib.parse.unquote(file or name)
            anchors = parsed[file].anchors if file in parsed else {anchor}
            known = not anchor or not anchors.isdisjoint((anchor, urllib.parse.unquote(anchor)))
            if not (Path(folder) / file).exists() or not known:
                raise MudiffError(f"{Path(folder) / name}: the link to {target!r} leads nowhere.")


def main(argv: list[str] | None = None) -> int:
    """Write the report of the profile named on the command line; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if len(arguments) != 1:
            raise MudiffError("give one profile: python -m mudiff.workflow.report demo")
        print(build(arguments[0]))
    except MudiffError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
