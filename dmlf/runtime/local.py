"""The members of a group as processes of this host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any

from dmlf.errors import DmlfError, PeerLost
from dmlf.runtime.events import Admit, Spawn, Start
from dmlf.runtime.fork_server import EXIT_S, Forked
from dmlf.runtime.inbox import Inbox
from dmlf.runtime.member import AbortOrder, ExitOrder, StartOrder, run_member
from dmlf.runtime.parcel import send_parcel
from dmlf.runtime.pulse import Pulse, Reading
from dmlf.runtime.supervisor import BEAT, GONE, NOTED, Said

ORDER_S = 10.0
"""How long a process may take to take an order; most are in its pipe at once."""
JOIN_S = 120.0
"""How long a process may take to be ready: imports and loading data."""

MakeEndpoints = Callable[[Start], Sequence[Any]]
"""One endpoint per rank, of links that no other generation uses."""


@dataclass(slots=True)
class _Process:
    process: Forked
    pipe: Connection
    inbox: Inbox
    pulse: Pulse
    felt: Reading | None = None
    given_up: str | None = None
    """Why it was killed here, of its launcher's own accord."""

    def said(self, member: int) -> list[Said]:
        """Its notes and words; in this order, as notes that came before a word are here with it."""
        words = self.inbox.take()
        notes = self.pulse.noted()
        return [
            *(Said(member, NOTED, 0, note) for note in notes),
            *(Said(member, *word) for word in words),
        ]

    def end(self) -> None:
        self.process.end()
        self.inbox.close()
        self.pipe.close()


class LocalMembers:
    """Fulfils `dmlf.runtime.supervisor.Members`.

    program: makes what a member runs, `module:function` of (server or None, argument). leaves:
    whether SIGTERM to a member asks to be let go; else it ends it.
    """

    main: Callable[..., None] = staticmethod(run_member)
    """What runs in a process."""

    def __init__(
        self,
        context: ForkServerContext,
        program: str,
        argument: Any,
        make_endpoints: MakeEndpoints,
        leaves: bool = False,
    ) -> None:
        self._context = context
        self._program = program
        self._argument = argument
        self._make_endpoints = make_endpoints
        self._leaves = leaves
        self._endpoints: Sequence[Any] = ()  # kept: their names must live until they are opened
        self._members: dict[int, _Process] = {}
        self._dismissed: list[_Process] = []
        self._stillborn: dict[int, str] = {}  # why there is no process, by member

    def sources(self) -> list[Any]:
        """What `multiprocessing.connection.wait` can wait for on behalf of `heard`."""
        running = self._members.values()
        return [source for one in running for source in (one.pipe, one.process.sentinel)]

    def wait(self, timeout_s: float) -> Iterator[Said]:
        """Wait for something to happen, and yield what has been said by then."""
        wait(self.sources(), timeout_s)
        return self.heard()

    def heard(self) -> Iterator[Said]:
        """What has been said by now: notes, then words, then beats, then deaths."""
        while self._stillborn:
            member, detail = self._stillborn.popitem()
            yield Said(member, GONE, 0, detail)
        gone = wait([one.process.sentinel for one in self._members.values()], 0.0)
        for member, running in list(self._members.items()):  # who is gone has said its last words
            if member not in self._members:  # gone with another one
                continue
            yield from running.said(member)
            if member not in self._members:  # dismissed for what it said
                continue
            pulse = running.pulse.read()
            if pulse != running.felt:
                running.felt = pulse
                yield Said(member, BEAT, 0, pulse.step)
            if running.process.sentinel in gone or running.inbox.ended:
                yield from self._bury(member)

    def _bury(self, member: int) -> list[Said]:
        """What is to be said of a member that is gone, and of all that went with it."""
        first = self._members[member].process
        first.end()
        gone = [member]
        if first.has_lost_its_server:
            same = [n for n, m in self._members.items() if m.process.shares_its_server(first)]
            gone = [member, *(number for number in same if number != member)]
        said = []
        for number in gone:
            running = self._members.pop(number)
            said += running.said(number)
            running.end()
            said.append(Said(number, GONE, 0, running.given_up or running.process.death()))
        return said

    def spawn(self, action: Spawn | Admit) -> None:
        """Start a process."""
        own, theirs = self._context.Pipe(duplex=True)
        pulse = Pulse()
        arguments = (
            action.rank,
            action.server,
            self._program,
            self._argument,
            theirs,
            pulse,
            self._leaves,
        )
        with theirs:
            try:
                process = Forked(self._context, action.rank, self.main, arguments)
            except PeerLost as error:
                own.close()
                self._stillborn[action.member] = error.detail
                return
        self._members[action.member] = _Process(process, own, Inbox(own), pulse)

    def admit(self, action: Admit) -> None:
        """Nobody comes by itself."""
        raise AssertionError(f"{action} for processes that were not asked for")

    def start(
        self,
        action: Start,
        notes: Mapping[int, Mapping[str, Any]],
        struck: frozenset[int],
        saved: int | None,
    ) -> None:
        """Begin a generation. notes: by rank and name."""
        self._endpoints = self._make_endpoints(action)
        for member, rank in action.ranks.items():
            order = StartOrder(
                action.generation,
                rank,
                action.world_size,
                self._endpoints[rank],
                action.trust_memory,
                dict(notes.get(rank, {})),
                struck,
                saved,
            )
            self.order(member, order)

    def abort(self, member: int, generation: int) -> None:
        """Tell a member to stop."""
        self.order(member, AbortOrder(generation))

    def kill(self, member: int) -> None:
        """End a member's process."""
        if member in self._members:
            self._members[member].process.kill()

    def dismiss(self, member: int, refused: str | None) -> None:
        """Let a member go."""
        self.order(member, ExitOrder())
        if member in self._members:
            self._dismissed.append(self._members.pop(member))

    def finish(self) -> None:
        """Tell all that the run is over, and wait until they have ended."""
        for member in list(self._members):
            self.dismiss(member, None)
        deadline = time.monotonic() + EXIT_S
        for running in self._dismissed:
            running.process.join(max(0.0, deadline - time.monotonic()))

    def close(self, error: DmlfError | None) -> list[Said]:
        """End every process that there still is; return what was not yet heard of them."""
        unheard = []
        for member, running in self._members.items():
            running.process.end()
            unheard += running.said(member)
        for running in [*self._members.values(), *self._dismissed]:
            running.end()
        self._members.clear()
        self._dismissed.clear()
        self._endpoints = ()
        return unheard

    def order(self, member: int, order: Any) -> None:
        """Send an order. A member that is gone misses it; one that does not take it is killed."""
        running = self._members.get(member)
        if running is None or running.given_up is not None:
            return
        try:
            send_parcel(running.pipe, order, ORDER_S)
        except TimeoutError:
            running.given_up = f"it took no order for {ORDER_S:g} s and was killed"
            running.process.kill()
        except ConnectionError:
            pass  # it is gone: its sentinel says so
        except OSError as error:
            running.given_up = f"it could not be told anything ({error}) and was killed"
            running.process.kill()
