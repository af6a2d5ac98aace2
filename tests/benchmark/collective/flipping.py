"""A transport that flips one bit of one message: what the benchmark must not be blind to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext

import numpy as np

from dmlf.protocol import Message
from dmlf.transport import Endpoint, Transport
from dmlf.transport.queue import create_endpoints


class FlippingTransport:
    """Rank 0's second vector arrives with one bit of its third element flipped."""

    def __init__(self, transport: Transport, rank: int) -> None:
        self._transport = transport
        self._left = 2 if rank == 0 else -1
        self.allocate = transport.allocate
        self.recv = transport.recv
        self.close = transport.close

    def send(self, dst: int, message: Message) -> int:
        if isinstance(message.payload, np.ndarray):
            self._left -= 1
            if self._left == 0:
                flipped = message.payload.copy()
                flipped.view(np.uint32)[2] ^= 1 << 12  # lower ones may be rounded away in a sum
                message = Message(message.tag, flipped)
        return self._transport.send(dst, message)


@dataclass(frozen=True, slots=True)
class FlippingEndpoint:
    rank: int
    endpoint: Endpoint

    def connect(self) -> FlippingTransport:
        return FlippingTransport(self.endpoint.connect(), self.rank)


def create_flipping(context: BaseContext, group_size: int) -> Sequence[Endpoint]:
    return [
        FlippingEndpoint(rank, endpoint)
        for rank, endpoint in enumerate(create_endpoints(context, group_size))
    ]
