"""Transport `queue`: one `multiprocessing.Queue` per link. The readable baseline.

A payload is copied four times (to bytes, into the pipe, out of it, into an array), which is what
a plain Python program would do. One queue per link rather than per rank: a sender that dies while
it holds a queue's lock can only block its own link.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.errors import DeadlineExceeded
from dmlf.protocol import Message, Phase, Tag
from dmlf.transport.base import allocate_plain
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


class QueueTransport:
    """One rank's outgoing and incoming queues."""

    def __init__(self, endpoint: QueueEndpoint) -> None:
        self._rank = endpoint.rank
        self._outgoing = endpoint.outgoing
        self._incoming = endpoint.incoming

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A plain vector: nothing is sent without a copy."""
        return allocate_plain(numel, dtype)

    def send(self, dst: int, message: Message) -> int:
        """Put a copy of the message on the link's queue; its feeder thread writes the pipe."""
        wire = encode(message)
        self._outgoing[dst].put(wire)
        return len(wire[2])

    def recv(self, src: int, timeout_s: float) -> Message:
        """Return the next message from `src`. Raises DeadlineExceeded."""
        try:
            return decode(self._incoming[src].get(timeout=timeout_s))
        except queue.Empty:
            raise DeadlineExceeded(self._rank, src, timeout_s) from None

    def close(self) -> None:
        """Wait until the feeder threads have written everything, then close."""
        for link in self._outgoing.values():
            _close(link)
            link.join_thread()
        for link in self._incoming.values():
            _close(link)

    def abandon(self) -> None:
        """Close; what the feeder threads have not written is lost."""
        for link in (*self._outgoing.values(), *self._incoming.values()):
            link.cancel_join_thread()
            _close(link)


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
