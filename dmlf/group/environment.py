"""The place of a process that torchrun, or an engine like it, has started."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from dmlf.env import require_torch
from dmlf.errors import AddressUnavailable, ConfigError, RendezvousError
from dmlf.group.place import Place
from dmlf.group.rendezvous import Store, transport_over_store
from dmlf.transport import Transport
from dmlf.transport.tcp import Listener, listen

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class StoreEndpoint:
    """A place among ranks that meet at a store; `store` connects with it."""

    store: Callable[[], Store]
    rank: int
    world_size: int
    transport: str | None
    timeout_s: float

    def connect(self) -> Transport:
        """Meet the other ranks. Raises what `transport_over_store` does."""
        return transport_over_store(
            self.store(),
            self.rank,
            self.world_size,
            transport=self.transport,
            timeout_s=self.timeout_s,
        )


def place_in_torch_group(transport: str | None, timeout_s: float, algorithm: str) -> Place | None:
    """This process's place in torch.distributed's default group; None if there is none."""
    if "torch.distributed" not in sys.modules:
        return None
    dist: Any = importlib.import_module("torch.distributed")
    if not (dist.is_available() and dist.is_initialized()):
        return None

    def store() -> Store:
        found: Store = dist.distributed_c10d._get_default_store()
        return found

    rank, size = dist.get_rank(), dist.get_world_size()
    endpoint = StoreEndpoint(store, rank, size, transport, timeout_s)
    return Place(rank, size, endpoint, transport or "", timeout_s, algorithm)


def place_in_environment(transport: str | None, timeout_s: float, algorithm: str) -> Place | None:
    """The place that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT tell; None without these.

    Raises ConfigError, naming the variable that is missing or wrong.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    size = _number("WORLD_SIZE", 1, None)
    rank = _number("RANK", 0, size - 1)
    if size == 1:
        return Place(rank, size, None, "", timeout_s, algorithm)
    port = _number("MASTER_PORT", 1, 65535)
    host = _variable("MASTER_ADDR")

    def store() -> Store:
        return _store(host, port, rank, timeout_s)

    endpoint = StoreEndpoint(store, rank, size, transport, timeout_s)
    return Place(rank, size, endpoint, transport or "", timeout_s, algorithm)


@cache  # rank 0 keeps the store while it lives, for ranks that come later and for later groups
def _store(host: str, port: int, rank: int, timeout_s: float) -> Store:
    """The store of torch.distributed at `host`; the same as for its own groups."""
    require_torch()
    dist: Any = importlib.import_module("torch.distributed")
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    listener = _loopback_listener(host, port) if rank == 0 and not by_agent else None
    try:
        store: Store = dist.TCPStore(
            host,
            port,
            is_master=rank == 0 and not by_agent,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            multi_tenant=True,
            master_listen_fd=None if listener is None else listener.take().detach(),
        )
    except (RuntimeError, ValueError) as error:
        detail = f"the store at {host}:{port}: {str(error).partition(chr(10))[0]}"
        raise RendezvousError(rank, [0], timeout_s, detail) from error
    return store


def _loopback_listener(host: str, port: int) -> Listener | None:
    """For a store that only this host uses: torch by itself would listen to every network."""
    try:
        return listen(host, port)
    except (ConfigError, AddressUnavailable):  # beyond loopback, or torch serves the port already
        return None


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        allowed = f"a value: {', '.join(_NEEDED)} are set together, as torchrun does"
        raise ConfigError(name, value, allowed)
    return value


def _number(name: str, least: int, most: int | None) -> int:
    value = _variable(name)
    number = int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else -1
    if number < least or (most is not None and number > most):
        allowed = f"a number from {least}" + ("" if most is None else f" to {most}")
        raise ConfigError(name, value, f"{allowed}, as torchrun sets it")
    return number
