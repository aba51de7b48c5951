"""Seeded damage: what the commands do with mutated inputs and run files, and after kills at any moment of `prepare`.

    python -m benchmarks.campaign --mutations 5000 --kills 300     # about twenty minutes on one core

The rule: exit code 0, 1 or 2, no traceback, at most one line of error (warnings apart), nothing lost that was there
before, no NaN written. Each breach is printed with its number; ``--first 17 --mutations 1`` repeats number 17.
"""

import contextlib
import gzip
import io
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np
import torch
import typer
from safetensors import torch as safetensors

from mudiff import cli
from mudiff.phantoms import cohort
from mudiff.training import loop

SMALL = "image_size=16 slices=40 width=4 multipliers=1,2 blocks=1 embedding=8 critic_width=4 critic_blocks=2 epochs=2"
SETS = [f"--set={field}" for field in f"{SMALL} batch_size=5 validation_slices=3 steps=2".split()]
ODD = (None, True, -1, 0, 7, 0.5, 1e308, math.nan, 10**30, "", "x", "../x", [], [1], {}, {"a": 1})
SWAPS = (("", ""), (",", ";"), (",", "\t"), ("\n", "\r\n"), ("train", "Test"), ("split", "Split"), ("1", "2"))


def mutated(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """Change one value in a file of the kind that its `name` says, or its bytes."""
    match name.rpartition(".")[2] if rng.random() < 0.7 else "bytes":
        case "gz":  # one field of a NIfTI header
            raw, fields = bytearray(gzip.decompress(data)), list(nibabel.Nifti1Header.template_dtype.fields.values())
            kind, start = fields[rng.integers(len(fields))][:2]
            size = kind.itemsize
            odd = (rng.bytes(size), bytes(size), b"\xff" * size, b"\x7f" * size, b"\0\0\xc0\x7f" * size)  # 0, -1, NaN
            raw[start : start + size] = odd[rng.integers(len(odd))][:size]
            return gzip.compress(bytes(raw), 1)
        case "csv":
            lines, (old, new) = data.decode().splitlines(keepends=True), SWAPS[rng.integers(len(SWAPS))]
            lines.insert(int(rng.integers(len(lines))), lines.pop(int(rng.integers(len(lines)))))
            return "".join(lines).replace(old, new).encode(str(rng.choice(("utf-8", "utf-8-sig", "utf-16"))))
        case "json":
            return json.dumps(_odd(json.loads(data), rng)).encode()
        case "jsonl":
            return b"\n".join(json.dumps(_odd(json.loads(line), rng)).encode() for line in data.splitlines()) + b"\n"
        case "pt":
            torch.save(_odd(torch.load(io.BytesIO(data)), rng), buffer := io.BytesIO())
            return buffer.getvalue()
        case "safetensors":
            weights = {"": _odd(safetensors.load(data), rng)}
            weights |= weights[""] if isinstance(weights[""], dict) else {}
            return safetensors.save({name: value for name, value in weights.items() if torch.is_tensor(value)})
    at, noise = int(rng.integers(len(data) + 1)), rng.bytes(int(rng.integers(1, 9)))
    a, b = data[:at], data[at:]
    changes = (b"", noise, a, b, a + noise + b, a + noise + b[len(noise) :], a + bytes(64) + b[64:], a + b[64:])
    return changes[rng.integers(len(changes))]


def _odd(value: Any, rng: np.random.Generator) -> Any:
    """Replace or drop one value somewhere inside."""
    if isinstance(value, dict | list) and value and rng.random() < 0.95:
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        at = int(rng.integers(len(pairs)))
        pairs[at : at + 1] = [(pairs[at][0], _odd(pairs[at][1], rng))] if rng.random() < 0.85 else []
        return dict(pairs) if isinstance(value, dict) else [item for _, item in pairs]
    if torch.is_tensor(value) and rng.random() < 0.8:
        kinds = (value.flatten()[:1], value * math.nan, value * 1e38, value.long(), value.to(torch.complex64))
        return kinds[rng.integers(len(kinds))].contiguous()
    return ODD[rng.integers(len(ODD))]


def call(*arguments: object) -> tuple[int | str, str]:
    """Run the command in this process; return its exit code, or the traceback, and what it said on stderr."""
    err, argv = io.StringIO(), mock.patch.object(sys, "argv", ["mudiff", *map(str, arguments)])
    quiet = warnings.catch_warnings(action="ignore")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err), argv, quiet:
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code, err.getvalue()
        except Exception:
            return traceback.format_exc(), err.getvalue()


def contents(folder: Path) -> dict[Path, bytes]:
    """Return what all files hold but those that a killed process was writing."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".tmp-" not in path.name}


class World:
    """Phantoms, their slices, a complete run and one that was stopped, in `folder`, which becomes the project's."""

    def __init__(self, folder: Path) -> None:
        os.environ["MUDIFF_ROOT"] = str(folder)
        self.folder, raw, last = folder, folder / "raw", folder / "raw/PhantomBraTS_003"
        manifest = cohort.write_cohort("brats", raw, (1, 1, 1), spacing=10.0, workers=1, progress=False)
        data = ("--dataset=brats", "--data-root", raw, "--manifest", manifest, "--workers=1")
        train = ("train", "--dataset=brats", "--target=t1ce", "--profile=smoke", "--device=cpu", *SETS, "--run")
        made = ("synthesize", "--run", folder / "done", "--subject", last, "--target=t1ce", "--output")
        scored = ("--real", last / f"{last.name}_t1ce.nii.gz", "--mask", last / f"{last.name}_seg.nii.gz")
        verify, self.prepare = ("verify", *data), ("prepare", *data, "--profile=smoke", *SETS[:2])
        resume, synthesize = (*train, folder / "begun"), (*made, folder / "out.nii.gz")
        evaluate, save = ("evaluate", *scored, "--synthetic", folder / "made.nii.gz"), loop._Training.save
        codes = [call(*c)[0] for c in (self.prepare, (*train, folder / "done"), (*made, folder / "made.nii.gz"))]
        with mock.patch.object(loop._Training, "save", lambda training: (save(training), sys.exit(0))):
            if [*codes, call(*resume)[0]] != [0] * 4:
                raise RuntimeError("the commands fail before anything is mutated")
        self.prepared = next((folder / "results/smoke/prepared").iterdir())
        first = self.prepared / "train/PhantomBraTS_001"
        self.targets = [(path, c) for path in last.iterdir() for c in (verify, self.prepare, synthesize, evaluate)]
        self.targets += [(manifest, c) for c in 5 * (verify, self.prepare)] + 2 * [
            *((folder / "done" / name, synthesize) for name in ("settings.json", "weights.safetensors")),
            *((folder / "begun" / name, resume) for name in ("settings.json", "log.jsonl", "state.pt")),
            *((self.prepared / name, resume) for name in ("prepared.json", "slices.csv", f"{first}.npy")),
            (first.with_suffix(".json"), self.prepare), (folder / "made.nii.gz", evaluate),
        ]  # fmt: skip
        self.copy = shutil.copytree(folder, folder.with_name("copy"))
        self.files = contents(folder)

    def breach(self, *command: object) -> str:
        """Run a command and tell how it broke the rule; nothing where it kept it."""
        before = contents(self.folder)
        code, err = call(*command)
        after = contents(self.folder)
        lines = [
            line
            for line in err.splitlines()
            if not line.startswith(("warning: ", "labels of ")) and "moved to" not in line
        ]
        if code not in (0, 1, 2) or len(lines) != (code == 2):
            return f"{code} {err}"
        inputs = [path for path in before if path.relative_to(self.folder).parts[0] in ("raw", "done")]
        lost = [path for path in inputs if after.get(path) != before[path]]
        new = [path for path in after if before.get(path) != after[path]]
        arrays = [nibabel.load(path).get_fdata() for path in new if path.name.endswith(".nii.gz")]
        arrays += [t.numpy() for p in new if p.suffix == ".safetensors" for t in safetensors.load_file(p).values()]
        return f"lost {lost}" * bool(lost) + "NaN written" * (not all(np.isfinite(array).all() for array in arrays))


def mutate(world: World, seed: int, count: int, first: int = 0) -> list[str]:
    """Mutate one file at a time and run a command that reads it; return the breaches of the rule."""
    found = []
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        path, command = world.targets[rng.integers(len(world.targets))]
        path.write_bytes(mutated(path.name, world.files[path], rng))
        if why := world.breach(*command):
            found.append(f"{number}: {path.name}, {command[0]}: {why}")
        shutil.rmtree(world.folder)
        shutil.copytree(world.copy, world.folder)  # dates included
    return found


def kill(world: World, seed: int, count: int) -> list[str]:
    """Kill `prepare` at random moments; the next one must write what one that was not killed writes."""
    found, rng, seconds = [], np.random.default_rng(seed), 0.0
    for number in range(count + 1):  # the first is timed, not killed
        shutil.rmtree(world.prepared)
        began = time.monotonic()
        process = multiprocessing.get_context("fork").Process(target=call, args=world.prepare)
        process.start()
        process.join(rng.uniform(0, seconds) if number else None)
        process.kill()
        process.join()
        seconds = seconds or time.monotonic() - began
        if (why := world.breach(*world.prepare)) or contents(world.folder) != world.files:
            found.append(f"kill {number}: {why or 'other slices than without it'}")
    return found


def main(mutations: int = 200, kills: int = 10, seed: int = 1, first: int = 0) -> None:
    """Run a campaign and print the breaches."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "world")
        found = mutate(world, seed, mutations, first) + kill(world, seed, kills)
    print(*found, f"{mutations} mutations, {kills} kills: {len(found)} breaches", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    typer.run(main)
