"""One authenticated connection that carries JSON objects, for coordination rather than tensors."""

from __future__ import annotations

import itertools
import json
import select
import socket
import ssl
import time
from selectors import EVENT_WRITE
from typing import Any

from dmlf import strict_json
from dmlf.errors import AuthenticationError, DmlfError, FrameError, NoAnswer
from dmlf.transport.tcp.auth import Identity, Session
from dmlf.transport.tcp.frames import Kind, Rules, encode_control
from dmlf.transport.tcp.greeting import AUTHENTICATION_S, Credentials, approach, welcome
from dmlf.transport.tcp.links import Link
from dmlf.transport.tcp.lobby import Lobby
from dmlf.transport.tcp.sockets import Address, Listener, name_of
from dmlf.transport.tcp.tls import Tls

MAX_OBJECT_BYTES = 1 << 20
_RETRY_S = 0.05


class Channel:
    """Sends and receives JSON objects of at most MAX_OBJECT_BYTES. Used by one thread."""

    def __init__(self, connection: socket.socket, session: Session, peer: str) -> None:
        self.peer = peer
        self._connection = connection
        self._rules = Rules(Kind.CONTROL, peer, session.send_seed, MAX_OBJECT_BYTES)
        incoming = Rules(Kind.CONTROL, peer, session.receive_seed, MAX_OBJECT_BYTES)
        self._link = Link(connection, incoming, self._rules)

    def fileno(self) -> int:
        """The socket, for `select`: readable when `recv` has something to read; see `pending`."""
        return self._link.descriptor

    @property
    def pending(self) -> bool:
        """Whether bytes have been read from the socket that `recv` has not: TLS reads ahead."""
        connection = self._connection
        return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0

    @property
    def own_host(self) -> str:
        """The address of this end's host, as the connection has it."""
        return str(self._connection.getsockname()[0])

    def send(self, value: dict[str, Any], timeout_s: float) -> None:
        """Send a JSON object. Raises NoAnswer, PeerLost, FrameError."""
        deadline = time.monotonic() + timeout_s
        content = json.dumps(value, allow_nan=False).encode()
        self._link.send(encode_control(content, self._rules), memoryview(content), stable=True)
        while self._link.outgoing:
            self._sleep(True, deadline, timeout_s)
            self._link.flush()

    def recv(self, timeout_s: float) -> dict[str, Any]:
        """Return the next JSON object, all of it within `timeout_s`.

        Raises NoAnswer, PeerLost, FrameError, ChecksumMismatch.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            frame, moved = self._link.receive()
            if frame is not None:
                return _object(frame.payload, self.peer)
            if not moved or time.monotonic() >= deadline:
                self._sleep(False, deadline, timeout_s)

    def take(self) -> dict[str, Any] | None:
        """The next JSON object if all of it is here. Raises as `recv` does, without waiting."""
        while True:
            frame, moved = self._link.receive()
            if frame is not None:
                return _object(frame.payload, self.peer)
            if not moved:
                return None

    def close(self) -> None:
        """Hang up; what was sent is still delivered if all that came has been read."""
        self._link.close()

    def _sleep(self, for_writing: bool, deadline: float, timeout_s: float) -> None:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0.0:
            raise NoAnswer(self.peer, timeout_s)
        _wait(self._link.descriptor, for_writing, remaining_s)


def dial(
    address: Address, key: bytes, purpose: str, tls: Tls | None = None, timeout_s: float = 30.0
) -> Channel:
    """Open a channel to the acceptor at `address`; tries again while nobody listens there.

    Raises AuthenticationError, at most AUTHENTICATION_S after connecting; NoAnswer.
    """
    deadline = time.monotonic() + timeout_s
    credentials = Credentials(Identity(purpose), key, tls)
    for attempt in itertools.count():
        try:
            return _dial_once(address, credentials, deadline, attempt)
        except OSError as error:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0.0:
                detail = error.strerror or str(error)
                raise NoAnswer(name_of(address), timeout_s, detail) from None
            time.sleep(min(_RETRY_S, remaining_s))
    raise AssertionError("attempts do not end")


def _dial_once(
    address: Address, credentials: Credentials, deadline: float, attempt: int
) -> Channel:
    peer, until = name_of(address), min(deadline, time.monotonic() + AUTHENTICATION_S)
    greeting = approach(address, credentials, 0, peer, until, attempt)
    try:
        while not greeting.advance():
            remaining_s = until - time.monotonic()
            if remaining_s <= 0.0:
                if not greeting.connected:
                    raise TimeoutError
                raise AuthenticationError(peer, "it took too long")
            _wait(greeting.connection.fileno(), greeting.events == EVENT_WRITE, remaining_s)
    except BaseException:
        greeting.close()
        raise
    return Channel(greeting.connection, greeting.session, peer)


class Acceptor:
    """Serves a listener: authenticates any number of clients, a bounded number at a time."""

    def __init__(
        self, listener: Listener, key: bytes, purpose: str, tls: Tls | None = None
    ) -> None:
        credentials = Credentials(Identity(purpose), key, tls)
        self._lobby = Lobby(
            listener.take(),
            lambda connection, address: welcome(connection, address, credentials, {0}),
        )
        self.num_refused = 0
        self.last_refusal: DmlfError | OSError | None = None

    def fileno(self) -> int:
        """For `select`: readable when `accept` has something to do."""
        return self._lobby.fileno()

    def accept(self, timeout_s: float) -> list[Channel]:
        """Go on with all clients; the channels of those that are authenticated by now.

        Waits for something to happen for at most `timeout_s`; call it again and again. Who is
        refused is counted in `num_refused`, with the reason of the last one in `last_refusal`.
        """
        channels = []
        for greeting, error in self._lobby.wait(timeout_s):
            if error is None:
                peer = greeting.handshake.peer
                channels.append(Channel(greeting.connection, greeting.session, peer))
            else:
                self.num_refused += 1
                self.last_refusal = error
        return channels

    def close(self) -> None:
        """Stop listening, and hang up on clients that are not authenticated yet."""
        self._lobby.close()


def _wait(descriptor: int, for_writing: bool, timeout_s: float) -> None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT if for_writing else select.POLLIN)
    waiting.poll(max(1, int(timeout_s * 1000)))


def _object(content: bytes, peer: str) -> dict[str, Any]:
    """Read a JSON object. Raises FrameError."""
    try:
        value = strict_json.parse(content)
    except ValueError as error:
        raise FrameError(peer, "payload", content[:40], f"JSON ({error})") from None
    if not isinstance(value, dict):
        raise FrameError(peer, "payload", content[:40], "a JSON object")
    return value
