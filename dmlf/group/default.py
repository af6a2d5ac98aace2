"""The group of this process that scripts use without naming it: `dmlf.init()` and its kin."""

from __future__ import annotations

import atexit
from typing import Any

from dmlf.errors import ConfigError, GroupClosed
from dmlf.group import place as places
from dmlf.group.group import Group
from dmlf.runtime import NoTransport

_current: list[Group] = []


def init(*, timeout_s: float | None = None, algorithm: str | None = None) -> Group:
    """Join the ranks that this process was started with, and return their group.

    Under `dmlf.launch` and `dmlf run`: as they say. Otherwise: a group of this process alone, so
    that the same script runs serially.
    timeout_s: how long a collective waits for another rank. algorithm: of all-reduce.
    Raises ConfigError when there is a group already, and what connecting raises.
    """
    if _current:
        raise ConfigError("dmlf.init()", "a second call", "one, or dmlf.shutdown() before")
    place = places.take() or places.Place(0, 1, None, "none", 300.0, "ring")
    transport = NoTransport() if place.endpoint is None else place.endpoint.connect()
    group = Group(
        transport,
        place.rank,
        place.world_size,
        timeout_s=place.timeout_s if timeout_s is None else timeout_s,
        algorithm=place.algorithm if algorithm is None else algorithm,
        generation=place.generation,
        interrupt=place.interrupt,
    )
    if not _current:
        atexit.register(shutdown)
    _current[:] = [group]
    return group


def is_initialized() -> bool:
    """Whether this process has a group."""
    return bool(_current)


def default_group() -> Group:
    """The group that `init` has made. Raises GroupClosed without one."""
    if not _current:
        raise GroupClosed("dmlf", "dmlf.init() was not called")
    return _current[0]


def shutdown() -> None:
    """Close the group, if there is one."""
    if _current:
        _current.pop().close()


def rank() -> int:
    """This process's rank, 0 to world_size - 1."""
    return default_group().rank


def world_size() -> int:
    """How many ranks there are."""
    return default_group().world_size


def all_reduce(value: Any, op: str = "sum", *, reduction: str = "float32") -> Any:
    """`Group.all_reduce` of this process's group."""
    return default_group().all_reduce(value, op, reduction=reduction)


def broadcast(value: Any, root: int = 0) -> Any:
    """`Group.broadcast` of this process's group."""
    return default_group().broadcast(value, root)


def all_gather(value: Any) -> Any:
    """`Group.all_gather` of this process's group."""
    return default_group().all_gather(value)


def barrier() -> None:
    """`Group.barrier` of this process's group."""
    default_group().barrier()
