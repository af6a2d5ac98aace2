"""Groups whose ranks are threads of one process, over any transport."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dmlf.conformance.groups import group as transports_of
from dmlf.group import Group

TIMEOUT_S = 30.0


def world(
    transport: str, world_size: int, program: Callable[[Group], Any], **options: Any
) -> list[Any]:
    """Run `program(group)` as every rank; the results by rank, errors among them."""
    transports = transports_of(transport, world_size)
    groups = [
        Group(each, rank, world_size, **{"timeout_s": TIMEOUT_S, **options})
        for rank, each in enumerate(transports)
    ]

    def run(group: Group) -> Any:
        try:
            return program(group)
        except Exception as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        try:
            return list(pool.map(run, groups))
        finally:
            list(pool.map(Group.close, groups))
