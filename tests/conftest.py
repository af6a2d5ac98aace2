"""What every test promises: no process, descriptor or shared memory is left behind."""

from __future__ import annotations

import signal

import pytest

from dmlf.conformance.leftovers import nothing_left_behind as nothing_left_behind
from dmlf.conformance.leftovers import start_fork_server


@pytest.fixture(scope="session", autouse=True)
def warm_fork_server() -> None:
    """Import once what ranks of many tests need; torch._dynamo alone takes two seconds."""
    start_fork_server("torch._dynamo", "dmlf.torch", "pytest")


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Heed SIGINT, also where a shell started the tests in the background, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
