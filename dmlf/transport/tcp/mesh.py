"""A connection with every other rank: dial the lower ranks, wait for the higher ones."""

from __future__ import annotations

import socket
import time

from dmlf.errors import AuthenticationError, RendezvousError
from dmlf.transport.base import Interrupt, never
from dmlf.transport.tcp.auth import Session
from dmlf.transport.tcp.greeting import Credentials, approach, welcome
from dmlf.transport.tcp.lobby import Lobby, Outcome
from dmlf.transport.tcp.sockets import Address, Listener, name_of

RETRY_S = 0.05
"""How long after a refused connection the next attempt is made."""
SLICE_S = 0.25
"""How long to wait without looking for an interruption."""
Connections = dict[int, tuple[socket.socket, Session]]


def build(
    listener: Listener,
    addresses: list[Address],
    credentials: Credentials,
    timeout_s: float,
    interrupt: Interrupt = never,
) -> Connections:
    """Connect with all ranks whose `addresses` are given; the listener is closed at the end.

    Raises RendezvousError, which names the missing ranks, AuthenticationError of a lower rank,
    SchemaMismatch or GenerationMismatch of any. Whatever else connects is dropped.
    """
    meeting = _Meeting(listener, addresses, credentials, timeout_s)
    try:
        while meeting.missing:
            interrupt()
            meeting.go_on()
    except BaseException:
        for connection, _ in meeting.connections.values():
            connection.close()
        raise
    finally:
        meeting.lobby.close()
    return meeting.connections


class _Meeting:
    def __init__(
        self,
        listener: Listener,
        addresses: list[Address],
        credentials: Credentials,
        timeout_s: float,
    ) -> None:
        self._rank = credentials.me.rank
        self._addresses = addresses
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._detail = ""
        self.connections: Connections = {}
        self.missing = set(range(len(addresses))) - {self._rank}
        self._expected = {rank for rank in self.missing if rank > self._rank}
        self._dial_at = {rank: 0.0 for rank in self.missing if rank < self._rank}
        self._attempts = dict.fromkeys(self._dial_at, 0)
        self.lobby = Lobby(
            listener.take(),
            lambda connection, address: welcome(connection, address, credentials, self._expected),
        )

    def go_on(self) -> None:
        """Dial who is due, and wait for the next thing to happen."""
        now = time.monotonic()
        if now >= self._deadline:
            missing = sorted(self.missing)
            raise RendezvousError(self._rank, missing, self._timeout_s, self._detail)
        for rank in [rank for rank, due in self._dial_at.items() if due <= now]:
            self._dial(rank)
        until = min([self._deadline, now + SLICE_S, *self._dial_at.values()])
        outcomes = self.lobby.wait(until - time.monotonic())
        # Connections first: should an error end the meeting, they are known and closed.
        for outcome in sorted(outcomes, key=lambda outcome: outcome[1] is not None):
            self._take(outcome)

    def _dial(self, rank: int) -> None:
        del self._dial_at[rank]
        address = self._addresses[rank]
        name = f"rank {rank} at {name_of(address)}"
        attempt = self._attempts[rank]
        self._attempts[rank] += 1
        try:
            greeting = approach(address, self._credentials, rank, name, self._deadline, attempt)
        except OSError as error:
            self._again(rank, name, error)
            return
        outcome = self.lobby.add(greeting)
        if outcome is not None:
            self._take(outcome)

    def _again(self, rank: int, name: str, error: OSError) -> None:
        self._detail = f"{name}: {error.strerror or error}"
        self._dial_at[rank] = time.monotonic() + RETRY_S

    def _take(self, outcome: Outcome) -> None:
        greeting, error = outcome
        if isinstance(error, OSError):
            (rank,) = greeting.handshake.ranks
            self._again(rank, greeting.handshake.peer, error)
        elif isinstance(error, AuthenticationError) and greeting.accepted:
            self._detail = str(error)
        elif error is None:
            rank = greeting.session.peer.rank
            if rank not in self.missing:
                greeting.close()
                return
            self.missing.discard(rank)
            self._expected.discard(rank)
            self.connections[rank] = (greeting.connection, greeting.session)
        elif time.monotonic() < self._deadline:  # else it is only late, as `go_on` will say
            raise error
