"""Send a process objects that hold descriptors (links between ranks) while it runs.

multiprocessing lets such objects travel only to a process that is being spawned. A parcel does what
its spawning does, to a process that exists: the objects name their descriptors by number, and the
descriptors follow over the same Unix socket.
"""

from __future__ import annotations

import array
import select
import socket
import struct
import time
from multiprocessing import context, reduction
from multiprocessing.connection import Connection
from typing import Any, cast

_AT_ONCE = 200  # the kernel passes 253 descriptors in one message
_LENGTH = struct.Struct("!i")  # before what Connection.recv receives


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


def send_parcel(connection: Connection, content: Any, timeout_s: float) -> None:
    """Send `content` over a duplex pipe to a process that calls `receive_parcel`.

    What `content` holds must stay open until it came. Raises OSError when the process is gone, and
    TimeoutError when it has not taken all of it in time: then nothing can be sent to it any more.
    """
    parcel = _Parcel()
    context.set_spawning_popen(cast(Any, parcel))
    try:
        data = bytes(reduction.ForkingPickler.dumps(content))
    finally:
        context.set_spawning_popen(None)
    letter = bytes(reduction.ForkingPickler.dumps((len(parcel.descriptors), data)))
    deadline = time.monotonic() + timeout_s
    with _as_socket(connection) as link:
        _send(link, _LENGTH.pack(len(letter)) + letter, [], deadline)
        for start in range(0, len(parcel.descriptors), _AT_ONCE):
            _send(link, b"\0", parcel.descriptors[start : start + _AT_ONCE], deadline)


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


def _send(link: socket.socket, content: bytes, descriptors: list[int], deadline: float) -> None:
    """Send all of `content`, the descriptors with its first byte, as fast as it is taken."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    left, ancillary = memoryview(content), rights if descriptors else []
    while left:
        try:
            left = left[link.sendmsg([left], ancillary, socket.MSG_DONTWAIT) :]
            ancillary = []
        except BlockingIOError:
            if not _is_taken(link, deadline - time.monotonic()):
                raise TimeoutError("an order was not taken in time") from None


def _is_taken(link: socket.socket, timeout_s: float) -> bool:
    """Whether there is room again within that time."""
    poll = select.poll()
    poll.register(link, select.POLLOUT)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))


def _as_socket(connection: Connection) -> socket.socket:
    """A second handle on the pipe, which is a pair of Unix sockets."""
    return socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
