"""What became of a group of ranks: their results, or the cause of the first failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from dmlf.errors import DeadlineExceeded, GroupClosed, NoAnswer, PeerLost, RendezvousError

CAUSE_S = 1.0
"""How long to look for what is behind a rank's loss of its peer."""

NextOutcomes = Callable[[float | None], Iterable[tuple[int, Any]]]
"""(timeout in s, or None) -> (rank, result or exception) of ranks that ended; each rank once."""


def collect(ranks: range, next_outcomes: NextOutcomes) -> list[Any]:
    """Wait for one result of each of `ranks`; return them, or raise the cause of a failure."""
    results: dict[int, Any] = {}
    while len(results) < len(ranks):
        for rank, outcome in next_outcomes(None):
            if isinstance(outcome, Exception):
                raise _cause(rank, outcome, len(ranks) - len(results) - 1, next_outcomes)
            results[rank] = outcome
    return [results[rank] for rank in ranks]


def _cause(rank: int, failure: Exception, remaining: int, next_outcomes: NextOutcomes) -> Exception:
    """What made `rank` fail: it may miss a peer before it is seen how that one ended."""
    deadline = time.monotonic() + CAUSE_S
    while is_echo(rank, failure) and remaining:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0.0:
            break
        for other, outcome in next_outcomes(remaining_s):
            remaining -= 1
            if isinstance(outcome, Exception) and not is_echo(other, outcome):
                return outcome
    return failure


def is_echo(rank: int, failure: Exception) -> bool:
    """Whether `rank` only reports that it could not reach another one."""
    if isinstance(failure, PeerLost):
        return failure.peer != f"rank {rank}"
    return isinstance(failure, DeadlineExceeded | GroupClosed | NoAnswer | RendezvousError)
