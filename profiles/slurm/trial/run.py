"""Try profiles/slurm on a real SLURM: one node, started here for the occasion.

    apt-get install slurm-wlm munge          # Debian, as root; a container will do
    python profiles/slurm/trial/run.py       # some three minutes on two cores

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

ROOT = Path(__file__).resolve().parents[3]
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


def copy_the_checkout(folder: Path) -> None:
    """Copy what the workflow reads, and let smoke train longer."""
    for name in ("notebooks", "profiles", "mudiff", "data_manifests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    path = folder / "mudiff/training/profiles.py"
    text = path.read_text()
    for old, new in {'"epochs": 1, ': f'"epochs": {EPOCHS}, ', '"batch_size": 4}': '"batch_size": 1}'}.items():
        check(old in text, f"{path.name} says {old}")
        text = text.replace(old, new, 1)  # the first profile is smoke
    path.write_text(text)
    os.environ.update(MUDIFF_ROOT=str(folder), PYTHONPATH=str(folder))


@contextlib.contextmanager
def snakemake(log: str) -> Iterator[subprocess.Popen]:
    """Start the driver, with its output in a file; it does not outlive the block."""
    command = [sys.executable, "-m", "snakemake", *map(str, TARGETS), *OPTIONS]
    with Path(log).open("w") as output:
        driver = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def trial() -> None:
    """Run, cut the training, let it be resumed; then run again."""
    with snakemake("first.log") as driver:
        before = cut_the_training(driver)
        check(driver.wait(1200) == 0, "the run ends well")
    first = Path("first.log").read_text()
    check("Trying to restart job" in first, "the training was tried again")
    submitted = len(re.findall("has been submitted with SLURM jobid", first))
    check(submitted == 7, f"seven jobs for six steps ({submitted})")
    check(all(target.exists() for target in TARGETS), "the notebooks are there")
    log = (RUN / "log.jsonl").read_text()
    check(log.startswith(before), "the training went on from there")  # the lines hold seconds
    steps = [int(step) for step in re.findall(r'"step": (\d+),', log)]
    check(steps == list(range(1, STEPS * EPOCHS + 1)), "its log has every step once")
    with snakemake("second.log") as driver:
        check(driver.wait(120) == 0, "a second run ends well")
    check("Nothing to be done" in Path("second.log").read_text(), "it has nothing to do")


def cut_the_training(driver: subprocess.Popen) -> str:
    """Send what SLURM sends before a time limit, see that the state is saved, and return the training's log."""
    log = RUN / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 1):
        check(driver.poll() is None, "the driver runs until the training begins")
        time.sleep(0.2)
    jobs = re.findall(r"SLURM jobid (\d+) .*rule_train_isles_t1/", Path("first.log").read_text())
    subprocess.run(["scancel", "--signal=TERM", jobs[-1]], check=True)
    until = time.monotonic() + 60
    while "Stopped by SIGTERM" not in (RESULTS / "logs" / "02_training_isles_t1.log").read_text():
        check(time.monotonic() < until, "the training stops")
        time.sleep(0.2)
    written = log.read_text()
    step = torch.load(RUN / "state.pt", weights_only=True)["step"]
    # A state is saved at the end of each epoch, too: that would prove nothing.
    saved = f'"step": {step},' in written.splitlines()[-1] and step % STEPS
    check(saved, f"the state of its last step ({step}) was saved")
    return written


def check(true: bool, what: str) -> None:
    """Stop with the drivers' logs where something does not hold."""
    if not true:
        sys.exit(f"FAILED: {what}\n" + "".join(f"--- {p}\n{p.read_text()[-6000:]}" for p in Path().glob("*.log")))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons are stopped then, too
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mudiff-trial-") as folder, cluster.running():
        os.chdir(folder)
        copy_the_checkout(Path(folder))
        trial()
    print(f"passed, in {(time.monotonic() - began) / 60:.1f} minutes")
