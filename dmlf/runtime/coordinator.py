"""Ranks on several hosts: a coordinator that workers join, and the worker's side of it.

    worker                                   coordinator
    join (address for ranks, sources) ----->  until all ranks have a worker
        <------- start (rank, addresses, job), or refused (why)
    runs its rank as a process of its own
    report, in parts, or failed (error) --->  until all have reported, or one has failed
        <------- end, or failed (the cause)

Every message is a JSON object on an authenticated channel (`dmlf.transport.tcp`). Whoever loses
the coordinator ends its rank, and a worker that the coordinator loses counts as a dead rank, so
nothing is left running on any host.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from dmlf.errors import (
    ConfigError,
    DmlfError,
    NoAnswer,
    PeerLost,
    RendezvousError,
    TransportError,
)
from dmlf.runtime.outcomes import collect
from dmlf.runtime.wire_errors import error_from_plain, error_to_plain
from dmlf.transport.tcp import Acceptor, Address, Channel, Listener, Tls, dial

PURPOSE = "coordinator"
ANSWER_S = 10.0
"""How long either side has for one message."""
_PART_CHARACTERS = 1 << 18  # of a report; the largest object of a channel is 1 MiB


@dataclass(frozen=True, slots=True)
class Secret:
    """What proves that hosts belong together: a key, and TLS files if wanted."""

    key: bytes
    tls: Tls | None = None

    def __repr__(self) -> str:
        return "Secret()"


@dataclass(frozen=True, slots=True)
class _Member:
    channel: Channel
    address: Address


class Coordinator:
    """Brings `size` workers together for one run, and their reports back.

    sources: the hash of the sources that all workers must have.
    """

    def __init__(self, listener: Listener, secret: Secret, size: int, sources: str) -> None:
        self._size = size
        self._sources = sources
        self._acceptor = Acceptor(listener, secret.key, PURPOSE, secret.tls)
        self._members: list[_Member] = []
        self._newcomers: list[Channel] = []
        self._parts: dict[int, list[str]] = {}
        self._ended: set[int] = set()
        self._refused = ""

    def wait_for_workers(self, timeout_s: float) -> None:
        """Return when every rank has a worker.

        Raises RendezvousError after `timeout_s`, with the number of ranks that lack one.
        """
        deadline = time.monotonic() + timeout_s
        while len(self._members) < self._size:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0.0:
                missing = list(range(len(self._members), self._size))
                raise RendezvousError(None, missing, timeout_s, self._last_refusal())
            self._look(min(remaining_s, 1.0))

    def start(self, job: dict[str, Any]) -> None:
        """Hand every worker its rank, in the order in which they came, and `job`."""
        addresses = [list(member.address) for member in self._members]
        for rank, member in enumerate(self._members):
            message = {"kind": "start", "rank": rank, "addresses": addresses, "job": job}
            try:
                member.channel.send(message, ANSWER_S)
            except TransportError as error:
                raise PeerLost(f"rank {rank}", f"its worker: {error}") from None

    def collect_reports(self) -> list[str]:
        """Wait for the report of every rank; return them by rank.

        Raises the cause of the first failure, after telling every worker.
        """
        try:
            reports = collect(range(self._size), self._next_outcomes)
        except DmlfError as error:
            self._tell({"kind": "failed", "error": error_to_plain(error)})
            raise
        self._tell({"kind": "end"})
        return reports

    def close(self) -> None:
        """Hang up on all; who is still running ends."""
        self._acceptor.close()
        for channel in [*self._newcomers, *(member.channel for member in self._members)]:
            channel.close()

    def _last_refusal(self) -> str:
        if self._refused:
            return self._refused
        error = self._acceptor.last_refusal
        return "" if error is None else str(error)

    def _look(self, timeout_s: float | None) -> list[int]:
        """Wait for something to happen; serve newcomers; return the ranks that can be read."""
        with DefaultSelector() as selector:
            selector.register(self._acceptor, EVENT_READ)
            for channel in self._newcomers:
                selector.register(channel, EVENT_READ, channel)
            for rank, member in enumerate(self._members):
                if rank not in self._ended:
                    selector.register(member.channel, EVENT_READ, rank)
            ready = [key.data for key, _ in selector.select(timeout_s)]
        self._newcomers += self._acceptor.accept(0.0)
        for channel in [item for item in ready if isinstance(item, Channel)]:
            self._newcomers.remove(channel)
            self._admit(channel)
        return [item for item in ready if isinstance(item, int)]

    def _admit(self, channel: Channel) -> None:
        """Read a newcomer's request, and take it in or tell it why not."""
        with contextlib.suppress(TransportError, KeyError, TypeError, ValueError):
            request = channel.recv(ANSWER_S)
            address = (str(request["host"]), int(request["port"]))
            if request["sources"] != self._sources:
                reason = f"it runs other sources of dmlf ({request['sources'][:12]}) than the "
                reason += f"coordinator ({self._sources[:12]}); install the same on all hosts"
            elif len(self._members) == self._size:
                reason = f"the run has all of its {self._size} workers"
            else:
                self._members.append(_Member(channel, address))
                return
            self._refused = f"{channel.peer} was refused: {reason}"
            channel.send({"kind": "refused", "reason": reason}, ANSWER_S)
        channel.close()

    def _next_outcomes(self, timeout_s: float | None) -> Iterator[tuple[int, Any]]:
        for rank in self._look(timeout_s):
            try:
                outcome = self._read(rank)
            except TransportError as error:
                outcome = PeerLost(f"rank {rank}", f"its worker: {error}")
            if outcome is not None:
                self._ended.add(rank)
                yield rank, outcome

    def _read(self, rank: int) -> str | DmlfError | None:
        """The outcome of `rank`; None while there is more to come."""
        message = self._members[rank].channel.recv(ANSWER_S)
        if message["kind"] == "failed":
            return error_from_plain(message["error"])
        parts = self._parts.setdefault(rank, [])
        parts.append(message["text"])
        return "".join(parts) if message["last"] else None

    def _tell(self, message: dict[str, Any]) -> None:
        for member in self._members:
            with contextlib.suppress(TransportError):
                member.channel.send(message, ANSWER_S)


class CoordinatorLink:
    """A worker's channel to the coordinator."""

    def __init__(self, address: Address, secret: Secret, timeout_s: float) -> None:
        """Raises NoAnswer, AuthenticationError."""
        self._channel = dial(address, secret.key, PURPOSE, secret.tls, timeout_s)

    def fileno(self) -> int:
        """Readable when the coordinator says something, or is gone."""
        return self._channel.fileno()

    @property
    def own_host(self) -> str:
        """The address of this host that the coordinator sees."""
        return self._channel.own_host

    def join(self, address: Address, sources: str, timeout_s: float) -> dict[str, Any]:
        """Ask for a rank; return the message `start`.

        address: where this worker's rank listens. Raises ConfigError when refused, NoAnswer,
        PeerLost.
        """
        host, port = address
        request = {"kind": "join", "host": host, "port": port, "sources": sources}
        with self._naming_it():
            self._channel.send(request, ANSWER_S)
            answer = self._channel.recv(timeout_s)
        if answer["kind"] == "refused":
            raise ConfigError("worker", f"{host}:{port}", f"something else: {answer['reason']}")
        if answer["kind"] == "failed":
            raise error_from_plain(answer["error"])
        return answer

    def check(self) -> None:
        """Read what the coordinator says during the run: the end of it."""
        with self._naming_it():
            message = self._channel.recv(ANSWER_S)
        if message["kind"] == "failed":
            raise error_from_plain(message["error"])

    def send_report(self, text: str) -> None:
        """Send this rank's report, and wait until the whole run has ended.

        Raises the cause when another rank failed.
        """
        parts = [
            text[start : start + _PART_CHARACTERS]
            for start in range(0, max(1, len(text)), _PART_CHARACTERS)
        ]
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            with self._naming_it():
                self._channel.send({"kind": "report", "text": part, "last": last}, ANSWER_S)
        while True:
            with contextlib.suppress(NoAnswer):
                self.check()
                return

    def send_failure(self, error: DmlfError) -> None:
        """Tell how this rank failed, where somebody still listens."""
        with contextlib.suppress(TransportError):
            self._channel.send({"kind": "failed", "error": error_to_plain(error)}, ANSWER_S)

    @contextlib.contextmanager
    def _naming_it(self) -> Iterator[None]:
        """Say who is lost, and not only at which address."""
        try:
            yield
        except PeerLost as error:
            raise PeerLost(f"the coordinator at {error.peer}", error.detail) from None

    def close(self) -> None:
        """Hang up."""
        self._channel.close()
