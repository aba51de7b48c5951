"""The strict papermill call."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import refused

from mudiff.workflow import notebook

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PARAMETERS = 'profile = "demo"\nrepeats = 2\nscale = 0.5\nfolder = None\nmethods = ["linear"]\nquick = False'


@pytest.fixture(autouse=True)
def _process(monkeypatch, tmp_path):
    """`main` is a process's own: undo what it does to signals and environment."""
    before = signal.getsignal(signal.SIGTERM)
    for name in ("JUPYTER_PREFER_ENV_PATH", "JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setitem(os.environ, name, os.environ.get(name, str(tmp_path / "ipython")))
    yield
    signal.signal(signal.SIGTERM, before)


def write(path: Path, *others: str, tags: tuple[str, ...] = ("parameters",), kernel: dict = KERNEL) -> Path:
    book = nbformat.v4.new_notebook(metadata={"kernelspec": kernel} if kernel else {})
    book.cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": list(tags)})]
    book.cells += [nbformat.v4.new_code_cell(source) for source in others]
    nbformat.write(book, path)
    return path


def outputs(path: Path) -> list:
    return [out for cell in nbformat.read(path, as_version=4).cells for out in cell.get("outputs", [])]


def test_texts_of_the_command_line_become_the_type_of_the_default(tmp_path):
    texts = {"profile": "1", "repeats": "3", "scale": "2", "folder": "out", "methods": "['a']", "quick": "true"}
    values = {"profile": "1", "repeats": 3, "scale": 2, "folder": "out", "methods": ["a"], "quick": True}
    assert notebook.check(write(tmp_path / "a.ipynb"), texts) == values


def test_what_is_no_notebook_with_such_parameters_is_refused(tmp_path):
    good = write(tmp_path / "a.ipynb")
    (tmp_path / "half.ipynb").write_text('{"cells": [')
    wrong = (("repeats", "two"), ("repeats", "1.5"), ("repeats", "True"), ("quick", "1"), ("methods", "linear"))
    for name, text in wrong:
        refused(f"parameter {name} = .* expected a value of type", notebook.check, good, {name: text})
    refused("'repeets' is unknown; choose one of profile, repeats", notebook.check, good, {"repeets": "3"})
    refused(r"b\.ipynb: no cell tagged 'parameters'", notebook.check, write(tmp_path / "b.ipynb", tags=()), {})
    refused(r"c\.ipynb: no notebook", notebook.check, write(tmp_path / "c.ipynb", kernel={}), {})
    refused(r"none\.ipynb: no notebook \(file not found\)", notebook.check, tmp_path / "none.ipynb", {})
    refused(r"half\.ipynb: no notebook", notebook.check, tmp_path / "half.ipynb", {})


def test_a_notebook_runs_on_this_interpreter_whatever_is_installed_and_may_stop(tmp_path, monkeypatch):
    decoy = tmp_path / "home" / "kernels" / "python3" / "kernel.json"
    decoy.parent.mkdir(parents=True)
    argv = '["/bin/false", "{connection_file}"]'
    decoy.write_text(f'{{"argv": {argv}, "display_name": "x", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "home"))
    output = tmp_path / "o {b} it's 100% ü" / "executed {c}.ipynb"  # papermill formats paths
    output.parent.mkdir()
    output.with_suffix(".failed.ipynb").write_text("of an earlier run")
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm([1, 2]):\n    pass"
    said = "import sys\nprint(sys.executable, repeats + 1)"
    end = "from mudiff.workflow import notebook\nnotebook.stop('no data')"
    source = write(tmp_path / "a {b}.ipynb", bar, said, end, "print(1 / 0)")  # what follows the stop is left out
    assert notebook.main(["run", str(source), str(output), "-p", "repeats", "40"]) == 0
    one, other = outputs(output)  # bars are for people who watch
    assert one.text.split() == [sys.executable, "41"] and other.text == "no data\n"
    assert [p.name for p in output.parent.iterdir() if not p.name.startswith(".")] == ["executed {c}.ipynb"]


def test_a_users_error_is_one_line_here_and_in_the_failed_copy(tmp_path, capsys):
    begin = "from mudiff.workflow import notebook\nnotebook.start(profile)"
    output = tmp_path / "executed.ipynb"
    output.write_text("of an earlier run")
    source = write(tmp_path / "a.ipynb", begin, "notebook.require('gone.csv', profile)")
    assert notebook.main(["run", str(source), str(output)]) == 2
    line = "gone.csv does not exist yet; make it with: make reproduce"
    assert capsys.readouterr().err == f"Error: {line}\n"
    assert output.read_text() == "of an earlier run"
    errors = [out for out in outputs(tmp_path / "executed.failed.ipynb") if out.output_type == "error"]
    assert [error.traceback for error in errors] == [[f"MudiffError: {line}"]]


def test_a_programming_error_exits_with_1_and_a_dead_kernel_is_an_error(tmp_path, capsys):
    source = write(tmp_path / "a.ipynb", "1 / 0")
    assert notebook.main(["run", str(source), str(tmp_path / "executed.ipynb")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("Error: ZeroDivisionError: division by zero") and message.count("\n") == 1
    assert "executed.failed.ipynb" in message and not (tmp_path / "executed.ipynb").exists()
    source = write(tmp_path / "a.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    refused("the kernel died", notebook.run, source, tmp_path / "executed.ipynb", {})


SAVING = """import signal, time, pathlib
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
pathlib.Path(folder, "began").touch()
while not stop:
    time.sleep(0.02)
time.sleep(7)  # longer than Jupyter waits for a kernel that it shuts down
pathlib.Path(folder, "saved").touch()
raise SystemExit(143)"""


@pytest.mark.parametrize("cell, saves", [(SAVING, True), (SAVING.replace("signal.signal", "#"), False)])
def test_sigterm_reaches_the_kernel_which_may_save_before_it_ends(tmp_path, cell, saves):
    source, output = write(tmp_path / "a.ipynb", cell), tmp_path / "executed.ipynb"
    command = [sys.executable, "-m", "mudiff.workflow.notebook", "run", source, output, "-p", "folder", tmp_path]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "began").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()  # this process alone
    _, errors = process.communicate(timeout=30)
    assert process.returncode == notebook.STOPPED == 143
    assert errors.endswith("Stopped by SIGTERM; the same command goes on from the last saved state.\n")
    assert (tmp_path / "saved").exists() == saves and not output.exists()
