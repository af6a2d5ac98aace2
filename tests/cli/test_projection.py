"""`dmlf project` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmlf.benchmark.files import write_json
from dmlf.benchmark.projection import read_projection
from dmlf.cli import main
from tests.benchmark.collective.records import record

SMALL = ["project", "--compute-s", "0.02", "--world-sizes", "1", "4", "5000"]
MLP = [*SMALL, "--model", "mlp", "--hidden-sizes", "32", "16"]


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MLP, "--num-servers", "1", "2", "--samples-per-rank", "8"]) == 0
    shown = capsys.readouterr().out
    assert "25,818 parameters in 1 bucket," in shown  # 784 x 32 + 32 + 32 x 16 + 16 + 16 x 10 + 10
    for title in ("ring: weak", "parameter_server, 1 server: weak", "2 servers: strong"):
        assert title in shown
    lines = [line.split() for line in shown.splitlines() if line.strip().startswith("5,000")]
    assert len(lines) == 6
    assert all(line[-2:] == ["closed", "form"] for line in lines)
    assert "simulated" in shown


def test_sizes_of_another_model_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--hidden-sizes", "--input-size", "--num-classes"):
        assert main([*SMALL, "--parameters", "1000", flag, "32"]) == 2
        assert f"{flag}:" in capsys.readouterr().err


def test_output_and_figures_are_written(tmp_path: Path) -> None:
    output, figures = tmp_path / "out" / "projection.json", tmp_path / "figures"
    assert main([*MLP, "--output", str(output), "--figures", str(figures)]) == 0
    projection = read_projection(output)
    assert {row.world_size for row in projection.rows} == {1, 4, 5000}
    assert projection.request["link"] == "ethernet-10g"
    assert sorted(path.name for path in figures.iterdir()) == [
        "projected_efficiency.png",
        "projected_efficiency.svg",
        "projected_sensitivity.png",
        "projected_sensitivity.svg",
    ]


def test_numbers_of_the_command_line_reach_the_model(tmp_path: Path) -> None:
    tensors = tmp_path / "tensors.json"
    tensors.write_text(
        json.dumps([{"numel": 300, "backward_s": 0.001}, {"numel": 70, "backward_s": 0.002}])
    )
    output = tmp_path / "projection.json"
    arguments = [
        *SMALL, "--tensors", str(tensors), "--link", "ethernet-25g", "--latency-s", "0.5",
        "--server-bandwidth-bits-per-s", "8e3", "--local-latency-s", "0.25", "--overhead-s",
        "0.125", "--reduction-bytes-per-s", "1e3", "--ranks-per-host", "2", "--slow-ranks", "1",
        "--slow-factor", "3", "--seed", "7", "--bucket-cap-bytes", "1000", "--no-overlap",
        "--reduction", "exact", "--scaling", "weak", "--algorithms", "tree", "parameter_server",
        "--num-servers", "3", "--output", str(output),
    ]  # fmt: skip
    assert main(arguments) == 0
    request = read_projection(output).request
    assert request["cluster"] == {
        "port": {"latency_s": 0.5, "bandwidth_bytes_per_s": 25e9 / 8},
        "local": {"latency_s": 0.25, "bandwidth_bytes_per_s": 26e9},
        "overhead_s": 0.125,
        "reduction_s_per_byte": 1e-3,
        "ranks_per_host": 2,
        "server_bandwidth": 1e3,
    }
    assert request["straggling"] == {"sigma": 0.0, "slow_ranks": 1, "slow_factor": 3.0, "seed": 7}
    workload = request["workload"]
    assert (workload["buckets"], workload["exact"], workload["overlap"]) == ([70, 300], True, False)
    assert workload["ready_s"] == pytest.approx([0.019, 0.02])
    assert request["link"] == "ethernet-25g, changed"
    assert [c["num_servers"] for c in request["contestants"]] == [0, 3]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--parameters", "0"],
        ["--parameters", "1000", "--world-sizes", "0"],
        ["--parameters", "1000", "--world-sizes", "100001"],
        ["--parameters", "1000", "--algorithms", "rink"],
        ["--parameters", "1000", "--num-servers", "0"],
        ["--parameters", "1000", "--latency-s", "nan"],
        ["--parameters", "1000", "--bandwidth-bits-per-s", "0"],
        ["--parameters", "1000", "--reduction-bytes-per-s", "0"],
        ["--parameters", "1000", "--reduction-bytes-per-s", "inf"],
        ["--parameters", "1000", "--server-bandwidth-bits-per-s", "-1"],
        ["--parameters", "1000", "--compute-s", "1e308"],
        ["--parameters", "1000", "--latency-s", "1e300"],
        ["--parameters", "1000", "--ranks-per-host", "0"],
        ["--parameters", "1000", "--compute-s", "-1"],
        ["--parameters", "1000", "--compute-s", "inf"],
        ["--parameters", "1000", "--bucket-cap-bytes", "0"],
        ["--parameters", "1000", "--simulate-up-to", "5000"],
        ["--parameters", "1000", "--straggling-sigma", "-1"],
        ["--parameters", "1000", "--slow-factor", "0.5"],
        ["--parameters", "1000", "--samples-per-rank", "0"],
        ["--model", "mlp", "--hidden-sizes", "0"],
        ["--tensors", "/nowhere/tensors.json"],
        ["--parameters", "1000", "--calibrate", "/nowhere/collective.json"],
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["project", "--compute-s", "0.02", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("dmlf: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("key", ["bandwidth", "server_bandwidth", "local_bandwidth"])
def test_a_bad_bandwidth_is_named_as_it_was_given(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = f"--{key.replace('_', '-')}-bits-per-s"
    assert main(["project", "--parameters", "10", "--compute-s", "1", flag, "-1"]) == 2
    assert capsys.readouterr().err.startswith(f"dmlf: {key}_bits_per_s: -1.0 is not allowed")


def test_links_come_from_a_record_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record's ring takes half a millisecond a round, and 1.5 nanoseconds a byte."""
    path, output = tmp_path / "collective.json", tmp_path / "projection.json"
    content = record()
    for cell in content["cells"]:
        if cell["contestant"] == "ring-shm":
            cell["call_s"] = [3 * 5e-4 + 1.5e-9 * cell["size_bytes"]] * 5
    write_json(path, content)
    assert main([*MLP, "--calibrate", str(path), "--output", str(output)]) == 0
    local = read_projection(output).request["cluster"]["local"]
    assert local["latency_s"] == pytest.approx(5e-4)
    assert local["bandwidth_bytes_per_s"] == pytest.approx(1 / 1.5e-9)
    capsys.readouterr()
    assert main([*MLP, "--calibrate", str(path), "--link", "loopback"]) == 2  # it holds no tcp
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["project", "--compute-s", "0.02"])
    assert caught.value.code == 2
    assert "--parameters --tensors --model" in capsys.readouterr().err
