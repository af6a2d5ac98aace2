"""Whatever happens to its processes, a run ends as the one that nothing has happened to."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from dmlf.benchmark.faults.bounds import too_late
from dmlf.checkpoint import load_newest
from dmlf.config import RunConfig
from dmlf.errors import (
    CheckpointWriteError,
    ConfigError,
    NonFiniteGradient,
    PeerLost,
    RemoteError,
    RestartBudgetExceeded,
)
from dmlf.runtime.faults import parse_fault
from dmlf.runtime.semaphores import named_semaphores
from dmlf.runtime.supervisor import RestartPolicy
from dmlf.training.result import RunResult
from dmlf.training.run import train
from tests.training.trainers import final_state, plan, train_in_threads

DEADLINE_S = 60.0
STEPS = 9
NUMPY = RunConfig(
    task="synthetic",
    task_options={"num_samples": 128, "parameter_dim": 7},  # an epoch is 4 steps
    global_batch_size=32,
    num_shards=4,
    bucket_cap_bytes=4,
    learning_rate=0.05,
    optimizer="adamw",
    max_steps=STEPS,
    world_size=2,
    algorithm="ring",
    transport="shm",
    timeout_s=20.0,
)
SERVER = replace(NUMPY, algorithm="parameter_server")
SERVERS = replace(SERVER, num_servers=2)
POLICY = RestartPolicy(3, grace_s=2.0)


@cache
def _undisturbed(key: tuple[tuple[str, Any], ...]) -> str:
    values = {name: dict(value) if name == "task_options" else value for name, value in key}
    return final_state(train_in_threads(RunConfig.from_mapping(values)))


def undisturbed(config: RunConfig) -> str:
    values = {**replace(config, transport="queue").as_mapping(), "hidden_sizes": ()}
    values["task_options"] = tuple(values["task_options"].items())
    return _undisturbed(tuple(values.items()))


def disturbed(
    config: RunConfig, *faults: str, policy: RestartPolicy = POLICY, **options: Any
) -> RunResult:
    """Train with `faults`; all must strike, be detected in time, and leave no trace in the bits."""
    struck: dict[int, float] = {}
    specs = [parse_fault(fault) for fault in faults]
    gc.collect()
    before, semaphores = psutil.Process().num_fds(), named_semaphores(os.getpid())
    result = train(config, restarts=policy, faults=specs, struck=struck, **options)
    gc.collect()
    assert psutil.Process().num_fds() <= before
    assert named_semaphores(os.getpid()) <= semaphores
    assert sorted(struck) == list(range(len(faults))), "a fault did not fire"
    assert result.final_state().sha256() == undisturbed(config)
    for event in result.recoveries:
        assert 0.0 <= event["stopping_s"] <= event["recovery_s"]
        assert min(struck.values()) <= event["detected_s"]
    late = too_late(specs, struck, result.recoveries, config.timeout_s, policy.grace_s)
    assert late is None, late
    return result


RING_POINTS = [
    "rank=1,phase=compute",
    "rank=1,phase=reduce_scatter,round=0",
    "rank=0,phase=all_gather,round=0,bucket=1",
    "rank=1,phase=commit",
    "rank=0,phase=apply",
    "rank=1,phase=applied",
]
SERVER_POINTS = [
    "rank=0,phase=compute",
    "rank=1,phase=push,bucket=1",
    "rank=0,phase=commit",
    "rank=1,phase=pull,bucket=1",
    "rank=2,phase=push",
    "rank=2,phase=apply",
    "rank=2,phase=applied",
    "rank=2,phase=commit",
    "rank=2,phase=pull,bucket=1",
]
KILLS = [
    *((NUMPY, "shm", point) for point in RING_POINTS),
    *((NUMPY, transport, point) for transport in ("queue", "tcp") for point in RING_POINTS[1:4]),
    *((SERVER, "shm", point) for point in SERVER_POINTS),
    *((SERVER, transport, p) for transport in ("queue", "tcp") for p in SERVER_POINTS[1:8:2]),
    *((SERVERS, "shm", point) for point in ("rank=0,phase=push", "rank=3,phase=commit")),
    (replace(NUMPY, algorithm="tree", world_size=3), "shm", "rank=2,phase=commit,round=1"),
]


@pytest.mark.parametrize(
    ("config", "transport", "point"),
    KILLS,
    ids=[f"{config.algorithm}{config.num_servers}-{t}-{p}" for config, t, p in KILLS],
)
def test_a_killed_rank_is_replaced(config: RunConfig, transport: str, point: str) -> None:
    reduction = "exact" if "bucket=1" in point else "float32"
    run = replace(config, transport=transport, reduction=reduction)
    result = disturbed(run, f"kill:step=5,{point}")
    (event,) = result.recoveries
    rank = int(point[5])
    assert (event["generation"], event["rank"], event["replaced"]) == (0, rank, [rank])
    assert (event["cause"], event["detail"]) == (
        "PeerLost",
        f"rank {rank} is gone: killed by SIGKILL",
    )
    if rank < run.world_size:
        # From memory: not a step that all had applied is done again. Over queues the last message,
        # the commit of the step before, may have gone with the thread that was to write it.
        assert event["source"].startswith("the memory of rank")
        assert event["step"] in ((4, 5, 6) if transport == "queue" else (5, 6))
        assert result.ranks[0].first_step == event["step"]
    else:
        assert event["source"] == "the start, which the seed decides"
        assert event["step"] == 0


def test_the_learning_curve_survives_where_it_can() -> None:
    whole = train(NUMPY)

    def curve(result: RunResult) -> list[tuple[int, float | None, float]]:
        return [(e["epoch"], e["train_loss"], e["test_loss"]) for e in result.ranks[0].epochs]

    assert curve(disturbed(NUMPY, "kill:rank=1,step=5,phase=commit")) == curve(whole)
    # With rank 0 go its losses of the epoch in hand, and nothing else.
    lost = [(e, None if e == 2 else loss, test) for e, loss, test in curve(whole)]
    assert curve(disturbed(NUMPY, "kill:rank=0,step=5,phase=commit")) == lost


def test_torch_and_overlap() -> None:
    pytest.importorskip("torch", reason="a torch model")
    run = replace(
        NUMPY, task="digits", task_options={}, hidden_sizes=(16,), bucket_cap_bytes=2000,
        epochs=1, overlap=True,
    )  # fmt: skip
    result = train(run, restarts=POLICY, faults=[parse_fault("kill:rank=1,step=4,phase=commit")])
    assert len(result.recoveries) == 1
    assert result.final_state().sha256() == train(run).final_state().sha256()


@pytest.mark.parametrize("phase", ["reduce_scatter", "apply"])
def test_a_stopped_rank_is_killed_and_replaced(phase: str) -> None:
    run = replace(NUMPY, timeout_s=1.0)
    begun = time.monotonic()
    policy = RestartPolicy(1, grace_s=0.5)
    result = disturbed(run, f"stop:rank=1,step=3,phase={phase}", policy=policy)
    (event,) = result.recoveries
    assert (event["cause"], event["replaced"]) == ("DeadlineExceeded", [1])
    assert time.monotonic() - begun < DEADLINE_S


def test_a_rank_that_lives_and_is_stuck_is_killed_and_replaced() -> None:
    run = replace(NUMPY, timeout_s=1.0)
    begun = time.monotonic()
    policy = RestartPolicy(1, grace_s=0.5)
    (event,) = disturbed(
        run, "delay:rank=1,step=3,phase=compute,seconds=600", policy=policy
    ).recoveries
    assert (event["cause"], event["replaced"]) == ("DeadlineExceeded", [1])
    assert time.monotonic() - begun < DEADLINE_S


def test_a_failure_does_not_cost_the_memory_of_who_is_in_a_long_step() -> None:
    """The other replica is lost: this one is the last, and busy for longer than the grace."""
    faults = ["kill:rank=1,step=5,phase=compute", "delay:rank=0,step=5,phase=compute,seconds=1.5"]
    (event,) = disturbed(NUMPY, *faults, policy=RestartPolicy(1, grace_s=0.2)).recoveries
    assert (event["cause"], event["replaced"]) == ("PeerLost", [1])
    assert event["source"].startswith("the memory of rank 0")


def test_a_process_that_is_alone_and_hangs_is_noticed() -> None:
    """Nobody waits for its messages, but it makes no progress."""
    alone = replace(NUMPY, algorithm="serial", transport="none", world_size=1, timeout_s=1.0)
    result = train(
        alone, restarts=RestartPolicy(1, grace_s=0.5), faults=[parse_fault("stop:rank=0,step=3")]
    )
    (event,) = result.recoveries
    assert (event["cause"], event["replaced"]) == ("NoAnswer", [0])
    assert result.final_state().sha256() == train(alone).final_state().sha256()


def test_a_stopped_rank_that_wakes_up_once_it_is_given_up_is_of_no_account() -> None:
    """Told to stop when it goes on, it stays; killed, it cannot go on, whatever it is sent."""
    run, strangers = replace(NUMPY, timeout_s=1.0), {process.pid for process in family()}
    woken: list[int] = []

    def wake() -> None:
        """Once a rank hangs, let it go on after the others have given it up."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and not woken:
            for process in family():
                if process.pid not in strangers and process.status() == psutil.STATUS_STOPPED:
                    threading.Event().wait(1.5)
                    process.resume()
                    woken.append(process.pid)

    waker = in_background(wake)
    result = disturbed(run, "stop:rank=1,step=3,phase=apply", policy=RestartPolicy(1, grace_s=20.0))
    waker.join()
    (event,) = result.recoveries
    assert (event["cause"], event["replaced"]) == ("DeadlineExceeded", [])
    assert woken


def test_a_pause_shorter_than_the_timeout_is_no_failure() -> None:
    assert disturbed(NUMPY, "delay:rank=1,step=3,seconds=0.6").recoveries == []


def test_many_pauses_that_are_longer_than_the_timeout_together_are_no_stall() -> None:
    pauses = [f"delay:rank=1,step={step},seconds=0.8" for step in range(2, 7)]
    assert disturbed(replace(NUMPY, timeout_s=1.5), *pauses).recoveries == []


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
@pytest.mark.parametrize("phase", ["reduce_scatter", "all_gather"])
@pytest.mark.parametrize("round_", [0, 1])
def test_a_ring_rank_killed_in_every_round(transport: str, phase: str, round_: int) -> None:
    run = replace(NUMPY, transport=transport, world_size=3)
    result = disturbed(run, f"kill:rank=2,step=6,phase={phase},round={round_}")
    (event,) = result.recoveries
    assert (event["cause"], event["replaced"]) == ("PeerLost", [2])


MUTE = "mute:rank=0,step=5,phase=reduce_scatter"


@pytest.mark.parametrize(
    ("config", "transport", "faults"),
    [
        *((NUMPY, transport, [MUTE]) for transport in ("queue", "shm", "tcp")),
        (NUMPY, "tcp", [MUTE, "mute:rank=1,step=5,phase=reduce_scatter"]),  # both ways
        (SERVER, "tcp", ["mute:rank=0,step=5,phase=push"]),
        (SERVER, "shm", ["mute:rank=2,step=5,phase=pull"]),
    ],
)
def test_a_link_that_swallows_everything(
    config: RunConfig, transport: str, faults: list[str]
) -> None:
    """Nobody is gone, nothing is refused, and only silence tells."""
    result = disturbed(replace(config, transport=transport, timeout_s=1.0), *faults)
    (event,) = result.recoveries
    # Who gives up first hangs up, which another may report before it.
    assert event["cause"] in ("DeadlineExceeded", "PeerLost")
    assert event["replaced"] == []
    assert event["source"].startswith("the memory of")


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (NUMPY, "cut:rank=0,step=5,phase=reduce_scatter"),
        (NUMPY, "cut:rank=0,step=5,phase=all_gather"),  # within the header of an empty frame
        (replace(NUMPY, task_options={"num_samples": 128, "parameter_dim": 100_000},
                 bucket_cap_bytes=1 << 20), "cut:rank=1,step=5,phase=all_gather"),
        (SERVER, "cut:rank=1,step=5,phase=push"),
        (SERVER, "cut:rank=2,step=5,phase=pull"),
    ],
)  # fmt: skip
def test_a_connection_that_ends_within_a_frame(config: RunConfig, fault: str) -> None:
    (event,) = disturbed(replace(config, transport="tcp"), fault).recoveries
    assert (event["cause"], event["replaced"]) == ("PeerLost", [])
    assert event["source"].startswith("the memory of")


@pytest.mark.parametrize(
    ("config", "fault", "causes"),
    [
        (NUMPY, "drop:rank=0,step=5,phase=reduce_scatter", {"PhaseMismatch", "BucketMismatch"}),
        (NUMPY, "duplicate:rank=0,step=5,phase=all_gather", {"PhaseMismatch", "BucketMismatch"}),
        (NUMPY, "misdirect:rank=0,step=5,phase=reduce_scatter", {"SourceMismatch"}),
        (SERVER, "duplicate:rank=0,step=5,phase=push", {"BucketMismatch", "StepMismatch"}),
        (
            replace(NUMPY, transport="tcp"),
            "corrupt:rank=0,step=5,phase=reduce_scatter",
            {"ChecksumMismatch"},
        ),
        (  # a chunk of a bucket of one element is empty: its header is all there is to garble
            replace(NUMPY, transport="tcp"),
            "corrupt:rank=0,step=5,phase=all_gather",
            {"ChecksumMismatch"},
        ),
        (
            replace(SERVER, transport="tcp"),
            "corrupt:rank=2,step=5,phase=pull",
            {"ChecksumMismatch"},
        ),
    ],
)
def test_a_broken_message_is_never_applied(config: RunConfig, fault: str, causes: set[str]) -> None:
    result = disturbed(config, fault)
    (event,) = result.recoveries
    assert event["cause"] in causes
    assert event["replaced"] == []
    assert event["source"].startswith("the memory of")


def test_replicas_that_differ_go_back_to_what_all_held(tmp_path: Path) -> None:
    """The flip is found at the end of the epoch, and cannot have been saved in between."""
    result = disturbed(NUMPY, "flip:rank=1,step=5", checkpoint=plan(tmp_path, every_steps=2))
    (event,) = result.recoveries
    assert event["cause"] == "ReplicaDivergence"
    assert event["step"] == 4
    assert "step-0000000004" in event["source"]


@pytest.mark.parametrize("saves", [True, False])
def test_a_recovery_spreads_no_flipped_bit(saves: bool, tmp_path: Path) -> None:
    """A rank dies before replicas would be compared; who is left is compared before it is used."""
    result = disturbed(
        replace(NUMPY, world_size=3),
        "flip:rank=0,step=5",
        "kill:rank=1,step=6,phase=commit",
        checkpoint=plan(tmp_path, every_steps=4) if saves else None,
    )
    assert [event["cause"] for event in result.recoveries] == ["PeerLost", "ReplicaDivergence"]
    last = result.recoveries[-1]
    assert last["step"] == (4 if saves else 0)
    assert ("step-0000000004" if saves else "the start") in last["source"]


def test_a_change_of_membership_spreads_no_flipped_bit() -> None:
    result = disturbed(
        replace(NUMPY, world_size=3, reduction="exact"),
        "flip:rank=0,step=5",
        "leave:rank=1,step=6",
        policy=replace(POLICY, min_workers=2),
    )
    (event,) = result.recoveries
    assert (event["generation"], event["cause"]) == (1, "ReplicaDivergence")
    assert result.membership is not None
    assert [len(one["left"]) for one in result.membership["generations"]] == [0, 1, 0]


def test_without_its_server_a_run_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    saving = plan(tmp_path, every_steps=3)
    result = disturbed(SERVERS, "kill:rank=3,step=7,phase=push", checkpoint=saving)
    (event,) = result.recoveries
    assert event["step"] == 6
    assert "step-0000000006" in event["source"]
    newest = load_newest(tmp_path, SERVERS)
    assert newest is not None
    assert newest.manifest.state.step == STEPS
    assert newest.manifest.state.generation == 1


@pytest.mark.parametrize(
    "second",
    [
        "kill:rank=1,step=5,phase=reduce_scatter,generation=1",
        "kill:rank=0,step=0,phase=handshake,generation=1",
        "kill:rank=1,step=0,phase=state_agreement,generation=1",
        "kill:rank=1,step=5,phase=state_transfer,generation=1",
        "kill:rank=0,step=5,phase=state_transfer,generation=1",
    ],
)
def test_a_second_fault_during_recovery(second: str) -> None:
    result = disturbed(NUMPY, "kill:rank=0,step=5,phase=commit", second)
    assert [event["generation"] for event in result.recoveries] == [0, 1]


@pytest.mark.parametrize(
    "second",
    [
        "kill:rank=2,step=0,phase=state_transfer",  # who has loaded the checkpoint
        "kill:rank=2,step=6,phase=state_transfer,round=1",  # as it sends the state
        "kill:rank=3,step=6,phase=state_transfer,round=1",  # a server, as its part comes
        "kill:rank=1,step=6,phase=state_transfer,round=1",  # a worker, as the parameters come
    ],
)
def test_killed_while_a_checkpoint_is_loaded(second: str, tmp_path: Path) -> None:
    result = disturbed(
        SERVERS,
        "kill:rank=3,step=7,phase=push",
        f"{second},generation=1",
        checkpoint=plan(tmp_path, every_steps=3),
    )
    assert [event["generation"] for event in result.recoveries] == [0, 1]
    last = result.recoveries[-1]
    assert last["replaced"] == [int(second[10])]
    assert last["step"] == 6  # from the checkpoint, or from servers that had it by then


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
def test_killed_in_one_recovery_after_the_other(transport: str) -> None:
    result = disturbed(
        replace(NUMPY, transport=transport),
        "kill:rank=0,step=5,phase=commit",
        "kill:rank=1,step=0,phase=state_agreement,generation=1",
        "kill:rank=0,step=0,phase=handshake,generation=2",
        "kill:rank=1,step=0,phase=state_agreement,generation=3",
        policy=RestartPolicy(4, grace_s=2.0),
    )
    assert [event["generation"] for event in result.recoveries] == [0, 1, 2, 3]


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
def test_a_survivor_holds_no_more_from_one_generation_to_the_next(
    transport: str, tmp_path: Path
) -> None:
    run = replace(
        NUMPY, task="tests.training.own_task:counts_descriptors", global_batch_size=16,
        task_options={"folder": str(tmp_path)}, transport=transport,
    )  # fmt: skip
    kills = [f"kill:rank=1,step={2 * number + 1},generation={number}" for number in range(4)]
    faults = [parse_fault(kill) for kill in kills]
    result = train(run, restarts=RestartPolicy(4, grace_s=2.0), faults=faults)
    assert [event["replaced"] for event in result.recoveries] == [[1]] * 4
    counts = [list(map(int, path.read_text().split())) for path in tmp_path.iterdir()]
    survivor = max(counts, key=len)  # who alone has done all steps
    assert len(counts) == 6
    assert survivor[-1] <= survivor[0]


def test_all_ranks_killed_at_once_go_back_to_the_checkpoint(tmp_path: Path) -> None:
    faults = ["kill:rank=0,step=7,phase=compute", "kill:rank=1,step=7,phase=compute"]
    result = disturbed(NUMPY, *faults, checkpoint=plan(tmp_path, every_steps=2))
    assert sorted({rank for event in result.recoveries for rank in event["replaced"]}) == [0, 1]
    # The save of step 6 may have been in hand when its process was killed.
    assert result.ranks[0].first_step in (4, 6)


def test_a_crash_at_every_start_is_bounded() -> None:
    run = replace(NUMPY, task="tests.training.own_task:dies_at_start", global_batch_size=16)
    with pytest.raises(RestartBudgetExceeded, match="killed by SIGKILL") as caught:
        train(run, restarts=RestartPolicy(2))
    assert caught.value.max_restarts == 2
    assert isinstance(caught.value.cause, PeerLost)


def test_a_budget_that_is_spent_names_the_first_cause() -> None:
    faults = [
        parse_fault("kill:rank=1,step=3"),
        parse_fault("drop:rank=0,step=5,phase=reduce_scatter,generation=1"),
    ]
    with pytest.raises(RestartBudgetExceeded, match="rank 1 is gone: killed by SIGKILL"):
        train(NUMPY, restarts=RestartPolicy(1), faults=faults)
    with pytest.raises(PeerLost, match="rank 1 is gone: killed by SIGKILL"):
        train(NUMPY, faults=faults[:1])


@pytest.mark.parametrize(
    ("fault", "error"),
    [("raise:rank=1,step=3", RemoteError), ("nan:rank=1,step=3", NonFiniteGradient)],
)
def test_what_a_restart_cannot_mend_is_not_tried_again(
    fault: str, error: type[Exception], tmp_path: Path
) -> None:
    """The run ends; its last checkpoint is finite, and goes on to the undisturbed run's bits."""
    struck: dict[int, float] = {}
    saving = plan(tmp_path, every_steps=1)
    with pytest.raises(error):
        train(
            NUMPY,
            restarts=POLICY,
            faults=[parse_fault(fault)],
            struck=struck,
            checkpoint=saving,
        )
    assert list(struck) == [0]
    result = train(NUMPY, checkpoint=replace(saving, resume=True))
    assert 0 < result.ranks[0].first_step <= 3
    assert result.final_state().sha256() == undisturbed(NUMPY)


def test_a_full_disk_ends_the_run_and_keeps_the_old_checkpoints(tmp_path: Path) -> None:
    saving = plan(tmp_path, every_steps=2)
    with pytest.raises(CheckpointWriteError, match="No space left"):
        train(
            NUMPY,
            restarts=POLICY,
            faults=[parse_fault("disk-full:rank=0,step=4")],
            checkpoint=saving,
        )
    newest = load_newest(tmp_path, NUMPY)
    assert newest is not None
    assert (newest.manifest.state.step, newest.rejected) == (2, ())
    resumed = train(NUMPY, checkpoint=replace(saving, resume=True))
    assert resumed.final_state().sha256() == undisturbed(NUMPY)


def family() -> list[psutil.Process]:
    """The ranks' processes: children of the fork server."""
    ranks = []
    for child in psutil.Process().children():
        try:
            if "forkserver" in " ".join(child.cmdline()):
                ranks += child.children()
        except psutil.NoSuchProcess:
            continue
    return ranks


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("transport", "victim"), [("queue", 0), ("shm", 1), ("shm", 2), ("tcp", 2), ("tcp", 1)]
)
def test_killed_from_outside_at_any_moment(transport: str, victim: int, tmp_path: Path) -> None:
    run = replace(SERVER, transport=transport, max_steps=1500, epochs=400)
    strangers = {process.pid for process in family()}

    def kill() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not list(tmp_path.glob("step-*")) and time.monotonic() < deadline:
            continue
        ranks = sorted(process.pid for process in family() if process.pid not in strangers)
        psutil.Process(ranks[victim]).kill()

    killer = in_background(kill)
    result = train(run, restarts=POLICY, checkpoint=plan(tmp_path, every_steps=100))
    killer.join()
    (event,) = result.recoveries
    assert event["cause"] == "PeerLost"
    assert result.final_state().sha256() == undisturbed(run)


@pytest.mark.parametrize(
    ("changes", "options", "key"),
    [
        ({"transport": "process_group"}, {}, "max_restarts"),
        ({"algorithm": "ddp", "transport": "gloo"}, {}, "max_restarts"),
        ({}, {"timeline_steps": 3}, "timeline"),
        ({}, {"faults": [parse_fault("kill:rank=2,step=1")]}, "fault"),
        ({}, {"faults": [parse_fault("corrupt:rank=0,step=1,phase=commit")]}, "fault"),
        ({}, {"faults": [parse_fault("cut:rank=0,step=1,phase=commit")]}, "fault"),
        ({}, {"faults": [parse_fault("disk-full:rank=0,step=1")]}, "fault"),
    ],
)
def test_what_cannot_be_begun_anew_is_refused(
    changes: dict[str, str], options: dict[str, Any], key: str
) -> None:
    run = replace(NUMPY, task="digits", task_options={}, **changes)
    with pytest.raises(ConfigError) as caught:
        train(run, restarts=POLICY, **options)
    assert caught.value.key == key
    with pytest.raises(ConfigError, match="max_restarts"):
        RestartPolicy(-1)
