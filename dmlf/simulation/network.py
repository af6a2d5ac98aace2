"""Messages in flight, with their true origin, which no fault can change."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dmlf.protocol import Tag
from dmlf.simulation.tracked import TrackedPayload


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on a link, and what the receiver cannot know about it.

    tag, payload: what is received. origin: the tag that it was sent with. live: the sender's own
    memory (None if it need not be kept). is_copy: the original is delivered as well.
    is_damaged: the checksum of its frame fails. ready_ns: earliest virtual time of delivery.

    A tag holds no destination, so the same broadcast (a server's verdict or parameters) meant
    for another rank is not told apart; it says the same, and the rank's own copy is then refused.
    """

    tag: Tag
    payload: Any
    origin: Tag
    live: Any = None
    is_copy: bool = False
    is_damaged: bool = False
    ready_ns: int = 0


@dataclass(slots=True)
class Link:
    """One direction between two ranks: first in, first out.

    in_flight: sent and not yet delivered. inbox: delivered and not yet received. late: taken out
    of the order by a fault. history: everything sent, for faults that replay it.
    """

    in_flight: deque[Envelope] = field(default_factory=deque)
    inbox: deque[Envelope] = field(default_factory=deque)
    late: deque[Envelope] = field(default_factory=deque)
    history: list[Envelope] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing more will come unless something is sent."""
        return not (self.in_flight or self.inbox or self.late)


def contents(payload: Any) -> bytes:
    """The bytes of a payload as a transport would send them."""
    values = payload.values if isinstance(payload, TrackedPayload) else payload
    return values.tobytes() if isinstance(values, np.ndarray) else bytes(values)
