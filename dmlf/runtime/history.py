"""What a group of processes may be, and what has become of it: plain records."""

from __future__ import annotations

from dataclasses import dataclass, field

from dmlf.errors import DmlfError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a group may be, and how long things may take.

    workers: to begin with. spawns: members are processes that are spawned; else they come by
    themselves. grace_s: how long members may take to stop. join_s: to join, and how long too few
    are waited with. stall_s: how long one may go without progress. backoff_s: how long to wait
    after a second failure in a row; doubled after each further one. settle_s: how long a worker
    that has come waits for others that are coming, so that the group is begun anew once for all.
    """

    workers: int
    servers: int = 0
    min_workers: int
    max_workers: int
    max_restarts: int = 0
    spawns: bool = True
    grace_s: float = 10.0
    join_s: float = 120.0
    stall_s: float = 60.0
    backoff_s: float = 0.25
    settle_s: float = 5.0


@dataclass(slots=True)
class Incident:
    """A failure that ended a generation. Moments in seconds of the machine's clock.

    rank: whose death or failure was the cause. lost: ranks whose process was gone. replaced: those
    of them that another process has taken. stopped_s: when everybody had stopped or was gone.
    resumed_s: when the group trained again, after `step` steps, with the state of `source`.
    """

    generation: int
    rank: int
    cause: DmlfError
    detected_s: float
    stopped_s: float | None = None
    resumed_s: float | None = None
    step: int | None = None
    source: str | None = None
    lost: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Generation:
    """One Start: who it was begun with, and who came and went since the last one.

    Members go by number, `workers` in the order of their ranks. ended_s: when the last one was
    ended; None for the first. resumed_s: when this one trained, after `step` steps, with the state
    of `source`.
    """

    number: int
    workers: tuple[int, ...]
    joined: tuple[int, ...]
    left: tuple[int, ...]
    lost: tuple[int, ...]
    ended_s: float | None
    resumed_s: float | None = None
    step: int | None = None
    source: str | None = None
