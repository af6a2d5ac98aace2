"""The members of a group on any hosts: a coordinator that workers join while the run goes on.

    worker (`dmlf.runtime.agent`)            coordinator
    join (sources) ----------------------->   if there is a place for it:
      <----------------- prepare (place, job)
    starts its rank's process, which loads
    data; then joined (address) ---------->   once there are enough:
      <--- start (generation, rank, addresses)
    what its rank says (see `member`) ---->
    beat (steps done), while it gets on -->
      <--------------------------- abort ...
    stopped, in what way (next address) -->
      <-------------- dismissed, end, failed

Every message goes over an authenticated channel (`dmlf.transport.tcp`). Whoever loses the
coordinator ends its rank, and a worker that the coordinator loses counts as a dead rank, so nothing
is left running on any host. Both sides say that they are alive.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from dmlf.errors import DmlfError, FrameError, TransportError
from dmlf.runtime import member as words
from dmlf.runtime.events import Admit, Spawn, Start
from dmlf.runtime.supervisor import ARRIVED, GONE, NOTED, Said
from dmlf.runtime.wire import ANSWER_S, Wire
from dmlf.runtime.wire_errors import error_from_plain, error_to_plain
from dmlf.transport.tcp import Acceptor, Listener, Tls

PURPOSE = "coordinator"
ALIVE_S = 5.0
"""How often the coordinator says that it is there."""
SILENCE_S = 60.0
"""How long a worker waits for that."""
FAREWELL_S = 5.0
"""How long to wait until workers have heard that the run is over."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What proves that hosts belong together: a key, and TLS files if wanted."""

    key: bytes
    tls: Tls | None = None

    def __repr__(self) -> str:
        return "Secret()"


@dataclass(slots=True)
class _Worker:
    wire: Wire
    address: list[Any]
    """Where its rank will listen in the next generation: host and port."""


class RemoteMembers:
    """Fulfils `dmlf.runtime.supervisor.Members`, for workers that come by themselves.

    sources: the hash of the sources that all workers must have. job: what they are told of the run,
    plain values. leaves: whether SIGTERM to a worker asks to be let go; else it ends it.
    """

    def __init__(
        self, listener: Listener, secret: Secret, sources: str, job: Any, leaves: bool
    ) -> None:
        self._sources = sources
        self._job = job
        self._leaves = leaves
        self._acceptor = Acceptor(listener, secret.key, PURPOSE, secret.tls)
        self._newcomers: dict[Wire, float] = {}  # until when they may say what they want
        self._workers: dict[int, _Worker] = {}
        self._dismissed: list[Wire] = []
        self._given_up: list[int] = []
        self._num_arrived = 0
        self._alive_at = 0.0
        self._refused = ""

    @property
    def last_refusal(self) -> str:
        """Why somebody was not let in; empty if nobody was refused."""
        error = self._acceptor.last_refusal
        return self._refused or ("" if error is None else str(error))

    def wait(self, timeout_s: float) -> Iterator[Said]:
        """Wait for something to happen, and yield what has been said by then."""
        wires = [*self._newcomers, *self._dismissed]
        wires += [worker.wire for worker in self._workers.values()]
        _wait(self._acceptor, wires, timeout_s)
        now = time.monotonic()
        for channel in self._acceptor.accept(0.0):
            self._newcomers[Wire(channel, "a worker")] = now + ANSWER_S
        self._read_farewells()
        if now >= self._alive_at:
            self._alive_at = now + ALIVE_S
            for worker in self._workers.values():
                worker.wire.tell("alive")
        return self._heard(now)

    def _heard(self, now: float) -> Iterator[Said]:
        for wire, deadline in list(self._newcomers.items()):
            yield from self._ask_in(wire, now >= deadline)
        for number, worker in list(self._workers.items()):
            try:
                for message in worker.wire.take():
                    yield _said(number, worker, message)
            except TransportError as error:
                if self._workers.pop(number, None) is not None:
                    worker.wire.close()
                    yield Said(number, GONE, 0, f"its worker: {error}")
        while self._given_up:
            yield Said(self._given_up.pop(), GONE, 0, "it was given up")

    def _ask_in(self, wire: Wire, late: bool) -> Iterator[Said]:
        """Read a newcomer's request, and take it in or tell it why not."""
        try:
            requests = wire.take()
            if not requests and not late:
                return
            sources = str(requests[0]["sources"])
        except (TransportError, LookupError):
            del self._newcomers[wire]
            wire.close()
            return
        del self._newcomers[wire]
        if sources != self._sources:
            reason = f"it runs other sources of dmlf ({sources[:12]}) than the coordinator "
            reason += f"({self._sources[:12]}); install the same on all hosts"
            self._refuse(wire, reason)
            return
        number, self._num_arrived = self._num_arrived, self._num_arrived + 1
        self._workers[number] = _Worker(wire, [])
        yield Said(number, ARRIVED, 0, None)

    def spawn(self, action: Spawn) -> None:
        """Workers come by themselves."""
        raise AssertionError(f"{action} on another host")

    def admit(self, action: Admit) -> None:
        """Tell a newcomer what it is to be."""
        self._workers[action.member].wire.tell(
            "prepare", rank=action.rank, server=action.server, job=self._job, leaves=self._leaves
        )

    def start(
        self,
        action: Start,
        notes: Mapping[int, Mapping[str, Any]],
        struck: frozenset[int],
        saved: int | None,
    ) -> None:
        """Begin a generation. notes: by rank and name."""
        by_rank = sorted((rank, member) for member, rank in action.ranks.items())
        addresses = [self._workers[member].address for _, member in by_rank]
        for rank, member in by_rank:
            self._workers[member].wire.tell(
                "start",
                generation=action.generation,
                rank=rank,
                world_size=action.world_size,
                addresses=addresses,
                trust_memory=action.trust_memory,
                notes=notes.get(rank, {}),
                struck=sorted(struck),
                saved=saved,
            )

    def abort(self, member: int, generation: int) -> None:
        """Tell a member to stop."""
        self._workers[member].wire.tell("abort", generation=generation)

    def kill(self, member: int) -> None:
        """Hang up: a worker that is there ends its rank then. Its links tell generations apart."""
        worker = self._workers.pop(member, None)
        if worker is not None:
            worker.wire.close()
            self._given_up.append(member)

    def dismiss(self, member: int, refused: str | None) -> None:
        """Let a member go."""
        worker = self._workers.pop(member, None)
        if worker is None:
            return
        if refused is not None:
            self._refuse(worker.wire, refused)
            return
        worker.wire.tell("dismissed", refused=None)
        self._dismissed.append(worker.wire)

    def finish(self) -> None:
        """Tell all that the run is over, and wait until they have heard it."""
        self._say_farewell("end")

    def close(self, error: DmlfError | None) -> list[Said]:
        """Hang up on all; who is still running ends. error: to be told to all."""
        self._acceptor.close()
        if error is not None:
            self._say_farewell("failed", error=error_to_plain(error))
        for wire in [*self._newcomers, *(one.wire for one in self._workers.values())]:
            wire.close()
        for wire in self._dismissed:
            wire.close()
        self._newcomers.clear()
        self._workers.clear()
        self._dismissed.clear()
        return []

    def _refuse(self, wire: Wire, reason: str) -> None:
        self._refused = f"{wire.name} at {wire.peer} was refused: {reason}"
        wire.tell("dismissed", refused=reason)
        self._dismissed.append(wire)

    def _say_farewell(self, kind: str, **values: Any) -> None:
        """Tell all workers, and read what they still say until they hang up.

        A connection that is closed before its data is read may be reset, and the word lost.
        """
        for worker in self._workers.values():
            worker.wire.tell(kind, **values)
            self._dismissed.append(worker.wire)
        self._workers.clear()
        deadline = time.monotonic() + FAREWELL_S
        while self._dismissed and time.monotonic() < deadline:
            _wait(None, self._dismissed, deadline - time.monotonic())
            self._read_farewells()

    def _read_farewells(self) -> None:
        for wire in list(self._dismissed):
            try:
                wire.take()
            except TransportError:
                wire.close()
                self._dismissed.remove(wire)


def _wait(acceptor: Acceptor | None, wires: Sequence[Wire], timeout_s: float) -> None:
    """Return when one of them has something to read, or need not be waited for."""
    with DefaultSelector() as selector:
        if acceptor is not None:
            selector.register(acceptor, EVENT_READ)
        for wire in wires:
            if wire.lost or wire.more:
                return
            selector.register(wire, EVENT_READ)
        selector.select(max(0.0, timeout_s))


def _said(number: int, worker: _Worker, message: Mapping[str, Any]) -> Said:
    """What a worker's message says. Raises FrameError."""
    try:
        kind, value = message["kind"], message["value"]
        if "address" in message:
            host, port = message["address"]
            worker.address = [str(host), int(port)]
        if kind == words.FAILED:
            value = error_from_plain(value)
        elif kind == words.FIRED:
            value = (int(value[0]), time.monotonic())  # clocks of hosts differ
        elif kind == NOTED:
            value = dict(value)
        return Said(number, kind, int(message["generation"]), value)
    except (LookupError, TypeError, ValueError) as error:
        raise FrameError(worker.wire.name, "message", message, f"{error!r}") from None
