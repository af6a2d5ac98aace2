"""Transports: how a message gets from one rank to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext

from dmlf.transport import process_group, queue, shm, tcp
from dmlf.transport.base import Endpoint, Transport, allocate_plain

TRANSPORTS: dict[str, Callable[[BaseContext, int], Sequence[Endpoint]]] = {
    "queue": queue.create_endpoints,
    "shm": shm.create_endpoints,
    "tcp": tcp.create_endpoints,
    "process_group": process_group.create_endpoints,
}
"""By name: (multiprocessing context, group size) -> one endpoint per rank."""

__all__ = ["TRANSPORTS", "Endpoint", "Transport", "allocate_plain"]
