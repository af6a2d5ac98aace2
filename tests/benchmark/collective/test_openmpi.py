"""Open MPI as a peer: nothing of it is left, whoever is killed, and idle ranks do not spin."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dmlf.benchmark.collective import openmpi
from dmlf.benchmark.collective.config import CollectiveConfig
from dmlf.errors import PeerLost

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 20.0
CONFIG = CollectiveConfig(strategies=(), world_sizes=(2,), sizes=(1024,), timeout_s=30.0)
LAUNCHER = """
import threading
from dmlf.benchmark.collective.openmpi import started
from tests.benchmark.collective.test_openmpi import CONFIG
with started(CONFIG, 2) as ranks:
    assert ranks.measure("openmpi", 256, 5) > 0
    print("ready", flush=True)
    threading.Event().wait()
"""
needs_mpi = pytest.mark.skipif(
    shutil.which("mpirun") is None or importlib.util.find_spec("mpi4py") is None,
    reason="Open MPI and mpi4py are not installed",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for temporary files, with a path short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="dmlf-") as name:
        yield Path(name)


def launch(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # its parent may have other things to do
    except psutil.NoSuchProcess:
        return True


def nothing_left(family: list[psutil.Process], folder: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not all(map(ended, family)) and time.monotonic() < deadline:
        os.sched_yield()
    assert [process for process in family if not ended(process)] == []
    while any(folder.iterdir()) and time.monotonic() < deadline:
        os.sched_yield()  # the guard, which is no child of this process, may be at it still
    assert list(folder.iterdir()) == []


def named(family: list[psutil.Process], part: str) -> list[psutil.Process]:
    return [process for process in family if part in process.cmdline()]


@needs_mpi
@pytest.mark.parametrize("victim", ["launcher", "guard", "mpirun", "rank"])
def test_nothing_is_left_whoever_is_killed(folder: Path, victim: str) -> None:
    launcher = launch(folder)
    try:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "ready\n"
        assert list(folder.iterdir()) == []  # what has a name is gone while all are alive
        family = psutil.Process(launcher.pid).children(recursive=True)
        (guard,) = named(family, "dmlf.benchmark.collective.openmpi_guard")
        (mpirun,) = guard.children()
        ranks = mpirun.children()
        assert len(ranks) == 2
        victims = {"guard": guard, "mpirun": mpirun, "rank": ranks[1]}
        if victim == "launcher":
            launcher.kill()
        else:
            victims[victim].kill()
        nothing_left([guard, mpirun, *ranks], folder)
    finally:
        launcher.kill()
        launcher.communicate()
    nothing_left(family, folder)


def test_a_start_that_is_cut_short_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    stand_in = tmp_path / "mpirun"
    stand_in.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo "mpirun (Open MPI) 4"; exit; fi\n'
        f"echo started > {tmp_path}/fifo\nexec sleep 600\n"
    )
    stand_in.chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "mpi4py.py").write_text("")  # found, and not needed by the stand-in
    launcher = launch(
        folder, PATH=f"{tmp_path}:{os.environ['PATH']}", PYTHONPATH=f"{ROOT}:{tmp_path}"
    )
    try:
        assert (tmp_path / "fifo").read_text() == "started\n"
        family = psutil.Process(launcher.pid).children(recursive=True)
        assert len(family) == 2
        assert len(list(folder.iterdir())) == 1
    finally:
        launcher.kill()
        launcher.communicate()
    nothing_left(family, folder)


@needs_mpi
def test_ranks_block_between_turns_and_answer_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with openmpi.started(CONFIG, 2) as ranks:
        assert "Open MPI" in ranks.library
        for _ in range(2):
            assert ranks.measure("openmpi", 256, 100) > 0
            family = psutil.Process().children(recursive=True)
            workers = named(family, "dmlf.benchmark.collective.openmpi_program")
            # mpirun names the program too, behind its own words.
            workers = [process for process in workers if "-np" not in process.cmdline()]
            assert len(workers) == 2
            waiting = set(workers)
            deadline = time.monotonic() + DEADLINE_S
            while waiting and time.monotonic() < deadline:
                waiting -= {w for w in waiting if w.status() == psutil.STATUS_SLEEPING}
            assert not waiting
    nothing_left(workers, folder)


@needs_mpi
def test_a_rank_that_dies_ends_the_measurement(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def killed() -> None:
        with openmpi.started(CONFIG, 2) as ranks:
            family = psutil.Process().children(recursive=True)
            workers = named(family, "dmlf.benchmark.collective.openmpi_program")
            next(w for w in workers if "-np" not in w.cmdline()).send_signal(signal.SIGKILL)
            ranks.measure("openmpi", 256, 3)

    with pytest.raises(PeerLost, match="Open MPI rank"):
        killed()
    nothing_left([], folder)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "mpirun is not installed"),
        ("echo MPICH 4.1", "mpirun is another MPI: MPICH 4.1"),
        (
            'if [ "$1" = --version ]; then echo "Open MPI"; else echo "no slots"; exit 1; fi',
            "mpirun ended: no slots",
        ),
    ],
)
def test_without_open_mpi_the_reason_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, reason: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    programs = folder / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    if script is not None:
        (programs / "mpirun").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "mpirun").chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(openmpi.OpenMpiUnavailable, match=reason), openmpi.started(CONFIG, 2):
        pass
    assert list(folder.iterdir()) == [programs]
