"""Try profiles/slurm on a real SLURM: one node, started here for the occasion.

    apt-get install slurm-wlm munge          # Debian, as root; a container will do
    python tests/slurm/run.py                # some three minutes on two cores
    python tests/slurm/run.py -- squeue      # or any other command while the cluster runs

A copy of the checkout runs part of profile ``smoke``: preparation, one training, its sampling, a notebook. The
training is cut off on its way and must go on from there; a second run must find nothing to do. The cluster
has no accounting database and no GPUs. Not part of `make test`.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cluster
import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results/smoke")
RUN = RESULTS / "runs" / "isles_t1_syndiff"  # the first that the job trains
TARGETS = [RESULTS / f"executed/{name}.ipynb" for name in ("03_sampling_isles_t1", "00_overview")]
EPOCHS, STEPS = 3, 12  # single slices: smoke's one epoch of three batches would be over before it can be cut
OPTIONS = shlex.split("""
    --config profile=smoke --workflow-profile profiles/slurm --jobs 2 --latency-wait 5
    --slurm-status-command squeue --slurm-init-seconds-before-status-checks 5
    --set-threads prepare=1 train=1 --set-resources train:runtime=15
    --default-resources runtime=15 mem_mb=2500 "slurm_extra='--signal=TERM@120'"
""")


def main() -> None:
    """Run the trial, or a command given after ``--``."""
    reason = cluster.refusal()
    if reason:
        sys.exit(f"SLURM cannot be tried here: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons are stopped then, too
    if "--" in sys.argv:
        with cluster.running():
            sys.exit(subprocess.run(sys.argv[sys.argv.index("--") + 1 :]).returncode)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mudiff-trial-") as folder, cluster.running():
        os.chdir(folder)
        copy_the_checkout(Path(folder))
        trial()
    print(f"passed, in {(time.monotonic() - began) / 60:.1f} minutes")


def copy_the_checkout(folder: Path) -> None:
    """Copy what the workflow reads, and let smoke train longer."""
    for name in ("notebooks", "profiles", "mudiff", "data_manifests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    config = folder / "mudiff" / "config.py"
    text = config.read_text()
    for name, value in {'"epochs": 1,': EPOCHS, '"batch_size": 4,': 1}.items():
        text = text.replace(name, f"{name.split()[0]} {value},", 1)  # the first profile is smoke
    config.write_text(text)
    os.environ.update(MUDIFF_ROOT=str(folder), PYTHONPATH=str(folder))


@contextlib.contextmanager
def snakemake(log: str) -> Iterator[subprocess.Popen]:
    """Start the driver, with its output in a file; it does not outlive the block."""
    command = [sys.executable, "-m", "snakemake", *map(str, TARGETS), *OPTIONS]
    print("running", " ".join(command[1:]))
    with Path(log).open("w") as output:
        driver = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def ends_well(driver: subprocess.Popen, seconds: int) -> bool:
    """Return whether a driver ends in time and without an error."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return driver.wait(seconds) == 0
    return False


def trial() -> None:
    """Run, cut the training, let it be resumed; then run again."""
    with snakemake("first.log") as driver:
        before = cut_the_training(driver)
        check(ends_well(driver, 1200), "the run ends well", "first.log")
    first = Path("first.log").read_text()
    check("Trying to restart job" in first, "the training was tried again", "first.log")
    submitted = len(re.findall("has been submitted with SLURM jobid", first))
    check(submitted == 7, f"seven jobs for six steps ({submitted})", "first.log")
    check(all(target.exists() for target in TARGETS), "the notebooks are there", "first.log")
    log = (RUN / "log.jsonl").read_text()
    check(log.startswith(before), "the training went on from there", "first.log")  # the lines hold seconds
    steps = [int(step) for step in re.findall(r'"step": (\d+),', log)]
    check(steps == list(range(1, STEPS * EPOCHS + 1)), "its log has every step once", "first.log")
    with snakemake("second.log") as driver:
        check(ends_well(driver, 120), "a second run ends well", "second.log")
    check("Nothing to be done" in Path("second.log").read_text(), "it has nothing to do", "second.log")


def cut_the_training(driver: subprocess.Popen) -> str:
    """Send what SLURM sends before a time limit, see that the state is saved, and return the training's log."""
    log = RUN / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 1):
        check(driver.poll() is None, "the driver runs until the training begins", "first.log", quiet=True)
        time.sleep(0.2)
    jobs = re.findall(r"SLURM jobid (\d+) .*rule_train_isles_t1/", Path("first.log").read_text())
    before = time.time()
    subprocess.run(["scancel", "--signal=TERM", jobs[-1]], check=True)
    print(f"sent SIGTERM to job {jobs[-1]}")
    task_log = RESULTS / "logs" / "02_training_isles_t1.log"
    while "Stopped by SIGTERM" not in task_log.read_text():
        check(time.time() - before < 60, "the training stops", "first.log", quiet=True)
        time.sleep(0.2)
    written = log.read_text()
    step = torch.load(RUN / "state.pt", weights_only=True)["step"]
    # A state is saved at the end of each epoch, too: that would prove nothing.
    saved = f'"step": {step},' in written.splitlines()[-1] and step % STEPS
    check(saved, f"the state of its last step ({step}) was saved", "first.log")
    return written


def check(true: bool, what: str, log: str, quiet: bool = False) -> None:
    """Print that something holds, or stop with the driver's log."""
    if not true:
        sys.exit(f"FAILED: {what}\n--- {log}\n{Path(log).read_text()[-6000:]}")
    if not quiet:
        print(f"  {what}")


if __name__ == "__main__":
    main()
