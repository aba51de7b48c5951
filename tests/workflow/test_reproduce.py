"""The workflow as a person sees it: lines, estimates, Ctrl-C, failures, and its lock."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mudiff.workflow import reproduce

FIRST = "results/smoke/executed/02_training_brats_t1ce.ipynb"
RULES = {"last": ([FIRST, "other.txt"], "done.txt"), "train": ([], FIRST), "other": ([], "other.txt")}


def write(folder: Path, **commands: str) -> None:
    """A Snakefile of a few rules (name -> input, output), in the place of the project's."""
    lines = ["rule all:", "    input: 'done.txt'"]
    for name, (inputs, output) in RULES.items():
        lines += [f"rule {name}:", f"    input: {inputs}", f"    output: {output!r}", f"    log: '{name}.log'"]
        lines += [f"    message: 'Step {name}'", f"    shell: {commands.get(name, 'echo 1 > {output}')!r}"]
    (folder / "Snakefile").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIFF_ROOT", str(tmp_path))
    write(tmp_path)
    return tmp_path


COMMAND = [sys.executable, "-m", "mudiff.workflow.reproduce", "smoke", "--cores", "1"]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)


def test_a_line_for_each_step_with_its_number_and_what_is_left_then_nothing_to_be_done(folder):
    dry = run("-n").stdout
    assert "Job stats:" in dry and "This was a dry-run" in dry and "to do" not in dry
    done = run()
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "" and len(lines) == 5 and "\r" not in done.stdout
    assert lines[0].startswith("3 steps to do, ")
    assert [line[:17].rstrip() for line in lines[1:4]] == ["[1/3] Step train", "[2/3] Step other", "[3/3] Step last"]
    assert lines[1].endswith(" left") and not lines[3].endswith("left") and lines[4].startswith("3 steps in ")
    assert "3 of 4 steps" in (folder / "results/smoke/logs/snakemake.log").read_text()
    assert run().stdout == "Nothing to be done: everything is up to date.\n"
    for name in ("other.txt", "done.txt"):
        (folder / name).unlink()
    assert [line[:6] for line in run().stdout.splitlines()[:3]] == ["2 step", "[1/2] ", "[2/2] "]
    times = json.loads((folder / "results/smoke/times.json").read_text())
    assert {"train", "other", "last"} <= set(times) and all(set(t) == {"cpu", "wall"} for t in times.values())


def test_a_failing_step_shows_its_error_its_log_and_how_to_go_on(folder):
    write(folder, other="{{ echo 1; echo Error: no such luck; echo; }} > {log}; exit 2")
    done = run()
    assert done.returncode == 1
    assert done.stdout.splitlines()[2:] == [
        "Step other failed: Error: no such luck", "  its log: other.log",
        "Stopped at an error (more: results/smoke/logs/snakemake.log). Once it is mended, go on with: make smoke",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "given, says",
    [
        ("data_roots={brats: .}", "key 'data_roots' is unknown: choose one of profile, data_root"),
        ("data_root=/path", "data_root=/path: expected {dataset: path}"),
        ("unseen=2021", "unseen=2021: expected a text"),
        ("vgg16=gone.pth", "gone.pth: file not found"),
        ("data_root={brat: .}", "dataset 'brat' is unknown"),
        ("manifest={brats: Snakefile}", "brats has no data_root; give both"),
        ("profile=demo", "this is profile smoke"),
    ],
)
def test_a_mistake_in_config_is_one_line_before_anything_begins(folder, given, says):
    text = (folder / "Snakefile").read_text()
    (folder / "Snakefile").write_text(f"from mudiff.workflow import inputs\ninputs.begin(config)\n{text}")
    done = run("--config", given)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert not (folder / "other.txt").exists()


SLEEPER = """import os, pathlib, signal, subprocess, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
children = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
pathlib.Path("pids").write_text(" ".join(str(p) for p in [os.getpid(), *(child.pid for child in children)]))
while not stop:
    time.sleep(0.02)
pathlib.Path("saved").touch()"""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_lets_a_training_save_and_leaves_one_line_no_process_and_no_lock(folder, number, code):
    (folder / "sleeper.py").write_text(SLEEPER)
    write(folder, train=f"exec {sys.executable} sleeper.py")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(COMMAND, start_new_session=True, **pipes)
    while not (pids := (folder / "pids")).exists() or not pids.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert output.splitlines()[1:] == ["Stopped; to go on from here: make smoke"]
    assert (folder / "saved").exists()
    assert len(family) >= 4 and not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not list((folder / ".snakemake" / "locks").iterdir())
    with (folder / ".snakemake" / "mudiff.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_dead_lock_is_cleared_and_a_living_one_respected(folder):
    locks = folder / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("\n")  # what a killed Snakemake leaves
    (locks / "0.output.lock").write_text("done.txt\n")
    alone = [sys.executable, "-m", "snakemake", "--cores", "1"]
    assert subprocess.run(alone, cwd=folder, capture_output=True).returncode != 0
    with (folder / ".snakemake" / "mudiff.lock").open("w") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        refused = run()
    assert refused.returncode == 2
    assert "another run works in this folder" in refused.stderr and refused.stderr.count("\n") == 1
    assert len(list(locks.iterdir())) == 2
    assert run("other.txt").returncode == 0  # a target
    assert (folder / "other.txt").exists() and not (folder / "done.txt").exists()


def test_a_terminal_shows_how_far_a_training_is_and_the_estimate_counts_steps_side_by_side(folder, monkeypatch):
    clock = [1e9]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setenv("COLUMNS", "80")
    kept = folder / "results" / "paper" / "times.json"  # a profile without typical times
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"train_a": {"wall": 600}, "prepare x": {"wall": 120}, "prepare y": {"wall": 240}}))
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    seen = reproduce.Progress("paper", terminal)
    seen.take({"event": "resources_info", "cores": 2})
    seen.take({"event": "run_info", "stats": {"all": 1, "train_a": 1, "prepare": 2, "total": 4}})
    assert seen.left() == "10 min left"  # the longest one, more than (600 + 180 + 180) / 2
    seen.take({"event": "job_started", "jobs": [1, 2]})
    weights = "results/paper/runs/a_mudiff/weights.safetensors"
    step = {"event": "job_info", "rule_name": "train_a", "rule_msg": "Training a", "wildcards": {}}
    seen.take(step | {"jobid": 1, "output": [f"{weights} (update)"]})
    other = {"rule_name": "prepare", "rule_msg": "Preparing x", "wildcards": {"dataset": "x"}, "output": []}
    seen.take(step | other | {"jobid": 2})
    clock[0] += 180
    seen.take({"event": "job_finished", "job_id": 2, "cpu": 100.0})
    assert json.loads(kept.read_text())["prepare x"] == {"wall": 180.0, "cpu": 100.0}
    assert seen.stream.getvalue().endswith("3 min 0 s   7 min left\n")
    run_folder = folder / weights.rpartition("/")[0]
    run_folder.mkdir(parents=True)
    named = {"settings": {"method": "mudiff", "variant": "released", "epochs": 4}}
    (run_folder / "settings.json").write_text(json.dumps(named))
    lines = [{"epoch": 1.0, "seconds": 60, "validation/psnr": 17.891}, {"epoch": 1.5, "seconds": 90}]
    (run_folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"ep')
    os.utime(run_folder / "log.jsonl", (clock[0], clock[0]))
    monkeypatch.chdir(folder)
    seen.draw()
    status = seen.stream.getvalue().rpartition(reproduce.CLEAR)[2]
    assert status == "  Training a: MU-Diff epoch 1.5/4, 17.89 dB, 2 min left\n  7 min left\r\x1b[1A"
