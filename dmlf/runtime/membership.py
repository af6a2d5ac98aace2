"""Who belongs to a group of processes, and when it is begun anew: decisions alone, no I/O.

A *generation* is one incarnation of the group, from `Start` on. There is one way from one to the
next, whatever the reason: a failure, a worker that wants to leave, or one that has come.

    FORMING      until there are workers enough, and all servers
       |  Start: ranks are dealt anew, in the order of the old ones
    RUNNING      until all are done -> ENDED (Finish), one dies, fails or stalls, or a change is due
       |  Abort
    ABORTING     until everybody has stopped or is gone; who does not stop in time is killed
       |- a change, or a failure within the budget: who wants to leave is let go -> FORMING
       |- failure upon failure without a step between them -> BACKING_OFF, for longer each time
       `- beyond the budget, or after what no restart can mend: ENDED (Fail)

*Enough* is `workers` for the first Start and `min_workers` from then on; where both are equal, the
size is fixed. Whom there is too few of is spawned, where members are processes of this host, or
else waited for until `join_s` have passed: then the group ends as BelowMinimumWorkers.

What members say comes with the generation that it is about; what is about another one is forgotten.
Time comes in with the events, so every history can be replayed.

Invariants, which tests hold against random histories: between a Start and the next one every
member of the first has stopped or is gone; a Start has min_workers to max_workers workers, of whom
one held the state of the last Start unless all who did are gone, and all servers; there are at most
`max_restarts` failures that are mended, and leaving and joining cost none; the first cause of an
incident is kept, unless it only echoes another; and every group ends whose members end or stop in
time, or die once they are killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from dmlf.errors import (
    BelowMinimumWorkers,
    DmlfError,
    NoAnswer,
    PeerLost,
    ProtocolError,
    RendezvousError,
    ReplicaDivergence,
    RestartBudgetExceeded,
    SchemaMismatch,
    TransportError,
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
from dmlf.runtime.history import Generation, History, Incident
from dmlf.runtime.limits import Limits
from dmlf.runtime.outcomes import is_echo
from dmlf.runtime.roster import Doing, Member, Roster

BACKOFF_MAX_S = 30.0


class State(Enum):
    """Where the group is; see the module's diagram."""

    FORMING = auto()
    RUNNING = auto()
    ABORTING = auto()
    BACKING_OFF = auto()
    ENDED = auto()


def is_recoverable(error: DmlfError) -> bool:
    """Whether a new generation may mend it: messages and processes, not what they compute."""
    return isinstance(error, TransportError) or (
        isinstance(error, ProtocolError) and not isinstance(error, SchemaMismatch)
    )


class Membership:
    """The state machine, over a roster of members and a history of what has become of them."""

    def __init__(self, limits: Limits) -> None:
        self.state = State.FORMING
        self.generation = 0
        self._limits = limits
        self._roster = Roster(limits.workers, limits.servers)
        self._history = History()
        self._deadline: float | None = None  # of the state; members have their own
        self._trust_memory = True
        self._settle_by: float | None = None  # until when a newcomer waits for others

    @property
    def incidents(self) -> Sequence[Incident]:
        """The failures that ended generations."""
        return self._history.incidents

    @property
    def generations(self) -> Sequence[Generation]:
        """All that were started."""
        return self._history.generations

    @property
    def deadline(self) -> float | None:
        """When to send a Tick if nothing else happens; None: never."""
        due = [member.due_s for member in self._roster.all()]
        due += [self._deadline, self._settle_by]
        return min((moment for moment in due if moment is not None), default=None)

    def begin(self, now: float) -> list[Action]:
        """Have the first members spawned, or wait for them."""
        return self._form(now)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take note of what happened at `now`; return what is to be done, in this order."""
        if self.state is State.ENDED:
            return []
        match event:
            case Arrived(number):
                return self._arrived(number, now)
            case Wanted(workers):
                room = max(0, self._limits.max_workers - len(self._roster.workers()))
                return [self._spawn(None, now) for _ in range(min(workers, room))]
            case Joined(number):
                member = self._roster.get(number)
                if member is not None and member.doing is Doing.COMING:
                    member.wait()
                return self._go_on(now)
            case Leaving(number):
                member = self._roster.get(number)
                if member is not None and member.server is None:
                    member.leaving = True
                return self._go_on(now)
            case Died(number, detail):
                return self._died(number, detail, now)
            case Failed(number, generation, error):
                return self._failed(number, generation, error, now)
            case Tick():
                return self._tick(now)
            case _:
                member = self._current(event.member, event.generation)
                return [] if member is None else self._said(member, event, now)

    def _said(
        self, member: Member, event: Acknowledged | Resumed | Progressed | Done, now: float
    ) -> list[Action]:
        """What a member says that is in the generation which runs, or is being stopped."""
        match event:
            case Acknowledged():
                member.wait()
            case Resumed(_, _, step, source):
                member.resumed = True
                self._beat(member, step, now)
                if self.state is State.RUNNING:
                    self._history.resumed(step, source, now)
            case Progressed(_, _, step):
                self._beat(member, step, now)
            case Done():
                # Told to stop as it ended: it has stopped, and is asked for its end again.
                aborting = self.state is State.ABORTING
                member.doing = Doing.WAITING if aborting else Doing.DONE
                member.due_s = None
        return self._go_on(now)

    def _current(self, number: int, generation: int) -> Member | None:
        member = self._roster.get(number)
        if member is None or generation != self.generation:
            return None
        return member if member.doing in (Doing.RUNNING, Doing.STOPPING) else None

    @property
    def _enough(self) -> int:
        """How many workers a Start needs."""
        return self._limits.min_workers if self.generations else self._limits.workers

    def _beat(self, member: Member, step: int, now: float) -> None:
        member.step = step
        if member.doing is Doing.RUNNING:
            member.due_s = now + self._limits.stall_s
        if member.resumed:  # else the steps may be those of the generation before
            self._history.progressed(step)

    def _arrived(self, number: int, now: float) -> list[Action]:
        """Give the newcomer a place: first those without which the run cannot go on."""
        limits, workers = self._limits, len(self._roster.workers())
        vacant = self._roster.vacant_servers()
        server = vacant[0] if vacant and workers >= self._enough else None
        if server is None and workers >= limits.max_workers:
            size = limits.max_workers + limits.servers
            return [Dismiss(number, f"the run has all of its {size} workers")]
        member = self._roster.add(number, server, now + limits.join_s)
        return [Admit(number, server, member.rank)]

    def _spawn(self, server: int | None, now: float) -> Action:
        number = self._roster.next_number
        member = self._roster.add(number, server, now + self._limits.join_s)
        return Spawn(number, server, member.rank)

    def _is_spare(self, member: Member) -> bool:
        """Whether the group does not need a member that has not been started."""
        if member.inside:
            return False
        if not self._limits.spawns or self.state is State.RUNNING:
            return True
        others = [other for other in self._roster.staying() if other is not member]
        return member.server is None and len(others) >= self._enough

    def _died(self, number: int, detail: str, now: float) -> list[Action]:
        member = self._roster.remove(number)
        if member is None:
            return []
        if self._is_spare(member):
            return self._go_on(now)
        if member.inside:
            self._history.lost(number)
        if member.doing is Doing.CONDEMNED:
            if self._history.open is not None:
                self._history.open.lost.append(member.rank)
            return self._go_on(now)
        error = PeerLost(f"rank {member.rank}", detail)
        return self._incident(member, error, now, gone=True)

    def _failed(self, number: int, generation: int, error: DmlfError, now: float) -> list[Action]:
        member = self._roster.get(number)
        if member is not None and member.doing is Doing.COMING:
            # What it was to run cannot be made: here, if others can, or anywhere.
            if self.generations and self._is_spare(member):
                self._roster.remove(number)
                return [Dismiss(number, str(error))]
            return self._fail(error)
        member = self._current(number, generation)
        if member is None:
            return []
        member.wait()
        is_change = self.state is State.ABORTING and self._history.open is None
        if is_change and is_echo(member.rank, error):
            return self._go_on(now)  # another one has stopped before it
        return self._incident(member, error, now)

    def _incident(
        self, member: Member, error: DmlfError, now: float, gone: bool = False
    ) -> list[Action]:
        """A member is gone or has failed: begin to abort, or learn more about why we do."""
        if not is_recoverable(error):
            return self._fail(error)
        if isinstance(error, ReplicaDivergence):
            self._trust_memory = False  # who of them is right is not known
        incident = self._history.failed(self.generation, member.rank, error, now)
        if gone:
            incident.lost.append(member.rank)
        if self.state in (State.ABORTING, State.BACKING_OFF):
            return self._go_on(now)
        return self._stop(now)

    def _stop(self, now: float) -> list[Action]:
        """Have everybody stop."""
        self.state, self._deadline, self._settle_by = State.ABORTING, None, None
        self._history.ended(now)
        told = []
        for member in self._roster.all():
            if member.doing is Doing.RUNNING:
                member.doing, member.due_s = Doing.STOPPING, self._stops_by(member, now)
                told.append(member.number)
            elif member.doing is Doing.DONE:
                member.wait()
        actions: list[Action] = [Abort(self.generation, told)] if told else []
        return actions + self._go_on(now)

    def _stops_by(self, member: Member, now: float) -> float:
        """Until when a member that is told to stop may go on with what it does.

        A long step is no reason to kill whose step it is: its copy of the state may be the last
        one. So it has the time that it had for its next progress; for a change, as if it had made
        some now; and no more than the grace where nothing will be mended.
        """
        limits = self._limits
        if self._history.open is None:
            return now + max(limits.grace_s, limits.stall_s)
        soonest = now + limits.grace_s
        if len(self.incidents) > limits.max_restarts:
            return soonest
        return max(soonest, member.due_s or soonest)

    def _go_on(self, now: float) -> list[Action]:
        """What is due now that something has changed."""
        inside = self._roster.inside()
        match self.state:
            case State.RUNNING if all(member.doing is Doing.DONE for member in inside):
                self.state, self._deadline = State.ENDED, None
                return [Finish()]
            case State.RUNNING if self._change_is_due(inside, now):
                return self._stop(now)
            case State.ABORTING if all(member.doing is Doing.WAITING for member in inside):
                return self._restart(now)
            case State.FORMING:
                return self._let_go() + self._start_if(self._enough, now)
        return []

    def _change_is_due(self, inside: Sequence[Member], now: float) -> bool:
        """Whether somebody has come or wants to leave, and the generation can be ended for it."""
        staying = self._roster.staying()
        ends = any(member.doing is Doing.DONE for member in inside)
        if ends or self._history.resumed_step is None:
            self._settle_by = None
            return False
        coming = any(member.doing is Doing.COMING for member in staying)
        if not any(member.doing is Doing.WAITING for member in staying):
            self._settle_by = None
        elif not coming:
            return True
        elif self._settle_by is None:
            self._settle_by = now + self._limits.settle_s
        elif now >= self._settle_by:
            return True
        if len(staying) == len(self._roster.workers()):
            return False
        # The last one that holds the state stays until another can take it over, if one is coming.
        holds = any(member.inside for member in staying) or self._limits.servers > 0
        return holds or not coming

    def _restart(self, now: float) -> list[Action]:
        """Everybody has stopped: form the next generation, or end."""
        limits, incident = self._limits, self._history.open
        self._history.stopped(now)
        if incident is not None and len(self.incidents) > limits.max_restarts:
            if not limits.max_restarts:
                return self._fail(incident.cause)
            first = self.incidents[0].cause
            return self._fail(RestartBudgetExceeded(limits.max_restarts, first))
        released = self._let_go()
        self.generation += 1
        staying = len(self._roster.staying())
        nobody_comes = incident is None and limits.spawns and staying < limits.min_workers
        if nobody_comes or not (staying or limits.servers or incident):
            return released + self._fail(BelowMinimumWorkers(staying, limits.min_workers, 0.0))
        in_a_row = self._history.failures_in_a_row
        if incident is not None and in_a_row > 1:
            self.state = State.BACKING_OFF
            delay_s = limits.backoff_s * 2.0 ** (in_a_row - 2)
            self._deadline = now + min(delay_s, BACKOFF_MAX_S)
            return released
        return released + self._form(now)

    def _let_go(self) -> list[Action]:
        """Dismiss who wants to leave, unless nobody else would hold the state."""
        holders = self._roster.inside()
        workers = any(member.server is None for member in holders)
        if workers and all(member.leaving for member in holders):
            return []
        actions: list[Action] = []
        for member in self._roster.all():
            if member.leaving and member.doing in (Doing.WAITING, Doing.COMING):
                self._roster.remove(member.number)
                if member.inside:
                    self._history.left(member.number)
                actions.append(Dismiss(member.number, None))
        return actions

    def _form(self, now: float) -> list[Action]:
        """Spawn whom there is too few of, or give others the time to come."""
        limits = self._limits
        self.state, self._deadline, self._history.open = State.FORMING, None, None
        actions: list[Action] = []
        if limits.spawns:
            room = limits.max_workers - len(self._roster.workers())
            missing = min(self._enough - len(self._roster.staying()), room)
            actions += [self._spawn(None, now) for _ in range(missing)]
            actions += [self._spawn(server, now) for server in self._roster.vacant_servers()]
        else:
            self._deadline = now + limits.join_s
        return actions + self._go_on(now)

    def _start_if(self, enough: int, now: float) -> list[Action]:
        """Begin a generation if there are `enough` workers and all servers."""
        ready = self._roster.waiting()
        size = sum(member.server is None for member in ready)
        if not size or size < enough or len(ready) - size < self._limits.servers:
            return []
        joined = [member for member in ready if not member.inside]
        self._history.replaced(member.rank for member in joined)
        order = self._roster.start(now + self._limits.stall_s)
        newcomers = [member.number for member in joined]
        self._history.started(self.generation, order[:size], newcomers)
        self.state, self._deadline = State.RUNNING, None
        trust, self._trust_memory = self._trust_memory, True
        ranks = {number: rank for rank, number in enumerate(order)}
        return [Start(self.generation, size, ranks, trust)]

    def _tick(self, now: float) -> list[Action]:
        """See to those who have not done in time what they should have."""
        actions: list[Action] = []
        for member in self._roster.all():
            if member.due_s is None or now < member.due_s:
                continue
            if member.doing is Doing.RUNNING:
                detail = f"no progress since it had done {member.step} steps"
                error = NoAnswer(f"rank {member.rank}", self._limits.stall_s, detail)
                actions += self._incident(member, error, now)
                continue
            if member.doing is Doing.STOPPING:
                member.doing = Doing.CONDEMNED
                given_s = member.due_s - (self._history.ended_s or 0.0)
                error = NoAnswer(f"rank {member.rank}", given_s, "it was to stop")
                actions += self._incident(member, error, now)
            member.due_s = None
            actions.append(Kill(member.number))
        if self.state is State.RUNNING:
            return actions + self._go_on(now)
        if self._deadline is None or now < self._deadline:
            return actions
        self._deadline = None
        if self.state is State.BACKING_OFF:
            return actions + self._form(now)
        return actions + self._late(now)

    def _late(self, now: float) -> list[Action]:
        """Too few have come: begin with them if the minimum is there, or end."""
        limits = self._limits
        started = self._start_if(limits.min_workers, now)
        if started:
            return started
        ready = self._roster.waiting()
        present = sum(member.server is None for member in ready)
        if self.generations and present < limits.min_workers:
            error = BelowMinimumWorkers(present, limits.min_workers, limits.join_s)
            return self._fail(error)
        servers = {member.server for member in ready}
        missing = [] if self.generations else list(range(present, limits.workers))
        missing += [limits.workers + s for s in range(limits.servers) if s not in servers]
        return self._fail(RendezvousError(None, missing, limits.join_s))

    def _fail(self, error: DmlfError) -> list[Action]:
        self.state, self._deadline = State.ENDED, None
        return [Fail(error)]
