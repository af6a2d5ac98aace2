"""Fixtures for every test: no process and no shared memory is left behind."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest

from dmlf.runtime import process_context
from dmlf.runtime.semaphores import name_semaphores

HELPERS = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
"""Processes that Python itself keeps for the life of the test session."""


def _children() -> set[int]:
    pids = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if not any(helper in " ".join(child.cmdline()) for helper in HELPERS):
                pids.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return pids


def shared_memory() -> set[str]:
    """The names in /dev/shm, without semaphores.

    These come and go with other programs of this host; and with queues, which fixtures may hold
    until after a test. Tests that end ranks look for this process's: `named_semaphores`.
    """
    folder = Path("/dev/shm")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names if not name.startswith("sem.")}


@pytest.fixture(scope="session", autouse=True)
def warm_fork_server() -> None:
    """Import torch once for all ranks of the session, where it is installed."""
    start_fork_server()


def start_fork_server(*with_torch: str) -> None:
    """Import what training needs once for all ranks, and `with_torch` where torch is installed."""
    name_semaphores()
    wanted = ["dmlf.training.torch_backend", *with_torch]
    has_torch = importlib.util.find_spec("torch") is not None
    process_context(wanted if has_torch else ["dmlf.training.worker"], threads_per_rank=1)
    forkserver.ensure_running()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a child process or a shared-memory entry."""
    processes, segments = _children(), shared_memory()
    yield
    assert _children() <= processes, "a process was left behind"
    assert shared_memory() <= segments, "a shared-memory entry was left behind"
