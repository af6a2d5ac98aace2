"""A connection until it is authenticated: connect, TLS if wanted, then the handshake."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import ssl
import time
from collections.abc import Collection, Iterator
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from dmlf.errors import AuthenticationError
from dmlf.transport.tcp.auth import (
    NONCE_BYTES,
    Handshake,
    Identity,
    Role,
    Session,
    check_key,
)
from dmlf.transport.tcp.sockets import Address, name_of, start_connecting, tune
from dmlf.transport.tcp.tls import Tls

AUTHENTICATION_S = 5.0
"""How long an accepted connection may take to authenticate."""
ANSWER_S = 5.0
"""How long an address may take to answer at all, before the next one of its host is tried."""
_IN_PROGRESS = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)


class Credentials:
    """What one end shows of itself, and what it expects of others. Raises ConfigError."""

    def __init__(self, me: Identity, key: bytes, tls: Tls | None = None) -> None:
        self.me = me
        self.key = check_key(key)
        self.client_context = tls.context(server_side=False) if tls else None
        self.server_context = tls.context(server_side=True) if tls else None


class Greeting:
    """One connection's way to its session; never blocks.

    deadline: absolute, monotonic: when the owner gives it up; sooner as long as nobody answers.
    events: what to wait for before the next `advance`.
    connection: the socket; encrypted from some point on, if there is TLS.
    """

    def __init__(
        self,
        connection: socket.socket,
        handshake: Handshake,
        deadline: float,
        tls: ssl.SSLContext | None,
        target: Any = None,
    ) -> None:
        self.connection = connection
        self.handshake = handshake
        self.accepted = target is None
        self.deadline = deadline if self.accepted else min(deadline, time.monotonic() + ANSWER_S)
        self.connected = self.accepted
        self._may_speak = False  # not before the connection is encrypted, if it shall be
        self.events = EVENT_READ if self.accepted else EVENT_WRITE
        self._steps = self._go(tls, target, deadline)

    @property
    def session(self) -> Session:
        """What was agreed upon, once `advance` has returned True."""
        assert self.handshake.session is not None
        return self.handshake.session

    def advance(self) -> bool:
        """Go on as far as possible; True when authenticated.

        Raises AuthenticationError, SchemaMismatch, GenerationMismatch; and, of a connection that
        this end opened, OSError when the other end is not there or hangs up.
        """
        try:
            self.events = next(self._steps)
        except StopIteration:
            return True
        except ssl.SSLError as error:
            detail = f"TLS failed ({error.reason or error})"
            raise AuthenticationError(self.handshake.peer, detail) from None
        except OSError as error:
            if not self.accepted:
                raise
            detail = f"it hung up before it was authenticated ({error.strerror or error})"
            raise AuthenticationError(self.handshake.peer, detail) from None
        return False

    def close(self) -> None:
        """Hang up, after a last word that shows the other end what was wrong."""
        try:
            if self._may_speak and self.handshake.outgoing:
                self.connection.send(self.handshake.outgoing)
        except OSError:  # it is not there, or does not read
            pass
        finally:
            self.connection.close()

    def _go(self, tls: ssl.SSLContext | None, target: Any, deadline: float) -> Iterator[int]:
        if target is not None:
            yield from self._connect(target)
            self.connected = True
            self.deadline = deadline
        tune(self.connection)
        if tls is not None:
            yield from self._encrypt(tls)
        self._may_speak = True
        handshake, received = self.handshake, b""
        while True:
            while handshake.outgoing:
                try:
                    sent = self.connection.send(handshake.outgoing)
                    handshake.outgoing = handshake.outgoing[sent:]
                except (BlockingIOError, ssl.SSLWantWriteError):
                    yield EVENT_WRITE
            if handshake.session is not None:
                return
            try:
                data = self.connection.recv(handshake.wants - len(received))
            except (BlockingIOError, ssl.SSLWantReadError):
                yield EVENT_READ
                continue
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "end of file")
            received += data
            if len(received) == handshake.wants:
                handshake.receive(received)
                received = b""

    def _connect(self, target: Any) -> Iterator[int]:
        while True:
            number = self.connection.connect_ex(target)
            if number in (0, errno.EISCONN):
                return
            if number not in _IN_PROGRESS:
                raise OSError(number, os.strerror(number))
            yield EVENT_WRITE

    def _encrypt(self, tls: ssl.SSLContext) -> Iterator[int]:
        encrypted = tls.wrap_socket(
            self.connection, server_side=self.accepted, do_handshake_on_connect=False
        )
        self.connection = encrypted
        while True:
            try:
                encrypted.do_handshake()
                return
            except ssl.SSLWantReadError:
                yield EVENT_READ
            except ssl.SSLWantWriteError:
                yield EVENT_WRITE


def welcome(
    connection: socket.socket, address: Address, credentials: Credentials, ranks: Collection[int]
) -> Greeting:
    """Greet one of `ranks` that has connected; it has AUTHENTICATION_S for it."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    handshake = Handshake(
        Role.ACCEPTOR, credentials.key, credentials.me, ranks, name_of(address), nonce
    )
    deadline = time.monotonic() + AUTHENTICATION_S
    return Greeting(connection, handshake, deadline, credentials.server_context)


def approach(
    address: Address,
    credentials: Credentials,
    rank: int,
    name: str,
    deadline: float,
    attempt: int,
) -> Greeting:
    """Connect to `rank` at `address`. Raises OSError if the host's name is unknown.

    attempt: how many came before, so that each of the host's addresses has its turn.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    handshake = Handshake(Role.INITIATOR, credentials.key, credentials.me, {rank}, name, nonce)
    connection, target = start_connecting(address, attempt)
    return Greeting(connection, handshake, deadline, credentials.client_context, target)
