"""Workers come and go while a run goes on: the bits and the samples are those of serial."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from dmlf.benchmark.metrics import build_metrics
from dmlf.benchmark.samples import samples_problem
from dmlf.config import RunConfig
from dmlf.errors import BelowMinimumWorkers, ConfigError, RestartBudgetExceeded
from dmlf.runtime.faults import parse_fault
from dmlf.runtime.supervisor import RestartPolicy
from dmlf.training.result import RunResult
from dmlf.training.run import train
from tests.training.test_recovery import DEADLINE_S, family, in_background
from tests.training.trainers import plan

NUM_SAMPLES = 120  # three steps of 32 and one of 24 an epoch
RUN = RunConfig(
    task="synthetic",
    task_options={"num_samples": NUM_SAMPLES, "parameter_dim": 7},
    global_batch_size=32,
    num_shards=8,
    bucket_cap_bytes=4,
    learning_rate=0.05,
    optimizer="adamw",
    max_steps=14,
    warmup_steps=0,
    world_size=4,
    algorithm="ring",
    transport="shm",
    reduction="exact",
    timeout_s=20.0,
)
POLICY = RestartPolicy(3, grace_s=2.0, min_workers=2, max_workers=5)
KILLED_LEFT_JOINED = (
    "kill:rank=1,step=3,phase=commit",
    "leave:rank=2,step=7",
    "join:step=9,count=2",
)


@cache
def serial(reduction: str = "exact") -> RunResult:
    return train(alone(replace(RUN, reduction=reduction)), transcript=True)


def alone(run: RunConfig) -> RunConfig:
    return replace(run, algorithm="serial", transport="none", world_size=1)


def disturbed(run: RunConfig, *faults: str, policy: RestartPolicy = POLICY) -> RunResult:
    """Train with `faults`, which must all strike."""
    struck: dict[int, float] = {}
    specs = [parse_fault(fault) for fault in faults]
    before = psutil.Process().num_fds()
    result = train(run, restarts=policy, faults=specs, struck=struck, transcript=True)
    assert psutil.Process().num_fds() <= before
    assert sorted(struck) == list(range(len(faults))), "a fault did not fire"
    return result


def generations(result: RunResult) -> list[dict[str, Any]]:
    assert result.membership is not None
    return list(result.membership["generations"])


def sizes(result: RunResult) -> list[int]:
    return [entry["world_size"] for entry in generations(result)]


@pytest.mark.parametrize(
    ("algorithm", "transport", "num_servers"),
    [
        ("ring", "shm", 1),
        ("ring", "tcp", 1),
        ("tree", "queue", 1),
        ("parameter_server", "shm", 2),
        ("parameter_server", "tcp", 1),
    ],
)
def test_one_killed_one_leaves_two_join_and_nothing_changes(
    algorithm: str, transport: str, num_servers: int
) -> None:
    run = replace(RUN, algorithm=algorithm, transport=transport, num_servers=num_servers)
    result = disturbed(run, *KILLED_LEFT_JOINED)
    assert result.final_state().sha256() == serial().final_state().sha256()
    assert result.transcript == serial().transcript
    assert samples_problem(run, NUM_SAMPLES, result.transcript) is None
    assert (sizes(result), result.world_size) == ([4, 3, 2, 4], 4)
    assert steps(result)[2:] == [7, 9]
    changes = [(len(e["lost"]), len(e["left"]), len(e["joined"])) for e in generations(result)[1:]]
    assert changes == [(1, 0, 0), (0, 1, 0), (0, 0, 2)]
    (event,) = result.recoveries  # to leave and to join is no failure
    assert (event["rank"], event["replaced"]) == (1, [])
    metrics = build_metrics(result, [], None)
    assert metrics["membership"] == result.membership
    assert metrics["correctness"]["traffic_matches_theory"]
    assert "4 workers" in " ".join(metrics["timing"]["warnings"])


def steps(result: RunResult) -> list[int]:
    return [entry["step"] for entry in generations(result)]


def test_rank_0_may_leave_and_the_learning_curve_goes_on() -> None:
    result = disturbed(RUN, "leave:rank=0,step=6", "kill:rank=0,step=10,phase=compute,generation=1")
    assert sizes(result) == [4, 3, 2]
    assert result.final_state().sha256() == serial().final_state().sha256()
    epochs = [(e["epoch"], e["test_loss"]) for e in result.ranks[0].epochs]
    assert epochs == [(e["epoch"], e["test_loss"]) for e in serial().ranks[0].epochs]


def test_below_the_minimum_a_killed_worker_is_replaced() -> None:
    policy = replace(POLICY, min_workers=4)
    result = disturbed(RUN, "kill:rank=2,step=3", policy=policy)
    assert sizes(result) == [4, 4]
    assert result.recoveries[0]["replaced"] == [2]
    assert result.transcript == serial().transcript


def test_too_few_that_stay_end_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    faults = [parse_fault(f"leave:rank=0,step={step}") for step in (5, 7, 9)]
    saving = plan(tmp_path, every_steps=2)
    with pytest.raises(BelowMinimumWorkers) as caught:
        train(RUN, restarts=POLICY, faults=faults, checkpoint=saving)
    assert (caught.value.present, caught.value.min_workers) == (1, 2)
    resumed = train(replace(RUN, world_size=3), checkpoint=replace(saving, resume=True))
    assert resumed.ranks[0].first_step == 8
    assert resumed.final_state().sha256() == serial().final_state().sha256()


def test_a_step_that_was_applied_is_recorded_though_it_was_not_ended() -> None:
    """The server has applied it when a worker dies that it is about to answer."""
    run = replace(RUN, algorithm="parameter_server", transport="tcp")
    faults = ["delay:rank=4,step=5,phase=applied,seconds=1", "kill:rank=1,step=5,phase=commit"]
    result = disturbed(run, *faults)
    assert steps(result) == [0, 6]
    assert result.transcript == serial().transcript


def test_flapping_while_checkpoints_are_written(tmp_path: Path) -> None:
    """Somebody comes or goes before almost every step, and every step is saved."""
    faults = [f"leave:rank={step % 3},step={step}" for step in (2, 4, 6, 8)]
    faults += [f"join:step={step},count=2" for step in (3, 5, 7, 9)]
    saving = plan(tmp_path, every_steps=1)
    result = train(
        RUN, restarts=POLICY, faults=list(map(parse_fault, faults)), checkpoint=saving,
        transcript=True,
    )  # fmt: skip
    assert len(generations(result)) == 9
    assert max(sizes(result)) == 5
    assert result.transcript == serial().transcript
    resumed = train(replace(RUN, max_steps=15), checkpoint=replace(saving, resume=True))
    assert resumed.ranks[0].first_step == 14


def test_losses_cost_restarts_and_changes_do_not() -> None:
    policy = replace(POLICY, max_restarts=0)
    assert sizes(disturbed(RUN, "leave:rank=3,step=2", policy=policy)) == [4, 3]
    once = replace(POLICY, max_restarts=1)
    faults = [parse_fault("kill:rank=1,step=3"), parse_fault("kill:rank=0,step=5,generation=1")]
    with pytest.raises(RestartBudgetExceeded):
        train(RUN, restarts=once, faults=faults)


def test_what_was_saved_by_four_is_gone_on_with_by_two_that_lost_their_servers(
    tmp_path: Path,
) -> None:
    """A killed server takes the optimizer with it, so all go back to the checkpoint."""
    run = replace(RUN, algorithm="parameter_server", num_servers=2)
    specs = [parse_fault("leave:rank=1,step=3"), parse_fault("leave:rank=1,step=6")]
    specs.append(parse_fault("kill:rank=3,step=9,phase=apply,generation=2"))  # the second server
    result = train(
        run, restarts=POLICY, faults=specs, checkpoint=plan(tmp_path, every_steps=4),
        transcript=True,
    )  # fmt: skip
    assert sizes(result) == [4, 3, 2, 2]
    assert generations(result)[-1]["step"] == 8
    assert "step-0000000008" in generations(result)[-1]["source"]
    assert result.transcript == serial().transcript


def test_float32_goes_on_but_claims_no_bits() -> None:
    run = replace(RUN, reduction="float32")
    result = disturbed(run, *KILLED_LEFT_JOINED)
    assert samples_problem(run, NUM_SAMPLES, result.transcript) is None
    mine = [entry["test_loss"] for entry in result.ranks[0].epochs]
    theirs = [entry["test_loss"] for entry in serial("float32").ranks[0].epochs]
    assert mine == pytest.approx(theirs, rel=1e-3)


def test_a_torch_model_too() -> None:
    pytest.importorskip("torch", reason="a torch model")
    changes = {"task": "digits", "task_options": {}, "hidden_sizes": (16,), "max_steps": 13}
    run = replace(RUN, **changes, bucket_cap_bytes=2000, overlap=True)
    result = train(run, restarts=POLICY, faults=[parse_fault(f) for f in KILLED_LEFT_JOINED])
    assert sizes(result)[-1] == 4
    assert result.final_state().sha256() == train(alone(run)).final_state().sha256()


def test_sigterm_lets_a_rank_leave() -> None:
    run = replace(RUN, max_steps=2000, epochs=500)
    strangers = {process.pid for process in family()}

    def leave() -> None:
        deadline = time.monotonic() + DEADLINE_S
        ranks: list[psutil.Process] = []
        while len(ranks) < 4 and time.monotonic() < deadline:
            ranks = [process for process in family() if process.pid not in strangers]
        # It heeds the signal once it is ready to be started, which is when it has a thread more.
        while ranks[1].num_threads() < 2 and time.monotonic() < deadline:
            continue
        ranks[1].send_signal(signal.SIGTERM)

    leaver = in_background(leave)
    result = train(run, restarts=POLICY, transcript=True)
    leaver.join()
    assert (sizes(result), result.recoveries) == ([4, 3], [])
    assert samples_problem(run, NUM_SAMPLES, result.transcript) is None


@pytest.mark.parametrize(
    ("changes", "policy", "fault", "key"),
    [
        ({}, RestartPolicy(0, min_workers=5), None, "min_workers"),
        ({}, RestartPolicy(0, max_workers=3), None, "max_workers"),
        ({}, RestartPolicy(0, max_workers=9), None, "max_workers"),
        ({"task": "digits", "task_options": {}, "transport": "process_group"}, POLICY, None,
         "max_restarts"),
        ({"algorithm": "serial", "transport": "none", "world_size": 1},
         RestartPolicy(0, max_workers=1), None, "max_workers"),
        ({}, RestartPolicy(3), "leave:rank=1,step=2", "fault"),
        ({}, POLICY, "leave:rank=5,step=2", "fault"),
    ],
)  # fmt: skip
def test_what_cannot_come_and_go_is_refused(
    changes: dict[str, Any], policy: RestartPolicy, fault: str | None, key: str
) -> None:
    faults = [] if fault is None else [parse_fault(fault)]
    with pytest.raises(ConfigError) as caught:
        train(replace(RUN, **changes), restarts=policy, faults=faults)
    assert caught.value.key == key
    with pytest.raises(ConfigError, match="min_workers"):
        RestartPolicy(0, min_workers=0)


def test_a_transcript_shows_samples_that_were_lost_or_used_twice() -> None:
    records = serial().transcript
    assert samples_problem(RUN, NUM_SAMPLES, records) is None

    def changed(step: int, shard: str, value: str | None) -> list[Any]:
        samples = {**records[step]["samples"]}
        samples[shard] = value or ""
        if value is None:
            del samples[shard]
        copy = [dict(record) for record in records]
        copy[step]["samples"] = samples
        return copy

    for broken, text in (
        (changed(5, "3", None), "step 5: no rank has computed shard 3"),
        (changed(5, "3", records[4]["samples"]["3"]), "step 5: shard 3 had other samples"),
        (changed(5, "8", records[4]["samples"]["3"]), "9 shards"),
        ([*records[:5], records[4], *records[5:]], "step 5: shard 0 had other samples"),
        ([*records[:5], *records[6:]], "step 5: shard 0 had other samples"),
    ):
        assert text in str(samples_problem(RUN, NUM_SAMPLES, broken))
