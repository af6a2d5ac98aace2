"""The two-shot all-reduce: two rounds between all pairs, and the ring's bits."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from dmlf.conformance.buckets import float32_buckets, float32_terms
from dmlf.conformance.driving import Step, group, run_step
from dmlf.protocol import Phase

PHASES = (Phase.REDUCE_SCATTER, Phase.ALL_GATHER)


def run(algorithm: str, world_size: int, numel: int) -> Step:
    made = group(algorithm)
    return run_step(made, float32_buckets(made, [float32_terms(world_size, numel)]))


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
def test_every_pair_exchanges_one_message_in_each_of_two_rounds(world_size: int) -> None:
    sent = run("two_shot", world_size, 20).outcome.sent
    pairs = Counter(
        (m.src, m.dst, m.message.tag.phase, m.message.tag.round)
        for m in sent
        if m.message.tag.phase in PHASES
    )
    ranks = range(world_size)
    assert pairs == Counter(
        (src, dst, phase, 0) for src in ranks for dst in ranks if src != dst for phase in PHASES
    )


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
def test_every_rank_sends_the_same_optimal_number_of_bytes(world_size: int) -> None:
    numel = 12 * world_size
    sent_bytes: dict[int, int] = defaultdict(int)
    for message in run("two_shot", world_size, numel).outcome.sent:
        if message.message.tag.phase in PHASES:
            sent_bytes[message.src] += message.payload_bytes
    optimal = 2 * (world_size - 1) * numel * 4 // world_size
    assert sent_bytes == dict.fromkeys(range(world_size), optimal)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("numel", [1, 7, 1000])
def test_the_bits_are_the_ring_s(world_size: int, numel: int) -> None:
    two_shot, ring = (run(name, world_size, numel).parameters for name in ("two_shot", "ring"))
    for rank in range(world_size):
        assert np.array_equal(two_shot[rank][0].view(np.uint32), ring[rank][0].view(np.uint32))


def test_one_rank_alone_sends_nothing() -> None:
    assert run("two_shot", 1, 20).outcome.sent == []
