"""The whole workflow by Snakemake, and what a person sees meanwhile: a line a step, trainings, the time left.

python -m mudiff.workflow.reproduce demo [options of Snakemake]

Snakemake runs in a session of its own, so that Ctrl-C reaches this process alone, which lets trainings save first.
"""

import argparse
import collections
import contextlib
import fcntl
import json
import logging
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil

from mudiff import paths, storage
from mudiff.data import datasets
from mudiff.errors import MudiffError
from mudiff.training import profiles
from mudiff.workflow.notebook import command

CLEAR = "\r\x1b[J"  # from here to the end of a terminal's screen


def workflow(profile: str, arguments: list[str]) -> int:
    """Run Snakemake on the graph of `profile`, tell how far it is, and return the exit code (130 after Ctrl-C).

    A lock that a crashed Snakemake left behind is cleared, but only if no other run lives (else `MudiffError`): each
    run holds a file lock of its own, which the system drops when the process ends, however it ends.
    """
    # The first job is the one with the longest training: it starts first, the others fill the other core.
    first = f"results/{profile}/executed/02_training_{next(iter(profiles.profile(profile).jobs()))}.ipynb"
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # Snakemake takes the last --config alone
    parser.add_argument("--config", "-C", nargs="*", action="extend", default=[f"profile={profile}"])
    own, arguments = parser.parse_known_args(arguments)
    if {entry for entry in own.config if entry.startswith("profile=")} != {f"profile={profile}"}:
        raise MudiffError(f"this is profile {profile}; for another one: snakemake --config profile=NAME")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    os.chdir(paths.root())
    memory = Path(".snakemake")
    memory.mkdir(exist_ok=True)
    with (memory / "mudiff.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "another run works in this folder; wait for it, or stop it with Ctrl-C"
            raise MudiffError(f"{Path.cwd()}: {what}.") from None
        if any((memory / "locks").glob("*")):
            graph = f"--config=profile={profile}"
            subprocess.run([sys.executable, "-m", "snakemake", graph, "--unlock", "--quiet", "all"], check=True)
        return _watch(profile, [*arguments, "--prioritize", first, "--config", *own.config], lock)


def _watch(profile: str, arguments: list[str], lock: TextIO) -> int:
    """Run Snakemake to its end, or to a signal, and tell what happens."""
    progress = Progress(profile, sys.stdout)
    progress.log.parent.mkdir(parents=True, exist_ok=True)
    with progress.log.open("w") as chatter:
        process = subprocess.Popen(
            [sys.executable, "-c", "from mudiff.workflow import reproduce; reproduce.snakemake()", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=chatter, bufsize=0,  # else `select` is blind
            start_new_session=True, pass_fds=[lock.fileno()],
        )  # fmt: skip
    try:
        line = b" "
        while line:  # empty at the end
            if select.select([process.stdout], [], [], 1)[0] and (line := process.stdout.readline()):
                progress.take(json.loads(line))
            progress.draw()
        progress.finish(process.wait())
        return process.returncode
    except SystemExit as stopped:
        _stop(process)
        progress.say(f"Stopped; to go on from here: {command(profile)}")
        return stopped.code


def _stop(process: subprocess.Popen, patience: float = 90.0) -> None:
    """End Snakemake and its steps; trainings save within `patience` seconds, unless a second signal comes."""
    told, family, end = set(), set(), time.monotonic() + patience
    with contextlib.suppress(SystemExit, psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT)  # it starts no step any more
        while process.poll() is None and time.monotonic() < end:
            family.update(psutil.Process(process.pid).children(recursive=True))
            for step in {*psutil.Process(process.pid).children()} - told:
                told.add(step)
                step.terminate()
            time.sleep(0.1)
    for left in family:  # such as worker processes of a kernel that is gone
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.kill()
    process.wait()


@dataclass
class Step:
    """A step that runs."""

    key: str  # of its times: rule and wildcards
    says: str
    files: list[str]  # that it writes
    began: float  # as files count time
    minutes: int = 0  # that a line was printed of


class Progress:
    """How far a run is, told on `stream`: on a terminal with lines that are drawn anew."""

    def __init__(self, profile: str, stream: TextIO) -> None:
        self.profile, self.stream, self.terminal = profile, stream, stream.isatty()
        self.log = Path("results", profile, "logs", "snakemake.log")  # what Snakemake itself prints
        self.kept = paths.results(profile) / "times.json"
        self.times: dict[str, dict[str, float]] = {}  # key of a step -> seconds: wall, cpu
        for path in filter(Path.is_file, (paths.manifests() / f"times_{profile}.json", self.kept)):
            self.times |= storage.read_json(path)
        self.waiting: collections.Counter[str] = collections.Counter()  # rule -> steps that have not begun
        self.planned: set[int] = set()
        self.running: dict[int, Step] = {}
        self.total, self.done, self.slots, self.failed = 0, 0, 1, False
        self.began, self.cpu = time.time(), 0.0
        self.spent = self.foreseen = 60.0  # seconds of finished steps; not 0, so that short ones weigh little

    def take(self, record: dict[str, Any]) -> None:
        """Take note of one of Snakemake's log records."""
        kind, job = record.get("event"), record.get("jobid", record.get("job_id"))
        if kind == "resources_info":
            self.slots = record.get("cores") or record.get("nodes") or self.slots
        elif kind == "run_info":
            self.waiting.update({k: n for k, n in record["stats"].items() if k not in ("all", "total")})
            self.total = self.waiting.total()
        elif kind == "job_started":  # a dry run has none
            if not self.planned:
                self.say(f"{self.total} steps to do, {self.left()}. To stop: Ctrl-C; the same command goes on.")
            self.planned.update(record["jobs"])
        elif kind == "job_info" and job in self.planned and record["rule_name"] != "all":
            rule = record["rule_name"]
            self.waiting[rule] -= 1
            key = " ".join([rule, *record["wildcards"].values()])
            self.running[job] = Step(key, record["rule_msg"] or rule, record["output"], time.time())
        elif job in self.running and kind in ("job_finished", "job_error"):
            step, used, self.cpu = self.running.pop(job), record["cpu"] - self.cpu, record["cpu"]
            self._failed(step, record["log"]) if kind == "job_error" else self._finished(step, used)

    def _finished(self, step: Step, cpu: float) -> None:
        wall = time.time() - step.began
        self.done += 1
        self.spent, self.foreseen = self.spent + wall, self.foreseen + self._usual(step.key)
        self.times[step.key] = {"wall": round(wall, 1), "cpu": round(cpu, 1)}
        storage.write_json(self.kept, self.times)
        number = f"[{self.done:>{len(str(self.total))}}/{self.total}]"
        left = self.left() if self.done < self.total else ""
        self.say(f"{number} {step.says:<36} {_duration(wall):>11}   {left}".rstrip())

    def _failed(self, step: Step, logs: list[str]) -> None:
        self.failed = True
        text = "".join(Path(log).read_text() for log in logs if Path(log).is_file())
        lines = text.strip().splitlines() or ["its log is empty"]
        self.say(f"{step.says} failed: {lines[-1]}\n  its log: {' '.join(logs)}")

    def _usual(self, key: str) -> float:
        """Return the seconds that steps of a rule took last time, or that any step took."""
        every = [(name.split()[0], times["wall"]) for name, times in self.times.items()] or [("", 30.0)]
        return statistics.mean([wall for name, wall in every if name == key.split()[0]] or [w for _, w in every])

    def left(self) -> str:
        """Say how long the rest takes, by the last run's times, this run's pace, and as many steps at a time."""
        now, pace = time.time(), self.spent / self.foreseen
        rest = [max(0.0, pace * self._usual(step.key) - (now - step.began)) for step in self.running.values()]
        rest += [pace * self._usual(rule) for rule in (+self.waiting).elements()]
        return _left(max(sum(rest) / self.slots, max(rest, default=0.0)))

    def say(self, line: str) -> None:
        """Print a line that stays."""
        print(CLEAR * self.terminal + line, file=self.stream, flush=True)

    def draw(self) -> None:
        """Show the running steps: below the last line on a terminal, else a line of each once a minute."""
        lines = []
        for step in self.running.values():
            taken = time.time() - step.began
            lines.append(f"  {step.says}: {_training(step) or _duration(taken)}")
            if not self.terminal and taken >= 60 * (step.minutes + 1):
                step.minutes = int(taken / 60)
                self.say(lines[-1])
        if self.terminal and lines:
            size = shutil.get_terminal_size()
            lines = [line[: size.columns - 1] for line in [*lines[: size.lines - 3], f"  {self.left()}"]]
            print(CLEAR + "\n".join(lines) + f"\r\x1b[{len(lines) - 1}A", end="", file=self.stream, flush=True)

    def finish(self, code: int) -> None:
        """Tell how it ended; where no step began, as in a dry run, show what Snakemake itself printed."""
        chatter = self.log.read_text(encoding="utf-8")
        if code == 0 and "Nothing to be done" in chatter:
            self.say("Nothing to be done: everything is up to date.")
        elif code == 2:  # the last line says what is wrong with the arguments
            raise MudiffError(chatter.rstrip("\n").rpartition("\n")[2].removeprefix("Error: "))
        elif not self.planned:
            self.say(chatter.rstrip("\n"))
        elif code == 0:
            minutes = sum(os.times()[2:4]) / 60  # user and system time of the steps
            self.say(f"{self.done} steps in {_duration(time.time() - self.began)} ({minutes:.1f} min of CPU time).")
        else:
            tail = [] if self.failed else chatter.splitlines()[-5:]
            told = f"Stopped at an error (more: {self.log}). Once it is mended, go on with: {command(self.profile)}"
            self.say("\n".join([*tail, told]))


def _training(step: Step) -> str:
    """Tell which run a step trains now, and how far it is; nothing where it trains none."""
    for run in [Path(file).parent for file in step.files if "/weights.safetensors" in file]:  # "... (update)"
        with contextlib.suppress(OSError, ValueError, IndexError):  # nothing is written yet
            fresh = max(file.stat().st_mtime for file in run.iterdir()) >= step.began
            if not fresh or (run / "provenance.json").is_file():  # not begun, or complete
                continue
            settings = json.loads((run / "settings.json").read_text())["settings"]
            name, epochs = settings["method" if settings["variant"] == "released" else "variant"], settings["epochs"]
            told, log = f"{datasets.METHODS.get(name, name)} epoch ", (run / "log.jsonl").read_text().splitlines()
            lines = [json.loads(line) for line in log if line.endswith("}")]
            scores = [f"{line['validation/psnr']:.2f} dB, " for line in lines if "validation/psnr" in line]
            epoch, left = lines[-1]["epoch"], lines[-1]["seconds"] * (epochs / lines[-1]["epoch"] - 1)
            return f"{told}{epoch:.1f}/{epochs}, {''.join(scores[-1:])}{_left(left)}"
    return ""


def _duration(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"


def _left(seconds: float) -> str:
    return f"{seconds / 60:.0f} min left" if seconds >= 60 else "under 1 min left"


def snakemake() -> None:
    """Run Snakemake in this process: records, and CPU seconds of its steps, as JSON to stdout; all else to stderr."""
    from snakemake.cli import main

    records = logging.StreamHandler(os.fdopen(os.dup(1), "w"))
    records.format = lambda record: json.dumps(vars(record) | {"cpu": sum(os.times()[2:4])}, default=str)
    logging.getLogger("snakemake").addHandler(records)  # its own logger's handlers Snakemake removes
    os.dup2(2, 1)
    main(sys.argv[1:])


if __name__ == "__main__":
    try:
        sys.exit(workflow(*(sys.argv[1:2] or [""]), sys.argv[2:]))
    except MudiffError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
