"""Who belongs to a group of processes, and when it is begun anew: decisions alone, no I/O.

A *member* is one process; each has one of the group's ranks, and a process that is gone is replaced
by another member of the same rank. A *generation* is one incarnation of the group, from `Start` on.

    FORMING   members are being spawned; until every rank has one that has joined
       |  Start
    RUNNING   until all are done -> ENDED (Finish), or one dies or fails
       |  Abort
    ABORTING  until everybody has stopped or is gone; who does not stop in time is killed
       |  within the budget: Spawn whom there is none of -> FORMING, one generation on
       `- beyond it, or after what no restart can mend: ENDED (Fail)

What the processes say comes with the generation it is about; what is about another one is
forgotten. Time comes in with the events, so every history can be replayed.

Invariants, which tests hold against random histories: between a Start and the next one every
member of the first has stopped or is gone; a Start has a member for each rank; there are at most
`max_restarts` + 1 Starts; the first cause of an incident is kept, unless it only echoes another;
and every group ends whose members end or stop in time, or die once they are killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from dmlf.errors import (
    DmlfError,
    NoAnswer,
    PeerLost,
    ProtocolError,
    ReplicaDivergence,
    RestartBudgetExceeded,
    SchemaMismatch,
    TransportError,
)
from dmlf.runtime.outcomes import is_echo


@dataclass(frozen=True, slots=True)
class Joined:
    """A member is ready to be started."""

    member: int


@dataclass(frozen=True, slots=True)
class Died:
    """A member's process is gone."""

    member: int
    error: PeerLost


@dataclass(frozen=True, slots=True)
class Failed:
    """A member has stopped by itself; it waits for what comes next."""

    member: int
    generation: int
    error: DmlfError


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A member has stopped because it was told to."""

    member: int
    generation: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """A member trains: `step` steps are done, and their state comes from `source`."""

    member: int
    generation: int
    step: int
    source: str


@dataclass(frozen=True, slots=True)
class Done:
    """A member has come to the end of the run."""

    member: int
    generation: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time."""


Event = Joined | Died | Failed | Acknowledged | Resumed | Done | Tick


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for `rank`."""

    member: int
    rank: int


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a generation. ranks: by member. trust_memory: whether what they hold may be used."""

    generation: int
    ranks: Mapping[int, int]
    trust_memory: bool


@dataclass(frozen=True, slots=True)
class Abort:
    """Tell members to stop what they do in `generation`."""

    generation: int
    members: Sequence[int]


@dataclass(frozen=True, slots=True)
class Kill:
    """End a member's process, whatever it does."""

    member: int


@dataclass(frozen=True, slots=True)
class Finish:
    """All are done."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The run is over; every process is to be ended."""

    error: DmlfError


Action = Spawn | Start | Abort | Kill | Finish | Fail


@dataclass(slots=True)
class Incident:
    """Something that ended a generation. Moments in seconds of the machine's clock.

    rank: whose death or failure was the cause. stopped_s: when everybody had stopped or was gone.
    resumed_s: when the group trained again, after `step` steps, with the state of `source`.
    """

    generation: int
    rank: int
    cause: DmlfError
    detected_s: float
    stopped_s: float | None = None
    resumed_s: float | None = None
    step: int | None = None
    source: str | None = None
    replaced: list[int] = field(default_factory=list)


class State(Enum):
    """Where the group is; see the module's diagram."""

    FORMING = auto()
    RUNNING = auto()
    ABORTING = auto()
    ENDED = auto()


class _Doing(Enum):
    COMING = auto()  # spawned, not joined
    WAITING = auto()  # for a start
    RUNNING = auto()
    STOPPING = auto()  # told to
    DONE = auto()
    CONDEMNED = auto()  # killed, and not known to be gone


_DOWN = (_Doing.WAITING, _Doing.COMING)


def is_recoverable(error: DmlfError) -> bool:
    """Whether a new generation may mend it: messages and processes, not what they compute."""
    return isinstance(error, TransportError) or (
        isinstance(error, ProtocolError) and not isinstance(error, SchemaMismatch)
    )


class Membership:
    """The state machine.

    grace_s: how long members may take to stop. join_s: to join. finish_s: to be done, once another
    one is: nobody waits for their messages any more, who would notice that they hang.
    """

    def __init__(
        self, size: int, max_restarts: int, grace_s: float, join_s: float, finish_s: float
    ) -> None:
        self.state = State.FORMING
        self.generation = 0
        self.incidents: list[Incident] = []
        self._size = size
        self._max_restarts = max_restarts
        self._grace_s = grace_s
        self._join_s = join_s
        self._finish_s = finish_s
        self._next_member = 0
        self._ranks: dict[int, int] = {}  # by member
        self._doing: dict[int, _Doing] = {}
        self._deadline: float | None = None
        self._trust_memory = True

    @property
    def deadline(self) -> float | None:
        """When to send a Tick if nothing else happens; None: never."""
        return self._deadline

    def begin(self, now: float) -> list[Action]:
        """Have the first members spawned."""
        return self._form(now)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take note of what happened at `now`; return what is to be done, in this order."""
        if self.state is State.ENDED:
            return []
        match event:
            case Joined(member):
                if self._doing.get(member) is _Doing.COMING:
                    self._doing[member] = _Doing.WAITING
                return self._go_on(now)
            case Died(member, error):
                return self._died(member, error, now)
            case Failed(member, _, error) if self._doing.get(member) is _Doing.COMING:
                return self._fail(error)  # before it joined: what it was to run cannot be made
            case Failed(member, generation, error):
                if not self._is_current(member, generation):
                    return []
                self._doing[member] = _Doing.WAITING
                return self._incident(member, error, now)
            case Acknowledged(member, generation):
                if self._is_current(member, generation):
                    self._doing[member] = _Doing.WAITING
                return self._go_on(now)
            case Resumed(member, generation, step, source):
                if self._is_current(member, generation):
                    self._resumed(step, source, now)
                return []
            case Done(member, generation):
                if self._is_current(member, generation):
                    # Told to stop as it ended: it has stopped, and is asked for its end again.
                    aborting = self.state is State.ABORTING
                    self._doing[member] = _Doing.WAITING if aborting else _Doing.DONE
                    if not aborting and self._deadline is None:
                        self._deadline = now + self._finish_s
                return self._go_on(now)
            case Tick():
                return self._tick(now)

    def _is_current(self, member: int, generation: int) -> bool:
        doing = self._doing.get(member)
        return generation == self.generation and doing in (_Doing.RUNNING, _Doing.STOPPING)

    def _died(self, member: int, error: PeerLost, now: float) -> list[Action]:
        doing = self._doing.pop(member, None)
        if doing is None:
            return []
        rank = self._ranks.pop(member)
        if self.state is State.ABORTING:
            self.incidents[-1].replaced.append(rank)
        if doing is _Doing.CONDEMNED:
            return self._go_on(now)
        return self._incident(member, error, now, rank)

    def _incident(
        self, member: int, error: DmlfError, now: float, rank: int | None = None
    ) -> list[Action]:
        """A member is gone or has failed: begin to abort, or learn more about why we do."""
        rank = self._ranks[member] if rank is None else rank
        if not is_recoverable(error):
            return self._fail(error)
        if isinstance(error, ReplicaDivergence):
            self._trust_memory = False  # who of them is right is not known
        if self.state is State.ABORTING:
            incident = self.incidents[-1]
            if is_echo(incident.rank, incident.cause) and not is_echo(rank, error):
                incident.cause, incident.rank = error, rank
            return self._go_on(now)
        incident = Incident(self.generation, rank, error, now)
        if member not in self._ranks:
            incident.replaced.append(rank)
        self.incidents.append(incident)
        self.state = State.ABORTING
        self._deadline = now + self._grace_s
        told = [m for m, doing in self._doing.items() if doing is _Doing.RUNNING]
        for other, doing in self._doing.items():
            if doing is _Doing.RUNNING:
                self._doing[other] = _Doing.STOPPING
            elif doing is _Doing.DONE:
                self._doing[other] = _Doing.WAITING
        actions: list[Action] = [Abort(self.generation, told)] if told else []
        return actions + self._go_on(now)

    def _go_on(self, now: float) -> list[Action]:
        """What is due now that something has changed."""
        doing = list(self._doing.values())
        match self.state:
            case State.RUNNING if all(one is _Doing.DONE for one in doing):
                self.state, self._deadline = State.ENDED, None
                return [Finish()]
            case State.ABORTING if all(one in _DOWN for one in doing):
                return self._restart(now)
            case State.FORMING if len(doing) == self._size and all(
                one is _Doing.WAITING for one in doing
            ):
                return self._start()
        return []

    def _restart(self, now: float) -> list[Action]:
        incident = self.incidents[-1]
        incident.stopped_s = now
        if len(self.incidents) > self._max_restarts:
            if not self._max_restarts:
                return self._fail(incident.cause)
            return self._fail(RestartBudgetExceeded(self._max_restarts, self.incidents[0].cause))
        self.generation += 1
        self.state = State.FORMING
        return self._form(now)

    def _form(self, now: float) -> list[Action]:
        """Spawn a member for every rank that has none."""
        actions: list[Action] = []
        for rank in range(self._size):
            if rank not in self._ranks.values():
                member, self._next_member = self._next_member, self._next_member + 1
                self._ranks[member], self._doing[member] = rank, _Doing.COMING
                actions.append(Spawn(member, rank))
        self._deadline = now + self._join_s
        return actions + self._go_on(now)

    def _start(self) -> list[Action]:
        self.state, self._deadline = State.RUNNING, None
        for member in self._doing:
            self._doing[member] = _Doing.RUNNING
        trust, self._trust_memory = self._trust_memory, True
        return [Start(self.generation, dict(self._ranks), trust)]

    def _resumed(self, step: int, source: str, now: float) -> None:
        for incident in self.incidents:
            if incident.resumed_s is None and incident.generation < self.generation:
                incident.resumed_s, incident.step, incident.source = now, step, source

    def _tick(self, now: float) -> list[Action]:
        """Kill who has not stopped, or not joined, in time; stop who is not done in time."""
        if self._deadline is None or now < self._deadline:
            return []
        if self.state is State.RUNNING:
            slow = next(m for m, doing in self._doing.items() if doing is _Doing.RUNNING)
            name = f"rank {self._ranks[slow]}"
            return self._incident(slow, NoAnswer(name, self._finish_s, "others were done"), now)
        self._deadline = None
        late = [
            member
            for member, doing in self._doing.items()
            if doing is _Doing.STOPPING or (doing is _Doing.COMING and self.state is State.FORMING)
        ]
        actions: list[Action] = [Kill(member) for member in late]
        if self.state is State.ABORTING:
            for member in late:
                self._doing[member] = _Doing.CONDEMNED
        return actions

    def _fail(self, error: DmlfError) -> list[Action]:
        self.state, self._deadline = State.ENDED, None
        return [Fail(error)]
