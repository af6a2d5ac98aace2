"""A distribution from outside, installed by pip: everything finds it, in every kind of process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.installed import RELAY, TIMEOUT_S, dmlf, environment, pip_install, python

RUN = ["--max-steps", "6", "--warmup-steps", "1", "--global-batch-size", "16"]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the plug-in is installed."""
    target = tmp_path_factory.mktemp("installed") / "site"
    pip_install(RELAY, target)
    return target


def metrics(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def serial(relay: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The task of the plug-in, trained serially with an exact sum."""
    folder = tmp_path_factory.mktemp("serial")
    arguments = ["--task", "relay_means", "--reduction", "exact", "--output", "serial.json"]
    outcome = dmlf([relay], folder, "train", *arguments, *RUN)
    assert outcome.code == 0, outcome.err
    return metrics(folder / "serial.json")


def test_it_is_listed(relay: Path, tmp_path: Path) -> None:
    outcome = dmlf([relay], tmp_path, "plugins")
    assert (outcome.code, outcome.err) == (0, "")
    for kind, name in (("algorithm", "relay"), ("task", "relay_means"), ("transport", "relay")):
        assert f"ok      {kind} '{name}' of dmlf-relay 0.3 (dmlf_relay." in outcome.out
    assert outcome.out.splitlines()[-1] == "3 plug-ins: 0 broken"
    assert "relay" in dmlf([relay], tmp_path, "train", "--help").out


def test_looking_at_the_names_imports_nothing_of_it(relay: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from dmlf.cli import make_parser; make_parser(); "
        "from dmlf.protocol import registry; assert 'relay' in registry(); "
        "print([name for name in sys.modules if name.startswith('dmlf_relay')])"
    )
    assert python([relay], tmp_path, "-c", program).out == "[]\n"


def test_its_ranks_find_it_and_its_run_says_what_it_used(
    relay: Path, tmp_path: Path, serial: dict[str, Any]
) -> None:
    arguments = ["--task", "relay_means", "--algorithm", "relay", "--transport", "relay"]
    arguments += ["--world-size", "3", "--reduction", "exact", "--output", "run.json", *RUN]
    outcome = dmlf([relay], tmp_path, "train", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    run = metrics(tmp_path / "run.json")
    assert run["final_state_sha256"] == serial["final_state_sha256"]
    assert run["correctness"]["traffic_matches_theory"] is True
    used = run["provenance"]["plugins"]
    assert [(item["kind"], item["name"]) for item in used] == [
        ("task", "relay_means"),
        ("algorithm", "relay"),
        ("transport", "relay"),
    ]
    assert {(item["distribution"], item["version"]) for item in used} == {("dmlf-relay", "0.3")}
    assert [item["name"] for item in serial["provenance"]["plugins"]] == ["relay_means"]
    assert run["provenance"]["source_sha256"] == serial["provenance"]["source_sha256"]


def test_replacements_of_dead_ranks_find_it(
    relay: Path, tmp_path: Path, serial: dict[str, Any]
) -> None:
    arguments = ["--task", "relay_means", "--algorithm", "relay", "--transport", "relay"]
    arguments += ["--world-size", "2", "--reduction", "exact", "--output", "run.json", *RUN]
    arguments += ["--max-restarts", "1", "--fault", "kill:rank=1,step=3,phase=reduce"]
    outcome = dmlf([relay], tmp_path, "train", *arguments)
    assert outcome.code == 0, outcome.err
    run = metrics(tmp_path / "run.json")
    assert run["recovery"]["restarts"] == 1
    assert run["final_state_sha256"] == serial["final_state_sha256"]


def test_workers_of_a_coordinator_find_it(
    relay: Path, tmp_path: Path, serial: dict[str, Any]
) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    meet = ["--coordinator", address, "--key-file", str(key), "--join-timeout-s", "60"]
    train = ["train", "--task", "relay_means", "--algorithm", "relay", "--transport", "tcp"]
    train += ["--world-size", "2", "--reduction", "exact", "--output", "run.json", *RUN, *meet]
    commands = [train, ["worker", *meet], ["worker", *meet]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dmlf", *command],
            cwd=tmp_path,
            env=environment(relay),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for command in commands
    ]
    try:
        said = [process.communicate(timeout=TIMEOUT_S)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0, 0], said
    state = metrics(tmp_path / "run.json")["final_state_sha256"]
    assert state == serial["final_state_sha256"]


def test_processes_of_torchrun_find_it(relay: Path, tmp_path: Path, serial: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dmlf"]
    train = ["train", "--task", "relay_means", "--algorithm", "relay", "--reduction", "exact"]
    train += ["--transport", "process_group", "--output", "run.json", *RUN]
    outcome = python([relay], tmp_path, *launch, *train)
    assert outcome.code == 0, outcome.err
    state = metrics(tmp_path / "run.json")["final_state_sha256"]
    assert state == serial["final_state_sha256"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["relay", "--world-size", "3", "--transport", "relay"],
        ["simulate", "relay", "--seeds", "50"],
        ["simulate", "relay", "--explore", "--world-size", "2"],
        ["project", "--algorithms", "relay", "--parameters", "1000", "--compute-s", "0.1",
         "--link", "ethernet-10g", "--world-sizes", "4"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)  # fmt: skip
def test_verbs_that_check_protocols_take_it(
    relay: Path, tmp_path: Path, arguments: list[str]
) -> None:
    outcome = dmlf([relay], tmp_path, *arguments)
    assert outcome.code == 0, outcome.out + outcome.err


def test_it_is_measured_beside_the_others(relay: Path, tmp_path: Path) -> None:
    sizes = ["--sizes", "1024", "--world-sizes", "2", "--rounds", "1", "--peers"]
    strategies = ["--strategies", "relay-relay", "ring-queue"]
    outcome = dmlf([relay], tmp_path, "collective", *strategies, *sizes, "--output", "c.json")
    assert outcome.code == 0, outcome.err
    used = metrics(tmp_path / "c.json")["provenance"]["plugins"]
    assert [(item["kind"], item["name"]) for item in used] == [
        ("algorithm", "relay"),
        ("transport", "relay"),
    ]


def test_its_author_can_run_the_conformance_tests(relay: Path, tmp_path: Path) -> None:
    chosen = ["--algorithm", "relay", "--transport", "relay"]
    outcome = dmlf([relay], tmp_path, "conformance", *chosen)
    assert outcome.code == 0, outcome.out
    assert " passed" in outcome.out
    assert "failed" not in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_protocol_and_a_wrong_transport_fail_the_conformance_tests(
    relay: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "site"
    subprocess.run(["cp", "-r", str(relay), str(wrong)], check=True)
    for file, old, new in (
        ("protocol.py", "if rank < last", "if rank < last and rank != 2"),
        ("carrier.py", "Message(message.tag, upside_down(message.payload))\n\n", "message\n\n"),
    ):
        path = wrong / "dmlf_relay" / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    for kind in ("algorithm", "transport"):
        outcome = dmlf([wrong], tmp_path, "conformance", f"--{kind}", "relay")
        assert outcome.code == 1, outcome.out
        assert " failed" in outcome.out


def test_an_edit_of_it_is_found_by_verify(relay: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(["cp", "-r", str(relay), str(site)], check=True)
    folder = "results/relay_means/serial/exact/world_size=1/seed=0/rep=0"
    arguments = ["--task", "relay_means", "--reduction", "exact", *RUN]
    arguments += ["--output", f"{folder}/metrics.json"]
    assert dmlf([site], tmp_path, "train", *arguments).code == 0
    assert dmlf([site], tmp_path, "verify", "results").code == 0
    (site / "dmlf_relay" / "README.md").write_text("Documentation decides nothing.\n")
    assert dmlf([site], tmp_path, "verify", "results").code == 0
    with (site / "dmlf_relay" / "tasks.py").open("a") as source:
        source.write("\n# edited\n")
    outcome = dmlf([site], tmp_path, "verify", "results")
    assert outcome.code == 1
    assert "another version of a plug-in" in outcome.out


def test_a_decorator_alone_is_enough_in_a_script(relay: Path, tmp_path: Path) -> None:
    """The ranks of `dmlf.train` run the script's definitions again, as multiprocessing does."""
    sources = relay / "dmlf_relay"
    body = "\n".join(
        (sources / f"{name}.py").read_text().replace("from __future__ import annotations\n", "")
        for name in ("protocol", "carrier", "tasks")
    )
    script = tmp_path / "script.py"
    script.write_text(
        f"{body}\n"
        "if __name__ == '__main__':\n"
        "    import dmlf\n"
        "    config = dmlf.RunConfig(task='relay_means', algorithm='relay', transport='relay',\n"
        "        world_size=2, reduction='exact', max_steps=6, global_batch_size=16)\n"
        "    result = dmlf.train(config)\n"
        "    print(len(result.ranks), result.final_state().sha256())\n"
    )
    outcome = python([], tmp_path, str(script))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("2 ")
