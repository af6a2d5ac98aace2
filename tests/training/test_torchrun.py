"""The same command under torchrun: one node and two, equal to serial bit for bit."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError
from dmlf.training.result import RankReport, report_from_json, report_to_json
from dmlf.training.run import train
from dmlf.training.torchrun import started_by_torchrun

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torchrun")
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 90
RUN = RunConfig(
    hidden_sizes=(16,), reduction="exact", num_shards=4, max_steps=4, warmup_steps=0, epochs=1
)
FLAGS = [
    *("--hidden-sizes", "16", "--reduction", "exact", "--num-shards", "4", "--max-steps", "4"),
    *("--warmup-steps", "0", "--epochs", "1", "--transport", "process_group"),
]


def torchrun(*options: str, flags: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "dmlf", "train"]
    return subprocess.Popen(
        [*command, *FLAGS, *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def serial_state() -> str:
    return train(RUN).final_state().sha256()


@pytest.mark.parametrize(
    ("algorithm", "processes"), [("ring", 2), ("parameter_server", 3), ("native", 2)]
)
def test_one_node(tmp_path: Path, algorithm: str, processes: int) -> None:
    output = tmp_path / "metrics.json"
    with torchrun(
        f"--nproc-per-node={processes}",
        "--standalone",
        flags=["--algorithm", algorithm, "--output", str(output), "--timeline"],
    ) as run:
        printed, _ = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 0, printed
    assert printed.count("final state") == 1  # of all processes, one speaks
    metrics = json.loads(output.read_text())
    assert metrics["config"]["world_size"] == 2
    assert metrics["final_state_sha256"] == serial_state()
    assert len(metrics["timing"]["per_rank"]) == processes
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert {event["pid"] for event in events} == set(range(processes))


def test_two_nodes(tmp_path: Path) -> None:
    """Two agents, as on two hosts, each with one rank."""
    output = tmp_path / "metrics.json"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    nodes = [
        torchrun(
            "--nnodes=2",
            f"--node-rank={node}",
            "--nproc-per-node=1",
            "--master-addr=127.0.0.1",
            f"--master-port={port}",
            flags=["--algorithm", "ring", "--output", str(output)],
        )
        for node in range(2)
    ]
    try:
        for node in nodes:
            printed, _ = node.communicate(timeout=TIMEOUT_S)
            assert node.returncode == 0, printed
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    assert json.loads(output.read_text())["final_state_sha256"] == serial_state()


def test_a_world_size_that_was_not_started_is_refused() -> None:
    with torchrun(
        "--nproc-per-node=2", "--standalone", flags=["--algorithm", "ring", "--world-size", "4"]
    ) as run:
        printed, _ = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode != 0
    assert "dmlf: world_size: 4 is not allowed; expected 2, as 2 processes were started" in printed


def test_only_the_process_group_belongs_to_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert started_by_torchrun("process_group")
    assert not started_by_torchrun("shm")
    monkeypatch.delenv("MASTER_PORT")
    assert not started_by_torchrun("process_group")


@pytest.mark.parametrize("value", ["two", "", "-1"])
def test_a_damaged_environment_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(ConfigError) as caught:
        train(RunConfig(algorithm="ring", transport="process_group"))
    assert caught.value.key == "WORLD_SIZE"


def test_reports_travel_as_text() -> None:
    run = RunConfig(
        task="synthetic",
        algorithm="ring",
        transport="queue",
        world_size=2,
        max_steps=3,
        epochs=1,
        task_options={"num_samples": 256},
    )
    for report in train(run, transcript=True, timeline_steps=2).ranks:
        again: RankReport = report_from_json(report_to_json(report))
        assert again == report


def test_a_rank_that_ends_before_it_reports_is_a_lost_peer(tmp_path: Path) -> None:
    program = f"""
import os
import sys
import torch.distributed as dist
from dmlf.errors import PeerLost
from dmlf.training.torchrun import _gather

rank = int(sys.argv[1])
store = dist.FileStore({str(tmp_path / "store")!r}, 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
dist.barrier()
if rank == 1:
    os._exit(0)
try:
    _gather(2, "a report")
except PeerLost as error:
    print(error)
os._exit(0)
"""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [rank.communicate(timeout=TIMEOUT_S)[0] for rank in ranks]
    assert "its report did not come" in printed[0]


@pytest.mark.parametrize("made_by_program", [False, True])
def test_a_rank_leaves_the_group_that_it_made_and_no_other(made_by_program: bool) -> None:
    """A group that is still there when the interpreter ends may abort the process."""
    program = f"""
import torch.distributed as dist
from dmlf import RunConfig, train

if {made_by_program}:
    dist.init_process_group("gloo")
train(RunConfig(task="synthetic", algorithm="ring", transport="process_group", max_steps=1,
                warmup_steps=0))
print(dist.is_initialized())
if dist.is_initialized():
    dist.destroy_process_group()
"""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    group = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **group},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(made_by_program)), done.stderr
