"""Runs a group of local processes that is begun anew when it fails; `membership` decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from dmlf.errors import ConfigError, PeerLost
from dmlf.runtime import member as words
from dmlf.runtime.launch import death, signals
from dmlf.runtime.member import AbortOrder, ExitOrder, StartOrder, run_member
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
    Incident,
    Joined,
    Kill,
    Membership,
    Resumed,
    Spawn,
    Start,
    Tick,
)
from dmlf.runtime.parcel import send_parcel
from dmlf.runtime.stop import StopSignal

JOIN_S = 120.0
"""How long a process may take to be ready: imports and loading data."""

MakeEndpoints = Callable[[int], Sequence[Any]]
"""generation -> one endpoint per rank, of links that no other generation uses."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often a group may be begun anew, and how long a member may take to stop when told to.

    Who has not stopped after `grace_s` is killed and replaced: it may hang, or be stopped. So is
    who has not ended `finish_s` after the first one has. Raises ConfigError.
    """

    max_restarts: int
    grace_s: float = 10.0
    finish_s: float = 120.0

    def __post_init__(self) -> None:
        if self.max_restarts < 0:
            raise ConfigError("max_restarts", self.max_restarts, "a number of times from 0")


@dataclass(slots=True)
class _Process:
    rank: int
    process: ForkServerProcess
    pipe: Connection


class Supervisor:
    """Starts processes, tells them what to do, and hears what became of them.

    tell: called with every incident once the group has recovered from it. fired: by number of an
    injected fault, when it struck, in seconds on CLOCK_MONOTONIC.
    """

    def __init__(
        self,
        context: ForkServerContext,
        program: str,
        arguments: Sequence[Any],
        make_endpoints: MakeEndpoints,
        policy: RestartPolicy,
        tell: Callable[[Incident], None],
    ) -> None:
        self._context = context
        self._program = program
        self._arguments = arguments
        self._make_endpoints = make_endpoints
        self._endpoints: Sequence[Any] = ()  # kept: their names must live until they are opened
        self._tell = tell
        self._told = 0
        self._membership = Membership(
            len(arguments), policy.max_restarts, policy.grace_s, JOIN_S, policy.finish_s
        )
        self._members: dict[int, _Process] = {}
        self._notes: dict[int, Any] = {}  # by rank
        self._reports: dict[int, Any] = {}  # by rank, of the generation that runs
        self._finished = False
        self.fired: dict[int, float] = {}

    @property
    def incidents(self) -> list[Incident]:
        """Every failure so far, oldest first."""
        return self._membership.incidents

    def run(self, stop: StopSignal | None = None) -> list[Any]:
        """Return the reports by rank, or raise what no restart could mend.

        stop: as in `run_ranks`. When this returns or raises, every process has ended.
        """
        with signals(stop):
            try:
                self._do(self._membership.begin(time.monotonic()))
                while not self._finished:
                    self._step()
                return [self._reports[rank] for rank in range(len(self._arguments))]
            finally:
                self._end()

    def _step(self) -> None:
        """Wait for what happens next, and react."""
        sources: dict[Any, int] = {}
        for member, running in self._members.items():
            sources[running.pipe] = sources[running.process.sentinel] = member
        deadline = self._membership.deadline
        remaining_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = wait(list(sources), remaining_s)
        # What a process said before it died comes first.
        for source in sorted(ready, key=lambda item: isinstance(item, int)):
            member = sources[source]
            if member not in self._members:
                continue
            if not (isinstance(source, Connection) and self._hear(member)):
                self._bury(member)
        self._handle(Tick())

    def _hear(self, member: int) -> bool:
        """Take one message; False when there will be no more."""
        try:
            kind, generation, value = self._members[member].pipe.recv()
        except (EOFError, OSError):
            return False
        rank = self._members[member].rank
        if kind == words.NOTED:
            self._notes[rank] = value
        elif kind == words.FIRED:
            number, moment_s = value
            self.fired[number] = moment_s
        elif event := self._event(member, rank, kind, generation, value):
            self._handle(event)
        return True

    def _event(
        self, member: int, rank: int, kind: str, generation: int, value: Any
    ) -> Event | None:
        match kind:
            case words.JOINED:
                return Joined(member)
            case words.ACKNOWLEDGED:
                return Acknowledged(member, generation)
            case words.FAILED:
                return Failed(member, generation, value)
            case words.RESUMED:
                return Resumed(member, generation, *value)
            case words.DONE:
                if generation == self._membership.generation:
                    self._reports[rank] = value
                return Done(member, generation)
        return None

    def _bury(self, member: int) -> None:
        """A process is gone: hear its last words, then tell."""
        gone = self._members[member]
        with suppress(OSError):
            while gone.pipe.poll(0) and self._hear(member):
                pass
        gone.process.kill()  # where it has closed its pipe, and is of no use
        gone.process.join()
        del self._members[member]
        gone.pipe.close()
        self._handle(Died(member, PeerLost(f"rank {gone.rank}", death(gone.process.exitcode))))

    def _handle(self, event: Event) -> None:
        self._do(self._membership.handle(event, time.monotonic()))
        for incident in self.incidents[self._told :]:
            if incident.resumed_s is None:
                break
            self._told += 1
            self._tell(incident)

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Spawn(member, rank):
                    self._spawn(member, rank)
                case Start():
                    self._start(action)
                case Abort(generation, members):
                    for member in members:
                        self._order(member, AbortOrder(generation))
                case Kill(member):
                    self._members[member].process.kill()
                case Finish():
                    self._finished = True
                    for member in self._members:
                        self._order(member, ExitOrder())
                    for running in self._members.values():
                        running.process.join(JOIN_S)
                case Fail(error):
                    raise error

    def _spawn(self, member: int, rank: int) -> None:
        own, theirs = self._context.Pipe(duplex=True)
        process = self._context.Process(
            target=run_member,
            args=(rank, self._program, self._arguments[rank], theirs),
            name=f"dmlf-rank-{rank}",
        )
        try:
            process.start()
        finally:
            theirs.close()
        self._members[member] = _Process(rank, process, own)

    def _start(self, action: Start) -> None:
        self._reports.clear()
        self._endpoints = self._make_endpoints(action.generation)
        for member, rank in action.ranks.items():
            order = StartOrder(
                action.generation,
                self._endpoints[rank],
                action.trust_memory,
                self._notes.get(rank),
            )
            self._order(member, order)

    def _order(self, member: int, order: Any) -> None:
        with suppress(OSError):  # it is gone: its sentinel says so
            send_parcel(self._members[member].pipe, order)

    def _end(self) -> None:
        for running in self._members.values():
            running.process.kill()
        for running in self._members.values():
            running.process.join()
            # The run may have ended before a rank was heard that said what struck it.
            with suppress(EOFError, OSError):
                while running.pipe.poll(0):
                    kind, _, value = running.pipe.recv()
                    if kind == words.FIRED:
                        self.fired[value[0]] = value[1]
            running.pipe.close()
        self._members.clear()
        self._endpoints = ()
