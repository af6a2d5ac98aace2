"""Has a group of members do one run, and begins it anew when that is due; `membership` decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from dmlf.errors import ConfigError, DmlfError
from dmlf.runtime import member as words
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
from dmlf.runtime.history import Generation, Incident
from dmlf.runtime.launch import signals
from dmlf.runtime.limits import Limits
from dmlf.runtime.membership import Membership
from dmlf.runtime.outcomes import CAUSE_S
from dmlf.runtime.stop import StopSignal

LOOK_S = 0.25
"""How often to look whether members get on."""
ARRIVED, BEAT, NOTED, GONE = "arrived", "beat", "noted", "gone"
"""What is heard of members beside their own words: BEAT has the steps done, NOTED what is kept for
whoever has its rank next, by name, GONE how it ended."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often a group may be begun anew after a failure, and with how many workers it may go on.

    Who has not stopped `grace_s` after it was told to, and has made no progress for as long as any
    rank may, is killed: it hangs, or is stopped.
    min_workers, max_workers: None for a fixed size. backoff_s: how long to wait after a second
    failure in a row; doubled after each further one. Raises ConfigError.
    """

    max_restarts: int
    grace_s: float = 10.0
    min_workers: int | None = None
    max_workers: int | None = None
    backoff_s: float = 0.25

    def __post_init__(self) -> None:
        if self.max_restarts < 0:
            raise ConfigError("max_restarts", self.max_restarts, "a number of times from 0")
        if self.min_workers is not None and self.min_workers < 1:
            raise ConfigError("min_workers", self.min_workers, "a number of workers from 1")

    @property
    def elastic(self) -> bool:
        """Whether workers may come and go."""
        return self.min_workers is not None or self.max_workers is not None

    def limits(
        self, workers: int, servers: int, stall_s: float, join_s: float, spawns: bool
    ) -> Limits:
        """For a group of so many workers to begin with; see `Limits`. Raises ConfigError."""
        least = workers if self.min_workers is None else self.min_workers
        most = workers if self.max_workers is None else self.max_workers
        if least > workers:
            raise ConfigError("min_workers", least, f"at most world_size ({workers})")
        if most < workers:
            raise ConfigError("max_workers", most, f"at least world_size ({workers})")
        mends = self.max_restarts > 0 or self.elastic
        return Limits(
            workers=workers,
            servers=servers,
            min_workers=least,
            max_workers=most,
            max_restarts=self.max_restarts,
            spawns=spawns,
            # Where nothing can be mended, members are given the time to tell the cause, no more.
            grace_s=self.grace_s if mends else min(self.grace_s, CAUSE_S),
            join_s=join_s,
            stall_s=stall_s,
            backoff_s=self.backoff_s,
        )


class Said(NamedTuple):
    """Something that a member has said, or that was heard of it."""

    member: int
    kind: str
    generation: int
    value: Any


class Members(Protocol):
    """The processes of a group, wherever they are."""

    def wait(self, timeout_s: float) -> Iterator[Said]:
        """Wait for something to happen, and yield what has been said by then."""

    def spawn(self, action: Spawn) -> None:
        """Start a process."""

    def admit(self, action: Admit) -> None:
        """Tell a newcomer what it is to be."""

    def start(
        self,
        action: Start,
        notes: Mapping[int, Mapping[str, Any]],
        struck: frozenset[int],
        saved: int | None,
    ) -> None:
        """Begin a generation. notes: by rank and name. struck, saved: see `StartOrder`."""

    def abort(self, member: int, generation: int) -> None:
        """Tell a member to stop."""

    def kill(self, member: int) -> None:
        """End a member's process."""

    def dismiss(self, member: int, refused: str | None) -> None:
        """Let a member go; see `Dismiss`."""

    def finish(self) -> None:
        """Tell all that the run is over, and wait until they have ended."""

    def close(self, error: DmlfError | None) -> list[Said]:
        """End every process that there still is; return what was not yet heard of them.

        error: what has ended the run, if it failed.
        """


Tell = Callable[[Generation, Sequence[Incident]], None]
"""Told of every generation but the first once it trains, with the failures that it mends."""


class Supervisor:
    """Tells members what to do, and hears what became of them.

    fired: by number of an injected fault, when it struck, in seconds on CLOCK_MONOTONIC.
    """

    def __init__(self, members: Members, limits: Limits, tell: Tell) -> None:
        self._members = members
        self._membership = Membership(limits)
        self._tell = tell
        self._told = 0  # generations
        self._told_incidents = 0
        self._notes: dict[int, dict[str, Any]] = {}  # by rank, name
        self._saved: int | None = None  # the step of the last checkpoint
        self._ranks: Mapping[int, int] = {}  # by member, of the last Start
        self._reports: dict[int, Any] = {}  # by rank, of the generation that runs
        self._records: dict[int, dict[int, list[tuple[int, Any]]]] = {}  # by step, generation
        self._finished = False
        self._stop: StopSignal | None = None
        self.fired: dict[int, float] = {}

    @property
    def incidents(self) -> Sequence[Incident]:
        """Every failure so far, oldest first."""
        return self._membership.incidents

    @property
    def generations(self) -> Sequence[Generation]:
        """Every start so far."""
        return self._membership.generations

    def records(self) -> list[list[list[tuple[int, Any]]]]:
        """By step, by generation that counts: (rank, what it recorded).

        What a later generation has done again is that one's alone.
        """
        return [list(self._records[step].values()) for step in sorted(self._records)]

    def run(self, stop: StopSignal | None = None) -> list[Any]:
        """Return the reports by rank, or raise what no restart could mend.

        stop: as in `run_ranks`. When this returns or raises, every process has ended.
        """
        failure: DmlfError | None = None
        self._stop = stop
        with signals(stop):
            try:
                self._do(self._membership.begin(time.monotonic()))
                while not self._finished:
                    self._step()
                return [self._reports[rank] for rank in range(len(self._ranks))]
            except DmlfError as error:
                failure = error
                raise
            finally:
                for _, kind, _, value in self._members.close(failure):
                    if kind == words.FIRED:
                        self._fired(value)

    def _step(self) -> None:
        """Wait for what happens next, and react."""
        deadline = self._membership.deadline
        remaining_s = LOOK_S if deadline is None else max(0.0, deadline - time.monotonic())
        for said in self._members.wait(min(LOOK_S, remaining_s)):
            self._hear(said)
            if self._finished:
                return
        self._handle(Tick())

    def _hear(self, said: Said) -> None:
        member, kind, generation, value = said
        rank = self._ranks.get(member)
        if kind == NOTED and rank is not None:
            self._notes.setdefault(rank, {}).update(value)
        elif kind == words.FIRED:
            self._fired(value)
        elif kind == words.SAVED:
            self._saved = value
        elif kind == words.RECORDED and rank is not None:
            step, record = value
            self._records.setdefault(step, {}).setdefault(generation, []).append((rank, record))
        elif event := self._event(said, rank):
            self._handle(event)

    def _fired(self, value: tuple[int, float]) -> None:
        number, moment_s = value
        self.fired[number] = moment_s

    def _event(self, said: Said, rank: int | None) -> Event | None:
        member, kind, generation, value = said
        current = generation == self._membership.generation
        match kind:
            case "arrived":
                return Arrived(member)
            case "gone":
                return Died(member, value)
            case "beat":
                return Progressed(member, self._membership.generation, value)
            case words.JOINED:
                return Joined(member)
            case words.LEAVING:
                # A signal to the whole process group asks the run to stop, not its ranks to leave.
                stopping = self._stop is not None and self._stop.number
                return None if stopping else Leaving(member)
            case words.WANTED:
                return Wanted(value)
            case words.ACKNOWLEDGED:
                return Acknowledged(member, generation)
            case words.FAILED:
                return Failed(member, generation, value)
            case words.RESUMED:
                if current:
                    self._forget_from(*value)
                return Resumed(member, generation, *value)
            case words.DONE:
                if current and rank is not None:
                    self._reports[rank] = value
                return Done(member, generation)
        return None

    def _forget_from(self, first_step: int, _source: str) -> None:
        """Earlier generations' records of steps that are done (again) now are of no account."""
        current = self._membership.generation
        for step, by_generation in self._records.items():
            if step >= first_step:
                for generation in [number for number in by_generation if number < current]:
                    del by_generation[generation]

    def _handle(self, event: Event) -> None:
        self._do(self._membership.handle(event, time.monotonic()))
        latest = self.generations[-1] if self.generations else None
        if latest is None or latest.resumed_s is None or len(self.generations) == self._told:
            return
        if self._told:
            mended = [i for i in self.incidents[self._told_incidents :] if i.resumed_s is not None]
            self._tell(latest, mended)
            self._told_incidents += len(mended)
        self._told = len(self.generations)

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Spawn():
                    self._members.spawn(action)
                case Admit():
                    self._members.admit(action)
                case Start():
                    self._reports.clear()
                    self._ranks = action.ranks
                    self._members.start(action, self._notes, frozenset(self.fired), self._saved)
                case Abort(generation, members):
                    for member in members:
                        self._members.abort(member, generation)
                case Kill(member):
                    self._members.kill(member)
                case Dismiss(member, refused):
                    self._members.dismiss(member, refused)
                case Finish():
                    self._finished = True
                    self._members.finish()
                case Fail(error):
                    raise error
