"""The decisions of `membership`, in chosen histories and in random ones."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlf.errors import (
    ChecksumMismatch,
    ConfigError,
    DeadlineExceeded,
    DmlfError,
    NoAnswer,
    NonFiniteGradient,
    PeerLost,
    RemoteError,
    ReplicaDivergence,
    RestartBudgetExceeded,
    SchemaMismatch,
    StepMismatch,
)
from dmlf.runtime.membership import (
    Abort,
    Acknowledged,
    Action,
    Died,
    Done,
    Event,
    Fail,
    Failed,
    Finish,
    Joined,
    Kill,
    Membership,
    Resumed,
    Spawn,
    Start,
    State,
    Tick,
    is_recoverable,
)

GRACE_S, JOIN_S, FINISH_S = 10.0, 60.0, 30.0


def death(rank: int) -> PeerLost:
    return PeerLost(f"rank {rank}", "killed by SIGKILL")


def running(size: int = 3, max_restarts: int = 2) -> Membership:
    """A group in generation 0, whose member of each rank has the rank's number."""
    membership = Membership(size, max_restarts, GRACE_S, JOIN_S, FINISH_S)
    assert membership.begin(0.0) == [Spawn(rank, rank) for rank in range(size)]
    for member in range(size - 1):
        assert membership.handle(Joined(member), 0.0) == []
    started = membership.handle(Joined(size - 1), 0.0)
    assert started == [Start(0, {rank: rank for rank in range(size)}, True)]
    return membership


def test_all_done_is_the_end() -> None:
    group = running(2)
    assert group.handle(Done(1, 0), 1.0) == []
    assert group.handle(Done(0, 0), 1.0) == [Finish()]
    assert group.state is State.ENDED


def test_a_death_is_mended_by_another_process_for_the_same_rank() -> None:
    group = running()
    assert group.handle(Died(1, death(1)), 5.0) == [Abort(0, [0, 2])]
    assert group.handle(Acknowledged(0, 0), 5.1) == []
    assert group.handle(Failed(2, 0, PeerLost("rank 1", "reset")), 5.2) == [Spawn(3, 1)]
    assert group.handle(Joined(3), 5.5) == [Start(1, {0: 0, 2: 2, 3: 1}, True)]
    group.handle(Resumed(0, 1, 7, "the memory of rank 0"), 5.75)
    (incident,) = group.incidents
    assert (incident.rank, incident.replaced, incident.step) == (1, [1], 7)
    assert (incident.detected_s, incident.stopped_s, incident.resumed_s) == (5.0, 5.2, 5.75)


def test_who_was_done_does_it_again_with_the_others() -> None:
    group = running(2)
    group.handle(Done(0, 0), 1.0)
    assert group.handle(Died(1, death(1)), 1.0) == [Spawn(2, 1)]
    assert group.handle(Joined(2), 2.0) == [Start(1, {0: 0, 2: 1}, True)]
    assert group.handle(Done(0, 0), 2.0) == []  # of the generation before
    group.handle(Done(0, 1), 3.0)
    assert group.handle(Done(2, 1), 3.0) == [Finish()]


def test_who_does_not_stop_in_time_is_killed_and_replaced() -> None:
    group = running()
    assert group.handle(Failed(1, 0, DeadlineExceeded(1, 2, 3.0)), 4.0) == [Abort(0, [0, 2])]
    group.handle(Acknowledged(0, 0), 4.1)
    assert group.deadline == 4.0 + GRACE_S
    assert group.handle(Tick(), 13.9) == []
    assert group.handle(Tick(), 14.0) == [Kill(2)]
    assert group.handle(Acknowledged(2, 0), 14.0) == []  # too late: nobody waits for two of one
    assert group.handle(Died(2, death(2)), 14.1) == [Spawn(3, 2)]
    assert group.incidents[0].replaced == [2]


def test_who_hangs_when_the_others_are_done_is_stopped_and_killed() -> None:
    """Nobody waits for a message of it, so nobody else would notice."""
    group = running(2)
    group.handle(Done(0, 0), 5.0)
    assert group.deadline == 5.0 + FINISH_S
    assert group.handle(Tick(), 34.9) == []
    assert group.handle(Tick(), 35.0) == [Abort(0, [1])]
    assert group.handle(Tick(), 35.0 + GRACE_S) == [Kill(1)]
    assert group.handle(Died(1, death(1)), 46.0) == [Spawn(2, 1)]
    assert isinstance(group.incidents[0].cause, NoAnswer)
    in_time = running(2)
    in_time.handle(Done(0, 0), 5.0)
    in_time.handle(Done(1, 0), 34.0)
    assert in_time.deadline is None


def test_who_does_not_join_in_time_is_killed() -> None:
    group = Membership(2, 2, GRACE_S, JOIN_S, FINISH_S)
    group.begin(0.0)
    group.handle(Joined(0), 1.0)
    assert group.handle(Tick(), JOIN_S) == [Kill(1)]
    assert group.handle(Died(1, death(1)), JOIN_S) == [Spawn(2, 1)]
    assert group.handle(Joined(2), JOIN_S) == [Start(1, {0: 0, 2: 1}, True)]


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
    early = Membership(1, 2, GRACE_S, JOIN_S, FINISH_S)
    early.begin(0.0)
    assert early.handle(Failed(0, 0, error), 1.0) == [Fail(error)]


@pytest.mark.parametrize("cause", [death(1), ChecksumMismatch("rank 0", "payload")])
def test_the_cause_is_kept_and_not_its_echoes(cause: DmlfError) -> None:
    group = running()
    group.handle(Failed(0, 0, PeerLost("rank 1", "reset")), 1.0)
    event = Died(1, cause) if isinstance(cause, PeerLost) else Failed(1, 0, cause)
    group.handle(event, 1.1)
    group.handle(Failed(2, 0, DeadlineExceeded(2, 1, 3.0)), 1.2)
    assert (group.incidents[0].cause, group.incidents[0].rank) == (cause, 1)


def test_of_two_causes_the_first_is_kept() -> None:
    group = running()
    group.handle(Died(1, death(1)), 1.0)
    group.handle(Died(2, death(2)), 1.1)
    assert group.incidents[0].rank == 1
    assert group.incidents[0].replaced == [1, 2]


def test_memory_is_not_trusted_where_replicas_differ() -> None:
    group = running(2)
    group.handle(Failed(0, 0, ReplicaDivergence(0, "a", "b")), 1.0)
    assert group.handle(Failed(1, 0, ReplicaDivergence(1, "b", "a")), 1.0) == [
        Start(1, {0: 0, 1: 1}, False)
    ]
    group.handle(Died(1, death(1)), 2.0)
    group.handle(Acknowledged(0, 1), 2.0)
    assert group.handle(Joined(2), 2.0) == [Start(2, {0: 0, 2: 1}, True)]


def test_a_crash_at_every_start_is_bounded_and_names_the_first_cause() -> None:
    group = Membership(1, 3, GRACE_S, JOIN_S, FINISH_S)
    actions = group.begin(0.0)
    for number in range(4):
        assert actions == [Spawn(number, 0)]
        actions = group.handle(Died(number, PeerLost("rank 0", f"death {number}")), 1.0)
    (fail,) = actions
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, RestartBudgetExceeded)
    assert isinstance(fail.error.cause, PeerLost)
    assert fail.error.cause.detail == "death 0"
    assert "death 0" in str(fail.error)


def test_what_a_restart_can_mend() -> None:
    assert is_recoverable(StepMismatch(0, 1, 2))
    assert is_recoverable(ReplicaDivergence(0, 1, 2))
    assert is_recoverable(DeadlineExceeded(0, 1, 2.0))
    assert not is_recoverable(SchemaMismatch(0, 1, 2))
    assert not is_recoverable(NonFiniteGradient(1))


class World:
    """Processes that do what they are told, or not, at random; it checks the invariants."""

    def __init__(self, size: int, max_restarts: int, choices: random.Random) -> None:
        self.size, self.max_restarts = size, max_restarts
        self.choices = choices
        self.group = Membership(size, max_restarts, GRACE_S, JOIN_S, FINISH_S)
        self.now = 0.0
        self.ranks: dict[int, int] = {}
        self.doing: dict[int, tuple[str, int]] = {}  # (coming, idle, runs, hangs; generation)
        self.causes: list[DmlfError] = []
        self.ended: Action | None = None
        self.starts = 0

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            assert self.ended is None
            match action:
                case Spawn(member, rank):
                    assert rank not in self.ranks.values(), "two processes for one rank"
                    assert len(self.ranks) < self.size
                    self.ranks[member], self.doing[member] = rank, ("coming", -1)
                case Start(generation, ranks):
                    assert dict(ranks) == self.ranks
                    assert sorted(ranks.values()) == list(range(self.size))
                    assert all(doing == "idle" for doing, _ in self.doing.values()), (
                        "two generations at once"
                    )
                    self.starts += 1
                    for member in self.doing:
                        self.doing[member] = "runs", generation
                case Abort(generation, members):
                    for member in members:
                        if self.doing.get(member) == ("runs", generation):
                            if self.choices.random() < 0.3:
                                self.doing[member] = "hangs", generation
                            else:
                                self.doing[member] = "told", generation
                case Kill(member):
                    if member in self.doing:
                        self.doing[member] = "killed", -1
                case Finish() | Fail():
                    self.ended = action

    def tell(self, event: Event) -> None:
        self.do(self.group.handle(event, self.now))

    def die(self, member: int) -> None:
        rank = self.ranks.pop(member)
        del self.doing[member]
        cause = death(rank)
        self.causes.append(cause)
        self.tell(Died(member, cause))

    def step(self, faults: float) -> None:
        """Something happens to one process, or time passes."""
        self.now += self.choices.random()
        if not self.doing or self.choices.random() < 0.1:
            self.now = max(self.now, self.group.deadline or 0.0)
            return self.tell(Tick())
        member = self.choices.choice(list(self.doing))
        doing, generation = self.doing[member]
        if doing == "killed" or self.choices.random() < faults:
            return self.die(member)
        if doing == "coming":
            self.doing[member] = "idle", -1
            return self.tell(Joined(member))
        if doing in ("runs", "told"):
            self.doing[member] = "idle", -1
            if doing == "told":
                return self.tell(Acknowledged(member, generation))
            if self.choices.random() < 3 * faults:
                other = (self.ranks[member] + 1) % self.size
                error: DmlfError = self.choices.choice(
                    [PeerLost(f"rank {other}", "reset"), StepMismatch(0, 1, 2)]
                )
                self.causes.append(error)
                return self.tell(Failed(member, generation, error))
            return self.tell(Done(member, generation))
        return None


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(1, 5),
    max_restarts=st.integers(1, 4),
    faults=st.sampled_from([0.0, 0.02, 0.1, 0.4]),
    seed=st.integers(0, 1 << 32),
)
def test_invariants_in_random_histories(
    size: int, max_restarts: int, faults: float, seed: int
) -> None:
    world = World(size, max_restarts, random.Random(seed))
    world.do(world.group.begin(0.0))
    for _ in range(3000):
        if world.ended is not None:
            break
        world.step(faults)
    assert world.ended is not None, "it does not end"
    assert world.starts <= max_restarts + 1
    assert len(world.group.incidents) <= max_restarts + 1
    match world.ended:
        case Fail(error):
            assert isinstance(error, RestartBudgetExceeded)
            assert len(world.group.incidents) == max_restarts + 1
            slow = isinstance(error.cause, NoAnswer)  # which the group itself has found
            assert slow or any(error.cause is cause for cause in world.causes)
        case _:
            assert all(doing == "idle" for doing, _ in world.doing.values())
            assert sorted(world.ranks.values()) == list(range(size))


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4), st.integers(0, 2)), max_size=60))
def test_no_event_at_any_time_breaks_it(events: list[tuple[int, int, int]]) -> None:
    """Stale, repeated and impossible ones too."""
    group = Membership(2, 1, GRACE_S, JOIN_S, FINISH_S)
    group.begin(0.0)
    for now, (kind, member, generation) in enumerate(events):
        make: list[Any] = [
            Joined(member),
            Died(member, death(0)),
            Failed(member, generation, StepMismatch(0, 1, 2)),
            Acknowledged(member, generation),
            Resumed(member, generation, 3, "x"),
            Done(member, generation),
            Tick(),
            Tick(),
        ]
        group.handle(make[kind], float(now))
        assert len(group.incidents) <= 2
