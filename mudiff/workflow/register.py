"""The register of differences between paper and released code: data, checks, and DIFFERENCES.md made of it.

python -m mudiff.workflow.register        # writes the register's part of DIFFERENCES.md anew
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mudiff import paths
from mudiff.errors import MudiffError
from mudiff.evaluation import tables
from mudiff.settings import Settings
from mudiff.training import profiles

CHAPTERS = {
    "A": "Hyper-parameters", "B": "Data", "C": "Training", "D": "Architecture", "E": "Sampling", "F": "Evaluation",
    "G": "Packaging", "L": "Licence",
}  # fmt: skip
"""Letter of an id -> the chapter's title."""

SEVERITIES = ("results", "method", "minor")
"""Changes a number or its meaning; matters to whoever writes the method anew; neither."""

BEGIN, END = "<!-- register: begin -->", "<!-- register: end -->"
"""What stands in DIFFERENCES.md before and after the part that is made from the data."""


@dataclass(frozen=True)
class Difference:
    """What the paper says, what the released code does, what is done here."""

    id: str  # letter of the chapter and number, such as "A-2"
    severity: str  # of `SEVERITIES`
    paper: str
    code: str
    here: str  # and why, where there is no field
    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # of `Settings` -> values: released, text

    @property
    def setting(self) -> str:
        """The fields and their values as Markdown, ``released`` first; a dash where there is none."""
        both = {name: dict.fromkeys(map(_value, values)) for name, values in self.fields.items()}  # equal ones once
        return "; ".join(f"`{name}` {' → '.join(values)}" for name, values in both.items()) or "–"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


def read(path: Path | None = None) -> list[Difference]:
    """Return the register, by default of ``data_manifests/differences.toml``; refuse one with `problems`."""
    path = Path(path or paths.manifests() / "differences.toml")
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["difference"]
        register = [Difference(**entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MudiffError(f"{path}: cannot be read as the register ({error}); restore it from git.") from None
    for wrong in problems(register):
        raise MudiffError(f"{path}: {wrong}; correct the register or mudiff/training/profiles.py.")
    return register


def problems(register: Sequence[Difference]) -> Iterator[str]:
    """Yield what is wrong with a register, above all what it says of the settings and is not so."""
    ids, published = [one.id for one in register], Settings().to_dict()
    for one in register:
        if not re.fullmatch(rf"[{''.join(CHAPTERS)}]-[1-9]\d*", one.id) or ids.count(one.id) > 1:
            yield f"{one.id}: expected a letter of {''.join(CHAPTERS)} and a number, as in A-2, each once"
        if one.severity not in SEVERITIES:
            yield f"{one.id}: severity is {one.severity!r}; expected one of {', '.join(SEVERITIES)}"
        for name, stated in one.fields.items():
            actual = [published.get(name), profiles.TEXT.get(name, published.get(name))]
            if name not in published:
                yield f"{one.id}: there is no setting {name!r}"
            elif [*map(repr, stated)] != [*map(repr, actual)]:  # 30 is not 30.0, and 0 is not False
                yield f"{one.id}: {name} is {actual} in variants released and text, not {stated}"


def markdown(register: Iterable[Difference]) -> str:
    """Return the register as Markdown, a table for each chapter; ids of severity "results" are bold."""
    register, blocks = list(register), []
    for letter, title in CHAPTERS.items():
        part = [one for one in register if one.id[0] == letter]
        if part:
            columns = ["paper", "released code", "setting: `released` → `text`", "here"]
            names = [f"**{one.id}**" if one.severity == "results" else one.id for one in part]
            rows = [(one.paper, one.code, one.setting, one.here) for one in part]
            frame = pd.DataFrame(rows, index=names, columns=columns).replace("-", "–")
            blocks.append(tables.markdown({"id": frame}, f"### {letter}. {title}", align="---"))
    return "\n".join(blocks)


def filled(document: str, register: Iterable[Difference]) -> str:
    """Return a document with the register between `BEGIN` and `END`, which it must have, once and in this order."""
    parts = re.fullmatch(f"((?s:.*)){BEGIN}(?s:.*){END}((?s:.*))", document)
    if parts is None or document.count(BEGIN) + document.count(END) != 2:
        raise MudiffError(f"DIFFERENCES.md: expected one line {BEGIN} and, below it, one line {END}.")
    return f"{parts[1]}{BEGIN}\n\n{markdown(register)}\n{END}{parts[2]}"


if __name__ == "__main__":
    document = paths.root() / "DIFFERENCES.md"
    paths.write_text(document, filled(document.read_text(encoding="utf-8"), read()))
