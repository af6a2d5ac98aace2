"""Small agreements among ranks: the scale of an exact sum, the commit of a step, equal state.

Dissemination (Hensgen, Finkel & Manber, "Two algorithms for barrier synchronization", 1988): in
round k rank r sends to r + 2^k and receives from r - 2^k. After ceil(log2 n) rounds every rank
has heard, directly or not, from every other, for any n. Merging must be idempotent, because a
contribution may arrive on several ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dmlf.errors import NonFiniteGradient, ProtocolError, SchemaMismatch
from dmlf.protocol.effects import Member, Send, Steps, receive
from dmlf.protocol.tags import Phase, Tag

COMMIT = b"\x00"
ABORT_NON_FINITE = b"\x01"
_DIGEST_BYTES = 32
_SMALLEST, _LARGEST = b"\x00" * _DIGEST_BYTES, b"\xff" * _DIGEST_BYTES


def agreement_messages(group_size: int) -> int:
    """Messages of one agreement, all ranks together: n * ceil(log2 n)."""
    return group_size * (group_size - 1).bit_length()


def agree(
    member: Member,
    ranks: range,
    at: Tag,
    value: Callable[[], bytes],
    merge: Callable[[bytes], None],
) -> Steps[None]:
    """Merge the values of all `ranks` (consecutive, `member` among them) on each of them.

    `value` gives the merged value so far. Cost: ceil(log2 n) messages sent per rank. It is a
    barrier as well: no rank leaves before every rank has entered.
    """
    place, distance, round_ = member.rank - ranks.start, 1, 0
    while distance < len(ranks):
        dst = ranks[(place + distance) % len(ranks)]
        src = ranks[(place - distance) % len(ranks)]
        yield Send(dst, at.of(at.phase, round_, member.rank), value())
        payload = yield from receive(member, at.of(at.phase, round_, src))
        merge(payload)
        distance, round_ = distance * 2, round_ + 1


def agree_verdict(member: Member, ranks: range, step: int, finite: bool) -> Steps[bytes]:
    """Return COMMIT once each of `ranks` holds its part of `step`, if all of it is finite.

    Otherwise ABORT_NON_FINITE, on all of them alike.
    """
    verdict = COMMIT if finite else ABORT_NON_FINITE

    def merge(payload: bytes) -> None:
        nonlocal verdict
        verdict = max(verdict, payload)

    at = Tag(member.generation, step, 0, Phase.COMMIT, 0, member.rank)
    yield from agree(member, ranks, at, lambda: verdict, merge)
    return verdict


def commit(member: Member, step: int, finite: bool) -> Steps[None]:
    """Return once every worker holds the reduced gradient of `step`, and all of it is finite.

    Raises NonFiniteGradient on all workers if it is not finite on any.
    """
    workers = range(member.world_size)
    if (yield from agree_verdict(member, workers, step, finite)) != COMMIT:
        raise NonFiniteGradient(step)


def confirm_equal(
    member: Member,
    step: int,
    digests: Sequence[bytes | None],
    subject: str,
    error: type[ProtocolError] = SchemaMismatch,
    phase: Phase = Phase.HANDSHAKE,
) -> Steps[None]:
    """Return if all ranks of the group (servers too) that hold a part hold the same of it.

    digests: SHA-256 of each part, as many on every rank; None of a part that is not held here.
    The smallest and the largest digest of a part are merged, so all ranks reach the same verdict.
    Raises `error`, naming `subject`, on every rank otherwise.
    """
    low = [_LARGEST if digest is None else digest for digest in digests]
    high = [_SMALLEST if digest is None else digest for digest in digests]

    def merge(payload: bytes) -> None:
        others = [payload[i : i + _DIGEST_BYTES] for i in range(0, len(payload), _DIGEST_BYTES)]
        low[:] = map(min, low, others[: len(low)])
        high[:] = map(max, high, others[len(low) :])

    at = Tag(member.generation, step, 0, phase, 0, member.rank)
    everyone = range(member.group_size)
    yield from agree(member, everyone, at, lambda: b"".join((*low, *high)), merge)
    for own, least, most in zip(digests, low, high, strict=True):
        if least != most:
            mine = most if own is None else own
            other = most if least == mine else least
            raise error(
                member.rank, mine.hex()[:16], other.hex()[:16], f"{subject} differs between ranks"
            )
