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
SECONDS_TO_START = 30
SECONDS_TO_END = 30

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


def refusal() -> str | None:
    """Return why this machine cannot have the cluster, or None."""
    missing = [program for program in PROGRAMS if find(program) is None]
    if missing:
        return f"{', '.join(missing)}: not found; on Debian: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd starts jobs and munged signs them: that needs root (a container will do)."
    return None


def find(program: str) -> str | None:
    """Return the path of a program, also of those in /usr/sbin."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running() -> Iterator[Path]:
    """Start the daemons; yield the folder of their logs; at the end stop their jobs and them, and no others."""
    folder = Path(tempfile.mkdtemp(prefix="mudiff-slurm-"))
    folder.chmod(0o755)  # else munged refuses to put its socket there
    daemons: list[subprocess.Popen] = []
    before = dict(os.environ)
    try:
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        host = socket.gethostname().split(".")[0]
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=host,
                folder=folder,
                ports=free_ports(2),
                cpus=len(os.sched_getaffinity(0)),
                megabytes=memory * 9 // 10,
            )
        )
        _point_to(folder)
        munged = f"munged --foreground --force --key-file={folder}/munge.key --socket={folder}/munge.socket"
        munged += "".join(f" --{kind}-file={folder}/munged.{kind}" for kind in ("pid", "log", "seed"))
        for command in (munged, "slurmctld -D", "slurmd -D"):
            daemons.append(_start(command.split(), folder))
        _wait_for_the_node(daemons, folder)
        yield folder
    finally:
        _end_the_jobs()  # which would live on without the daemons
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
        print("\n".join(["still running:", *left]) if left else "no process of the cluster is left")
    if left:
        sys.exit(1)


def processes_of(folder: Path) -> list[str]:
    """Return the processes, other than this one, that know of a folder of the cluster."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(folder) in word for word in words):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def _end_the_jobs() -> None:
    """Cancel all jobs of the cluster and wait until their processes have ended."""
    if "SLURM_CONF" not in os.environ:
        return
    subprocess.run(["scancel", "--partition=gpu"], capture_output=True)
    for _ in range(SECONDS_TO_END):
        jobs = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True)
        if not jobs.stdout.strip():  # so, too, where the controller never came up
            return
        time.sleep(1)
    print(f"jobs did not end:\n{jobs.stdout}")


def _point_to(folder: Path) -> None:
    """Let SLURM's commands find the configuration, without a file in /etc.

    SLURM_CONF is their variable for it. The plugin removes all variables of SLURM's before it calls srun, so
    that one gets a script that sets it again.
    """
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {find("srun")} "$@"\n')
    srun.chmod(0o755)
    os.environ["PATH"] = f"{srun.parent}:{os.environ['PATH']}"


def _start(command: list[str], folder: Path) -> subprocess.Popen:
    output = (folder / f"{command[0]}.output").open("w")
    daemon = subprocess.Popen(
        [find(command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the driver; the daemons end in order, below
    )
    print(f"started {command[0]}, process {daemon.pid}")
    time.sleep(1)
    return daemon


def _wait_for_the_node(daemons: list[subprocess.Popen], folder: Path) -> None:
    state = ""
    for _ in range(SECONDS_TO_START):
        dead = [daemon.args[0] for daemon in daemons if daemon.poll() is not None]
        if dead:
            break
        answer = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True)
        state = answer.stdout.strip()
        if state == "idle":
            return
        time.sleep(1)
    logs = sorted([*folder.glob("*.output"), *folder.glob("*.log")])
    tails = "".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in logs)
    sys.exit(f"SLURM did not come up (node {state or 'unknown'}, ended: {dead}).\n{tails}")
