"""Transport `queue`: one `multiprocessing.Queue` per link. The readable baseline.

A payload is copied four times (to bytes, into the pipe, out of it, into an array), which is what
a plain Python program would do. One queue per link rather than per rank: a sender that dies while
it holds a queue's lock can only block its own link.

A queue's own `get` would block for good on a peer that stops, or is killed, while it writes a
message. So the queue's pipe is read here, as much as is there, and what has come of a message is
kept. What comes is unpickled: only processes of one launcher hold these pipes.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.errors import DeadlineExceeded, PeerLost
from dmlf.protocol import Message, Phase, Tag
from dmlf.transport.base import CLOSE_S, allocate_plain
from dmlf.transport.pieces import Pieces
from dmlf.transport.registry import register_transport

Wire = tuple[tuple[Any, ...], str, bytes]
_BYTES = ""
_closing = threading.Lock()  # within one process both ranks of a link close the same queue


def encode(message: Message) -> Wire:
    """Flatten a message into plain values; the payload is copied."""
    tag = (*message.tag[:3], message.tag.phase.value, *message.tag[4:])
    payload = message.payload
    if isinstance(payload, bytes):
        return tag, _BYTES, payload
    return tag, payload.dtype.str, payload.tobytes()


def decode(wire: Wire) -> Message:
    """Rebuild a message; an array payload is a read-only view of the received bytes."""
    (generation, step, bucket, phase, round_, src), dtype, data = wire
    tag = Tag(generation, step, bucket, Phase(phase), round_, src)
    return Message(tag, data if dtype == _BYTES else np.frombuffer(data, dtype=dtype))


class _Reader:
    """The reading end of a link; the queue's locks are of no use to its only reader."""

    def __init__(self, src: int, link: Any) -> None:  # its type does not show the pipe
        self._peer = f"rank {src}"
        self._link = link
        self._pipe = Connection(os.dup(link._reader.fileno()), writable=False)
        self._pieces = Pieces()
        self._readable = select.poll()
        self._readable.register(self._pipe, select.POLLIN)

    def read(self, deadline: float) -> Wire | None:
        """The next message, or None: not all of it is here by then. Raises PeerLost."""
        while self._readable.poll(max(0, math.ceil((deadline - time.monotonic()) * 1000))):
            num_bytes = os.readv(self._pipe.fileno(), [self._pieces.place])
            if not num_bytes:
                raise PeerLost(self._peer, "it closed its transport")
            content = self._pieces.advance(num_bytes)
            if content is not None:
                self._link._sem.release()  # as `get` does: it counts what is in the queue
                wire: Wire = ForkingPickler.loads(content)
                return wire
        return None

    def close(self) -> None:
        """Let go of the pipe."""
        self._pipe.close()
        _close(self._link)


class QueueTransport:
    """One rank's outgoing and incoming queues."""

    def __init__(self, endpoint: QueueEndpoint) -> None:
        self._rank = endpoint.rank
        self._outgoing = endpoint.outgoing
        self._readers = {src: _Reader(src, link) for src, link in endpoint.incoming.items()}

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A plain vector: nothing is sent without a copy."""
        return allocate_plain(numel, dtype)

    def send(self, dst: int, message: Message) -> int:
        """Put a copy of the message on the link's queue; its feeder thread writes the pipe."""
        wire = encode(message)
        self._outgoing[dst].put(wire)
        return len(wire[2])

    def recv(self, src: int, timeout_s: float) -> Message:
        """Return the next message from `src`, all of it within `timeout_s`.

        After DeadlineExceeded the part that has come is kept, and the next call goes on from there.
        Raises DeadlineExceeded, PeerLost.
        """
        wire = self._readers[src].read(time.monotonic() + timeout_s)
        if wire is None:
            raise DeadlineExceeded(self._rank, src, timeout_s)
        return decode(wire)

    def close(self) -> None:
        """Wait until the feeder threads have written everything, then close.

        Raises DeadlineExceeded of a peer that does not read it within CLOSE_S; that is lost then.
        """
        deadline = time.monotonic() + CLOSE_S
        for link in self._outgoing.values():
            _close(link)
        late = [dst for dst, link in self._outgoing.items() if not _is_written(link, deadline)]
        for reader in self._readers.values():
            reader.close()
        if late:
            raise DeadlineExceeded(self._rank, late[0], CLOSE_S)

    def abandon(self) -> None:
        """Close; what the feeder threads have not written is lost."""
        for link in self._outgoing.values():
            link.cancel_join_thread()
            _close(link)
        for reader in self._readers.values():
            reader.close()


def _is_written(link: Queue[Wire], deadline: float) -> bool:
    """Whether the pipe takes all that a closed link holds by then; else the process may end."""
    feeder = link._thread  # type: ignore[attr-defined]  # its `join_thread` knows no deadline
    if feeder is not None:
        feeder.join(max(0.0, deadline - time.monotonic()))
        if feeder.is_alive():
            link.cancel_join_thread()
            return False
    return True


def _close(link: Queue[Wire]) -> None:
    """Close the queue, and the pipe where no feeder does: nothing was put into it by this process.

    Else its descriptors stay until the queue, which refers to itself, is collected as garbage.
    """
    link.close()
    own = vars(link)
    with _closing:
        if own["_thread"] is None:
            own["_reader"].close()
            own["_writer"].close()


@dataclass(frozen=True, slots=True)
class QueueEndpoint:
    """The queues that touch one rank, by peer."""

    rank: int
    outgoing: dict[int, Queue[Wire]]
    incoming: dict[int, Queue[Wire]]

    def connect(self) -> QueueTransport:
        """Open the transport in the rank's process."""
        return QueueTransport(self)


@register_transport("queue")
def create_endpoints(context: BaseContext, group_size: int) -> list[QueueEndpoint]:
    """Make the queues of a fully connected group of `group_size` ranks."""
    ranks = range(group_size)
    links: dict[tuple[int, int], Queue[Wire]] = {
        (src, dst): context.Queue() for src in ranks for dst in ranks if src != dst
    }
    return [
        QueueEndpoint(
            rank,
            {dst: links[rank, dst] for dst in ranks if dst != rank},
            {src: links[src, rank] for src in ranks if src != rank},
        )
        for rank in ranks
    ]
