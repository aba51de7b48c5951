"""One set of pinned versions: the lock, the conda environment and what is installed agree."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
CUDA = re.compile(r"nvidia|cuda|cupy|triton", re.IGNORECASE)
UNPINNED = {"pip", "setuptools"}  # venv brings them


def pins(lines: list[str], folder: Path = ROOT) -> dict[str, str]:
    """Package -> version of a list of requirements, following ``-r file``."""
    found = {}
    for line in lines:
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            found |= pins((folder / line.removeprefix("-r ")).read_text().splitlines())
        elif line and not line.startswith("-e "):
            name, version = line.split("==")  # nothing but exact versions
            found[canonicalize_name(name)] = version
    return found


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    return pins(["-r requirements.lock"])


def test_conda_users_get_the_same_pins_and_a_python_that_the_package_takes(lock):
    python, _, entry = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pins(entry["pip"]) == lock and "-e ." in entry["pip"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Version(python.removeprefix("python=") + ".0") in Requirement(f"x{project['requires-python']}").specifier


def test_the_lock_is_what_is_installed(lock):
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in lock}
    assert installed == lock


def test_the_lock_is_complete(lock):
    """Every requirement of the package, and of what it requires, is pinned to a version that it accepts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    todo = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["dev"]
    todo = [Requirement(text) for text in [*todo, *project["build-system"]["requires"]]]
    seen = set()
    for requirement in todo:  # to which its own requirements are added
        name = canonicalize_name(requirement.name)
        if CUDA.search(name) or name in UNPINNED or requirement in seen:
            continue
        seen.add(requirement)
        assert name in lock, f"{requirement} is not in requirements.lock"
        assert Version(lock[name]) in requirement.specifier, f"{requirement} against {name}=={lock[name]}"
        extras = requirement.extras or {""}
        further = map(Requirement, importlib.metadata.requires(name) or [])
        todo += [r for r in further if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]


def test_the_lock_fits_every_machine(lock):
    """No build tags, no CUDA-only packages, nothing that points to one registry or one disk."""
    assert lock["torch"] == "2.13.0"
    assert [name for name in lock if CUDA.search(name)] == []
    for file in ("requirements.lock", "environment.yml", "Makefile", "pyproject.toml"):
        text = (ROOT / file).read_text()
        assert not re.search(r"index-url|find-links|https?://|file:|--hash|\+cpu|\+cu\d", text), file
