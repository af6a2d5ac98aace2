"""Hands a group's memory to processes that the creator did not start, over a Unix socket.

The socket's name is abstract: no file, gone with its last descriptor. Both ends ask the kernel
who the other one is and go on only with the same user; who connects proves with `token` that it
belongs to the group.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from dmlf.errors import AuthenticationError, FrameError, RendezvousError
from dmlf.transport.shm.memory import GroupMemory

TOKEN_BYTES = 16
_REQUEST = struct.Struct(f"<{TOKEN_BYTES}sI")  # token, rank
_SIZES = struct.Struct("<QQ")  # group size, bytes of an arena
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_REQUEST_S = 1.0
"""How long one that has connected may take to say who it is."""


class Counter:
    """Where the other ranks of a group are given its memory."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.name = os.urandom(16).hex()
        try:
            self._socket.bind(_address(self.name))
            self._socket.listen(128)
        except BaseException:
            self._socket.close()
            raise

    def serve(self, memory: GroupMemory, token: bytes, timeout_s: float) -> None:
        """Give `memory` to every rank but 0, once each.

        Raises RendezvousError, naming who did not come, or whom the system did not let in.
        """
        missing = set(range(1, memory.group_size))
        deadline = time.monotonic() + timeout_s
        while missing:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0.0:
                raise RendezvousError(0, sorted(missing), timeout_s, "for the shared memory")
            self._socket.settimeout(remaining_s)
            try:
                connection, _ = self._socket.accept()
            except (TimeoutError, ConnectionAbortedError):  # or who came has gone again
                continue
            except OSError as error:
                waited_s = round(timeout_s - (deadline - time.monotonic()), 3)
                detail = f"for the shared memory: {error.strerror or error}"
                raise RendezvousError(0, sorted(missing), waited_s, detail) from None
            with connection:
                connection.settimeout(min(_REQUEST_S, remaining_s))
                missing.discard(_serve_one(connection, memory, token, missing))

    def close(self) -> None:
        """Free the name."""
        self._socket.close()


def collect(name: str, token: bytes, rank: int, timeout_s: float) -> GroupMemory:
    """Ask the counter `name` for the memory, as `rank`. Raises RendezvousError, or as below."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout_s)
        descriptors: list[int] = []
        try:
            connection.connect(_address(name))
            _check_user(connection, "rank 0")
            connection.send(_REQUEST.pack(token, rank))
            sizes, descriptors, _, _ = socket.recv_fds(connection, _SIZES.size, 1)
        except OSError as error:
            raise RendezvousError(rank, [0], timeout_s, f"the shared memory: {error}") from None
        if len(sizes) != _SIZES.size or len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            raise FrameError("rank 0", "shared memory", sizes, "sizes and one descriptor")
        return GroupMemory(descriptors[0], *_SIZES.unpack(sizes))


def _serve_one(
    connection: socket.socket, memory: GroupMemory, token: bytes, missing: set[int]
) -> int:
    """The rank that has been served; -1 if it was none of the missing ones."""
    try:
        _check_user(connection, "a process")
        request = connection.recv(_REQUEST.size + 1)
        if len(request) != _REQUEST.size:
            return -1
        shown, rank = _REQUEST.unpack(request)
        if shown != token or rank not in missing:
            return -1
        sizes = _SIZES.pack(memory.group_size, memory.arena_bytes)
        socket.send_fds(connection, [sizes], [memory.descriptor])
    except (OSError, AuthenticationError):  # it is gone, or a stranger: the rank may come again
        return -1
    return int(rank)


def _check_user(connection: socket.socket, peer: str) -> None:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(data)
    if user != os.geteuid():
        raise AuthenticationError(peer, f"it runs as user {user}, this process as {os.geteuid()}")


def _address(name: str) -> str:
    return f"\0dmlf-{name}"
