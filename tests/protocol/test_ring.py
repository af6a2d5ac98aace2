"""The ring as it stands in the textbook."""

from collections import Counter, defaultdict

import pytest

from dmlf.conformance.buckets import float32_buckets, float32_terms
from dmlf.conformance.driving import Step, group, run_step
from dmlf.protocol import Phase
from dmlf.protocol.algorithms.ring import fold, fold_order

RING_PHASES = (Phase.REDUCE_SCATTER, Phase.ALL_GATHER)


def run_ring(world_size: int, numel: int) -> Step:
    ring = group("ring")
    return run_step(ring, float32_buckets(ring, [float32_terms(world_size, numel)]))


def test_fold_order_starts_at_the_chunk() -> None:
    assert fold_order(2, 5) == [2, 3, 4, 0, 1]
    assert fold(4, 3) == [
        (slice(0, 2), ((0, 1), 2)),
        (slice(2, 3), ((1, 2), 0)),
        (slice(3, 4), ((2, 0), 1)),
    ]


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
def test_every_rank_talks_to_its_right_neighbour_only(world_size: int) -> None:
    sent = [
        message
        for message in run_ring(world_size, 20).outcome.sent
        if message.message.tag.phase in RING_PHASES
    ]
    assert all(message.dst == (message.src + 1) % world_size for message in sent)
    assert all(message.message.tag.src == message.src for message in sent)
    rounds = Counter((m.src, m.message.tag.phase, m.message.tag.round) for m in sent)
    assert rounds == Counter(
        (rank, phase, k)
        for rank in range(world_size)
        for phase in RING_PHASES
        for k in range(world_size - 1)
    )


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
def test_every_rank_sends_the_same_optimal_number_of_bytes(world_size: int) -> None:
    numel = 12 * world_size
    sent_bytes: dict[int, int] = defaultdict(int)
    for message in run_ring(world_size, numel).outcome.sent:
        if message.message.tag.phase in RING_PHASES:
            sent_bytes[message.src] += message.payload_bytes
    optimal = 2 * (world_size - 1) * numel * 4 // world_size
    assert sent_bytes == dict.fromkeys(range(world_size), optimal)


def test_one_rank_alone_sends_nothing() -> None:
    assert run_ring(1, 20).outcome.sent == []
