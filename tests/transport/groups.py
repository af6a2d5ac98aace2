"""Groups of transports within one process."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from dmlf.transport import TRANSPORTS, Endpoint, Transport
from dmlf.transport.emulated import EmulatedLink, emulate

_NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch.distributed"
)
EVERY_TRANSPORT = [
    pytest.param(name, marks=[_NEEDS_TORCH] if name == "process_group" else [])
    for name in TRANSPORTS
]
"""For `pytest.mark.parametrize`: what is registered, skipped where it cannot run."""

EMULATED = EmulatedLink(latency_s=1e-4, bandwidth_bits_per_s=2e10)
EMULATED_TRANSPORTS = [
    pytest.param(f"emulated {name}", marks=[_NEEDS_TORCH] if name == "process_group" else [])
    for name in TRANSPORTS
]
"""The same behind an emulated link: as fast as none for most sizes, waited for with large ones."""


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
    inner = name.removeprefix("emulated ")
    endpoints: Sequence[Endpoint]
    endpoints = TRANSPORTS[inner](multiprocessing.get_context("spawn"), group_size)
    return connect_all(endpoints if inner == name else emulate(endpoints, EMULATED))
