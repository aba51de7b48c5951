"""Imports go downward: a module may import from its own row and from the rows above it."""

import ast
from pathlib import Path

ROWS = (
    "errors paths tasks settings recipes config memory",
    "brain layouts resizing volumes manifests parallel devices slices data verify "
    "atlas anatomy lesions signals phantom motion",
    "metrics",
    "distributed layers features networks critic diffusion losses",
    "methods",
    "runs sample trainer train released",
    "stats cka fid segment",
    "scores budget plots pictures tables figures verdicts claims analysis_rules analysis_claims cohort_claims "
    "artefacts report report_style cohorts generalisation supplements significance "
    "mutual attention explorer robustness segmentation ablations uncertainty register effects",
    "notebook cli",
)
LEVELS = {module: level for level, row in enumerate(ROWS) for module in row.split()}
PACKAGE = Path(__file__).parent.parent / "mudiff"


def imported(path: Path) -> set[str]:
    """Names of the package's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "mudiff":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mudiff."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mudiff.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found - {"__version__"}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_go_downward():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = module_of(path)
        if module.startswith("__"):  # the package itself and `python -m mudiff`
            continue
        assert module in LEVELS, f"{path}: give the new module a row in {Path(__file__).name}"
        known = {name for name in imported(path) if name in LEVELS}  # the others are names of the package
        wrong += [f"{module} -> {other}" for other in known if LEVELS[other] > LEVELS[module]]
    assert wrong == []


def test_the_lists_of_names_are_light_enough_for_the_workflow():
    """The Snakefile imports these at every call; torch or matplotlib there would cost seconds."""
    heavy = {"torch", "matplotlib", "papermill", "nilearn", "nbconvert", "skimage"}
    for module in ("config", "settings", "tasks", "paths", "artefacts"):
        tree = ast.parse((PACKAGE / f"{module}.py").read_text())
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name.split(".")[0] for node in top for alias in node.names}
        names |= {(node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom)}
        assert not names & heavy, module
