"""A transport as slow as a link that this machine does not have: latency and bandwidth imposed.

Every rank has an emulated network port of its own. A message of n bytes occupies the sending side
for n / bandwidth, begins to arrive `latency_s` after it began to leave, and occupies the receiving
side for n / bandwidth; `recv` returns no earlier than that, on the monotonic clock that all
processes of a host share. What the real transport costs passes meanwhile, and shows where it costs
more than the emulated link. The sender is never held up, as a network card would not do that.

Each message is preceded by a header that says when it began to leave. The receiving side takes
messages in the order in which `recv` asks for them; one that came earlier, and is asked for later,
gets the time in which the port was idle.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from dmlf.errors import DeadlineExceeded
from dmlf.protocol import Message
from dmlf.transport.base import Endpoint, Transport

_HEADER = struct.Struct("<dq")
_SPIN_S = 2e-4
"""Sleeping ends late by up to so much, so the last part of a wait is spent looking at the clock."""
_KEEP_S = 60.0


@dataclass(frozen=True, slots=True)
class EmulatedLink:
    """What is imposed; bandwidth_bits_per_s: of each direction of a rank's port (0: no limit)."""

    latency_s: float
    bandwidth_bits_per_s: float

    def occupies_s(self, num_bytes: int) -> float:
        """Seconds that so many bytes occupy one side of a port."""
        bandwidth = self.bandwidth_bits_per_s
        return 8 * num_bytes / bandwidth if bandwidth else 0.0


class Schedule:
    """When one side of a port is busy: intervals that do not meet, in order."""

    def __init__(self) -> None:
        self._busy: list[tuple[float, float]] = []

    def reserve(self, earliest_s: float, duration_s: float) -> float:
        """Take the first idle time of `duration_s` from `earliest_s` on; return when it ends."""
        busy = self._busy
        start_s = earliest_s
        index = max(0, bisect_right(busy, (earliest_s, float("inf"))) - 1)
        for begin_s, end_s in busy[index:]:
            if start_s + duration_s <= begin_s:
                break
            start_s = max(start_s, end_s)
        if duration_s:
            insort(busy, (start_s, start_s + duration_s))
        # No message that is still to come began to arrive that long ago.
        while busy and busy[0][1] < earliest_s - _KEEP_S:
            del busy[0]
        return start_s + duration_s


class EmulatedTransport:
    """Wraps one rank's transport; everything but time is as the inner transport has it."""

    def __init__(self, inner: Transport, rank: int, link: EmulatedLink) -> None:
        self._inner = inner
        self._rank = rank
        self._link = link
        self._out_free_s = 0.0
        self._incoming = Schedule()
        self._announced: dict[int, float] = {}  # by source: when its next message is visible

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A registered vector of the inner transport."""
        return self._inner.allocate(numel, dtype)

    def send(self, dst: int, message: Message) -> int:
        """Send at once, with the moment from which the emulated port would send it."""
        payload = message.payload
        num_bytes = len(payload) if isinstance(payload, bytes) else payload.nbytes
        leaves_s = max(time.monotonic(), self._out_free_s)
        self._out_free_s = leaves_s + self._link.occupies_s(num_bytes)
        self._inner.send(dst, Message(message.tag, _HEADER.pack(leaves_s, num_bytes)))
        return self._inner.send(dst, message)

    def recv(self, src: int, timeout_s: float) -> Message:
        """Return the next message from `src` once the emulated link has carried it.

        Raises DeadlineExceeded, also when the message is here and would be on its way still.
        """
        deadline = time.monotonic() + timeout_s
        if src not in self._announced:
            leaves_s, num_bytes = _HEADER.unpack(self._inner.recv(src, timeout_s).payload)
            arrives_s = leaves_s + self._link.latency_s
            duration_s = self._link.occupies_s(num_bytes)
            self._announced[src] = self._incoming.reserve(arrives_s, duration_s)
        visible_s = self._announced[src]
        if visible_s > deadline:
            wait_until(deadline)
            raise DeadlineExceeded(self._rank, src, timeout_s)
        try:
            message = self._inner.recv(src, max(0.0, deadline - time.monotonic()))
        except DeadlineExceeded:  # of what was left of the time
            raise DeadlineExceeded(self._rank, src, timeout_s) from None
        del self._announced[src]
        wait_until(visible_s)
        return message

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()

    def abandon(self) -> None:
        """Abandon the inner transport."""
        self._inner.abandon()


@dataclass(frozen=True, slots=True)
class EmulatedEndpoint:
    """A rank's place behind an emulated port."""

    inner: Endpoint
    rank: int
    link: EmulatedLink

    def connect(self) -> EmulatedTransport:
        """Open the inner transport in the rank's process."""
        return EmulatedTransport(self.inner.connect(), self.rank, self.link)


def emulate(endpoints: Sequence[Endpoint], link: EmulatedLink) -> list[EmulatedEndpoint]:
    """Put every endpoint of a group on one host behind a port of its own."""
    return [EmulatedEndpoint(endpoint, rank, link) for rank, endpoint in enumerate(endpoints)]


def wait_until(moment_s: float) -> None:
    """Return at `moment_s` of the monotonic clock: sleep first, then look, and let others run."""
    remaining_s = moment_s - time.monotonic()
    if remaining_s > _SPIN_S:
        time.sleep(remaining_s - _SPIN_S)
    while time.monotonic() < moment_s:
        time.sleep(0)
