"""Who dies with the lock of a queue blocks its own links alone, and is found out all the same."""

from __future__ import annotations

import time

import pytest

from dmlf.errors import PeerLost
from dmlf.runtime import process_context, run_ranks
from dmlf.transport.queue import create_endpoints

PROGRAM = "dmlf.conformance.programs:killed_with_the_locks_of_its_queues"


def test_a_rank_killed_with_the_locks_of_its_queues() -> None:
    context = process_context([], threads_per_rank=1)
    begun = time.monotonic()
    with pytest.raises(PeerLost, match="killed by SIGKILL") as caught:
        run_ranks(context, PROGRAM, create_endpoints(context, 3))
    assert caught.value.peer == "rank 1"
    assert time.monotonic() - begun < 20.0
