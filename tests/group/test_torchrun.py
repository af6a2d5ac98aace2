"""The same script, unmodified, under torchrun and under other engines that set its variables."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dmlf
from dmlf.errors import ConfigError, RendezvousError
from dmlf.group import default

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torchrun")
ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(__file__).parent / "scripts" / "sums.py")
TIMEOUT_S = 120
NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


def finish(processes: list[subprocess.Popen[str]]) -> str:
    """What all have printed; each must end well."""
    printed = ""
    try:
        for process in processes:
            printed += process.communicate(timeout=TIMEOUT_S)[0]
        assert [process.returncode for process in processes] == [0] * len(processes), printed
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return printed


def torchrun(*options: str) -> subprocess.Popen[str]:
    return start(["-m", "torch.distributed.run", *options])


@pytest.mark.parametrize("flags", [(), ("--torch-first",), ("--again", "--torch-after")])
def test_one_node(flags: tuple[str, ...]) -> None:
    printed = finish([torchrun("--standalone", "--nproc-per-node=2", SCRIPT, *flags)])
    assert "[1.0, 3.0, 5.0, 7.0]" in printed
    assert printed.count("again") == (2 if "--again" in flags else 0)
    assert printed.count("torch ") == (2 if "--torch-after" in flags else 0)


def test_two_nodes() -> None:
    nodes = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
    nodes += [f"--master-port={free_port()}"]
    printed = finish(
        [torchrun(*nodes, f"--node-rank={node}", SCRIPT, "--again") for node in (0, 1)]
    )
    assert printed.count("[1.0, 3.0, 5.0, 7.0]") == 4


def test_ranks_that_torchrun_restarts() -> None:
    """The store of the agent still holds what the first ranks left in it."""
    options = ("--standalone", "--nproc-per-node=3", "--max-restarts=1")
    printed = finish([torchrun(*options, SCRIPT, "--dies-once", "--again")])
    assert printed.count("again") == 3


def test_any_engine_that_sets_the_variables() -> None:
    port = free_port()
    ranks = [
        start(
            [SCRIPT, "--again"],
            RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="localhost",
            MASTER_PORT=port,
        )
        for rank in (1, 0)
    ]
    assert finish(ranks).count("[1.0, 3.0, 5.0, 7.0]") == 4


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name, value in zip(NAMES, ("0", "2", "127.0.0.1", free_port()), strict=True):
        monkeypatch.setenv(name, value)
    yield monkeypatch
    default.shutdown()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("RANK", value) for value in ("", "-1", "one", "2", "1.0")),
        *(("WORLD_SIZE", value) for value in ("", "0", "two")),
        *(("MASTER_PORT", value) for value in ("", "0", "65536", "http")),
        ("MASTER_ADDR", ""),
    ],
)
def test_a_damaged_variable_is_named(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        dmlf.init()
    assert (caught.value.key, caught.value.value) == (name, value)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_variable_is_named(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.delenv(name)
    with pytest.raises(ConfigError) as caught:
        dmlf.init()
    assert caught.value.key == name


def test_ranks_that_do_not_come_are_named(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(RendezvousError) as caught:
        dmlf.init(timeout_s=0.5)
    assert caught.value.missing == [1]


def test_a_rank_0_that_does_not_come_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RANK", "1")
    with pytest.raises(RendezvousError) as caught:
        dmlf.init(timeout_s=1.0)
    assert caught.value.missing == [0]


def test_one_process_needs_no_store(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WORLD_SIZE", "1")
    environment.delenv("MASTER_ADDR")
    assert dmlf.init().world_size == 1
