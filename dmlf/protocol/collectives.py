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

from dmlf.errors import CollectiveMismatch, GroupClosed
from dmlf.protocol.accumulator import Accumulator
from dmlf.protocol.agree import agree
from dmlf.protocol.effects import Member, Send, Steps, receive
from dmlf.protocol.tags import Message, Phase, Tag

Read = Callable[[int], Any]
"""The block of a rank, to be sent."""
Write = Callable[[int, Any], None]
"""Take the block of a rank."""
_LEFT = 255
"""In place of the flags: the sender has left, and says why."""


def agree_on_call(
    member: Member, at: Tag, text: str, flag: bool = False, bits: bytes = b""
) -> Steps[tuple[bool, bytes]]:
    """Return if all ranks of the group give the same `text` for their call number `at.step`.

    The result is whether any of them gives `flag`, and the bits that are set in the `bits` of any;
    ranks that give the same text give as many.
    Cost: ceil(log2 W) short messages a rank. It is a barrier: nobody returns before all called.
    Raises CollectiveMismatch, on every rank, naming two ranks whose texts differ; GroupClosed
    when a rank has left instead (see `leave`).
    """
    low = high = (text, member.rank)
    flags = int(flag)
    left = ""
    merged, size = int.from_bytes(bits, "little"), len(bits)
    start_of_text = 5 + size
    same = f"{text}\0".encode()

    def value() -> bytes:
        if left:
            return bytes((_LEFT,)) + left.encode()
        head = bytes((flags,)) + size.to_bytes(4, "little") + merged.to_bytes(size, "little")
        if low is high:
            return b"%b%b%d" % (head, same, member.rank)
        return head + "\0".join((low[0], str(low[1]), high[0], str(high[1]))).encode()

    def merge(payload: bytes) -> None:
        nonlocal low, high, flags, left, merged
        if payload[0] == _LEFT:
            left = payload[1:].decode()
            return
        flags |= payload[0]
        end = 5 + int.from_bytes(payload[1:5], "little")
        if end == start_of_text:
            merged |= int.from_bytes(payload[5:end], "little")
        if (
            low is high
            and payload.startswith(same, end)
            and payload.find(b"\0", end + len(same)) < 0
        ):
            return
        parts = payload[end:].decode().split("\0")
        low = min(low, (parts[0], int(parts[1])))
        high = max(high, (parts[-2], int(parts[-1])))

    start = at.of(Phase.CALL, 0, member.rank)
    yield from agree(member, range(member.world_size), start, value, merge)
    if left:
        raise GroupClosed(text, left)
    if low[0] != high[0]:
        other = high if low[0] == text else low
        raise CollectiveMismatch(member.rank, text, other[1], other[0], at.step)
    return bool(flags), merged.to_bytes(size, "little")


def leave(member: Member, at: Tag, reason: str, first_round: int = 0) -> Steps[None]:
    """Take no part in call number `at.step` or any later one, and have the others told `reason`.

    first_round: how many messages of `agree_on_call` have been sent. Waits for nobody.
    """
    payload = bytes((_LEFT,)) + reason.encode()
    for round_ in range(first_round, (member.world_size - 1).bit_length()):
        dst = (member.rank + (1 << round_)) % member.world_size
        yield Send(dst, at.of(Phase.CALL, round_, member.rank), payload)


def why_left(message: Message) -> str | None:
    """The reason that `message` brings, if it comes of `leave`."""
    payload = message.payload
    left = message.tag.phase is Phase.CALL and payload[0] == _LEFT
    return payload[1:].decode() if left else None


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


def exchange(member: Member, at: Tag, round_: int, read: Read, write: Write) -> Steps[None]:
    """Bring a block of every rank to every rank, which takes them in the order of ranks.

    `read(dst)` is the block for a rank, `write(src, payload)` takes one, the own one in its turn.
    round_: 0, and counted on where a call exchanges more than once.
    Cost: W - 1 messages a rank, sent before any is waited for.
    Source: the pairwise exchange of Thakur, Rabenseifner & Gropp, section 4.2.
    """
    rank, size = member.rank, member.world_size
    for distance in range(1, size):
        dst = (rank + distance) % size
        yield Send(dst, at.of(Phase.EXCHANGE, round_, rank), read(dst))
    for src in range(size):
        if src == rank:
            write(rank, read(rank))
        else:
            write(src, (yield from receive(member, at.of(Phase.EXCHANGE, round_, src))))


def reduce_scatter(
    member: Member, at: Tag, bucket: Accumulator, chunks: Sequence[slice]
) -> Steps[None]:
    """Sum `bucket`; chunk number r of the sum ends finished at rank r.

    The other chunks of `bucket` are left as partial sums. Chunk c adds rank c + 1 first, and its
    own rank last. Cost: W - 1 messages a rank, of one chunk each.
    """
    rank, size = member.rank, member.world_size
    right, left = (rank + 1) % size, (rank - 1) % size
    received: list[Any] = []
    for k in range(size - 1):
        outgoing = chunks[(rank - 1 - k) % size]
        bucket.add(outgoing, *received)
        yield Send(right, at.of(Phase.REDUCE_SCATTER, k, rank), bucket.partial(outgoing))
        received = [(yield from receive(member, at.of(Phase.REDUCE_SCATTER, k, left)))]
    bucket.finish(chunks[rank], *received)


def _others(member: Member) -> list[int]:
    return [rank for rank in range(member.world_size) if rank != member.rank]
