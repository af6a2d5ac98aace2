"""A Slurm of a test's own: munged, slurmctld and two slurmd on loopback, in one folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel")
START_S = 20.0
STOP_S = 10.0
NODES = ("node1", "node2")
CPUS = 2


@dataclass(frozen=True, slots=True)
class PrivateSlurm:
    """A running cluster of two nodes, both of them this host."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """Variables with which Slurm's programs talk to this cluster."""
        return {
            **os.environ,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            # Also for the measuring lock, which others of this host may hold for long.
            "TMPDIR": str(self.folder / "tmp"),
        }

    def ask(self, *command: str) -> str:
        """What one of Slurm's programs prints."""
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=STOP_S
        )
        return done.stdout if done.returncode == 0 else ""

    def jobs(self) -> dict[str, int]:
        """Of every job in order: its state, and the number of its nodes."""
        lines = self.ask("squeue", "--states=all", "--noheader", "--format=%i %T %D").splitlines()
        return {f"{job} {state}": int(nodes) for job, state, nodes in sorted(map(str.split, lines))}

    def processes(self) -> list[psutil.Process]:
        """Every living process that was started by this cluster or for it."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = [*process.cmdline(), process.environ().get("SLURM_CONF", "")]
                # A zombie has no command line, and is nobody's but its parent's.
                if any(str(self.folder) in word for word in words) or (
                    "slurmstepd" in process.name() and process.create_time() > self._began()
                ):
                    found.append(process)
        return found

    def _began(self) -> float:
        return (self.folder / "slurm.conf").stat().st_mtime


def missing() -> str | None:
    """Why no private Slurm can be had here; None if one can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd runs jobs as root alone"
    return None


@contextlib.contextmanager
def private_slurm(folder: Path) -> Iterator[PrivateSlurm]:
    """Run a cluster in this folder, whose path must be short: sockets are in it."""
    slurm = PrivateSlurm(folder)
    _configure(folder)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        places = {"socket": "sock", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        munge = [f"--{option}={folder}/munge.{kind}" for option, kind in places.items()]
        key = f"--key-file={folder}/munge.key"
        daemons.append(_start(slurm, "munged", "--foreground", "--force", key, *munge))
        _wait_for((folder / "munge.sock").exists, daemons)
        daemons.append(_start(slurm, "slurmctld", "-D", "-c"))
        daemons += [_start(slurm, "slurmd", "-D", "-N", node) for node in NODES]
        states = ("sinfo", "--noheader", "--Node", "--format=%T")
        _wait_for(lambda: slurm.ask(*states).split() == ["idle"] * len(NODES), daemons)
        yield slurm
    finally:
        if len(daemons) > 1:
            slurm.ask("scancel", "--user", "root")
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(STOP_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        left = slurm.processes()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, STOP_S)


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _configure(folder: Path) -> None:
    controller, *ports = _free_ports(1 + len(NODES))
    lines = [
        "ClusterName=private",
        "SlurmctldHost=localhost(127.0.0.1)",
        f"SlurmctldPort={controller}",
        "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
        f"AuthInfo=socket={folder}/munge.sock",
        "SlurmUser=root",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        # A container's cgroups are seldom ours to change, and its processors not ours to bind.
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "SlurmdParameters=config_overrides",
        "MpiDefault=none",
        "ReturnToService=2",
        "KillWait=2",
        "PartitionName=main Nodes=ALL Default=YES MaxTime=10 State=UP",
    ]
    for node, port in zip(NODES, ports, strict=True):
        place = f"NodeAddr=127.0.0.1 NodeHostname=localhost Port={port}"
        lines.append(f"NodeName={node} {place} CPUs={CPUS} RealMemory=1024 State=UNKNOWN")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
    for name in ("state", "bin", "tmp", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    # The executor's job step drops SLURM_CONF; on a cluster the configuration is where srun looks.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program("srun")} "$@"\n')
    srun.chmod(0o755)


def _start(slurm: PrivateSlurm, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    program = _program(name)
    assert program is not None
    node = arguments[-1] if name == "slurmd" else ""
    with (slurm.folder / f"{name}{node}.log").open("wb") as log:
        return subprocess.Popen(
            [program, *arguments],
            env=slurm.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _wait_for(ready: Callable[[], bool], daemons: list[subprocess.Popen[bytes]]) -> None:
    """Wait until `ready()`; polls, since Slurm's daemons tell nobody."""
    deadline = time.monotonic() + START_S
    while not ready():
        ended = [daemon.args for daemon in daemons if daemon.poll() is not None]
        assert not ended, f"a daemon ended: {ended}"
        assert time.monotonic() < deadline, "Slurm did not start"
        time.sleep(0.05)
