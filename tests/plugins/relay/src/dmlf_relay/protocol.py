"""Algorithm `relay`: the sum goes from rank to rank, and its result back the same way."""

from __future__ import annotations

from dmlf.protocol import (
    Accumulator,
    Fold,
    Member,
    Phase,
    Send,
    Steps,
    Tag,
    all_reduce_algorithm,
    receive,
)


def fold(numel: int, world_size: int) -> list[tuple[slice, Fold]]:
    """Published order: rank 0 first, then 1, 2, ..."""
    order: Fold = 0
    for rank in range(1, world_size):
        order = (order, rank)
    return [(slice(0, numel), order)]


def traffic(numel: int, world_size: int) -> tuple[int, int, int]:
    """Every link is used once each way."""
    links = world_size - 1
    return 2 * links, links * numel, links * numel


@all_reduce_algorithm("relay", fold, traffic)
def all_reduce(member: Member, at: Tag, bucket: Accumulator) -> Steps[None]:
    """Sum `bucket` over all ranks. Cost: 2 messages a link, W - 1 rounds each way."""
    rank, last, everything = member.rank, member.world_size - 1, slice(0, bucket.numel)
    if rank > 0:
        there = at.of(Phase.REDUCE, rank - 1, rank - 1)
        bucket.add(everything, (yield from receive(member, there)))
    if rank < last:
        yield Send(rank + 1, at.of(Phase.REDUCE, rank, rank), bucket.partial(everything))
        back = at.of(Phase.BROADCAST, rank, rank + 1)
        bucket.store(everything, (yield from receive(member, back)))
    else:
        bucket.finish(everything)
    if rank > 0:
        yield Send(rank - 1, at.of(Phase.BROADCAST, rank - 1, rank), bucket.reduced(everything))
