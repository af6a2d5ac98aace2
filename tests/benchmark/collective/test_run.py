"""Small runs through the command line, in real processes; nothing here asks how fast they are."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from dmlf.benchmark.collective.load import read_record
from dmlf.cli import main
from dmlf.protocol import registry
from dmlf.transport import TRANSPORTS, register_transport
from tests.benchmark.collective.flipping import create_flipping

TINY = ["--rounds", "2", "--round-s", "0.001", "--timeout-s", "30"]
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_MPI = shutil.which("mpirun") is not None and importlib.util.find_spec("mpi4py") is not None


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["collective", *TINY, *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_contestant_is_measured_and_recorded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "deep" / "collective.json"
    sizes = ["--world-sizes", "2", "--sizes", "4", "20", "4096"]
    code, out, err = run(capsys, *sizes, "--output", str(output))
    assert (code, err) == (0, "")
    record = read_record(output)
    strategies = {f"{name}-{transport}" for name in registry() for transport in TRANSPORTS}
    peers = {"gloo"} if HAS_TORCH else set()
    peers |= {"openmpi"} if HAS_MPI else set()
    assert {cell.contestant for cell in record.cells} == {*strategies, *peers, "limit"}
    assert {entry.contestant for entry in record.skipped} == {"gloo", "openmpi"} - peers
    for name in strategies | peers:
        assert name in out
    servers = {cell.processes for cell in record.cells if "parameter_server" in cell.contestant}
    assert servers == {3}
    assert [path.name for path in output.parent.iterdir()] == ["collective.json"]


def test_three_ranks_and_odd_sizes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "collective.json"
    sizes = ["--world-sizes", "3", "--sizes", "8", "4004", "--peers"]
    assert run(capsys, *sizes, "--output", str(output))[0] == 0
    assert json.loads(output.read_text())["config"]["peers"] == []


def test_buckets_and_several_servers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "collective.json"
    names = ["ring-shm", "parameter_server-shm", "parameter_server:2-shm", "parameter_server:3-tcp"]
    sizes = ["--world-sizes", "2", "--sizes", "400", "4004", "--bucket-bytes", "1000", "--peers"]
    assert run(capsys, "--strategies", *names, *sizes, "--output", str(output))[0] == 0
    record = read_record(output)
    assert record.config.bucket_bytes == 1000
    processes = {cell.contestant: cell.processes for cell in record.cells}
    assert [processes[name] for name in names] == [2, 3, 4, 5]


def test_a_flipped_bit_fails_the_benchmark(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TRANSPORTS, "_registered", dict(TRANSPORTS._registered))
    register_transport("flipping")(create_flipping)
    output = tmp_path / "collective.json"
    for name in ("ring-flipping", "tree-flipping", "parameter_server-flipping"):
        arguments = ["--strategies", "ring-shm", name, "--peers", "--world-sizes", "2"]
        code, out, err = run(capsys, *arguments, "--sizes", "1024", "--output", str(output))
        assert (code, out) == (1, "")
        assert err.startswith(f"dmlf: {name} gave a wrong sum on rank ")
        assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--algorithms", "rign"], ["algorithms", "rign", "ring"]),
        (["--transports", "smoke"], ["transports", "smoke", "queue"]),
        (["--strategies", "ring"], ["strategies", "ring", "queue"]),
        (["--strategies", "ring-shm", "ring-shm"], ["strategies", "once"]),
        (["--strategies", "ring-shm", "--transports", "shm"], ["strategies", "--transports"]),
        (["--strategies", "ring:2-shm"], ["strategies", "ring:2-shm", "no servers"]),
        (["--strategies", "parameter_server:0-shm"], ["strategies", "NAME:2 for 2 servers"]),
        (["--bucket-bytes", "3"], ["bucket_bytes", "3", "4 to"]),
        (["--peers", "nccl"], ["peers", "nccl", "gloo"]),
        (["--world-sizes", "1"], ["world_sizes", "1", "2 to 64"]),
        (["--sizes", "1023"], ["sizes", "1023", "multiple of 4"]),
        (["--sizes", "0"], ["sizes", "0", "4 to"]),
        (["--rounds", "0"], ["rounds", "0"]),
        (["--round-s", "nan"], ["round_s", "nan"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--output", "/dev/null/a.json"], ["output", "/dev/null"]),
    ],
)
def test_bad_flags_are_one_line_with_the_remedy(
    capsys: pytest.CaptureFixture[str], arguments: list[str], names: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    for name in names:
        assert name in err
