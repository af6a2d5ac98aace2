"""Collectives beside all-reduce, for groups that users drive themselves (see `dmlf.group`).

Payloads come from `read` and go to `write`, callables of the caller; `write` copies what it is
given, as a payload is valid until the next effect only. `at` names the call: its phase, round and
source are replaced.

Sources: binomial tree and ring as in Thakur, Rabenseifner & Gropp, "Optimization of collective
communication operations in MPICH", IJHPCA 19(1), 2005, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dmlf.errors import CollectiveMismatch
from dmlf.protocol.accumulator import Accumulator
from dmlf.protocol.agree import agree
from dmlf.protocol.effects import Member, Send, Steps, receive
from dmlf.protocol.tags import Phase, Tag

Read = Callable[[int], Any]
"""The block of a rank, to be sent."""
Write = Callable[[int, Any], None]
"""Take the block of a rank."""


def agree_on_call(member: Member, at: Tag, text: str) -> Steps[None]:
    """Return if all ranks of the group give the same `text` for their call number `at.step`.

    Cost: ceil(log2 W) short messages a rank. It is a barrier: nobody returns before all called.
    Raises CollectiveMismatch, on every rank, naming two ranks whose texts differ.
    """
    own = (text, member.rank)
    low = high = own

    def value() -> bytes:
        return "\0".join((low[0], str(low[1]), high[0], str(high[1]))).encode()

    def merge(payload: bytes) -> None:
        nonlocal low, high
        low_text, low_rank, high_text, high_rank = payload.decode().split("\0")
        low = min(low, (low_text, int(low_rank)))
        high = max(high, (high_text, int(high_rank)))

    start = at.of(Phase.CALL, 0, member.rank)
    yield from agree(member, range(member.world_size), start, value, merge)
    if low[0] != high[0]:
        other = high if low[0] == text else low
        raise CollectiveMismatch(member.rank, text, other[1], other[0], at.step)


def broadcast(member: Member, at: Tag, root: int, read: Read, write: Write) -> Steps[None]:
    """Bring the block of `root` to all ranks, along a binomial tree.

    Cost: at most ceil(log2 W) messages sent by a rank, of the whole block each.
    """
    size = member.world_size
    place = (member.rank - root) % size
    distance = 1
    while distance < size and not place & distance:
        distance <<= 1
    if place:
        parent = (place - distance + root) % size
        write(root, (yield from receive(member, at.of(Phase.BROADCAST, 0, parent))))
    distance >>= 1
    while distance:
        if place + distance < size:
            child = (place + distance + root) % size
            yield Send(child, at.of(Phase.BROADCAST, 0, member.rank), read(root))
        distance >>= 1


def all_gather(member: Member, at: Tag, read: Read, write: Write) -> Steps[None]:
    """Bring the block of every rank to every rank, around the ring.

    Cost: W - 1 messages a rank, of one block each.
    """
    rank, size = member.rank, member.world_size
    right, left = (rank + 1) % size, (rank - 1) % size
    for k in range(size - 1):
        yield Send(right, at.of(Phase.ALL_GATHER, k, rank), read((rank - k) % size))
        payload = yield from receive(member, at.of(Phase.ALL_GATHER, k, left))
        write((rank - k - 1) % size, payload)


def gather(member: Member, at: Tag, root: int, read: Read, write: Write) -> Steps[None]:
    """Bring the block of every other rank to `root`. Cost: one message a rank but the root."""
    if member.rank != root:
        yield Send(root, at.of(Phase.GATHER, 0, member.rank), read(member.rank))
        return
    for src in _others(member):
        write(src, (yield from receive(member, at.of(Phase.GATHER, 0, src))))


def scatter(member: Member, at: Tag, root: int, read: Read, write: Write) -> Steps[None]:
    """Bring to every other rank its block, which `root` holds. Cost: W - 1 messages of the root."""
    if member.rank != root:
        payload = yield from receive(member, at.of(Phase.SCATTER, 0, root))
        write(member.rank, payload)
        return
    for dst in _others(member):
        yield Send(dst, at.of(Phase.SCATTER, 0, root), read(dst))


def reduce_scatter(
    member: Member, at: Tag, bucket: Accumulator, chunks: Sequence[slice]
) -> Steps[None]:
    """Sum `bucket`; chunk number r of the sum ends finished at rank r.

    The other chunks of `bucket` are left as partial sums. Chunk c adds rank c + 1 first, and its
    own rank last. Cost: W - 1 messages a rank, of one chunk each.
    """
    rank, size = member.rank, member.world_size
    right, left = (rank + 1) % size, (rank - 1) % size
    for k in range(size - 1):
        outgoing, incoming = chunks[(rank - 1 - k) % size], chunks[(rank - 2 - k) % size]
        yield Send(right, at.of(Phase.REDUCE_SCATTER, k, rank), bucket.partial(outgoing))
        payload = yield from receive(member, at.of(Phase.REDUCE_SCATTER, k, left))
        bucket.add(incoming, payload)
    bucket.finish(chunks[rank])


def _others(member: Member) -> list[int]:
    return [rank for rank in range(member.world_size) if rank != member.rank]
