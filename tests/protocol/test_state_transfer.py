"""Every rank ends up with what it needs, from whoever holds it, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from dmlf.conformance.driving import Sent, drive
from dmlf.errors import GenerationMismatch, ReplicaDivergence
from dmlf.protocol import (
    Holding,
    Kind,
    Member,
    Message,
    Move,
    agree_holdings,
    moves_to_all,
    newest_sources,
    transfer,
)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_all_ranks_learn_what_each_holds(size: int) -> None:
    own = {
        rank: Holding(10 + rank % 2, {0: f"a{rank}", 3: "b"}) for rank in range(size) if rank != 2
    }
    known: dict[int, Any] = {}

    def program(rank: int) -> Any:
        known[rank] = yield from agree_holdings(Member(rank, size), own.get(rank))

    outcome = drive({rank: program(rank) for rank in range(size)})
    assert outcome.completed(size)
    assert known == dict.fromkeys(range(size), own)


@pytest.mark.parametrize(
    ("holdings", "num_parts", "expected"),
    [
        ({}, 1, None),
        ({1: Holding(4, {0: "a"}), 2: Holding(5, {0: "a"}), 3: Holding(5, {0: "a"})}, 1, (5, [2])),
        # A server that has applied a step alone is of no use: the rest of it went down.
        ({2: Holding(5, {0: "a"}), 3: Holding(4, {1: "b"})}, 2, None),
        ({2: Holding(4, {0: "a"}), 3: Holding(4, {1: "b"})}, 2, (4, [2, 3])),
        ({0: Holding(4, {0: "a", 1: "b"}), 3: Holding(5, {1: "b"})}, 2, (4, [0, 0])),
    ],
)
def test_the_newest_step_that_is_held_in_full_wins(
    holdings: dict[int, Holding], num_parts: int, expected: object
) -> None:
    assert newest_sources(holdings, num_parts) == expected


@pytest.mark.parametrize(
    ("holdings", "rank", "other"),
    [
        ({2: Holding(5, {0: "a"}), 0: Holding(5, {0: "b"}), 1: Holding(4, {0: "c"})}, 2, "a"),
        ({0: Holding(5, {0: "a"}), 1: Holding(5, {0: "a"}), 2: Holding(5, {0: "c"})}, 2, "c"),
    ],
)
def test_other_bits_of_the_same_step_are_no_source(
    holdings: dict[int, Holding], rank: int, other: str
) -> None:
    with pytest.raises(ReplicaDivergence) as caught:
        newest_sources(holdings, 1)
    assert (caught.value.rank, caught.value.received) == (rank, other)
    assert caught.value.expected == holdings[0].parts[0]


def test_every_part_is_compared_and_no_older_step() -> None:
    one, other = Holding(5, {0: "a", 1: "b"}), Holding(5, {0: "a", 1: "c"})
    with pytest.raises(ReplicaDivergence):
        newest_sources({3: one, 4: other}, 2)
    old = {0: Holding(4, {0: "x"}), 2: Holding(4, {0: "y"})}
    assert newest_sources({**old, 3: Holding(5, {0: "a"})}, 1) == (5, [3])


def test_who_needs_what() -> None:
    ring = Member(0, 3)
    assert moves_to_all(ring, [1]) == [Move(Kind.WHOLE, 0, 1, 0), Move(Kind.WHOLE, 0, 1, 2)]
    servers = Member(0, 2, 2)
    assert moves_to_all(servers, [2, 2]) == [
        Move(Kind.PARAMETERS, 0, 2, 0),
        Move(Kind.PARAMETERS, 0, 2, 1),
        Move(Kind.PARAMETERS, 1, 2, 0),
        Move(Kind.PARAMETERS, 1, 2, 1),
        Move(Kind.WHOLE, 1, 2, 3),
    ]


def carry(moves: list[Move], size: int, tamper: Any = None) -> tuple[Any, dict[int, list[Any]]]:
    written: dict[int, list[Any]] = {rank: [] for rank in range(size)}

    def program(rank: int) -> Any:
        yield from transfer(
            Member(rank, size, generation=3),
            7,
            moves,
            lambda move: [f"{move} {index}".encode() for index in range(move.part + 1)],
            lambda move, index, payload: written[rank].append((move, index, payload)),
        )

    return drive({rank: program(rank) for rank in range(size)}, tamper=tamper), written


def test_payloads_arrive_in_order_at_their_places() -> None:
    moves = [Move(Kind.WHOLE, 2, 0, 1), Move(Kind.NOTE, 0, 1, 2), Move(Kind.WHOLE, 1, 0, 1)]
    outcome, written = carry(moves, 3)
    assert outcome.completed(3)
    assert written[0] == []
    assert written[1] == [
        (move, index, f"{move} {index}".encode())
        for move in (moves[0], moves[2])
        for index in range(move.part + 1)
    ]
    assert written[2] == [(moves[1], 0, f"{moves[1]} 0".encode())]


def test_a_state_of_another_generation_is_refused() -> None:
    def stale(index: int, sent: Sent) -> Message:
        tag = sent.message.tag
        return Message(tag._replace(generation=2) if index == 1 else tag, sent.message.payload)

    outcome, written = carry([Move(Kind.WHOLE, 0, 0, 1)], 2, stale)
    assert isinstance(outcome.errors[1], GenerationMismatch)
    assert written[1] == []
