"""The pairwise exchange as a pure protocol: any world size, any order of turns."""

from __future__ import annotations

import random

import pytest

from dmlf.conformance.driving import drive
from dmlf.protocol import Member, Phase, Tag, exchange

AT = Tag(2, 7, 0, Phase.CALL, 0, 0)


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("seed", range(3))
def test_every_rank_takes_the_blocks_for_it_in_the_order_of_ranks(
    world_size: int, seed: int
) -> None:
    taken: list[list[tuple[int, bytes]]] = [[] for _ in range(world_size)]

    def program(rank: int):  # type: ignore[no-untyped-def]
        def write(src: int, payload: bytes) -> None:
            taken[rank].append((src, bytes(payload)))

        return exchange(Member(rank, world_size, generation=2), AT, 0, bytes_for(rank), write)

    def bytes_for(rank: int):  # type: ignore[no-untyped-def]
        return lambda dst: bytes([rank, dst])

    turns = [*range(world_size)] * 2
    random.Random(seed).shuffle(turns)
    outcome = drive(
        {rank: program(rank) for rank in range(world_size)}, turns=[*turns, *range(world_size)]
    )
    assert outcome.completed(world_size)
    assert len(outcome.sent) == world_size * (world_size - 1)
    for rank in range(world_size):
        assert taken[rank] == [(src, bytes([src, rank])) for src in range(world_size)]
