"""The report: executed notebooks as HTML pages that need neither a network nor a script.

python -m mudiff.report demo     # results/demo/report/index.html from the executed notebooks
"""

import html
import re
import shutil
import sys
import urllib.parse
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from mudiff import artefacts, config, paths
from mudiff.errors import MudiffError


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
    from nbconvert import HTMLExporter

    book = nbformat.read(path, as_version=4)
    kept: list[str] = []

    def keep(mathml: str) -> str:
        """Put a formula aside and return the mark that stands for it."""
        kept.append(mathml)
        return f"\ue000{len(kept) - 1}\ue001"  # private characters pass through the Markdown renderer

    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = render_mathematics(cell.source, keep)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = render_mathematics(output.data["text/markdown"], keep)
    titles = re.findall(r"^# (.+)$", book.cells[0].source, flags=re.MULTILINE) if book.cells else []
    exporter = HTMLExporter(template_name="basic")
    exporter.log.setLevel("ERROR")
    body, _ = exporter.from_notebook_node(book)
    body = re.sub("\ue000(\\d+)\ue001", lambda match: kept[int(match[1])], body)
    body = body.replace("No description has been provided for this image", "Output of the code above")
    return (titles or [path.stem])[0], body


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

    config.profile(profile)
    executed = paths.results(profile) / "executed"
    figures = figures or paths.root() / "figures" / profile
    books = sorted(p for p in executed.glob("[0-9]*.ipynb") if not p.name.endswith(".failed.ipynb"))
    if not (executed / "14_report.ipynb").exists():
        raise MudiffError(f"{executed / '14_report.ipynb'} not found; run the notebooks with make reproduce.")
    datasets = artefacts.at_hand(profile) or None
    artefacts.check_figures(figures, datasets)
    folder = paths.results(profile) / "report"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "figures").mkdir(parents=True)
    for name in artefacts.files(datasets=datasets):
        shutil.copy(figures / name, folder / "figures" / name)
    rendered = {path.stem: render_notebook(path) for path in books}
    pages = {stem: "index.html" if stem == "14_report" else f"{stem}.html" for stem in rendered}
    code_style = HtmlFormatter(style="default").get_style_defs(".highlight")
    for stem, (title, body) in rendered.items():
        menu = " ".join(
            f'<a href="{page}"{" class=here" if other == stem else ""}>{other.replace("_", " ")}</a>'
            for other, page in pages.items()
        )
        text = PAGE.format(
            title=html.escape(title), style=STYLE + code_style, menu=menu, body=_relink(body, pages)
        )
        paths.write_text(folder / pages[stem], text)
    check_pages(folder)
    return folder / "index.html"


def _relink(body: str, pages: dict[str, str]) -> str:
    """Point links to notebooks at their pages, and file names of the gallery at the files."""

    def notebook(match: re.Match) -> str:
        """Return the link to the page of a notebook."""
        stem = Path(urllib.parse.unquote(match[1])).stem
        copies = [page for other, page in pages.items() if other == stem or other.startswith(stem + "_")]
        return f'href="{copies[0]}"' if copies else 'href="index.html"'

    body = re.sub(r'href="([^":]+\.ipynb)"', notebook, body)
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
            file, anchor = urllib.parse.unquote(file or name), urllib.parse.unquote(anchor)
            known = anchor in parsed[file].anchors if anchor and file in parsed else True
            if not (Path(folder) / file).exists() or not known:
                raise MudiffError(f"{Path(folder) / name}: the link to {target!r} leads nowhere.")


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<nav>{menu}</nav>
<main>{body}</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; color: #1a1a1a; background: #fff; display: flex; }
nav { flex: 0 0 15rem; padding: 1.5rem 1rem; background: #f4f6f8; border-right: 1px solid #dde2e7;
      height: 100vh; position: sticky; top: 0; overflow: auto; font-size: .88rem; }
nav a { display: block; padding: .22rem .5rem; border-radius: .3rem; color: #234; text-decoration: none; }
nav a.here, nav a:hover { background: #dfe8f1; }
main { flex: 1 1 auto; max-width: 62rem; min-width: 0; padding: 1.5rem 2.5rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.25; } h2 { margin-top: 2.2rem; font-size: 1.3rem; }
.anchor-link, .prompt { display: none; }
img { max-width: 100%; height: auto; }
math[display=block] { margin: 1rem 0; font-size: 1.1em; padding-block: .4rem; overflow: auto hidden; }
pre { margin: .5rem 0; padding: .6rem .8rem; overflow-x: auto; font-size: .84rem; line-height: 1.45; }
.highlight pre { background: #f7f7f5; border: 1px solid #e6e6e1; border-radius: .4rem; }
.output_area pre { background: none; border-left: 3px solid #cdd6df; white-space: pre-wrap; }
.output_area { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .6rem 0; }
th, td { padding: .28rem .6rem; border-bottom: 1px solid #e2e2e2; text-align: left; vertical-align: top; }
th { background: #f4f6f8; }
details { margin: .5rem 0; padding: .4rem .8rem; background: #f7f9fb; border-radius: .4rem; }
summary { cursor: pointer; font-weight: 600; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.tile { margin: 0; padding: .7rem; border: 1px solid #dde2e7; border-radius: .4rem; overflow: hidden; }
.tile table { font-size: .68rem; } figcaption { font-size: .85rem; margin-top: .4rem; }
@media (max-width: 50rem) { body { display: block; } nav { height: auto; position: static; } }
@media print { nav { display: none; } main { max-width: none; padding: 0; } body { font-size: 10pt; }
  img, figure, tr, .tile, math { break-inside: avoid; } h1, h2, h3 { break-after: avoid; }
  pre { white-space: pre-wrap; } details > * { display: block; } .gallery { display: block; } }
"""


def main(argv: list[str] | None = None) -> int:
    """Write the report of the profile named on the command line; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if len(arguments) != 1:
            raise MudiffError("give one profile: python -m mudiff.report demo")
        print(build(arguments[0]))
    except MudiffError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
