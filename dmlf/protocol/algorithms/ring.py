"""Ring all-reduce: reduce-scatter, then all-gather, each in world_size - 1 rounds.

Every rank talks to its two neighbours only: it sends to rank + 1 and receives from rank - 1.
The bucket is cut into world_size chunks. In round k of the reduce-scatter rank r sends chunk
r - k, to which it has added what came in the round before, so that chunk c starts at rank c, passes
every rank once, and is complete at rank c - 1. The all-gather passes the complete chunks on.

Source: Patarasuk & Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations", JPDC 69(2), 2009, section 3.
"""

from __future__ import annotations

from typing import Any

from dmlf.protocol.accumulator import Accumulator
from dmlf.protocol.algorithm import Fold, all_reduce_algorithm
from dmlf.protocol.chunks import chunk_slices
from dmlf.protocol.effects import Member, Send, Steps, receive
from dmlf.protocol.tags import Phase, Tag


def fold_order(chunk: int, world_size: int) -> list[int]:
    """The ranks in the order in which chunk number `chunk` adds them."""
    return [(chunk + offset) % world_size for offset in range(world_size)]


def fold(numel: int, world_size: int) -> list[tuple[slice, Fold]]:
    """Published order of additions: chunk c starts with rank c and adds one rank per round."""
    plan = []
    for index, chunk in enumerate(chunk_slices(numel, world_size)):
        first, *others = fold_order(index, world_size)
        order: Fold = first
        for rank in others:
            order = (order, rank)
        plan.append((chunk, order))
    return plan


def traffic(numel: int, world_size: int) -> tuple[int, int, int]:
    """2 (W - 1) messages a rank; every element travels W - 1 hops in each of both phases."""
    hops = world_size - 1
    return 2 * hops * world_size, hops * numel, hops * numel


@all_reduce_algorithm("ring", fold, traffic)
def all_reduce(member: Member, at: Tag, bucket: Accumulator) -> Steps[None]:
    """Sum `bucket` over all ranks.

    Cost: 2 (W - 1) messages and 2 (W - 1) / W * numel elements sent per rank.
    On error the bucket is undefined and the step must not commit.
    """
    rank, size = member.rank, member.world_size
    right, left = (rank + 1) % size, (rank - 1) % size
    chunks = chunk_slices(bucket.numel, size)

    received: list[Any] = []
    for k in range(size - 1):
        outgoing = chunks[(rank - k) % size]
        bucket.add(outgoing, *received)
        yield Send(right, at.of(Phase.REDUCE_SCATTER, k, rank), bucket.partial(outgoing))
        received = [(yield from receive(member, at.of(Phase.REDUCE_SCATTER, k, left)))]
    bucket.finish(chunks[(rank + 1) % size], *received)

    for k in range(size - 1):
        outgoing = chunks[(rank + 1 - k) % size]
        incoming = chunks[(rank - k) % size]
        yield Send(right, at.of(Phase.ALL_GATHER, k, rank), bucket.reduced(outgoing))
        payload = yield from receive(member, at.of(Phase.ALL_GATHER, k, left))
        bucket.store(incoming, payload)
