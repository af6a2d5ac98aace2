"""One rank's end of all its connections."""

from __future__ import annotations

import os
import secrets
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import Any

import numpy.typing as npt

from dmlf.errors import ConfigError, DeadlineExceeded, PeerLost, TransportError
from dmlf.protocol import Message
from dmlf.transport.base import CLOSE_S, Interrupt, never
from dmlf.transport.registered import Registered
from dmlf.transport.registry import register_transport
from dmlf.transport.tcp import mesh
from dmlf.transport.tcp.auth import Identity, check_key
from dmlf.transport.tcp.flusher import Flusher
from dmlf.transport.tcp.frames import (
    MAX_PAYLOAD_BYTES,
    Kind,
    Rules,
    encode_data,
    payload_bytes,
)
from dmlf.transport.tcp.greeting import Credentials
from dmlf.transport.tcp.links import Link
from dmlf.transport.tcp.sockets import Address, Listener, listen
from dmlf.transport.tcp.tls import Tls
from dmlf.transport.waiting import LOOK_S, may_look

CONNECT_S = 60.0
"""How long the ranks of a group wait for one another."""
ACKNOWLEDGED_S = 1e-3
"""How often `close` asks whether all has arrived: the kernel does not tell."""
_PURPOSE = "mesh"


class TcpTransport:
    """Connections with all peers, authenticated."""

    def __init__(self, endpoint: TcpEndpoint, interrupt: Interrupt = never) -> None:
        self._rank = rank = endpoint.rank
        size = len(endpoint.addresses)
        me = Identity(_PURPOSE, rank, size, endpoint.generation)
        credentials = Credentials(me, endpoint.key, endpoint.tls)
        connections = mesh.build(
            endpoint.listener,
            list(endpoint.addresses),
            credentials,
            endpoint.connect_timeout_s,
            interrupt,
        )
        cap = endpoint.max_payload_bytes
        self._links: dict[int, Link] = {}
        for peer, (connection, session) in sorted(connections.items()):
            name = f"rank {peer}"
            self._links[peer] = Link(
                connection,
                Rules(Kind.DATA, name, session.receive_seed, cap, rank, peer, size),
                Rules(Kind.DATA, name, session.send_seed, cap, rank, peer, size),
            )
        self._flusher = Flusher(self._links.values())
        self._corrupts = False
        self._cuts = False
        self._registered = Registered()

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A plain vector, remembered: what the kernel does not take at once is not copied."""
        return self._registered.allocate(numel, dtype)

    def send(self, dst: int, message: Message) -> int:
        """Write the message to the connection with `dst`, or queue what does not fit.

        Raises PeerLost; FrameError for what no frame can hold.
        """
        link, payload = self._links[dst], message.payload
        content, dtype = payload_bytes(payload, link.peer)
        header = encode_data(message.tag, dst, content, dtype, link.outgoing_rules)
        if self._corrupts:
            self._corrupts = False
            if content.nbytes:
                content = memoryview(_altered(content))
            else:
                header = _altered(header)
        if self._cuts:
            self._cuts = False
            link.cut(header, content)
            return content.nbytes
        stable = isinstance(payload, bytes) or self._registered.holds(payload)
        with self._flusher.turn:
            link.send(header, content, stable)
            self._flusher.notice()
        return content.nbytes

    def corrupt_next(self) -> None:
        """Flip a bit of the next message on its way: a fault that is injected.

        It is one of the payload, or of the header where that is all there is.
        """
        self._corrupts = True

    def cut_next(self) -> None:
        """End a connection in the middle of the next message: a fault that is injected."""
        self._cuts = True

    def recv(self, src: int, timeout_s: float) -> Message:
        """Return the next message from `src`, all of it within `timeout_s`.

        What waits to be sent, to any peer, is sent meanwhile. After DeadlineExceeded the part that
        has come is kept, and the next call goes on from there. Raises DeadlineExceeded, PeerLost,
        and what FrameParser raises.
        """
        with self._flusher.turn:
            try:
                return self._recv(src, timeout_s)
            finally:
                self._flusher.notice()

    def close(self) -> None:
        """Hand over what was sent, to all peers at once, and hang up.

        Raises DeadlineExceeded, PeerLost, of the first peer that did not take all of it.
        """
        self._flusher.close()
        deadline = time.monotonic() + CLOSE_S
        failures: list[TransportError] = self._leave_served()
        while self._links:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0.0:
                failures.append(DeadlineExceeded(self._rank, min(self._links), CLOSE_S))
                break
            self._sleep(None, min(remaining_s, ACKNOWLEDGED_S))
            failures += self._leave_served()
        self.abandon()
        if failures:
            raise failures[0]

    def abandon(self) -> None:
        """Hang up."""
        self._flusher.close()
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _recv(self, src: int, timeout_s: float) -> Message:
        link = self._links[src]
        deadline = time.monotonic() + timeout_s
        looks_until = 0.0
        while True:
            frame, moved = link.receive()
            if frame is not None:
                return Message(frame.tag, frame.payload)  # type: ignore[arg-type]
            for other in self._links.values():
                if other.outgoing and other.flush(receiving=True):
                    moved = True
            now = time.monotonic()
            if now >= deadline:
                raise DeadlineExceeded(self._rank, src, timeout_s)
            if moved:
                looks_until = 0.0
                continue
            looks_until = looks_until or now + LOOK_S * may_look()
            if now < looks_until:
                os.sched_yield()
            else:
                self._sleep(link, deadline - now)

    def _leave_served(self) -> list[TransportError]:
        """Hang up on every peer that has all that was sent, or is lost; tell which were lost."""
        lost: list[TransportError] = []
        for peer, link in list(self._links.items()):
            try:
                if not self._is_delivered(link):
                    continue
            except PeerLost as error:
                lost.append(error)
            del self._links[peer]
            link.close()
        return lost

    def _is_delivered(self, link: Link) -> bool:
        """Whether all that was sent lies on the peer's host, as far as it can be sent now."""
        if link.outgoing:
            link.flush()
        # A connection that is closed before its data is read, or before its own is
        # acknowledged, may be reset, which would throw away what is still on the way.
        reads = link.discard_incoming()
        return not link.outgoing and not (reads and link.unacknowledged())

    def _sleep(self, source: Link | None, timeout_s: float) -> None:
        """Wait until `source` may be read, or one of those with something to send written."""
        waiting = select.poll()
        for link in self._links.values():
            events = (select.POLLIN if link is source else 0) | (
                select.POLLOUT if link.outgoing else 0
            )
            if events:
                waiting.register(link.descriptor, events)
        waiting.poll(max(1, int(timeout_s * 1000)))


def _altered(content: bytes | memoryview) -> bytes:
    """A copy with one bit flipped in the middle."""
    altered = bytearray(content)
    altered[len(altered) // 2] ^= 1
    return bytes(altered)


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A rank's place in a group: where it listens, and where all ranks do, itself included.

    key: at least 16 random bytes that all ranks share.
    generation: that of the group; ranks of another one are refused.
    """

    rank: int
    listener: Listener
    addresses: Sequence[Address]
    key: bytes = field(repr=False)
    tls: Tls | None = None
    generation: int = 0
    connect_timeout_s: float = CONNECT_S
    max_payload_bytes: int = MAX_PAYLOAD_BYTES

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_key(self.key)
        if not 0 <= self.rank < len(self.addresses):
            raise ConfigError("rank", self.rank, f"0 to {len(self.addresses) - 1}")

    def connect(self, interrupt: Interrupt = never) -> TcpTransport:
        """Connect with all other ranks.

        Raises RendezvousError, AuthenticationError, SchemaMismatch, GenerationMismatch.
        """
        return TcpTransport(self, interrupt)


@register_transport("tcp")
def create_endpoints(_context: BaseContext, group_size: int) -> list[TcpEndpoint]:
    """A group on this host: ports of the system's choice on loopback, and a key of its own."""
    listeners = [listen() for _ in range(group_size)]
    addresses = [listener.address for listener in listeners]
    key = secrets.token_bytes(32)
    return [TcpEndpoint(rank, listener, addresses, key) for rank, listener in enumerate(listeners)]
