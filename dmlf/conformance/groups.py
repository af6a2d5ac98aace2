"""Groups of transports within one process."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dmlf.transport import TRANSPORTS, Endpoint, Transport
from dmlf.transport.emulated import EmulatedLink, emulate

_NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch.distributed"
)
FAILED = pytest.StashKey[bool]()
"""Whether a test has failed, for its fixtures."""

EMULATED = EmulatedLink(latency_s=1e-4, bandwidth_bits_per_s=2e10)
"""As fast as none for most sizes, waited for with large ones."""


def transports(names: Iterable[str]) -> list[Any]:
    """For `pytest.mark.parametrize`: the names, skipped where they cannot run."""
    return [_param(name, name) for name in names]


def links(names: Iterable[str]) -> list[Any]:
    """The same, each as it is and behind an emulated link; for `group`."""
    return transports(names) + [_param(f"emulated {name}", name) for name in names]


def _param(value: str, transport: str) -> Any:
    return pytest.param(value, marks=[_NEEDS_TORCH] if transport == "process_group" else [])


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
