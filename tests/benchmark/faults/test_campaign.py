"""A campaign repeats from its seed, and passes no run that it should not."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.faults.campaign import Campaign, run_campaign, validate
from dmlf.benchmark.faults.left import MARK, mark_processes, traces
from dmlf.benchmark.faults.plans import PlannedRun, Request, plan_runs
from dmlf.cli import main
from dmlf.errors import MetricsError
from dmlf.runtime.faults import OF_FRAMES, OF_MEMBERSHIP, FaultKind, parse_fault
from dmlf.runtime.semaphores import named_semaphores
from dmlf.training.run import train

ALGORITHMS, TRANSPORTS = ("ring", "parameter_server", "tree"), ("queue", "shm", "tcp")


def request(
    runs: int,
    seed: int,
    algorithms: tuple[str, ...] = ALGORITHMS,
    transports: tuple[str, ...] = TRANSPORTS,
) -> Request:
    return Request(runs, seed, algorithms, transports)


def planned(number: int = 0, fault: str = "kill:rank=1,step=4", **changes: object) -> PlannedRun:
    (run,) = plan_runs(request(1, 0, ("ring",), ("queue",)))
    values = {"faults": (parse_fault(fault),), "saves": False, "ends": None, "number": number}
    return replace(run, **(values | changes))


def test_plans_are_a_function_of_the_seed() -> None:
    one = plan_runs(request(300, 5))
    assert one == plan_runs(request(300, 5))
    assert one[:40] == plan_runs(request(40, 5))
    assert one != plan_runs(request(300, 6))


def test_plans_cover_every_kind_everywhere_before_any_twice() -> None:
    combinations = (
        13 * 9 - 2 * 3 * 2 - 3
    )  # corrupt and cut over tcp alone, flip without servers alone
    runs = plan_runs(request(combinations, 1))
    seen = [(run.faults[0].kind, run.config.algorithm, run.config.transport) for run in runs]
    assert len(set(seen)) == combinations
    # A small campaign has every kind in it.
    faults = set(FaultKind) - set(OF_MEMBERSHIP)
    assert {kind for kind, _, _ in seen[: len(faults)]} == faults
    kinds = {(kind, transport) for kind, _, transport in seen}
    assert (FaultKind.CORRUPT, "shm") not in kinds
    assert not any(
        kind is FaultKind.FLIP for kind, algorithm, _ in seen if algorithm == "parameter_server"
    )
    for run in runs:
        servers = run.config.num_servers * (run.config.algorithm == "parameter_server")
        assert all(spec.rank < run.config.world_size + servers for spec in run.faults)
        assert (run.ends is not None) == (
            run.faults[0].kind in (FaultKind.NAN, FaultKind.RAISE, FaultKind.DISK_FULL)
        )
        assert run.saves or run.ends is None


def test_a_flip_that_two_survivors_could_spread_is_followed_by_a_kill() -> None:
    flips = [run for run in plan_runs(request(300, 1)) if run.faults[0].kind is FaultKind.FLIP]
    assert {run.config.world_size for run in flips} == {2, 3}
    for run in flips:
        flip, *kills = run.faults
        if run.config.world_size == 3:
            (kill,) = kills
            assert (flip.step, kill.step, kill.phase) == (6, 7, "commit")
            assert kill.rank != flip.rank


def test_recoveries_meet_faults_of_every_kind_that_they_can() -> None:
    runs = [run for run in plan_runs(request(400, 1)) if run.faults[-1].generation]
    in_step = {FaultKind.DELAY, FaultKind.FLIP, FaultKind.NAN, FaultKind.RAISE, FaultKind.DISK_FULL}
    assert {run.faults[1].kind for run in runs} == set(FaultKind) - in_step - set(OF_MEMBERSHIP)
    assert len({run.faults[0].kind for run in runs}) > 5
    for run in runs:
        second = run.faults[1]
        assert run.recovers
        assert (second.generation, second.step) == (1, 0)
        assert second.kind not in OF_FRAMES or run.config.transport == "tcp"


def test_a_campaign_passes_and_its_file_is_checked() -> None:
    lines: list[str] = []
    runs = [
        planned(0),
        planned(1, "raise:rank=0,step=6", saves=True, ends="RemoteError"),
        planned(2, "delay:rank=0,step=4,seconds=0.1"),
    ]
    content = run_campaign(runs, request(3, 0), ["dmlf", "faults"], lines.append)
    assert [run["problem"] for run in content["runs"]] == [None] * 3
    assert [len(run["recoveries"]) for run in content["runs"]] == [1, 0, 0]
    assert 0.0 <= content["runs"][0]["detection_s"] < 2.0
    assert content["summary"]["passed"] == 3
    assert content["summary"]["by_kind"]["kill"] == {"injected": 1, "fired": 1}
    assert len(lines) == 3
    wrong = copy.deepcopy(content)
    wrong["summary"]["passed"] = 2
    with pytest.raises(MetricsError, match="summary"):
        validate(wrong, "faults.json")
    del wrong["runs"][0]["passed"]
    with pytest.raises(MetricsError, match="passed"):
        validate(wrong, "faults.json")


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (planned(fault="kill:rank=1,step=99"), "did not fire: kill:rank=1,step=99"),
        (planned(fault="raise:rank=1,step=4"), "ended with RemoteError instead of success"),
        (planned(ends="RemoteError", saves=True), "ended with success instead of RemoteError"),
    ],
)
def test_a_run_that_is_not_as_planned_fails(run: PlannedRun, problem: str) -> None:
    entry = Campaign().run(run)
    assert not entry["passed"]
    assert problem in entry["problem"]


def test_a_fault_that_is_seen_too_late_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*arguments: object, struck: dict[int, float] | None = None, **named: Any) -> object:
        result = train(*arguments, struck=struck, **named)  # type: ignore[arg-type]
        for number in struck or {}:
            struck[number] -= 5.0
        return result

    monkeypatch.setattr("dmlf.benchmark.faults.campaign.train", late)
    problem = Campaign().run(planned())["problem"]
    assert problem.startswith("kill:rank=1,step=4 was seen after 5.")
    assert problem.endswith("not within 2 s")


def test_another_final_state_fails() -> None:
    campaign, run = Campaign(), planned()
    campaign._expected[run.config.sha256()] = "0" * 64
    assert "not that of the undisturbed run" in campaign.run(run)["problem"]


def test_a_run_that_cannot_be_resumed_fails_and_the_campaign_goes_on() -> None:
    """It ended with its typed error before there was any checkpoint."""
    run = planned(fault="raise:rank=0,step=1", saves=True, ends="RemoteError")
    entry = Campaign().run(run)
    assert "cannot be resumed" in entry["problem"]
    assert entry["final_state_sha256"] is None


def test_what_a_run_leaves_behind_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    campaign, run = Campaign(), planned()
    campaign.run(run)
    held = []

    def careless(*arguments: object, **named: object) -> object:
        held.append(os.open("/dev/null", os.O_RDONLY))
        held.append(subprocess.Popen(["sleep", "60"]))
        lock = get_context("spawn").Lock()
        held.append(lock)
        return train(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("dmlf.benchmark.faults.campaign.train", careless)
    descriptor: Any
    before = named_semaphores(os.getpid())
    try:
        problem = campaign.run(run)["problem"]
    finally:
        descriptor, process, _ = held
        os.close(descriptor)
        process.kill()
        process.wait()
    (name,) = named_semaphores(os.getpid()) - before
    assert problem == f"left behind: 1 descriptors; processes {process.pid}; semaphores {name}"


def test_a_process_whose_parent_has_ended_is_left_behind_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(MARK, "")  # what stood there comes back
    mark_processes()
    before = traces()
    orphan = int(subprocess.check_output(["sh", "-c", "sleep 60 >&- & echo $!"]))
    try:
        assert traces().more_than(before) == f"processes {orphan}"
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_draft_of_a_checkpoint_that_is_left_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(*arguments: object, checkpoint: Any, **named: object) -> object:
        Path(checkpoint.folder, ".step-0000000099.0123456789abcdef.tmp").mkdir()
        return train(*arguments, checkpoint=None, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("dmlf.benchmark.faults.campaign.train", careless)
    run = planned()
    campaign = Campaign()
    campaign._expected[run.config.sha256()] = train(run.config).final_state().sha256()
    entry = campaign.run(replace(run, saves=True))
    assert entry["problem"] == "left behind: drafts .step-0000000099.0123456789abcdef.tmp"


def test_a_campaign_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM ends it, whatever its run makes of signals; its folders of checkpoints go too."""
    output = tmp_path / "faults.json"
    command = [sys.executable, "-m", "dmlf", "faults", "--runs", "500", "--output", str(output)]
    # Sockets are made below it, whose paths have at most 107 bytes: no place for pytest's folder.
    with tempfile.TemporaryDirectory(prefix="stopped-") as scratch:
        environment = {**os.environ, "TMPDIR": scratch}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        ) as campaign:
            assert campaign.stdout is not None
            for _ in range(2):
                assert campaign.stdout.readline()
            campaign.send_signal(signal.SIGTERM)
            campaign.communicate(timeout=60)
        assert campaign.returncode == 128 + signal.SIGTERM
        assert list(Path(scratch).glob("dmlf-*")) == []
    assert not output.exists()


def test_a_campaign_leaves_no_temporary_file(tmp_path: Path) -> None:
    """Neither folders of checkpoints nor those of multiprocessing (`pymp-*`)."""
    command = [sys.executable, "-m", "dmlf", "faults", "--runs", "2", "--transports", "shm"]
    command += ["--output", str(tmp_path / "faults.json")]
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        environment = {**os.environ, "TMPDIR": scratch}
        subprocess.run(command, env=environment, check=True, timeout=100, stdout=subprocess.DEVNULL)
        assert os.listdir(scratch) == []


def test_the_verb_writes_and_judges(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "deep" / "faults.json"
    arguments = ["faults", "--runs", "3", "--seed", "2", "--transports", "shm"]
    assert main([*arguments, "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    validate(content, str(output))
    assert "3 of 3 runs passed" in capsys.readouterr().out
    for wrong in (["--algorithms", "star"], ["--transports", "process_group"], ["--only", "3"]):
        assert main([*arguments, *wrong]) == 2
        assert wrong[1] in capsys.readouterr().err
