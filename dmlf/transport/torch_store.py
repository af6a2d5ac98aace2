"""How ranks come together at a store of torch.distributed, and who is missing if they do not."""

from __future__ import annotations

import importlib
import queue
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from dmlf.env import require_torch
from dmlf.errors import RendezvousError

T = TypeVar("T")
_ANSWER_S = 1.0
"""How long the store may take to say who has come, when it is too late."""


def distributed() -> Any:
    """torch.distributed, whose types lack what is used."""
    require_torch()
    return importlib.import_module("torch.distributed")


def first_line(error: Exception) -> str:
    """What torch says, without the place in its sources and its advice."""
    line = str(error).partition("\n")[0].partition(". This is typically")[0]
    return re.sub(r"^\[[^\]]*\] ", "", line)


def _within(timeout_s: float, call: Callable[[], T]) -> T:
    """Call torch's store: it waits for ever for one that is listened for and does not answer.

    Raises RuntimeError, as torch does.
    """
    answers: queue.SimpleQueue[T | RuntimeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(call())
        except RuntimeError as error:
            answers.put(error)

    threading.Thread(target=ask, name="dmlf-store", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise RuntimeError("the store does not answer") from None
    if isinstance(answer, RuntimeError):
        raise answer
    return answer


class Meeting:
    """One rank's way to a group of `size` ranks, all of it within `timeout_s`."""

    def __init__(self, rank: int, size: int, timeout_s: float) -> None:
        self._rank = rank
        self._size = size
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    def open(self, host: str, port: int, serves: bool, descriptor: int | None = None) -> Any:
        """The store, served by this rank or by another process. Raises RendezvousError."""
        make = distributed().TCPStore

        def connect() -> Any:
            return make(
                host,
                port,
                self._size,
                serves,
                self._remaining(),
                wait_for_workers=False,
                multi_tenant=descriptor is None,
                master_listen_fd=descriptor,
            )

        try:
            return _within(self._remaining().total_seconds(), connect)
        except RuntimeError as error:
            raise self._failed([0], error) from error

    def join(self, store: Any, make: Callable[[timedelta], T]) -> T:
        """What `make` makes when all ranks are here. Raises RendezvousError."""
        keys = [f"dmlf/here/{rank}" for rank in range(self._size)]
        try:
            store.set(keys[self._rank], "1")
            store.wait(keys, self._remaining())
            return make(self._remaining())
        except RuntimeError as error:
            raise self._failed(self._missing(store, keys), error) from error

    def _missing(self, store: Any, keys: list[str]) -> list[int]:
        """Who has not come; who may not have connected if all have; 0 if its store has gone."""

        def ask() -> list[int]:
            return [rank for rank, key in enumerate(keys) if not store.check([key])]

        try:
            absent = _within(_ANSWER_S, ask)
        except RuntimeError:
            return [0]
        return absent or [rank for rank in range(self._size) if rank != self._rank]

    def _failed(self, missing: list[int], error: Exception) -> RendezvousError:
        return RendezvousError(self._rank, missing, self._timeout_s, first_line(error))

    def _remaining(self) -> timedelta:
        return timedelta(seconds=max(0.001, self._deadline - time.monotonic()))
