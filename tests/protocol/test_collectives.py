"""Collectives of groups as pure protocols: any world size, any root, any order of turns."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlf.conformance.driving import Outcome, Sent, drive
from dmlf.errors import CollectiveMismatch, GroupClosed, ProtocolError
from dmlf.numerics import ElementwiseAccumulator
from dmlf.protocol import (
    Member,
    Message,
    Phase,
    Recv,
    Steps,
    Tag,
    agree_on_call,
    all_gather,
    broadcast,
    chunk_slices,
    gather,
    leave,
    reduce_scatter,
    scatter,
)

WORLDS = range(1, 9)
AT = Tag(2, 7, 0, Phase.CALL, 0, 0)
Program = Callable[[Member], Steps[Any]]

worlds = st.integers(1, 8)


def turns(world_size: int, seed: int) -> list[int]:
    """An order in which ranks move: each at least once, some more often."""
    order = list(range(world_size)) * 2
    random.Random(seed).shuffle(order)
    return [*order, *range(world_size)]


def run(world_size: int, program: Program, seed: int = 0, **options: Any) -> Outcome:
    programs = {rank: program(Member(rank, world_size, generation=2)) for rank in range(world_size)}
    return drive(programs, turns=turns(world_size, seed), **options)


def block(rank: int) -> Any:
    return np.arange(3) + 10 * rank


class Blocks:
    """What every rank has: its own block at first, then whatever comes. Written once a place."""

    def __init__(self, world_size: int, held: Callable[[int], list[int]]) -> None:
        self.of = [{src: block(src) for src in held(rank)} for rank in range(world_size)]

    def read(self, rank: int) -> Callable[[int], Any]:
        return lambda src: self.of[rank][src]

    def write(self, rank: int) -> Callable[[int, Any], None]:
        def write(src: int, payload: Any) -> None:
            assert src not in self.of[rank]
            self.of[rank][src] = payload.copy()

        return write

    def holds(self, rank: int, sources: range | list[int]) -> bool:
        return sorted(self.of[rank]) == sorted(sources) and all(
            np.array_equal(self.of[rank][src], block(src)) for src in sources
        )


@given(worlds, st.integers(0, 7), st.integers(0, 1000))
def test_broadcast(world_size: int, root: int, seed: int) -> None:
    root %= world_size
    blocks = Blocks(world_size, lambda rank: [root] if rank == root else [])
    outcome = run(
        world_size,
        lambda me: broadcast(me, AT, root, blocks.read(me.rank), blocks.write(me.rank)),
        seed,
    )
    assert outcome.completed(world_size)
    assert all(blocks.holds(rank, [root]) for rank in range(world_size))
    assert len(outcome.sent) == world_size - 1
    most = max([0, *(sum(s.src == rank for s in outcome.sent) for rank in range(world_size))])
    assert most <= (world_size - 1).bit_length()


@given(worlds, st.integers(0, 1000))
def test_all_gather(world_size: int, seed: int) -> None:
    blocks = Blocks(world_size, lambda rank: [rank])
    outcome = run(
        world_size,
        lambda me: all_gather(me, AT, blocks.read(me.rank), blocks.write(me.rank)),
        seed,
    )
    assert outcome.completed(world_size)
    assert all(blocks.holds(rank, range(world_size)) for rank in range(world_size))
    assert len(outcome.sent) == world_size * (world_size - 1)


@given(worlds, st.integers(0, 7), st.integers(0, 1000))
def test_gather_and_scatter(world_size: int, root: int, seed: int) -> None:
    root %= world_size
    blocks = Blocks(world_size, lambda rank: [rank])
    outcome = run(
        world_size,
        lambda me: gather(me, AT, root, blocks.read(me.rank), blocks.write(me.rank)),
        seed,
    )
    assert outcome.completed(world_size)
    for rank in range(world_size):
        assert blocks.holds(rank, range(world_size) if rank == root else [rank])
    spread = Blocks(world_size, lambda rank: list(range(world_size)) if rank == root else [])
    outcome = run(
        world_size,
        lambda me: scatter(me, AT, root, spread.read(me.rank), spread.write(me.rank)),
        seed,
    )
    assert outcome.completed(world_size)
    for rank in range(world_size):
        assert spread.holds(rank, range(world_size) if rank == root else [rank])


@given(worlds, st.integers(0, 20), st.integers(0, 1000))
def test_reduce_scatter(world_size: int, numel: int, seed: int) -> None:
    chunks = chunk_slices(numel, world_size)
    parts = [np.arange(numel, dtype=np.int64) ** 2 + 7 * rank for rank in range(world_size)]
    buckets = [ElementwiseAccumulator(rank, part.copy()) for rank, part in enumerate(parts)]
    outcome = run(world_size, lambda me: reduce_scatter(me, AT, buckets[me.rank], chunks), seed)
    assert outcome.completed(world_size)
    for rank, chunk in enumerate(chunks):
        np.testing.assert_array_equal(buckets[rank].flat[chunk], sum(parts)[chunk])


# Agreement on a call


@given(
    st.lists(st.sampled_from(["a", "b", "barrier()", "ünïcode"]), min_size=1, max_size=8),
    st.integers(0, 99),
)
def test_all_agree_or_all_learn_of_two_that_do_not(texts: list[str], seed: int) -> None:
    size = len(texts)
    outcome = run(size, lambda me: agree_on_call(me, AT, texts[me.rank]), seed)
    assert outcome.num_unread == 0
    if len(set(texts)) == 1:
        assert outcome.completed(size)
        return
    assert set(outcome.errors) == set(range(size))
    for rank, error in outcome.errors.items():
        assert isinstance(error, CollectiveMismatch)
        assert (error.rank, error.expected, error.call) == (rank, texts[rank], AT.step)
        assert texts[error.other_rank] == error.received != texts[rank]


@pytest.mark.parametrize("world_size", WORLDS)
def test_the_flag_and_the_bits_of_any_rank_reach_all(world_size: int) -> None:
    answers: list[tuple[bool, bytes]] = []

    def program(me: Member, flagged: int | None) -> Steps[None]:
        bits = bytes((1 << me.rank, 0))
        answers.append((yield from agree_on_call(me, AT, "text", me.rank == flagged, bits)))

    for flagged in [None, *range(world_size)]:
        answers.clear()
        assert run(world_size, partial(program, flagged=flagged)).completed(world_size)
        bits = bytes(((1 << world_size) - 1, 0))
        assert answers == [(flagged is not None, bits)] * world_size


@given(st.integers(2, 8), st.integers(0, 7), st.integers(0, 1000))
def test_a_rank_that_leaves_is_heard_of_by_all(world_size: int, gone: int, seed: int) -> None:
    gone %= world_size

    def program(me: Member) -> Steps[Any]:
        if me.rank == gone:
            return leave(me, AT, "it had enough")
        return agree_on_call(me, AT, "text")

    outcome = run(world_size, program, seed)
    assert outcome.blocked == {}
    for rank in set(range(world_size)) - {gone}:
        error = outcome.errors[rank]
        assert isinstance(error, GroupClosed)
        assert error.cause == "it had enough"


@pytest.mark.parametrize("field", ["generation", "step", "bucket", "phase", "round", "src"])
def test_a_message_that_is_not_the_next_one_is_refused(field: str) -> None:
    wrong = {"phase": Phase.PUSH}.get(field, 5)
    for program in (
        lambda me: broadcast(me, AT, 0, block, lambda _src, _payload: None),
        lambda me: all_gather(me, AT, block, lambda _src, _payload: None),
        lambda me: gather(me, AT, 0, block, lambda _src, _payload: None),
        lambda me: scatter(me, AT, 0, block, lambda _src, _payload: None),
        lambda me: agree_on_call(me, AT, "text"),
    ):

        def tamper(index: int, sent: Sent) -> Message:
            tag = sent.message.tag
            return Message(
                tag._replace(**{field: wrong}) if not index else tag, sent.message.payload
            )

        outcome = run(3, program, tamper=tamper)
        assert any(isinstance(error, ProtocolError) for error in outcome.errors.values())


# Every interleaving of small worlds

Start = tuple[dict[int, Steps[Any]], Callable[[], Any]]


class Schedule:
    """Programs moved by hand, one effect of one rank at a time."""

    def __init__(self, programs: dict[int, Steps[Any]]) -> None:
        self._programs = programs
        self._answers: dict[int, Any] = dict.fromkeys(programs)
        self._receiving: dict[int, int] = {}
        self._links: dict[tuple[int, int], list[Message]] = {}

    def movable(self) -> list[int]:
        """The ranks that have not ended and do not wait for a message."""
        return [
            rank
            for rank in self._programs
            if rank in self._answers
            or (rank in self._receiving and self._links.get((self._receiving[rank], rank)))
        ]

    def move(self, rank: int) -> None:
        if rank in self._receiving:
            self._answers[rank] = self._links[self._receiving.pop(rank), rank].pop(0)
        try:
            effect = self._programs[rank].send(self._answers.pop(rank))
        except (StopIteration, CollectiveMismatch):
            return
        if isinstance(effect, Recv):
            self._receiving[rank] = effect.src
            return
        self._answers[rank] = None
        message = Message(effect.tag, effect.payload)
        self._links.setdefault((rank, effect.dst), []).append(message)

    def check_end(self) -> None:
        assert not self._receiving, "a deadlock"
        assert not any(self._links.values()), "an unread message"


def outcomes(start: Callable[[], Start]) -> set[Any]:
    """What every possible order of effects ends in, each tried once from the beginning."""
    found: set[Any] = set()
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        order = waiting.pop()
        programs, result = start()
        schedule = Schedule(programs)
        for rank in order:
            schedule.move(rank)
        if movable := schedule.movable():
            waiting += [(*order, rank) for rank in movable]
        else:
            schedule.check_end()
            found.add(result())
    return found


def agreement(texts: list[str]) -> Start:
    answers: dict[int, str] = {}

    def program(me: Member) -> Steps[None]:
        try:
            yield from agree_on_call(me, AT, texts[me.rank])
            answers[me.rank] = "agreed"
        except CollectiveMismatch as error:
            answers[me.rank] = str(error)
            raise

    members = [Member(rank, len(texts), generation=2) for rank in range(len(texts))]
    return {me.rank: program(me) for me in members}, lambda: tuple(sorted(answers.items()))


@pytest.mark.parametrize("texts", [["a"], ["a", "a"], ["a", "b"]])
def test_every_interleaving_of_an_agreement_ends_alike(texts: list[str]) -> None:
    assert len(outcomes(lambda: agreement(texts))) == 1


@pytest.mark.parametrize("name", ["broadcast", "gather", "scatter"])
def test_every_interleaving_of_a_collective_ends_alike(name: str) -> None:
    def start() -> Start:
        blocks = Blocks(3, lambda rank: [0, 1, 2] if name == "scatter" and rank == 0 else [rank])
        if name in ("broadcast", "scatter"):
            blocks.of[1], blocks.of[2] = {}, {}
        programs = {}
        for rank in range(3):
            me, read, write = Member(rank, 3, generation=2), blocks.read(rank), blocks.write(rank)
            protocol = {"broadcast": broadcast, "gather": gather, "scatter": scatter}[name]
            programs[rank] = protocol(me, AT, 0, read, write)
        return programs, lambda: str([sorted(held) for held in blocks.of])

    assert len(outcomes(start)) == 1
