"""Groups of transports within one process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from dmlf.transport import TRANSPORTS, Endpoint, Transport


def connect_all(endpoints: Sequence[Endpoint]) -> list[Transport]:
    """Connect all ranks at once: a rank may wait for the others."""
    with ThreadPoolExecutor(len(endpoints)) as pool:
        return list(pool.map(lambda endpoint: endpoint.connect(), endpoints))


def close_all(transports: Sequence[Transport]) -> None:
    """Close all ranks at once: a rank may wait until the others have what it sent."""
    with ThreadPoolExecutor(max(1, len(transports))) as pool:
        list(pool.map(lambda transport: transport.close(), transports))


def group(name: str, group_size: int) -> list[Transport]:
    """The transports of a whole group of ranks."""
    return connect_all(TRANSPORTS[name](multiprocessing.get_context("spawn"), group_size))
