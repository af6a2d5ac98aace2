"""How one rank times some calls of one contestant, and has their result checked."""

from __future__ import annotations

import time
from typing import Protocol

from dmlf.benchmark.collective.data import calls_per_fill


class Turn(Protocol):
    """One rank's side of one contestant."""

    def prepare(self, numel: int) -> None:
        """Use vectors of `numel` elements from now on."""

    def fill(self) -> None:
        """Put this rank's values into its vector."""

    def barrier(self) -> None:
        """Return when every rank of the contestant is here."""

    def call(self) -> None:
        """Replace the vector by its sum over all ranks, in place."""

    def check(self, calls: int) -> None:
        """Raise WrongSum unless the vector holds what `calls` calls must leave there."""

    def close(self) -> None:
        """Leave the group."""


def time_calls(turn: Turn, calls: int, world_size: int) -> float:
    """Seconds that `calls` calls take on this rank, one after the other.

    The values grow with every call, so after some calls they are put in anew; that and the check
    of the result stand outside of what is timed, and so does the first call of each such row, as in
    NVIDIA's nccl-tests: ranks come to it from where they slept, one after the other, and to caches
    that hold what others used. The final vector is a function of every call's result, so one check
    at the end of a row checks all of its calls.
    """
    seconds = 0.0
    while calls > 0:
        timed = min(calls, calls_per_fill(world_size) - 1)
        turn.fill()
        turn.barrier()
        turn.call()
        start = time.perf_counter()
        for _ in range(timed):
            turn.call()
        seconds += time.perf_counter() - start
        turn.check(1 + timed)
        calls -= timed
    return seconds
