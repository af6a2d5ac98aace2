"""Messages of a process that may stop in the middle of one: read as they come, never waited for."""

from __future__ import annotations

import os
import socket
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from dmlf.transport.pieces import Pieces


class Inbox:
    """The reading end of a duplex pipe, for one reader."""

    def __init__(self, pipe: Connection) -> None:
        self._socket = socket.socket(fileno=os.dup(pipe.fileno()))
        self._pieces = Pieces()
        self.ended = False

    def take(self) -> list[Any]:
        """All messages that are here in full; `ended` says whether there will be no more."""
        messages = []
        while not self.ended:
            try:
                num_bytes = self._socket.recv_into(self._pieces.place, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                num_bytes = 0
            self.ended = not num_bytes
            content = self._pieces.advance(num_bytes)
            if content is not None:
                messages.append(reduction.ForkingPickler.loads(content))
        return messages

    def close(self) -> None:
        """Let go of the pipe."""
        self._socket.close()
