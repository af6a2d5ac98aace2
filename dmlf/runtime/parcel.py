"""Send a process objects that hold descriptors (links between ranks) while it runs.

multiprocessing lets such objects travel only to a process that is being spawned. A parcel does what
its spawning does, to a process that exists: the objects name their descriptors by number, and the
descriptors follow over the same Unix socket.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from multiprocessing import context, reduction
from multiprocessing.connection import Connection
from typing import Any, cast

_AT_ONCE = 200  # the kernel passes 253 descriptors in one message


class _Carried:
    """The number of a descriptor within its parcel."""

    def __init__(self, number: int) -> None:
        self._number = number

    def detach(self) -> int:
        """The descriptor, in the process that opens the parcel."""
        return _opened[self._number]


_opened: list[int] = []


class _Parcel:
    """Stands where multiprocessing looks for the process that is being spawned."""

    DupFd = _Carried

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        self.descriptors.append(descriptor)
        return len(self.descriptors) - 1


def send_parcel(connection: Connection, content: Any) -> None:
    """Send `content` over a duplex pipe to a process that calls `receive_parcel`.

    Raises OSError when the process is gone. What `content` holds must stay open until it came.
    """
    parcel = _Parcel()
    context.set_spawning_popen(cast(Any, parcel))
    try:
        data = bytes(reduction.ForkingPickler.dumps(content))
    finally:
        context.set_spawning_popen(None)
    connection.send((len(parcel.descriptors), data))
    with _as_socket(connection) as link:
        for start in range(0, len(parcel.descriptors), _AT_ONCE):
            _pass(link, parcel.descriptors[start : start + _AT_ONCE])


def receive_parcel(connection: Connection) -> Any:
    """Receive what `send_parcel` sent. Raises EOFError when its process is gone."""
    count, data = connection.recv()
    with _as_socket(connection) as link:
        while len(_opened) < count:
            wanted = min(_AT_ONCE, count - len(_opened))
            _, descriptors, _, _ = socket.recv_fds(link, 1, wanted)
            if not descriptors:
                raise EOFError
            _opened.extend(descriptors)
    try:
        return reduction.ForkingPickler.loads(data)
    finally:
        _opened.clear()


def _pass(link: socket.socket, descriptors: Sequence[int]) -> None:
    socket.send_fds(link, [b"\0"], list(descriptors))


def _as_socket(connection: Connection) -> socket.socket:
    """A second handle on the pipe, which is a pair of Unix sockets."""
    return socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
