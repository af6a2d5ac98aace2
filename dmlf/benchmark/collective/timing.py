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
    """Seconds that `calls` calls take on this rank, those of a barrier before them left out.

    The values grow with every call, so after some calls they are put in anew; that, the barrier
    and the check of the result stand outside of what is timed. The final vector is a function of
    every call's result, so one check at the end of a row of calls checks all of them.
    """
    seconds = 0.0
    while calls > 0:
        row = min(calls, calls_per_fill(world_size))
        turn.fill()
        turn.barrier()
        start = time.perf_counter()
        for _ in range(row):
            turn.call()
        seconds += time.perf_counter() - start
        turn.check(row)
        calls -= row
    return seconds
