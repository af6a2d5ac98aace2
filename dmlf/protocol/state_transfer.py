"""How ranks that lack the state of a run get it from those that hold it.

The state is cut into parts: what each server owns (`dmlf.protocol.ownership`), or one part, all of
it, where there are no servers. First all ranks tell each other what they hold (`agree_holdings`),
each finds the same sources in that (`newest_sources`), and then the parts move (`transfer`). Ranks
that hold the same step must hold the same bits of it: otherwise nothing moves.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from dmlf.errors import ReplicaDivergence
from dmlf.protocol.agree import agree
from dmlf.protocol.effects import Member, Send, Steps, receive
from dmlf.protocol.tags import Phase, Tag

_COUNT = struct.Struct(">I")


class Holding(NamedTuple):
    """The parts that a rank holds in full, parameters and optimizer, after `step` steps.

    parts: by part, the hash of its bits.
    """

    step: int
    parts: Mapping[int, str]


class Kind(StrEnum):
    """What of a part moves: a note about the run, its parameters, or its optimizer as well."""

    NOTE = "note"
    PARAMETERS = "parameters"
    WHOLE = "whole"


class Move(NamedTuple):
    """One part, or the note, on its way from rank `src` to rank `dst`."""

    kind: Kind
    part: int
    src: int
    dst: int


def agree_holdings(member: Member, own: Holding | None) -> Steps[dict[int, Holding]]:
    """Return what every rank of the group holds, by rank, on all of them alike.

    own: None where a rank holds no part in full. Cost: ceil(log2 n) messages sent per rank.
    """
    known = {} if own is None else {member.rank: own}

    def value() -> bytes:
        return json.dumps(sorted(known.items())).encode()

    def merge(payload: bytes) -> None:
        for rank, (step, parts) in json.loads(payload):
            known[rank] = Holding(step, {int(part): digest for part, digest in parts.items()})

    at = Tag(member.generation, 0, 0, Phase.STATE_AGREEMENT, 0, member.rank)
    yield from agree(member, range(member.group_size), at, value, merge)
    return known


def newest_sources(holdings: Mapping[int, Holding], num_parts: int) -> tuple[int, list[int]] | None:
    """The newest step at which the ranks together hold all parts, and by part the rank to ask.

    That is the lowest one. None where no step is held in full. Raises ReplicaDivergence where two
    ranks hold other bits of the same part: which of them are right is not known.
    """
    for step in sorted({holding.step for holding in holdings.values()}, reverse=True):
        found = [
            {
                rank: held.parts[part]
                for rank, held in holdings.items()
                if held.step == step and part in held.parts
            }
            for part in range(num_parts)
        ]
        if all(found):
            for digests in found:
                _check_equal(step, digests)
            return step, [min(digests) for digests in found]
    return None


def _check_equal(step: int, digests: Mapping[int, str]) -> None:
    expected = digests[min(digests)]
    for rank, digest in sorted(digests.items()):
        if digest != expected:
            detail = f"state after step {step} differs between ranks"
            raise ReplicaDivergence(rank, expected[:16], digest[:16], detail)


def moves_to_all(member: Member, sources: Sequence[int]) -> list[Move]:
    """What must move so that every rank holds what it needs; the same list on every rank.

    sources: by part, the rank that holds it. Workers need all parameters, and the optimizer where
    there are no servers; a server needs its own part.
    """
    moves = []
    for part, src in enumerate(sources):
        for dst in range(member.group_size):
            needs = dst < member.world_size or dst == member.world_size + part
            whole = dst >= member.world_size or not member.num_servers
            if needs and dst != src:
                moves.append(Move(Kind.WHOLE if whole else Kind.PARAMETERS, part, src, dst))
    return moves


def transfer(
    member: Member,
    step: int,
    moves: Sequence[Move],
    read: Callable[[Move], Sequence[Any]],
    write: Callable[[Move, int, Any], None],
) -> Steps[None]:
    """Carry out this rank's share of `moves`, which are the same on every rank.

    read: the payloads of a move. They keep their values until all ranks have left this and what
    comes next between them, an agreement. write: takes (move, number of the payload, payload),
    which is valid during the call. Cost: one message per payload and one per move.
    """
    for number, move in enumerate(moves):
        at = Tag(member.generation, step, number, Phase.STATE_TRANSFER, 0, move.src)
        if move.src == member.rank:
            payloads = read(move)
            yield Send(move.dst, at, _COUNT.pack(len(payloads)))
            for index, payload in enumerate(payloads):
                yield Send(move.dst, at._replace(round=1 + index), payload)
        elif move.dst == member.rank:
            (count,) = _COUNT.unpack((yield from receive(member, at)))
            for index in range(count):
                payload = yield from receive(member, at._replace(round=1 + index))
                write(move, index, payload)
