"""Two hosts, as near as one machine can have them: network namespaces, joined by a wire.

Each has an address of its own and its own loopback. Needs root and `ip` (iproute2).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmlf.config import RunConfig
from dmlf.training.run import train

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 90.0
ADDRESSES = ("10.79.0.1", "10.79.0.2")
RUN = RunConfig(
    hidden_sizes=(16,), reduction="exact", num_shards=4, max_steps=5, warmup_steps=0, epochs=1
)
FLAGS = [
    *("--hidden-sizes", "16", "--reduction", "exact", "--num-shards", "4", "--max-steps", "5"),
    *("--warmup-steps", "0", "--epochs", "1", "--world-size", "2"),
]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


class Hosts:
    """Two namespaces; commands run in one of them."""

    def __init__(self) -> None:
        self.names = [f"dmlf-{os.getpid()}-{index}" for index in range(2)]

    def make(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        first, second = self.names
        ip("link", "add", "eth0", "netns", first, "type", "veth", "peer", "eth0", "netns", second)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)

    def start(self, host: int, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[host], sys.executable, "-m", *arguments],
            cwd=ROOT,
            # The hosts have no names of their own, by which Gloo would find its interface.
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    pytest.importorskip("torch", reason="trains a torch model")
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip, of iproute2")
    hosts = Hosts()
    try:
        try:
            hosts.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made: {error.stderr.decode().strip()}")
        yield hosts
    finally:
        hosts.remove()


@pytest.fixture(scope="module")
def serial() -> str:
    return train(RUN).final_state().sha256()


def succeed(processes: list[subprocess.Popen[str]]) -> None:
    try:
        for process in processes:
            output, _ = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def final_state(output: Path) -> str:
    state: str = json.loads(output.read_text())["final_state_sha256"]
    return state


@pytest.mark.parametrize("algorithm", ["ring", "parameter_server"])
def test_two_hosts_train_over_tcp(
    hosts: Hosts, tmp_path: Path, serial: str, algorithm: str
) -> None:
    key, output = tmp_path / "key", tmp_path / "metrics.json"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    place = ["--coordinator", f"{ADDRESSES[0]}:29400", "--key-file", str(key)]
    run = ["--algorithm", algorithm, "--transport", "tcp", "--output", str(output), "--timeline"]
    ranks = [0, 1] if algorithm == "ring" else [0, 1, 1]
    succeed(
        [
            hosts.start(0, "dmlf", "train", *FLAGS, *run, *place),
            *(hosts.start(host, "dmlf", "worker", *place) for host in ranks),
        ]
    )
    assert final_state(output) == serial
    assert output.with_name("timeline.json").exists()


@pytest.mark.parametrize("algorithm", ["ring", "native"])
def test_two_hosts_train_over_a_process_group(
    hosts: Hosts, tmp_path: Path, serial: str, algorithm: str
) -> None:
    output = tmp_path / "metrics.json"
    succeed(
        [
            hosts.start(
                host,
                "torch.distributed.run",
                "--nnodes=2",
                f"--node-rank={host}",
                "--nproc-per-node=1",
                f"--master-addr={ADDRESSES[0]}",
                "--master-port=29401",
                *("-m", "dmlf", "train", *FLAGS, "--transport", "process_group"),
                *("--algorithm", algorithm, "--output", str(output)),
            )
            for host in range(2)
        ]
    )
    assert final_state(output) == serial
