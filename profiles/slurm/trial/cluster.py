"""A real SLURM cluster of one node on this machine, in a temporary folder, and nothing left of it afterwards."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
SECONDS = 30  # to start, and for the jobs to end
CONFIGURATION = """
ClusterName=mudiff
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes} State=UNKNOWN
PartitionName=gpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def output_of(command: str) -> str:
    return subprocess.run(command.split(), capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Start the daemons; at the end stop their jobs and them, and no others."""
    if missing := [program for program in PROGRAMS if find(program) is None]:
        sys.exit(f"{', '.join(missing)}: not found; on Debian: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        sys.exit("slurmd starts jobs and munged signs them: that needs root (a container will do).")
    folder = Path(tempfile.mkdtemp(prefix="mudiff-slurm-"))
    folder.chmod(0o755)  # else munged refuses to put its socket there
    daemons: list[subprocess.Popen] = []
    before = dict(os.environ)
    try:
        _configure(folder)
        munged = f"munged --foreground --force --key-file={folder}/munge.key --socket={folder}/munge.socket"
        munged += "".join(f" --{kind}-file={folder}/munged.{kind}" for kind in ("pid", "log", "seed"))
        for command in (munged, "slurmctld -D", "slurmd -D"):
            program, *options = command.split()
            with (folder / f"{program}.output").open("w") as output:
                streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
                # In a session of its own: Ctrl-C is for the driver; the daemons end in order, below.
                daemons.append(subprocess.Popen([find(program), *options], **streams, start_new_session=True))
            time.sleep(1)
        _wait_for_the_node(daemons, folder)
        yield
    finally:
        if daemons:  # else SLURM_CONF may be that of another cluster
            output_of("scancel --partition=gpu")  # jobs would outlive the daemons
            until = time.monotonic() + SECONDS
            while output_of("squeue --noheader") and time.monotonic() < until:
                time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        left = processes_of(folder)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)
    if left:
        sys.exit("\n".join(["still running:", *left]))


def processes_of(folder: Path) -> list[str]:
    """Return the processes, other than this one, that know of a folder of the cluster."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(folder) in word for word in words):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def _configure(folder: Path) -> None:
    """Let SLURM's commands find a configuration without a file in /etc.

    SLURM_CONF is their variable for it. The plugin removes all variables of SLURM's before it calls srun, so
    that one gets a script that sets it again.
    """
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    node = {"host": socket.gethostname().split(".")[0], "cpus": len(os.sched_getaffinity(0))}
    node["megabytes"] = psutil.virtual_memory().total // 2**20 * 9 // 10
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=ports, **node))
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {find("srun")} "$@"\n')
    srun.chmod(0o755)
    os.environ.update(SLURM_CONF=f"{folder}/slurm.conf", PATH=f"{srun.parent}:{os.environ['PATH']}")


def _wait_for_the_node(daemons: list[subprocess.Popen], folder: Path) -> None:
    for _ in range(SECONDS):
        if any(daemon.poll() is not None for daemon in daemons):
            break
        if output_of("sinfo --noheader --format=%T") == "idle":
            return
        time.sleep(1)
    logs = sorted([*folder.glob("*.output"), *folder.glob("*.log")])
    sys.exit("SLURM did not come up.\n" + "".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in logs))
