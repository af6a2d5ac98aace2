"""Invariants across ranks, as functions of what is seen of each."""

from __future__ import annotations

import pytest

from dmlf.errors import SimulationFailure
from dmlf.simulation.invariants import NO_RANK_AHEAD, View, check_commit

PUSHED = View(step=4, version=4, gradients_in=True, holds_sum=False)
READY = View(step=4, version=4, gradients_in=True, holds_sum=True)
BUSY = View(step=4, version=4, gradients_in=False, holds_sum=False)
APPLIED = View(step=4, version=5, gradients_in=True, holds_sum=True)
BEHIND = View(step=3, version=4, gradients_in=True, holds_sum=True)


@pytest.mark.parametrize(
    "views",
    [
        (PUSHED, PUSHED, READY, READY),
        (PUSHED, PUSHED, APPLIED, READY),
        (PUSHED, APPLIED, APPLIED, APPLIED),
    ],
)
def test_servers_go_ahead_when_all_hold_their_sums(views: tuple[View, ...]) -> None:
    check_commit(views, world_size=2)


@pytest.mark.parametrize(
    ("views", "detail"),
    [
        ((BUSY, PUSHED, APPLIED, READY), "rank 0's gradient is not in"),
        ((PUSHED, PUSHED, APPLIED, PUSHED), "rank 3's buckets do not hold a finite sum"),
        ((PUSHED, PUSHED, PUSHED, APPLIED), "rank 2's buckets do not hold a finite sum"),
        ((PUSHED, PUSHED, APPLIED, BEHIND), "rank 3's buckets"),
        ((PUSHED, APPLIED, APPLIED, READY), "before server 3"),
    ],
)
def test_a_server_or_worker_that_is_ahead_is_caught(views: tuple[View, ...], detail: str) -> None:
    with pytest.raises(SimulationFailure) as caught:
        check_commit(views, world_size=2)
    assert caught.value.invariant == NO_RANK_AHEAD
    assert detail in caught.value.detail
