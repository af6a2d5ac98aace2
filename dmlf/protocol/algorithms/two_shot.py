"""Two-shot all-reduce: every rank adds up one chunk of all ranks, then hands the sum to all.

Two rounds at any world size, in which every rank talks to every other. It suits ranks that read
each other's memory: a chunk of all ranks is added up in one pass. On a network the ring, which
sends to one neighbour only, does not have many senders meet at one port.

The bucket is cut into world_size chunks, of which rank r owns chunk r and begins with its own part,
as in the ring. So both give the same bits, for as many messages and bytes.

Source: the pairwise exchange of Thakur, Rabenseifner & Gropp, "Optimization of collective
communication operations in MPICH", IJHPCA 19(1), 2005, section 4.2; the name is that of
`two_shot_all_reduce_` in torch's symmetric memory.
"""

from __future__ import annotations

from dmlf.protocol.accumulator import Accumulator
from dmlf.protocol.algorithm import all_reduce_algorithm
from dmlf.protocol.algorithms import ring
from dmlf.protocol.chunks import chunk_slices
from dmlf.protocol.effects import Member, Send, Steps, receive
from dmlf.protocol.tags import Phase, Tag


@all_reduce_algorithm("two_shot", ring.fold, ring.traffic)
def all_reduce(member: Member, at: Tag, bucket: Accumulator) -> Steps[None]:
    """Sum `bucket` over all ranks.

    Cost: 2 (W - 1) messages and 2 (W - 1) / W * numel elements sent per rank, in two rounds.
    On error the bucket is undefined and the step must not commit.
    """
    rank, size = member.rank, member.world_size
    chunks = chunk_slices(bucket.numel, size)
    mine = chunks[rank]
    _, *others = ring.fold_order(rank, size)

    for owner in others:
        chunk = bucket.partial(chunks[owner])
        yield Send(owner, at.of(Phase.REDUCE_SCATTER, 0, rank), chunk)
    parts = []
    for src in others:
        parts.append((yield from receive(member, at.of(Phase.REDUCE_SCATTER, 0, src))))
    bucket.finish(mine, *parts)

    for dst in others:
        yield Send(dst, at.of(Phase.ALL_GATHER, 0, rank), bucket.reduced(mine))
    for owner in others:
        payload = yield from receive(member, at.of(Phase.ALL_GATHER, 0, owner))
        bucket.store(chunks[owner], payload)
