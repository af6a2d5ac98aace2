"""What a group of processes may be, and how long things may take in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a group may be, and how long things may take.

    workers: to begin with. spawns: members are processes that are spawned; else they come by
    themselves. grace_s: how long members may take to stop, at least: who is in a step has the time
    of that step. join_s: to join, and how long too few are waited with. stall_s: how long one may
    go without progress. backoff_s: how long to wait after a second failure in a row; doubled after
    each further one. settle_s: how long a worker that has come waits for others that are coming, so
    that the group is begun anew once for all.
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
