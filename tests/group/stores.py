"""A key-value store for the ranks of one process, and groups that meet at one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dmlf.group.rendezvous import Store, transport_over_store
from dmlf.transport import Transport


class DictStore:
    """What is asked of a store, and no more."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._turn = threading.Lock()

    def set(self, key: str, value: str) -> None:
        with self._turn:
            self.values[key] = value

    def get(self, key: str) -> bytes:
        with self._turn:
            return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        with self._turn:
            return all(key in self.values for key in keys)

    def delete_key(self, key: str) -> bool:
        with self._turn:
            return self.values.pop(key, None) is not None


def meet(
    store: Store | Callable[[int], Store], world_size: int, **options: Any
) -> list[Transport | Exception]:
    """What every rank of a group gets: its transport, or its error."""

    def one(rank: int) -> Transport | Exception:
        try:
            own = store(rank) if callable(store) else store
            return transport_over_store(own, rank, world_size, **options)
        except Exception as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(one, range(world_size)))
