"""Notebooks run strictly.

Here it is an error what papermill lets pass in silence: a parameter that the notebook does not have, a lost
``parameters`` tag, a value of another type, an output that got lost on its way from the kernel.
"""

import argparse
import ast
import contextlib
import importlib.metadata
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from mudiff import paths, storage
from mudiff.errors import MudiffError
from mudiff.training import profiles

STOPPED = 128 + signal.SIGTERM  # exit code of a run that SIGTERM stopped


class NotebookFailedError(Exception):
    """A notebook stopped at an error that is not its user's doing."""


def check(source: Path, values: dict[str, str]) -> dict[str, Any]:
    """Return the parameters of a notebook, texts read as Python literals of the type of the default."""
    import papermill

    with storage.reading(source, "notebook", "check the path, or restore it from git"):
        defaults = {name: _literal(p["default"]) for name, p in papermill.inspect_notebook(_plain(source)).items()}
    if not defaults:
        raise MudiffError(f"{source}: no cell tagged 'parameters' that assigns literals; restore it from git.")
    checked: dict[str, Any] = {}
    for name, text in values.items():
        if name not in defaults:
            raise MudiffError(f"{source}: parameter {name!r} is unknown; choose one of {', '.join(defaults)}.")
        kind = type(defaults[name])
        checked[name] = text if kind is str else _literal(text)
        if type(checked[name]) not in {type(None): (type(checked[name]),), float: (float, int)}.get(kind, (kind,)):
            raise MudiffError(f"{source}: parameter {name} = {text!r}: expected a value of type {kind.__name__}.")
    return checked


def _plain(path: Path) -> str:
    """Return a path for papermill, which formats those that it is given."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _literal(text: str) -> Any:
    with contextlib.suppress(ValueError, SyntaxError):  # what is no literal stays a text
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    return text


def run(source: Path, output: Path, values: dict[str, str]) -> Path:
    """Execute a notebook in the project's folder, with `values` for its defaults, and return the executed copy.

    A second run with the same `output` waits for the first. A failed copy is left at ``<output>.failed.ipynb``; where
    it stopped at a `MudiffError` that one is raised, else a `NotebookFailedError` with the error's last line.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    values = check(source, values)
    failed = output.with_suffix(".failed.ipynb")
    lock = storage.lock(output.parent / f".{output.stem}.lock", f"{output}: waiting for its other execution to end.")
    with lock, storage.atomic_write(output) as temporary:
        try:
            papermill.execute_notebook(
                _plain(source), _plain(temporary), values, cwd=paths.root(), kernel_name="python3",
                progress_bar=False,
                raise_on_iopub_timeout=True,  # papermill must not trim outputs and call it a success
                iopub_timeout=60, start_timeout=180,  # seconds, on a busy machine
            )  # fmt: skip
            book = nbformat.read(temporary, as_version=4)
            book.metadata.pop("widgets", None)  # progress bars and the like are dead in a file
            view = "application/vnd.jupyter.widget-view+json"
            for cell in (cell for cell in book.cells if cell.cell_type == "code"):
                cell.outputs = [output for output in cell.outputs if view not in output.get("data", {})]
            nbformat.write(book, temporary)
        except papermill.PapermillExecutionError as error:
            temporary.replace(failed)
            if error.ename == "MudiffError":
                raise MudiffError(error.evalue) from None
            last = error.evalue.strip().rpartition("\n")[2]
            raise NotebookFailedError(f"{error.ename}: {last} (the whole story: {failed})") from None
        except DeadKernelError:
            what = "the kernel died, most often for lack of memory; free some and run it again"
            raise MudiffError(f"{source}: {what}.") from None
        except CellTimeoutError as error:
            raise NotebookFailedError(f"{source}: outputs were lost ({str(error).splitlines()[0]})") from None
    failed.unlink(missing_ok=True)
    return output


def start(profile: str, *packages: str) -> None:
    """Begin a notebook: show errors of the reader's making as one line, print versions and the profile."""
    from IPython import get_ipython

    def show(shell: Any, kind: type, value: Exception, _trace: Any, tb_offset: Any = None) -> None:
        shell._showtraceback(kind, value, [f"{kind.__name__}: {value}"])

    if shell := get_ipython():
        shell.set_custom_exc((MudiffError,), show)
    changes = ", ".join(f"{name} = {value}" for name, value in profiles.profile(profile).overrides.items())
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("mudiff", "torch", "numpy", *packages)]
    print(f"Python {platform.python_version()}, {', '.join(versions)}")
    print(f"Profile {profile!r}: {changes or 'the published settings'}")


def command(profile: str) -> str:
    """Return the command that makes everything of a profile."""
    return {"demo": "make reproduce", "smoke": "make smoke"}.get(profile, f"snakemake --config profile={profile}")


def require(path: Path, profile: str) -> Path:
    """Return `path` if it exists, else raise a `MudiffError` that names the command that makes it."""
    if not Path(path).exists():
        raise MudiffError(f"{path} does not exist yet; make it with: {command(profile)}")
    return Path(path)


def stop(reason: str) -> None:
    """End a notebook here without an error: say why, and leave out the cells below until the kernel starts anew."""
    from IPython import get_ipython

    print(reason)
    get_ipython().input_transformers_cleanup.append(lambda lines: ["pass\n"])


def _pass_sigterm_on(received: list[int]) -> None:
    """Pass SIGTERM (of a cluster's time limit) on to the kernel, where a training saves its state, and note it."""
    import psutil

    def handler(number: int, _frame: object) -> None:
        received.append(number)
        for kernel in (kernels := psutil.Process().children()):
            kernel.terminate()
        if not kernels:  # nothing has begun, or all is done
            sys.exit(STOPPED)

    signal.signal(signal.SIGTERM, handler)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its code: 2 for the user's errors, 1 for a notebook's own, 143 at SIGTERM."""
    parser = argparse.ArgumentParser("python -m mudiff.workflow.notebook", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="execute a notebook (source) and write the executed copy (output)")
    for name in ("source", "output"):
        one.add_argument(name, type=Path)
    one.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="values")
    chosen = parser.parse_args(argv)
    _pass_sigterm_on(stopped := [])
    try:
        with tempfile.TemporaryDirectory(prefix="mudiff-", ignore_cleanup_errors=True) as folder:
            # This interpreter's kernel, with none of the user's settings; no warning about frozen modules.
            own = {"JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
            os.environ.update(own, JUPYTER_PATH="", JUPYTER_CONFIG_DIR=folder, IPYTHONDIR=folder)
            quiet = Path(folder) / "profile_default" / "ipython_kernel_config.json"
            storage.write_text(quiet, '{"IPKernelApp": {"log_level": "ERROR"}}')
            run(chosen.source, chosen.output, dict(chosen.values))
    except Exception as error:
        if stopped:
            print("Stopped by SIGTERM; the same command goes on from the last saved state.", file=sys.stderr)
            return STOPPED
        if not isinstance(error, MudiffError | NotebookFailedError):
            raise
        print(f"Error: {error}", file=sys.stderr)
        return 2 if isinstance(error, MudiffError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
