"""Sockets as this transport uses them: who may listen where, and how a connection is set."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import weakref
from multiprocessing import reduction
from typing import Any

from dmlf.errors import AddressUnavailable, ConfigError, TransportError
from dmlf.transport.tcp.auth import check_key

Address = tuple[str, int]
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_BACKLOG = 1024
_KEEPALIVE = (  # seconds of silence, seconds between questions, questions
    (socket.TCP_KEEPIDLE, 30),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
)
# The system's choice may pace what it sends (BBR does), to spare a network that is not there.
_LOOPBACK_CONGESTION_CONTROL = b"reno"


class Listener:
    """A listening socket that is not yet served; travels to a rank as an inherited descriptor."""

    def __init__(self, descriptor: int, address: Address) -> None:
        self.address = address
        self._descriptor = descriptor
        self._finalizer = weakref.finalize(self, os.close, descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand over a duplicate of the descriptor, while a process is being spawned."""
        return _inherit, (reduction.DupFd(self._descriptor), self.address)

    def take(self) -> socket.socket:
        """The socket, non-blocking; this object is of no more use. Raises TransportError."""
        if self._finalizer.detach() is None:
            raise TransportError(f"the listener on {name_of(self.address)} has been used already")
        taken = socket.socket(fileno=self._descriptor)
        taken.setblocking(False)
        return taken

    def close(self) -> None:
        """Stop listening."""
        if self._finalizer.alive:
            stop_listening(self.take())


def _inherit(duplicate: Any, address: Address) -> Listener:
    return Listener(duplicate.detach(), address)


def listen(host: str = "127.0.0.1", port: int = 0, key: bytes | None = None) -> Listener:
    """Listen on `host`; port 0 means any that is free.

    key: what connections must know; it must be given where others than this host can connect.
    Raises ConfigError, AddressUnavailable.
    """
    if key is not None:
        check_key(key)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
    except (OSError, OverflowError) as error:
        raise AddressUnavailable(host, port, str(error)) from None
    family, kind, protocol, _, address = found[0]
    if key is None and not (host and is_loopback(str(address[0]))):
        raise ConfigError("host", host, "a loopback address, or a key for all who connect")
    with socket.socket(family, kind, protocol) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise AddressUnavailable(host, port, reason) from None
        name = listening.getsockname()
        return Listener(listening.detach(), (str(name[0]), int(name[1])))


def stop_listening(listening: socket.socket) -> None:
    """Close for all processes that hold the socket, not for this one alone."""
    try:
        listening.shutdown(socket.SHUT_RDWR)
    except OSError:  # another process has done so
        pass
    finally:
        listening.close()


def start_connecting(address: Address, attempt: int) -> tuple[socket.socket, Any]:
    """A non-blocking socket and what to connect it to. Raises OSError if the name is unknown.

    A name may stand for several addresses, as `localhost` does, of which one is listened on; each
    attempt, counted from 0, takes the next one.
    """
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    family, kind, protocol, _, resolved = found[attempt % len(found)]
    connecting = socket.socket(family, kind, protocol)
    connecting.setblocking(False)
    return connecting, resolved


def tune(connection: socket.socket) -> None:
    """Set what every connection has, once it is established."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A host that vanishes without a word is noticed within a minute, also where nobody waits with a
    # deadline; where something is on its way to it, as late as the system gives up sending that.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    if is_loopback(str(connection.getpeername()[0])):
        try:
            name = _LOOPBACK_CONGESTION_CONTROL
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
        except OSError:  # this system does not allow it: slower, nothing else
            pass


def is_loopback(host: str) -> bool:
    """Whether an IP address can only be reached from this host."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def name_of(address: Any) -> str:
    """An address as people write it."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
