"""The decisions of `membership`, in chosen histories and in random ones."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlf.errors import (
    BelowMinimumWorkers,
    ChecksumMismatch,
    ConfigError,
    DeadlineExceeded,
    DmlfError,
    NoAnswer,
    NonFiniteGradient,
    PeerLost,
    RemoteError,
    RendezvousError,
    ReplicaDivergence,
    RestartBudgetExceeded,
    SchemaMismatch,
    StepMismatch,
)
from dmlf.runtime.events import (
    Abort,
    Acknowledged,
    Action,
    Admit,
    Arrived,
    Died,
    Dismiss,
    Done,
    Event,
    Fail,
    Failed,
    Finish,
    Joined,
    Kill,
    Leaving,
    Progressed,
    Resumed,
    Spawn,
    Start,
    Tick,
    Wanted,
)
from dmlf.runtime.limits import Limits
from dmlf.runtime.membership import BACKOFF_MAX_S, Membership, State, is_recoverable

GRACE_S, JOIN_S, STALL_S, BACKOFF_S, SETTLE_S = 10.0, 60.0, 30.0, 0.5, 4.0
KILLED = "killed by SIGKILL"


def limits(workers: int = 3, max_restarts: int = 2, **changes: Any) -> Limits:
    return replace(
        Limits(
            workers=workers,
            min_workers=workers,
            max_workers=workers,
            max_restarts=max_restarts,
            grace_s=GRACE_S,
            join_s=JOIN_S,
            stall_s=STALL_S,
            backoff_s=BACKOFF_S,
            settle_s=SETTLE_S,
        ),
        **changes,
    )


def death(rank: int) -> PeerLost:
    return PeerLost(f"rank {rank}", KILLED)


def running(workers: int = 3, max_restarts: int = 2, **changes: Any) -> Membership:
    """A group in generation 0 that trains, whose member of each rank has the rank's number."""
    group = Membership(limits(workers, max_restarts, **changes))
    size = workers + changes.get("servers", 0)
    servers = [None] * workers + list(range(size - workers))
    assert group.begin(0.0) == [Spawn(i, servers[i], i) for i in range(size)]
    for member in range(size - 1):
        assert group.handle(Joined(member), 0.0) == []
    started = group.handle(Joined(size - 1), 0.0)
    assert started == [Start(0, workers, {rank: rank for rank in range(size)}, True)]
    group.handle(Resumed(0, 0, 0, "the start"), 0.0)
    return group


def elastic(workers: int = 3, least: int = 2, most: int = 5, **changes: Any) -> Membership:
    return running(workers, min_workers=least, max_workers=most, **changes)


def stop_all(group: Membership, members: list[int], now: float) -> list[Action]:
    """Every one of `members` stops; what is done after the last one."""
    actions: list[Action] = []
    for member in members:
        actions = group.handle(Acknowledged(member, group.generation), now)
    return actions


def test_all_done_is_the_end() -> None:
    group = running(2)
    assert group.handle(Done(1, 0), 1.0) == []
    assert group.handle(Done(0, 0), 1.0) == [Finish()]
    assert group.state is State.ENDED


def test_a_death_is_mended_by_another_process_for_the_same_rank() -> None:
    group = running()
    assert group.handle(Died(1, KILLED), 5.0) == [Abort(0, [0, 2])]
    assert group.handle(Acknowledged(0, 0), 5.1) == []
    assert group.handle(Failed(2, 0, PeerLost("rank 1", "reset")), 5.2) == [Spawn(3, None, 1)]
    assert group.handle(Joined(3), 5.5) == [Start(1, 3, {0: 0, 3: 1, 2: 2}, True)]
    group.handle(Resumed(0, 1, 7, "the memory of rank 0"), 5.75)
    (incident,) = group.incidents
    assert (incident.rank, incident.lost, incident.replaced, incident.step) == (1, [1], [1], 7)
    assert (incident.detected_s, incident.stopped_s, incident.resumed_s) == (5.0, 5.2, 5.75)


def test_both_deaths_are_mended_where_the_second_comes_before_anybody_trains() -> None:
    group = running()
    group.handle(Died(1, KILLED), 1.0)
    assert stop_all(group, [0, 2], 1.0) == [Spawn(3, None, 1)]
    group.handle(Joined(3), 2.0)
    group.handle(Died(2, KILLED), 3.0)
    group.handle(Acknowledged(0, 1), 3.0)
    group.handle(Acknowledged(3, 1), 3.0)
    group.handle(Tick(), 10.0)  # after a second failure in a row it waits for a while
    group.handle(Joined(4), 11.0)
    group.handle(Resumed(0, 2, 7, "the memory of rank 0"), 12.0)
    assert [(i.lost, i.replaced, i.step) for i in group.incidents] == [([1], [1], 7), ([2], [2], 7)]


def test_a_lost_server_is_replaced_by_one_for_its_part() -> None:
    group = elastic(2, 1, 2, servers=2)
    group.handle(Died(3, KILLED), 1.0)
    assert stop_all(group, [0, 1, 2], 1.0) == [Spawn(4, 1, 3)]
    assert group.handle(Joined(4), 2.0) == [Start(1, 2, {0: 0, 1: 1, 2: 2, 4: 3}, True)]
    group.handle(Resumed(0, 1, 0, "the start"), 2.0)
    group.handle(Progressed(0, 1, 1), 2.5)
    group.handle(Died(0, KILLED), 3.0)  # with fewer workers, servers have other ranks
    assert stop_all(group, [1, 2, 4], 3.0) == [Start(2, 1, {1: 0, 2: 1, 4: 2}, True)]
    assert group.incidents[1].replaced == []


def test_who_was_done_does_it_again_with_the_others() -> None:
    group = running(2)
    group.handle(Done(0, 0), 1.0)
    assert group.handle(Died(1, KILLED), 1.0) == [Spawn(2, None, 1)]
    assert group.handle(Joined(2), 2.0) == [Start(1, 2, {0: 0, 2: 1}, True)]
    assert group.handle(Done(0, 0), 2.0) == []  # of the generation before
    group.handle(Done(0, 1), 3.0)
    assert group.handle(Done(2, 1), 3.0) == [Finish()]


def test_who_does_not_stop_in_time_is_killed_and_replaced() -> None:
    group = running()
    assert group.handle(Failed(1, 0, DeadlineExceeded(1, 2, 3.0)), 25.0) == [Abort(0, [0, 2])]
    group.handle(Acknowledged(0, 0), 25.1)
    assert group.deadline == 25.0 + GRACE_S
    assert group.handle(Tick(), 34.9) == []
    assert group.handle(Tick(), 35.0) == [Kill(2)]
    assert group.handle(Acknowledged(2, 0), 35.0) == []  # too late: nobody waits for two of one
    assert group.handle(Died(2, KILLED), 35.1) == [Spawn(3, None, 2)]
    assert group.incidents[0].lost == [2]


def test_who_is_in_a_long_step_as_another_fails_has_the_time_of_its_step() -> None:
    """Its copy of the state may be the last one."""
    group = running()
    group.handle(Progressed(0, 0, 7), 4.0)
    assert group.handle(Died(1, KILLED), 5.0) == [Abort(0, [0, 2])]
    group.handle(Acknowledged(2, 0), 5.1)
    group.handle(Progressed(0, 0, 8), 6.0)  # nothing that it does now gives it more
    assert group.deadline == 4.0 + STALL_S
    assert group.handle(Tick(), 33.9) == []
    assert group.handle(Acknowledged(0, 0), 33.9) == [Spawn(3, None, 1)]


def test_where_nothing_is_mended_nobody_is_waited_for_longer_than_the_grace() -> None:
    group = running(2, max_restarts=0)
    group.handle(Died(1, KILLED), 5.0)
    assert group.deadline == 5.0 + GRACE_S
    assert group.handle(Tick(), 5.0 + GRACE_S) == [Kill(0)]


def test_who_makes_no_progress_is_stopped_and_killed() -> None:
    """Also when the others are done, and nobody waits for its messages any more."""
    group = running(2)
    group.handle(Done(0, 0), 5.0)
    group.handle(Progressed(1, 0, 8), 6.0)
    assert group.deadline == 6.0 + STALL_S
    assert group.handle(Tick(), 35.9) == []
    assert group.handle(Tick(), 36.0) == [Abort(0, [1])]
    assert group.handle(Tick(), 36.0 + GRACE_S) == [Kill(1)]
    assert group.handle(Died(1, KILLED), 47.0) == [Spawn(2, None, 1)]
    (incident,) = group.incidents
    assert isinstance(incident.cause, NoAnswer)
    assert "8 steps" in str(incident.cause)
    in_time = running(2)
    for member in (0, 1):
        in_time.handle(Done(member, 0), 5.0)
    assert in_time.deadline is None


def test_one_look_sees_all_who_are_late() -> None:
    group = elastic(2, most=3)
    group.handle(Wanted(1), 0.0)
    for member in (0, 1):
        group.handle(Progressed(member, 0, 3), JOIN_S - STALL_S)
    assert group.deadline == JOIN_S
    assert group.handle(Tick(), JOIN_S) == [Abort(0, [0, 1]), Kill(2)]


def test_who_does_not_join_in_time_is_killed() -> None:
    group = Membership(limits(2))
    group.begin(0.0)
    group.handle(Joined(0), 1.0)
    assert group.handle(Tick(), JOIN_S) == [Kill(1)]
    assert group.handle(Died(1, KILLED), JOIN_S) == [Spawn(2, None, 1)]
    assert group.handle(Joined(2), JOIN_S) == [Start(1, 2, {0: 0, 2: 1}, True)]


@pytest.mark.parametrize(
    "error",
    [
        RemoteError(1, "ValueError: x", "Traceback"),
        NonFiniteGradient(3),
        ConfigError("key", 1, "2"),
        SchemaMismatch(1, "a", "b"),
    ],
)
def test_what_no_restart_can_mend_ends_the_run(error: DmlfError) -> None:
    assert running().handle(Failed(1, 0, error), 1.0) == [Fail(error)]
    late = running()  # also where another one has only heard of it first
    late.handle(Failed(0, 0, PeerLost("rank 1", "reset")), 1.0)
    assert late.handle(Failed(1, 0, error), 1.1) == [Fail(error)]
    early = Membership(limits(1))
    early.begin(0.0)
    assert early.handle(Failed(0, 0, error), 1.0) == [Fail(error)]


@pytest.mark.parametrize("cause", [death(1), ChecksumMismatch("rank 0", "payload")])
def test_the_cause_is_kept_and_not_its_echoes(cause: DmlfError) -> None:
    group = running()
    group.handle(Failed(0, 0, PeerLost("rank 1", "reset")), 1.0)
    event = Died(1, KILLED) if isinstance(cause, PeerLost) else Failed(1, 0, cause)
    group.handle(event, 1.1)
    group.handle(Failed(2, 0, DeadlineExceeded(2, 1, 3.0)), 1.2)
    assert str(group.incidents[0].cause) == str(cause)
    assert group.incidents[0].rank == 1


def test_of_two_causes_the_first_is_kept() -> None:
    group = running()
    group.handle(Died(1, KILLED), 1.0)
    group.handle(Died(2, KILLED), 1.1)
    assert group.incidents[0].rank == 1
    assert group.incidents[0].lost == [1, 2]


def test_memory_is_not_trusted_where_replicas_differ() -> None:
    group = running(2)
    group.handle(Failed(0, 0, ReplicaDivergence(0, "a", "b")), 1.0)
    assert group.handle(Failed(1, 0, ReplicaDivergence(1, "b", "a")), 1.0) == [
        Start(1, 2, {0: 0, 1: 1}, False)
    ]
    group.handle(Resumed(0, 1, 4, "a checkpoint"), 1.5)
    group.handle(Progressed(0, 1, 5), 1.5)
    group.handle(Died(1, KILLED), 2.0)
    group.handle(Acknowledged(0, 1), 2.0)
    assert group.handle(Joined(2), 2.0) == [Start(2, 2, {0: 0, 2: 1}, True)]


def test_a_crash_at_every_start_is_bounded_backs_off_and_names_the_first_cause() -> None:
    group = Membership(limits(1, max_restarts=8))
    actions, now, waits = group.begin(0.0), 0.0, []
    for number in range(9):
        if not actions:
            assert group.deadline is not None
            waits.append(group.deadline - now)
            assert group.handle(Tick(), group.deadline - 0.01) == []
            now = group.deadline
            actions = group.handle(Tick(), now)
        assert actions == [Spawn(number, None, 0)]
        actions = group.handle(Died(number, f"death {number}"), now)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, BACKOFF_MAX_S]
    (fail,) = actions
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, RestartBudgetExceeded)
    assert "death 0" in str(fail.error)


def test_a_step_between_two_failures_ends_the_backing_off() -> None:
    group = running(2, max_restarts=9)
    for generation, waits in ((0, False), (1, True), (2, False)):
        members = sorted(group.generations[-1].workers)
        group.handle(Resumed(members[0], generation, 5, "memory"), 1.0)
        if not waits:
            group.handle(Progressed(members[0], generation, 6), 1.0)
        group.handle(Died(members[1], KILLED), 1.0)
        group.handle(Acknowledged(members[0], generation), 1.0)
        assert (group.state is State.BACKING_OFF) == waits
        if waits:
            group.handle(Tick(), group.deadline or 0.0)
        group.handle(Joined(members[1] + 1), 2.0)
        assert group.state is State.RUNNING


def test_a_beat_of_the_generation_before_is_no_step_between_two_failures() -> None:
    """A pulse is read after the next generation has begun, and says what it said before."""
    group = running(2, max_restarts=9)
    group.handle(Resumed(1, 0, 0, "the start"), 1.0)
    group.handle(Progressed(1, 0, 80), 1.0)
    group.handle(Died(0, KILLED), 2.0)
    group.handle(Acknowledged(1, 0), 2.0)
    group.handle(Joined(2), 3.0)
    group.handle(Resumed(2, 1, 50, "a checkpoint"), 4.0)
    group.handle(Progressed(1, 1, 80), 4.5)
    assert group.deadline == 4.0 + STALL_S  # it gets on all the same
    group.handle(Died(2, KILLED), 5.0)
    group.handle(Acknowledged(1, 1), 5.0)
    assert group.state is State.BACKING_OFF


# Workers that come and go.


def test_a_lost_worker_is_not_replaced_while_there_are_enough() -> None:
    group = elastic(4)
    group.handle(Died(1, KILLED), 1.0)
    assert stop_all(group, [0, 2, 3], 1.0) == [Start(1, 3, {0: 0, 2: 1, 3: 2}, True)]
    (incident,) = group.incidents
    assert (incident.lost, incident.replaced) == ([1], [])
    latest = group.generations[-1]
    assert (latest.workers, latest.lost, latest.joined, latest.left) == ((0, 2, 3), (1,), (), ())


def test_below_the_minimum_a_lost_worker_is_replaced_on_one_host() -> None:
    group = elastic(2, 2, 3)
    group.handle(Died(0, KILLED), 1.0)
    assert group.handle(Acknowledged(1, 0), 1.0) == [Spawn(2, None, 0)]


def test_a_worker_leaves_and_that_is_no_failure() -> None:
    group = elastic(3, max_restarts=0)
    assert group.handle(Leaving(0), 1.0) == [Abort(0, [0, 1, 2])]
    # That another one has stopped first is no failure either.
    group.handle(Failed(2, 0, PeerLost("rank 0", "it closed the connection")), 1.0)
    group.handle(Acknowledged(1, 0), 1.0)
    assert group.handle(Acknowledged(0, 0), 1.0) == [
        Dismiss(0, None),
        Start(1, 2, {1: 0, 2: 1}, True),
    ]
    assert group.incidents == []
    assert group.generations[-1].left == (0,)


def test_a_worker_that_stops_for_long_is_given_time_in_a_change() -> None:
    group = elastic(3)
    group.handle(Leaving(0), 1.0)
    stop_all(group, [0, 1], 1.0)
    assert group.handle(Tick(), 1.0 + GRACE_S) == []
    assert group.handle(Tick(), 1.0 + STALL_S) == [Kill(2)]
    (incident,) = group.incidents  # and that it had to be killed is a failure
    assert isinstance(incident.cause, NoAnswer)
    assert incident.cause.timeout_s == STALL_S
    assert group.handle(Died(2, KILLED), 32.0) == [Dismiss(0, None), Spawn(3, None, 0)]


def test_too_few_that_stay_end_the_run_clearly() -> None:
    group = elastic(3)
    group.handle(Leaving(0), 1.0)
    group.handle(Leaving(1), 1.0)
    (first, second, fail) = stop_all(group, [0, 1, 2], 1.0)
    assert [first, second] == [Dismiss(0, None), Dismiss(1, None)]
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, BelowMinimumWorkers)
    assert (fail.error.present, fail.error.min_workers) == (1, 2)


def test_workers_join_once_they_are_ready_and_never_too_many() -> None:
    group = elastic(3, most=5)
    assert group.handle(Wanted(9), 1.0) == [Spawn(3, None, 3), Spawn(4, None, 4)]
    assert group.state is State.RUNNING  # meanwhile
    assert group.handle(Joined(4), 2.0) == []
    assert group.deadline == 2.0 + SETTLE_S  # one change for all that are coming
    assert group.handle(Tick(), 2.0 + SETTLE_S) == [Abort(0, [0, 1, 2])]
    assert stop_all(group, [0, 1, 2], 2.0) == [Start(1, 4, {0: 0, 1: 1, 2: 2, 4: 3}, True)]
    assert group.handle(Joined(3), 3.0) == []  # not before the last change has led to something
    assert group.handle(Resumed(0, 1, 5, "memory"), 3.0) == [Abort(1, [0, 1, 2, 4])]


def test_a_newcomer_that_dies_while_it_waits_for_another_leaves_no_deadline() -> None:
    group = elastic(3, most=5)
    group.handle(Wanted(2), 1.0)
    group.handle(Joined(3), 2.0)
    assert group.deadline == 2.0 + SETTLE_S
    group.handle(Died(3, KILLED), 3.0)
    group.handle(Died(4, KILLED), 3.0)
    now = 2.0 + SETTLE_S
    assert group.handle(Tick(), now) == []
    assert group.deadline is not None
    assert group.deadline > now
    # Another one is waited with as long as the first one was.
    group.handle(Wanted(2), now)
    group.handle(Joined(5), 10.0)
    assert group.deadline == 10.0 + SETTLE_S
    group.handle(Done(0, 0), 11.0)  # nobody joins any more
    group.handle(Tick(), 10.0 + SETTLE_S)
    assert group.deadline > 10.0 + SETTLE_S


def test_a_newcomer_that_dies_or_cannot_begin_is_no_failure_of_the_group() -> None:
    group = elastic(3)
    group.handle(Wanted(2), 1.0)
    assert group.handle(Died(3, KILLED), 1.0) == []
    error = ConfigError("data_dir", "x", "a folder")
    assert group.handle(Failed(4, 0, error), 1.0) == [Dismiss(4, str(error))]
    assert (group.state, group.incidents) == (State.RUNNING, [])


def test_the_last_one_that_holds_the_state_hands_it_over_before_it_leaves() -> None:
    group = elastic(1, 1, 2)
    group.handle(Wanted(1), 1.0)
    assert group.handle(Leaving(0), 1.0) == []
    assert group.handle(Joined(1), 2.0) == [Abort(0, [0])]
    assert stop_all(group, [0], 2.0) == [Start(1, 2, {0: 0, 1: 1}, True)]
    assert group.handle(Resumed(1, 1, 5, "the memory of rank 0"), 3.0) == [Abort(1, [0, 1])]
    assert stop_all(group, [0, 1], 3.0) == [Dismiss(0, None), Start(2, 1, {1: 0}, True)]


def test_when_the_last_one_leaves_and_nobody_comes_the_run_ends() -> None:
    group = elastic(1, 1, 2)
    assert group.handle(Leaving(0), 1.0) == [Abort(0, [0])]
    (fail,) = stop_all(group, [0], 1.0)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, BelowMinimumWorkers)


def test_at_the_end_nobody_joins_or_leaves_any_more() -> None:
    group = elastic(2, 1, 3)
    group.handle(Wanted(1), 1.0)
    group.handle(Done(0, 0), 2.0)
    assert group.handle(Joined(2), 2.0) == []
    assert group.handle(Leaving(1), 2.0) == []
    assert group.handle(Done(1, 0), 2.0) == [Finish()]


# Members that come by themselves, from any hosts.


def arrived(workers: int = 2, max_restarts: int = 2, **changes: Any) -> Membership:
    """As `running`, of members that were not spawned."""
    group = Membership(limits(workers, max_restarts, spawns=False, **changes))
    assert group.begin(0.0) == []
    size = workers + changes.get("servers", 0)
    for member in range(size):
        server = member - workers if member >= workers else None
        assert group.handle(Arrived(member), 0.0) == [Admit(member, server, member)]
        group.handle(Joined(member), 0.0)
    assert group.state is State.RUNNING
    group.handle(Resumed(0, 0, 0, "the start"), 0.0)
    return group


def test_one_too_many_is_told_so() -> None:
    (dismiss,) = arrived(2, servers=1).handle(Arrived(3), 1.0)
    assert dismiss == Dismiss(3, "the run has all of its 3 workers")


def test_the_place_of_a_lost_worker_is_taken_by_one_that_comes() -> None:
    group = arrived()
    group.handle(Died(0, "reset"), 1.0)
    assert group.handle(Acknowledged(1, 0), 1.0) == []
    assert group.handle(Arrived(2), 2.0) == [Admit(2, None, 0)]
    assert group.handle(Joined(2), 3.0) == [Start(1, 2, {2: 0, 1: 1}, True)]


def test_the_place_of_a_lost_server_goes_first() -> None:
    group = arrived(2, servers=1, min_workers=1, max_workers=3)
    group.handle(Died(2, "reset"), 1.0)
    stop_all(group, [0, 1], 1.0)
    assert group.handle(Arrived(3), 2.0) == [Admit(3, 0, 2)]


def test_if_nobody_comes_in_time_the_run_ends_below_its_minimum() -> None:
    group = arrived()
    group.handle(Died(0, "reset"), 1.0)
    group.handle(Acknowledged(1, 0), 1.0)
    assert group.deadline == 1.0 + JOIN_S
    (fail,) = group.handle(Tick(), 1.0 + JOIN_S)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, BelowMinimumWorkers)
    assert fail.error.waited_s == JOIN_S


def test_at_the_start_all_are_waited_for_and_then_the_minimum_will_do() -> None:
    group = Membership(limits(3, spawns=False, min_workers=2, max_workers=3))
    group.begin(0.0)
    for member in (0, 1):
        group.handle(Arrived(member), 1.0)
        assert group.handle(Joined(member), 1.0) == []
    assert group.handle(Tick(), JOIN_S) == [Start(0, 2, {0: 0, 1: 1}, True)]
    alone = Membership(limits(3, spawns=False, min_workers=2, max_workers=3))
    alone.begin(0.0)
    alone.handle(Arrived(0), 1.0)
    alone.handle(Joined(0), 1.0)
    (fail,) = alone.handle(Tick(), JOIN_S)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, RendezvousError)
    assert fail.error.missing == [1, 2]


def test_who_goes_before_it_was_needed_is_forgotten() -> None:
    group = Membership(limits(2, spawns=False))
    group.begin(0.0)
    group.handle(Arrived(0), 1.0)
    group.handle(Joined(0), 1.0)
    assert group.handle(Died(0, "reset"), 1.0) == []
    assert group.handle(Arrived(1), 1.0) == [Admit(1, None, 0)]
    assert group.incidents == []


def test_what_a_restart_can_mend() -> None:
    assert is_recoverable(StepMismatch(0, 1, 2))
    assert is_recoverable(ReplicaDivergence(0, 1, 2))
    assert is_recoverable(DeadlineExceeded(0, 1, 2.0))
    assert not is_recoverable(SchemaMismatch(0, 1, 2))
    assert not is_recoverable(NonFiniteGradient(1))


class World:
    """Processes that do what they are told, or not, at random; it checks the invariants."""

    def __init__(self, given: Limits, choices: random.Random) -> None:
        self.limits = given
        self.choices = choices
        self.group = Membership(given)
        self.now = 0.0
        self.servers: dict[int, int | None] = {}
        self.ranks: dict[int, int] = {}  # of the last start
        self.doing: dict[int, tuple[str, int]] = {}  # (coming, idle, runs, hangs; generation)
        self.holders: set[int] = set()  # who held the state at the last start, and is there
        self.causes: list[str] = []
        self.ended: Action | None = None
        self.arrivals = 0
        self.failures = 0

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            assert self.ended is None
            match action:
                case Spawn(member, server) | Admit(member, server):
                    assert isinstance(action, Spawn) == self.limits.spawns
                    assert member not in self.doing
                    self.servers[member], self.doing[member] = server, ("coming", -1)
                    workers = [m for m in self.doing if self.servers[m] is None]
                    assert len(workers) <= self.limits.max_workers
                case Start():
                    self.start(action)
                case Abort(generation, members):
                    for member in members:
                        if self.doing.get(member) == ("runs", generation):
                            hangs = self.choices.random() < 0.2
                            self.doing[member] = "hangs" if hangs else "told", generation
                case Kill(member):
                    if member in self.doing:
                        self.doing[member] = "killed", -1
                case Dismiss(member, refused):
                    if refused is None:
                        assert self.doing[member][0] in ("idle", "coming", "killed")
                        assert (
                            self.holders - {member}
                            or not self.holders
                            or (member not in self.holders)
                        ), "the last one that held the state was let go"
                    self.forget(member)
                case Finish() | Fail():
                    self.ended = action

    def start(self, action: Start) -> None:
        ranks = dict(action.ranks)
        workers = sorted(rank for m, rank in ranks.items() if self.servers[m] is None)
        servers = {self.servers[m]: rank for m, rank in ranks.items() if rank not in workers}
        assert workers == list(range(action.world_size))
        assert servers == {s: action.world_size + s for s in range(self.limits.servers)}
        assert self.limits.min_workers <= action.world_size <= self.limits.max_workers
        assert all(self.doing[member] == ("idle", -1) for member in ranks)
        assert not any(doing in ("runs", "told", "hangs") for doing, _ in self.doing.values())
        assert not self.holders or self.holders & set(ranks), "the state was left behind"
        self.ranks, self.holders = ranks, set(ranks)
        for member in ranks:
            self.doing[member] = "runs", action.generation

    def forget(self, member: int) -> None:
        self.doing.pop(member, None)
        self.holders.discard(member)

    def tell(self, event: Event) -> None:
        self.do(self.group.handle(event, self.now))
        if isinstance(event, Tick) and self.ended is None and self.group.deadline is not None:
            assert self.group.deadline > self.now, "it is woken again and again"

    def die(self, member: int) -> None:
        self.forget(member)
        detail = f"death {len(self.causes)}"
        self.causes.append(detail)
        self.tell(Died(member, detail))

    def step(self, faults: float, moves: float) -> None:
        """Something happens to one process, or time passes."""
        self.now += self.choices.random()
        if not self.limits.spawns and self.choices.random() < 0.2:
            self.arrivals += 1
            return self.tell(Arrived(self.arrivals - 1))
        if self.choices.random() < moves:
            return self.tell(Wanted(1) if self.limits.spawns else Tick())
        if not self.doing or self.choices.random() < 0.1:
            self.now = max(self.now, self.group.deadline or 0.0)
            return self.tell(Tick())
        member = self.choices.choice(list(self.doing))
        doing, generation = self.doing[member]
        if doing == "killed" or self.choices.random() < faults:
            return self.die(member)
        if self.choices.random() < moves:
            return self.tell(Leaving(member))
        if doing == "coming":
            self.doing[member] = "idle", -1
            return self.tell(Joined(member))
        if doing == "told":
            self.doing[member] = "idle", -1
            return self.tell(Acknowledged(member, generation))
        return self.run(member, generation, faults) if doing == "runs" else None

    def run(self, member: int, generation: int, faults: float) -> None:
        if self.choices.random() < 0.5:
            step = self.choices.randrange(9)
            self.tell(Resumed(member, generation, step, "x"))
            if self.doing.get(member) == ("runs", generation):
                self.tell(Progressed(member, generation, step + self.choices.randrange(2)))
            return None
        self.doing[member] = "idle", -1
        if self.choices.random() < 3 * faults:
            other = (self.ranks[member] + 1) % len(self.ranks)
            error: DmlfError = self.choices.choice(
                [PeerLost(f"rank {other}", "reset"), StepMismatch(0, 1, 2)]
            )
            self.causes.append(str(error))
            return self.tell(Failed(member, generation, error))
        return self.tell(Done(member, generation))


@settings(max_examples=400, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=3).map(sorted),
    servers=st.integers(0, 2),
    spawns=st.booleans(),
    max_restarts=st.integers(0, 4),
    faults=st.sampled_from([0.0, 0.02, 0.1, 0.4]),
    moves=st.sampled_from([0.0, 0.02, 0.1]),
    seed=st.integers(0, 1 << 32),
)
def test_invariants_in_random_histories(
    sizes: list[int],
    servers: int,
    spawns: bool,
    max_restarts: int,
    faults: float,
    moves: float,
    seed: int,
) -> None:
    least, workers, most = sizes
    given = limits(
        workers, max_restarts, min_workers=least, max_workers=most, servers=servers, spawns=spawns
    )
    world = World(given, random.Random(seed))
    world.do(world.group.begin(0.0))
    for _ in range(4000):
        if world.ended is not None:
            break
        world.step(faults, moves)
    assert world.ended is not None, "it does not end"
    assert len(world.group.incidents) <= max_restarts + 1
    match world.ended:
        case Fail(error):
            first = world.group.incidents[:1]
            cause = error.cause if isinstance(error, RestartBudgetExceeded) else error
            if isinstance(error, RestartBudgetExceeded):
                assert len(world.group.incidents) == max_restarts + 1
                assert cause is first[0].cause
            if not isinstance(cause, BelowMinimumWorkers | RendezvousError | NoAnswer):
                assert any(text in str(cause) for text in world.causes)
        case _:
            inside = world.group.generations[-1].workers
            assert all(world.doing[member] == ("idle", -1) for member in inside)


@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(0, 2)), max_size=60),
)
def test_no_event_at_any_time_breaks_it(spawns: bool, events: list[tuple[int, int, int]]) -> None:
    """Stale, repeated and impossible ones too."""
    group = Membership(limits(2, 1, min_workers=1, max_workers=3, spawns=spawns))
    group.begin(0.0)
    for now, (kind, member, generation) in enumerate(events):
        make: list[Any] = [
            Joined(member),
            Died(member, KILLED),
            Failed(member, generation, StepMismatch(0, 1, 2)),
            Acknowledged(member, generation),
            Resumed(member, generation, 3, "x"),
            Progressed(member, generation, 4),
            Done(member, generation),
            Wanted(1) if spawns else Arrived(100 + now),
            Leaving(member),
            Joined(100 + now),
            *[Tick()] * 3,
        ]
        group.handle(make[kind], float(now))
        assert len(group.incidents) <= 2
