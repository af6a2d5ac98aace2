"""The group of this process that scripts use without naming it: `dmlf.init()` and its kin."""

from __future__ import annotations

import atexit
from typing import Any, TypeVar

from dmlf.errors import ConfigError, GroupClosed
from dmlf.group import place as places
from dmlf.group.environment import place_in_environment, place_in_torch_group
from dmlf.group.group import Group, all_reduce_named, check_timeout
from dmlf.runtime import NoTransport
from dmlf.transport import Transport
from dmlf.transport.tcp import TcpEndpoint

Value = TypeVar("Value")
_current: list[Group] = []


def init(
    *, transport: str | None = None, timeout_s: float | None = None, algorithm: str | None = None
) -> Group:
    """Join the ranks that this process was started with, and return their group.

    Under `dmlf.launch` and `dmlf run`: as they say. Under torchrun, or whatever sets RANK,
    WORLD_SIZE, MASTER_ADDR and MASTER_PORT: the ranks meet at the store of torch.distributed; in a
    process that has called `torch.distributed.init_process_group`, at that of its default group.
    Otherwise: a group of this process alone, so that the same script runs serially.

    transport: shm or tcp, for ranks that others have started; by default shm if all are on one
    host. timeout_s: how long to wait for another rank, here and in a collective; 300 by default.
    algorithm: of all-reduce; ring by default.
    Raises ConfigError when there is a group already or the environment is damaged;
    DependencyMissing without torch under torchrun; RendezvousError, naming who is missing.
    """
    if _current:
        raise ConfigError("dmlf.init()", "a second call", "one, or dmlf.shutdown() before")
    if timeout_s is not None:
        check_timeout(timeout_s)
    if algorithm is not None:
        all_reduce_named(algorithm)
    place = places.take(transport)
    if place is None:
        alone = places.alone()
        told = (transport, timeout_s or alone.timeout_s, alone.algorithm)
        place = place_in_torch_group(*told) or place_in_environment(*told) or alone
    group = Group(
        _connect(place),
        place.rank,
        place.world_size,
        timeout_s=place.timeout_s if timeout_s is None else timeout_s,
        algorithm=place.algorithm if algorithm is None else algorithm,
        generation=place.generation,
        interrupt=place.interrupt,
    )
    if place.joint is not None:
        group.joint = Group(
            place.joint.connect(),
            place.rank,
            place.world_size + place.num_servers,
            timeout_s=group.timeout_s,
            interrupt=place.interrupt,
        )
    _current[:] = [group]
    atexit.unregister(shutdown)
    atexit.register(shutdown)
    return group


def _connect(place: places.Place) -> Transport:
    """Open the links. Only where that may take long can it be interrupted."""
    if place.endpoint is None:
        return NoTransport()
    if isinstance(place.endpoint, TcpEndpoint) and place.interrupt is not None:
        return place.endpoint.connect(place.interrupt)
    return place.endpoint.connect()


def is_initialized() -> bool:
    """Whether this process has a group."""
    return bool(_current)


def default_group() -> Group:
    """The group that `init` has made. Raises GroupClosed without one."""
    if not _current:
        raise GroupClosed("default group", "dmlf.init() was not called, or dmlf.shutdown() was")
    return _current[0]


def shutdown() -> None:
    """Close the group, if there is one."""
    if _current:
        _current.pop().close()


def abandon() -> None:
    """Drop the group, if there is one, without a word to the other ranks."""
    if _current:
        _current.pop().abandon()


def rank() -> int:
    """This process's rank, 0 to world_size - 1."""
    return default_group().rank


def world_size() -> int:
    """How many ranks there are."""
    return default_group().world_size


def all_reduce(value: Value, op: str = "sum", *, reduction: str = "float32") -> Value:
    """`Group.all_reduce` of this process's group."""
    return default_group().all_reduce(value, op, reduction=reduction)


def broadcast(value: Value, root: int = 0) -> Value:
    """`Group.broadcast` of this process's group."""
    return default_group().broadcast(value, root)


def all_gather(value: Any) -> Any:
    """`Group.all_gather` of this process's group."""
    return default_group().all_gather(value)


def barrier() -> None:
    """`Group.barrier` of this process's group."""
    default_group().barrier()
