"""What a person gives the workflow by ``--config``, checked before anything begins."""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mudiff import cache
from mudiff.data import datasets, files, manifests
from mudiff.errors import MudiffError
from mudiff.training import profiles


@dataclass(frozen=True)
class Inputs:
    """The keys of ``--config``."""

    profile: str = "demo"
    data_root: dict[str, str] = field(default_factory=dict)  # dataset -> folder of your volumes; else phantoms
    manifest: dict[str, str] = field(default_factory=dict)  # dataset -> CSV (subject, split); else the published one
    unseen: str | None = None  # folder of subjects that no training saw; else phantoms, where the profile has them
    vgg16: str = ""  # weights of VGG16 for pGAN; without them it has no perceptual term
    inception: str | None = None  # weights of Inception for the Fréchet distance; else a segmentation network's

    def state(self, dataset: str) -> tuple[str, str] | None:
        """Return digests of what `prepare` makes slices of, and of what it only warns of; None for phantoms."""
        if (root := self.data_root.get(dataset)) is None:
            return None
        found = files.find_subjects(dataset, Path(root), problems := {})
        listed = manifests.read_manifest(dataset, self.manifest.get(dataset))
        splits, *others = manifests.assign(found.keys() | problems.keys(), listed)
        used = [(subject, problems.get(subject), _files(root, found.get(subject, {}))) for subject in splits]
        return cache.digest(splits, used), cache.digest(others)

    def state_of(self, key: str) -> str | None:
        """Return a digest of a file, or of the BraTS subjects in a folder; None where the key is not given."""
        if not (path := getattr(self, key)):
            return None
        found = files.find_subjects("brats", Path(path), {}) if Path(path).is_dir() else {"": {"": Path(path)}}
        return cache.digest([_files(path, own) for own in found.values()])


def _files(root: str, found: files.Files) -> list[tuple[str, int, int]]:
    """Return the names, sizes and times of files, which stand for their content."""
    return [(str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in found.values()]


def read(config: dict[str, Any]) -> Inputs:
    """Return what Snakemake read of ``--config``; an unknown key, another type or no such path is a MudiffError."""
    given: dict[str, Any] = {}
    for key, value in config.items():
        datasets.known("--config key", key, [own.name for own in fields(Inputs)])
        named = key in ("data_root", "manifest")
        texts = value if named else {"": value}
        if not isinstance(texts, dict) or not all(isinstance(text, str) and text for text in texts.values()):
            form = "{dataset: path}, odd paths in quotes" if named else "a text (a number as ./2021)"
            raise MudiffError(f"--config {key}={value}: expected {form}.")
        texts = texts if key == "profile" else {name: _path(key, text) for name, text in texts.items()}
        given[key] = texts if named else texts[""]
    inputs = Inputs(**given)
    profiles.profile(inputs.profile)
    for name in [*inputs.data_root, *inputs.manifest]:
        if datasets.dataset(name).name not in inputs.data_root:  # phantoms have a manifest of their own
            raise MudiffError(f"--config manifest: {name} has no data_root; give both.")
    return inputs


def _path(key: str, text: str) -> str:
    path, folder = Path(text).expanduser(), key in ("data_root", "unseen")
    if not (path.is_dir() if folder else path.is_file()):
        raise MudiffError(f"--config {key}: {path}: {'folder' if folder else 'file'} not found; check the path.")
    return str(path if key == "vgg16" else path.absolute())  # that one is part of a run's settings


def begin(config: dict[str, Any]) -> tuple[Inputs, dict[str, Any]]:
    """Return `read`, and the state of each dataset and key that is given; or end with one sentence and code 2."""
    try:
        inputs = read(config)
        states = {name: inputs.state(name) for name in inputs.data_root}
        return inputs, states | {key: inputs.state_of(key) for key in ("unseen", "vgg16", "inception")}
    except MudiffError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
