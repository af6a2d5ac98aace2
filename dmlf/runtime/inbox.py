"""Messages of a process that may stop in the middle of one: read as they come, never waited for."""

from __future__ import annotations

import os
import socket
import struct
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

_PIECE_BYTES = 1 << 18
# How multiprocessing's Connection frames what it sends: a length, or -1 and a longer length.
_SHORT, _LONG = struct.Struct("!i"), struct.Struct("!Q")


class Inbox:
    """The reading end of a duplex pipe, for one reader."""

    def __init__(self, pipe: Connection) -> None:
        self._socket = socket.socket(fileno=os.dup(pipe.fileno()))
        self._came = bytearray()
        self.ended = False

    def take(self) -> list[Any]:
        """All messages that are here in full; `ended` says whether there will be no more."""
        while not self.ended:
            try:
                piece = self._socket.recv(_PIECE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                piece = b""
            self.ended = not piece
            self._came += piece
        messages = []
        while (bounds := self._first()) is not None:
            start, end = bounds
            messages.append(reduction.ForkingPickler.loads(bytes(self._came[start:end])))
            del self._came[:end]
        return messages

    def close(self) -> None:
        """Let go of the pipe."""
        self._socket.close()

    def _first(self) -> tuple[int, int] | None:
        """Where the first message begins and ends, if all of it has come."""
        start = _SHORT.size
        if len(self._came) < start:
            return None
        (length,) = _SHORT.unpack_from(self._came)
        if length == -1:
            start += _LONG.size
            if len(self._came) < start:
                return None
            (length,) = _LONG.unpack_from(self._came, _SHORT.size)
        end = start + length
        return (start, end) if len(self._came) >= end else None
