"""Small agreements among all ranks: the scale of an exact sum, the commit of a step, equal state.

Dissemination (Hensgen, Finkel & Manber, "Two algorithms for barrier synchronization", 1988): in
round k rank r sends to r + 2^k and receives from r - 2^k. After ceil(log2 n) rounds every rank
has heard, directly or not, from every other, for any n. Merging must be idempotent, because a
contribution may arrive on several ways.
"""

from __future__ import annotations

from collections.abc import Callable

from dmlf.errors import NonFiniteGradient, ProtocolError, SchemaMismatch
from dmlf.protocol.effects import Member, Send, Steps, receive
from dmlf.protocol.tags import Phase, Tag

COMMIT = b"\x00"
ABORT_NON_FINITE = b"\x01"


def agreement_messages(group_size: int) -> int:
    """Messages of one agreement, all ranks together: n * ceil(log2 n)."""
    return group_size * (group_size - 1).bit_length()


def agree(
    member: Member,
    group_size: int,
    at: Tag,
    value: Callable[[], bytes],
    merge: Callable[[bytes], None],
) -> Steps[None]:
    """Merge the values of ranks 0 .. group_size - 1 on each of them.

    `value` gives the merged value so far. Cost: ceil(log2 n) messages sent per rank. It is a
    barrier as well: no rank leaves before every rank has entered.
    """
    distance, round_ = 1, 0
    while distance < group_size:
        dst = (member.rank + distance) % group_size
        src = (member.rank - distance) % group_size
        yield Send(dst, at.of(at.phase, round_, member.rank), value())
        payload = yield from receive(member, at.of(at.phase, round_, src))
        merge(payload)
        distance, round_ = distance * 2, round_ + 1


def commit(member: Member, step: int, finite: bool) -> Steps[None]:
    """Return once every rank holds the reduced gradient of `step`, and all of it is finite.

    Raises NonFiniteGradient on all ranks if it is not finite on any.
    """
    verdict = COMMIT if finite else ABORT_NON_FINITE

    def merge(payload: bytes) -> None:
        nonlocal verdict
        verdict = max(verdict, payload)

    at = Tag(member.generation, step, 0, Phase.COMMIT, 0, member.rank)
    yield from agree(member, member.world_size, at, lambda: verdict, merge)
    if verdict != COMMIT:
        raise NonFiniteGradient(step)


def confirm_equal(
    member: Member,
    step: int,
    digest: bytes,
    subject: str,
    error: type[ProtocolError] = SchemaMismatch,
    phase: Phase = Phase.HANDSHAKE,
) -> Steps[None]:
    """Return if every rank of the group (servers too) holds the same `digest`.

    The smallest and the largest digest are merged, so all ranks reach the same verdict.
    Raises `error`, naming `subject`, on every rank otherwise.
    """
    low = high = digest

    def merge(payload: bytes) -> None:
        nonlocal low, high
        middle = len(digest)
        low, high = min(low, payload[:middle]), max(high, payload[middle:])

    at = Tag(member.generation, step, 0, phase, 0, member.rank)
    yield from agree(member, member.group_size, at, lambda: low + high, merge)
    if low != high:
        other = high if low == digest else low
        raise error(
            member.rank, digest.hex()[:16], other.hex()[:16], f"{subject} differs between ranks"
        )
