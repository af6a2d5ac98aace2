"""`receive` asks for one message and lets only that one through."""

import pytest

from dmlf.errors import StepMismatch
from dmlf.protocol import Member, Message, Phase, Recv, Send, Tag, receive

TAG = Tag(0, 3, 1, Phase.PUSH, 0, 2)


def test_receive_asks_the_source_of_the_expected_tag() -> None:
    program = receive(Member(0, 4), TAG)
    assert next(program) == Recv(2, TAG)
    with pytest.raises(StopIteration) as done:
        program.send(Message(TAG, "payload"))
    assert done.value.value == "payload"


def test_receive_refuses_a_stale_message() -> None:
    program = receive(Member(0, 4), TAG)
    next(program)
    with pytest.raises(StepMismatch) as caught:
        program.send(Message(TAG._replace(step=2), "payload"))
    assert caught.value.rank == 0


def test_effects_cannot_be_altered_on_their_way() -> None:
    with pytest.raises(AttributeError):
        Send(1, TAG, b"").dst = 2  # type: ignore[misc]


def test_servers_follow_the_workers() -> None:
    assert Member(rank=4, world_size=4, num_servers=1).group_size == 5
