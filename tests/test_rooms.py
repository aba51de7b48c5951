"""Imports go downward: a file may import from its own room and from those above it in this list."""

import ast
from collections.abc import Iterable
from pathlib import Path

ROOMS = (
    ["errors", "paths", "storage", "cache"], ["data"], ["phantoms"], ["settings"], ["model"], ["methods"],
    ["training"], ["synthesis"], ["evaluation"], ["analyses", "plots"],  # side by side: neither imports the other
    ["explorer"], ["workflow"], ["cli"],
)  # fmt: skip
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
PACKAGE = Path(__file__).parents[1] / "mudiff"


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names that some statements import, such as "torch" and "mudiff.data.files"."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_imports_go_downward():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room.startswith("__"):  # the package itself and `python -m mudiff`
            continue
        assert room in LEVELS, f"{path}: no such room"
        names = [name.split(".") for name in imported(ast.walk(ast.parse(path.read_text())))]
        for other in {name[1] for name in names if name[0] == "mudiff"} - {room, "__version__"}:
            if LEVELS[other] > LEVELS[room] or (LEVELS[other] == LEVELS[room] and other not in ROOMS[0]):
                wrong.append(f"{path.relative_to(PACKAGE)} -> {other}")
    assert wrong == []


def test_what_the_snakefile_imports_is_light():
    """Torch or matplotlib there would cost seconds at every call."""
    heavy = {"torch", "matplotlib", "papermill", "nilearn", "nbconvert", "skimage"}
    for module in ("settings", "paths", "storage", "data/datasets", "training/profiles", "workflow/artefacts"):
        top = imported(ast.parse((PACKAGE / f"{module}.py").read_text()).body)
        assert not {name.split(".")[0] for name in top} & heavy, module
