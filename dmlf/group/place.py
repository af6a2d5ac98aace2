"""Where this process stands among the ranks that were started with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dmlf.transport import Endpoint


@dataclass(frozen=True, slots=True)
class Place:
    """A rank of a group that dmlf itself has started.

    endpoint: None for a group of one. transport: its name. timeout_s, algorithm: as `Group` has
    them, unless `dmlf.init` is told otherwise.
    """

    rank: int
    world_size: int
    endpoint: Endpoint | None
    transport: str
    timeout_s: float
    algorithm: str
    generation: int = 0
    interrupt: Callable[[], None] | None = None


_given: list[Place] = []


def give(place: Place) -> None:
    """Tell this process its place; `dmlf.init` takes it."""
    _given[:] = [place]


def take() -> Place | None:
    """The place that this process was given, once: its links can be opened once."""
    return _given.pop() if _given else None
