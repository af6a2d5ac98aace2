"""Transport `relay`: dmlf's queues, each payload upside down on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np

from dmlf.protocol import Message
from dmlf.transport import Endpoint, Transport, register_transport
from dmlf.transport.queue import create_endpoints


def upside_down(payload: Any) -> Any:
    """The payload from its end to its beginning."""
    return np.ascontiguousarray(payload[::-1]) if isinstance(payload, np.ndarray) else payload[::-1]


class RelayTransport:
    """One rank's end."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.allocate = transport.allocate
        self.close = transport.close
        self.abandon = transport.abandon

    def send(self, dst: int, message: Message) -> int:
        """Turn the payload over and send it."""
        return self._transport.send(dst, Message(message.tag, upside_down(message.payload)))

    def recv(self, src: int, timeout_s: float) -> Message:
        """Receive a payload and turn it back."""
        message = self._transport.recv(src, timeout_s)
        return Message(message.tag, upside_down(message.payload))


@dataclass(frozen=True, slots=True)
class RelayEndpoint:
    """A rank's place."""

    endpoint: Endpoint

    def connect(self) -> RelayTransport:
        """Open the transport in the rank's process."""
        return RelayTransport(self.endpoint.connect())


@register_transport("relay")
def create_relay(context: BaseContext, group_size: int) -> Sequence[RelayEndpoint]:
    """Make the endpoints of a group."""
    return [RelayEndpoint(endpoint) for endpoint in create_endpoints(context, group_size)]
