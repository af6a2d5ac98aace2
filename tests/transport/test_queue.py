"""A peer that stops with a message, or with the lock of a queue, holds nobody for good."""

from __future__ import annotations

import multiprocessing
import os
import struct
import time
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest

from dmlf.errors import DeadlineExceeded, PeerLost
from dmlf.protocol import Message, Phase, Tag
from dmlf.runtime import process_context, run_ranks
from dmlf.transport import queue
from dmlf.transport.queue import QueueTransport, create_endpoints

PROGRAM = "dmlf.conformance.programs:killed_with_the_locks_of_its_queues"
TIMEOUT_S = 30.0
TAG = Tag(0, 1, 2, Phase.PUSH, 3, 0)
LARGE = 1 << 20
"""Numbers; far more than a pipe holds."""


@pytest.fixture
def pair() -> Iterator[tuple[QueueTransport, QueueTransport]]:
    first, second = (
        endpoint.connect() for endpoint in create_endpoints(multiprocessing.get_context("spawn"), 2)
    )
    yield first, second
    first.abandon()
    second.abandon()


def test_a_rank_killed_with_the_locks_of_its_queues() -> None:
    context = process_context([], threads_per_rank=1)
    begun = time.monotonic()
    with pytest.raises(PeerLost, match="killed by SIGKILL") as caught:
        run_ranks(context, PROGRAM, create_endpoints(context, 3))
    assert caught.value.peer == "rank 1"
    assert time.monotonic() - begun < 20.0


@pytest.mark.parametrize("num_bytes", [1, 4, 5, 60, -1])
def test_a_message_in_part_ends_at_the_deadline_and_is_kept(
    pair: tuple[QueueTransport, QueueTransport], num_bytes: int
) -> None:
    first, second = pair
    link: Any = first._outgoing[1]
    link._sem.acquire()  # as `put` does
    pipe = link._writer.fileno()
    content = ForkingPickler.dumps(queue.encode(Message(TAG, np.arange(100))))
    stream = struct.pack("!i", len(content)) + bytes(content)
    os.write(pipe, stream[:num_bytes])
    for _ in range(2):
        with pytest.raises(DeadlineExceeded) as caught:
            second.recv(0, 0.02)
        assert (caught.value.rank, caught.value.peer) == (1, 0)
    os.write(pipe, stream[num_bytes:])
    received = second.recv(0, TIMEOUT_S)
    assert received.tag == TAG
    np.testing.assert_array_equal(received.payload, np.arange(100))


def test_what_a_closed_peer_has_sent_is_read_before_it_is_lost(
    pair: tuple[QueueTransport, QueueTransport],
) -> None:
    first, second = pair
    first.send(1, Message(TAG, b"last words"))
    first.close()
    assert second.recv(0, TIMEOUT_S).payload == b"last words"
    with pytest.raises(PeerLost) as caught:
        second.recv(0, TIMEOUT_S)
    assert caught.value.peer == "rank 0"


def test_close_gives_up_on_a_peer_that_does_not_read(
    pair: tuple[QueueTransport, QueueTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "CLOSE_S", 0.05)
    first, second = pair
    first.send(1, Message(TAG, np.arange(LARGE)))
    with pytest.raises(DeadlineExceeded) as caught:
        first.close()
    assert (caught.value.rank, caught.value.peer, caught.value.timeout_s) == (0, 1, 0.05)
    second.recv(0, TIMEOUT_S)  # lets the feeder thread go
