"""What happens to the members of a group, and what is to be done about it: plain values.

A *member* is one process. It is a worker, or the server of a number; both keep to what they are.
What a member says comes with the generation that it is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dmlf.errors import DmlfError


@dataclass(frozen=True, slots=True)
class Arrived:
    """A member has come by itself, and asks to be taken in."""

    member: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """The group shall have so many workers more."""

    workers: int


@dataclass(frozen=True, slots=True)
class Joined:
    """A member is ready to be started."""

    member: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """A worker wants to leave."""

    member: int


@dataclass(frozen=True, slots=True)
class Died:
    """A member's process is gone. detail: how."""

    member: int
    detail: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A member has stopped by itself; it waits for what comes next."""

    member: int
    generation: int
    error: DmlfError


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A member has stopped because it was told to."""

    member: int
    generation: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """A member trains: `step` steps are done, and their state comes from `source`."""

    member: int
    generation: int
    step: int
    source: str


@dataclass(frozen=True, slots=True)
class Progressed:
    """A member has got on, or looks after its waiting in good order; `step` steps are done."""

    member: int
    generation: int
    step: int


@dataclass(frozen=True, slots=True)
class Done:
    """A member has come to the end of the run."""

    member: int
    generation: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time."""


Event = (
    Arrived
    | Wanted
    | Joined
    | Leaving
    | Died
    | Failed
    | Acknowledged
    | Resumed
    | Progressed
    | Done
    | Tick
)


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for a worker, or for the server of a number.

    rank: the place that it is meant to take.
    """

    member: int
    server: int | None
    rank: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Tell a member that has arrived what it is to be; see `Spawn`."""

    member: int
    server: int | None
    rank: int


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a generation of `world_size` workers, and servers after them.

    ranks: by member. trust_memory: whether what they hold may be used.
    """

    generation: int
    world_size: int
    ranks: Mapping[int, int]
    trust_memory: bool


@dataclass(frozen=True, slots=True)
class Abort:
    """Tell members to stop what they do in `generation`."""

    generation: int
    members: Sequence[int]


@dataclass(frozen=True, slots=True)
class Kill:
    """End a member's process, whatever it does."""

    member: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Let a member end in peace. refused: why it was not taken in; None: it has left."""

    member: int
    refused: str | None


@dataclass(frozen=True, slots=True)
class Finish:
    """All are done."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The run is over; every process is to be ended."""

    error: DmlfError


Action = Spawn | Admit | Start | Abort | Kill | Dismiss | Finish | Fail
