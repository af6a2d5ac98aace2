"""Ranks do what they are told, one answer to each question, and no failure is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dmlf.errors import NonFiniteGradient, PeerLost
from dmlf.runtime import Conversation, converse, process_context

PROGRAM = "tests.runtime.programs:answer_doubled"


@contextmanager
def talking(timeout_s: float = 30.0) -> Iterator[Conversation]:
    with converse(process_context([], 1), PROGRAM, [100, 200, 300], timeout_s) as conversation:
        yield conversation


def test_answers_come_in_the_order_of_the_asked() -> None:
    with talking() as conversation:
        assert conversation.ask(1, range(3)) == [102, 202, 302]
        assert conversation.ask(5, [2, 0]) == [310, 110]
        assert conversation.end() == [2, 1, 2]


@pytest.mark.parametrize(
    ("question", "error", "detail"),
    [
        (13, NonFiniteGradient, "step 13"),
        (14, PeerLost, "rank 1 is gone: killed by SIGKILL"),
        (16, PeerLost, "rank 1 is gone: its program ended before it was told"),
    ],
)
def test_a_failing_rank_is_named(question: int, error: type[Exception], detail: str) -> None:
    with pytest.raises(error, match=detail), talking() as conversation:
        conversation.ask(question, [1])


@pytest.mark.parametrize("asked", [[0], [1]])
def test_a_rank_that_is_gone_is_named_whoever_is_asked(asked: list[int]) -> None:
    with talking() as conversation:
        with pytest.raises(NonFiniteGradient):
            conversation.ask(13, [0])
        with pytest.raises(PeerLost, match="rank 0 is gone"):
            conversation.ask(1, asked)


def test_a_silent_rank_ends_at_the_deadline() -> None:
    with (
        pytest.raises(PeerLost, match=r"rank 2 is gone: no answer within 0\.5 s"),
        talking(0.5) as conversation,
    ):
        conversation.ask(15, [2])


def test_a_rank_that_does_not_end_is_named() -> None:
    with talking(0.5) as conversation:
        with pytest.raises(PeerLost):
            conversation.ask(15, [0])
        with pytest.raises(PeerLost, match=r"rank 0 is gone: did not end within 0\.5 s"):
            conversation.end()
