"""The register of differences between paper and released code: data, and DIFFERENCES.md made of it.

python -m mudiff.workflow.register        # writes the register's part of DIFFERENCES.md anew
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mudiff import paths, storage
from mudiff.evaluation import tables

CHAPTERS = {
    "A": "Hyper-parameters", "B": "Data", "C": "Training", "D": "Architecture", "E": "Sampling", "F": "Evaluation",
    "G": "Packaging", "L": "Licence", "X": "Beyond the paper",
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


def read() -> list[Difference]:
    """Return the register, ``data_manifests/differences.toml``."""
    text = (paths.manifests() / "differences.toml").read_text(encoding="utf-8")
    return [Difference(**entry) for entry in tomllib.loads(text)["difference"]]


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
    """Return a document with the register between `BEGIN` and `END`."""
    above, _, rest = document.partition(BEGIN)
    return f"{above}{BEGIN}\n\n{markdown(register)}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    document = paths.root() / "DIFFERENCES.md"
    storage.write_text(document, filled(document.read_text(encoding="utf-8"), read()))
