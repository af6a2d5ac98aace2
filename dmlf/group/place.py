"""Where this process stands among the ranks that were started with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dmlf.errors import ConfigError
from dmlf.runtime.seat import Seat
from dmlf.transport import Endpoint


@dataclass(frozen=True, slots=True)
class Place:
    """A rank of a group that dmlf itself has started.

    endpoint: None for a group of one. transport: its name. timeout_s, algorithm: as `Group` has
    them, unless `dmlf.init` is told otherwise.
    num_servers: parameter servers, whose ranks follow those of the group; joint: the links among
    all of them together, None without servers.
    """

    rank: int
    world_size: int
    endpoint: Endpoint | None
    transport: str
    timeout_s: float
    algorithm: str
    generation: int = 0
    interrupt: Callable[[], None] | None = None
    num_servers: int = 0
    joint: Endpoint | None = None

    @property
    def is_server(self) -> bool:
        """Whether this process serves parameters."""
        return self.rank >= self.world_size


_ALONE = Place(0, 1, None, "", 300.0, "ring")
_given: list[Place] = []
_seat: list[tuple[Seat, Callable[[], Place]]] = []
_alone: list[Place] = [_ALONE]


def give(place: Place) -> None:
    """Tell this process its place; `dmlf.init` takes it."""
    _given[:] = [place]
    _alone[:] = [replace(_ALONE, timeout_s=place.timeout_s, algorithm=place.algorithm)]


def give_seat(seat: Seat, timeout_s: float, algorithm: str, ask: Callable[[], Place]) -> None:
    """Tell this process that places come with generations; `ask` waits for the next one."""
    _seat[:] = [(seat, ask)]
    _alone[:] = [replace(_ALONE, timeout_s=timeout_s, algorithm=algorithm)]


def seat() -> Seat | None:
    """What this process asks for generations; None where ranks stay as they were started."""
    return _seat[0][0] if _seat else None


def take(transport: str | None) -> Place | None:
    """The place that this process was given, once: its links can be opened once.

    Where places come with generations, this waits for the next one. Raises ConfigError when
    `transport` is another one than the ranks were started with.
    """
    if _seat and not _given and not _seat[0][0].is_finished:
        give(_seat[0][1]())
    if not _given:
        return None
    if transport not in (None, _given[0].transport):
        allowed = f"{_given[0].transport}, as its ranks were started"
        raise ConfigError("transport", transport, allowed)
    return _given.pop()


def is_given() -> bool:
    """Whether this process is a rank that dmlf itself has started."""
    return _alone[0] is not _ALONE


def alone() -> Place:
    """The place of a process that nobody has told one, with the settings of the last one given."""
    return _alone[0]
