"""The register of differences between paper and released code: data, checks, and DIFFERENCES.md made of it.

python -m mudiff.workflow.register        # writes the register's part of DIFFERENCES.md anew
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mudiff import paths
from mudiff.errors import MudiffError
from mudiff.settings import Settings
from mudiff.training import profiles

CHAPTERS = {
    "A": ("training", "Hyper-parameters"),
    "B": ("data", "Data"),
    "C": ("training", "Training"),
    "D": ("architecture", "Architecture"),
    "E": ("sampling", "Sampling"),
    "F": ("metrics", "Evaluation"),
    "G": ("packaging", "Packaging"),
    "L": ("packaging", "Licence"),
}
"""Letter of an id -> the group that it belongs to, and the chapter's title."""

SEVERITIES = ("results", "method", "minor")
"""Changes a number or its meaning; matters to whoever writes the method anew; neither."""

BEGIN, END = "<!-- register: begin -->", "<!-- register: end -->"
"""What stands in DIFFERENCES.md before and after the part that is made from the data."""

_TEXTS = ("id", "severity", "paper", "code", "here")


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes
    ----------
    id : str
        Letter of the chapter and number, such as "A-2".
    severity : str
        One of `SEVERITIES`.
    paper, code, here : str
        What the paper says, what the released code does, what this package does.
    fields : dict of str to tuple
        Field of `Settings` -> its value in variant ``released`` and in variant ``text``; empty where no field
        stands for the difference, and then `here` says why.
    """

    id: str
    severity: str
    paper: str
    code: str
    here: str
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """What it concerns: metrics, sampling, training, architecture, data or packaging."""
        return CHAPTERS[self.id[0]][0]

    @property
    def setting(self) -> str:
        """The fields and their values as Markdown, ``released`` first; a dash where there is none."""
        words = []
        for name, (released, text) in self.fields.items():
            other = "" if released == text else f" → {_value(text)}"
            words.append(f"`{name}` {_value(released)}{other}")
        return "; ".join(words) or "–"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


def read(path: Path | None = None) -> list[Difference]:
    """Return the register, in its order.

    Parameters
    ----------
    path : Path, optional
        The file; by default ``data_manifests/differences.toml``.

    Raises
    ------
    MudiffError
        If the file is missing or damaged, an entry is incomplete, an id is there twice, or a stated value is not
        that of `Settings`.
    """
    path = Path(path or paths.manifests() / "differences.toml")
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["difference"]
    except (OSError, ValueError, KeyError) as error:
        raise MudiffError(f"{path}: cannot be read as the register ({error}); restore it from git.") from None
    register = [_entry(path, entry) for entry in entries]
    ids = [difference.id for difference in register]
    for twice in sorted({name for name in ids if ids.count(name) > 1}):
        raise MudiffError(f"{path}: {twice} is there {ids.count(twice)} times; keep one of them.")
    for wrong in disagreements(register):
        raise MudiffError(f"{path}: {wrong}; correct the register or mudiff/training/profiles.py.")
    return register


def _entry(path: Path, entry: dict[str, Any]) -> Difference:
    name = entry.get("id", "an entry without id")
    if not re.fullmatch(rf"[{''.join(CHAPTERS)}]-[1-9]\d*", name):
        raise MudiffError(
            f"{path}: {name}: expected a letter of {''.join(CHAPTERS)} and a number, as in A-2."
        )
    texts = {key: entry.get(key, "") for key in _TEXTS}
    unknown = entry.keys() - {*_TEXTS, "fields"}
    missing = [key for key, text in texts.items() if not (isinstance(text, str) and text)]
    if unknown or missing or texts["severity"] not in SEVERITIES:
        wrong = ", ".join(sorted(unknown) or missing or ["severity"])
        raise MudiffError(
            f"{path}: {name}: check {wrong}; expected {', '.join(_TEXTS)} and, if wanted, fields."
        )
    pairs = entry.get("fields", {})
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs.values()):
        raise MudiffError(f"{path}: {name}: each field has two values, of released and of text.")
    return Difference(**texts, fields={key: tuple(pair) for key, pair in pairs.items()})


def disagreements(register: Iterable[Difference]) -> list[str]:
    """Return what the register says of the settings and is not so, as sentences without full stop."""
    published = Settings().to_dict()
    wrong = []
    for difference in register:
        for name, stated in difference.fields.items():
            if name not in published:
                wrong.append(f"{difference.id}: there is no setting {name!r}")
                continue
            actual = (published[name], profiles.TEXT.get(name, published[name]))
            for variant, says, has in zip(("released", "text"), stated, actual, strict=True):
                if (type(says), says) != (type(has), has):
                    wrong.append(f"{difference.id}: {name} is {has!r} in variant {variant}, not {says!r}")
    return wrong


def undocumented(register: Iterable[Difference]) -> list[str]:
    """Return the fields in which variant ``text`` differs from ``released`` and that no entry names."""
    named = {name for difference in register for name in difference.fields}
    return sorted(profiles.TEXT.keys() - named)


# Rendering


def markdown(register: Iterable[Difference]) -> str:
    """Return differences as one Markdown table; ids of severity "results" are bold."""
    lines = ["| id | paper | released code | setting: `released` → `text` | here |", "|---|---|---|---|---|"]
    for one in register:
        name = f"**{one.id}**" if one.severity == "results" else one.id
        cells = (name, one.paper, one.code, one.setting, one.here)
        lines.append(f"| {' | '.join('–' if cell == '-' else cell for cell in cells)} |")
    return "\n".join(lines) + "\n"


def chapters(register: Iterable[Difference]) -> str:
    """Return the whole register as Markdown, a table for each chapter."""
    register = list(register)
    blocks = []
    for letter, (_, title) in CHAPTERS.items():
        part = [one for one in register if one.id[0] == letter]
        if part:
            blocks.append(f"### {letter}. {title}\n\n{markdown(part)}")
    return "\n".join(blocks)


def filled(document: str, register: Iterable[Difference]) -> str:
    """Return a document with the register between `BEGIN` and `END`.

    Raises
    ------
    MudiffError
        If the document does not have both, once and in this order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise MudiffError(f"DIFFERENCES.md: expected one line {BEGIN} and, below it, one line {END}.")
    return f"{before}{BEGIN}\n\n{chapters(register)}\n{END}{after}"


def main() -> None:
    """Write the register's part of DIFFERENCES.md anew."""
    path = paths.root() / "DIFFERENCES.md"
    paths.write_text(path, filled(path.read_text(encoding="utf-8"), read()))


if __name__ == "__main__":
    main()
