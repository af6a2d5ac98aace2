"""Tree all-reduce: reduce to rank 0 along a binomial tree, then broadcast back down it.

Few rounds (2 ceil(log2 W)) and whole buckets in each: good for small buckets, and short enough
to serve as the example of how an algorithm is written (see docs/protocol-authors.md).

Source: Thakur, Rabenseifner & Gropp, "Optimization of collective communication operations in
MPICH", IJHPCA 19(1), 2005, sections 3 and 4.
"""

from __future__ import annotations

from typing import Any

from dmlf.protocol.accumulator import Accumulator
from dmlf.protocol.algorithm import Fold, all_reduce_algorithm
from dmlf.protocol.effects import Member, Send, Steps, receive
from dmlf.protocol.tags import Phase, Tag


def fold(numel: int, world_size: int) -> list[tuple[slice, Fold]]:
    """Published order: with distance 1, 2, 4, ... rank r adds the partial sum of r + distance."""
    sums: list[Fold] = list(range(world_size))
    distance = 1
    while distance < world_size:
        for rank in range(0, world_size - distance, 2 * distance):
            sums[rank] = (sums[rank], sums[rank + distance])
        distance *= 2
    return [(slice(0, numel), sums[0])]


def traffic(numel: int, world_size: int) -> tuple[int, int, int]:
    """Every rank but 0 sends its partial sum up once and is sent the result once."""
    edges = world_size - 1
    return 2 * edges, edges * numel, edges * numel


@all_reduce_algorithm("tree", fold, traffic)
def all_reduce(member: Member, at: Tag, bucket: Accumulator) -> Steps[None]:
    """Sum `bucket` over all ranks. Cost: at most 2 ceil(log2 W) messages sent per rank."""
    rank, everything = member.rank, slice(0, bucket.numel)
    children, parent, round_ = [], None, 0
    while (distance := 1 << round_) < member.world_size:
        if rank % (2 * distance):
            parent = rank - distance
            break
        if rank + distance < member.world_size:
            children.append((rank + distance, round_))
        round_ += 1

    received: list[Any] = []
    for child, k in children:
        bucket.add(everything, *received)
        received = [(yield from receive(member, at.of(Phase.REDUCE, k, child)))]
    if parent is None:
        bucket.finish(everything, *received)
    else:
        bucket.add(everything, *received)
        up = at.of(Phase.REDUCE, round_, rank)
        yield Send(parent, up, bucket.partial(everything))
        down = at.of(Phase.BROADCAST, round_, parent)
        bucket.store(everything, (yield from receive(member, down)))
    for child, k in reversed(children):
        down = at.of(Phase.BROADCAST, k, rank)
        yield Send(child, down, bucket.reduced(everything))
