"""The parameter server: one owner of the parameters, pushes added in rank order."""

import numpy as np
import pytest

from dmlf.numerics import fold_sum
from dmlf.protocol import Message, Phase, registry
from dmlf.protocol.agree import COMMIT
from dmlf.protocol.algorithms.parameter_server import fold
from tests.protocol.buckets import float32_buckets, float32_terms, mock_buckets
from tests.protocol.driving import Sent, run_step

SERVER = registry()["parameter_server"]


def test_fold_is_the_order_of_ranks() -> None:
    assert fold(5, 4) == [(slice(0, 5), (((0, 1), 2), 3))]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_only_the_server_applies_and_it_applies_once(world_size: int) -> None:
    run = run_step(SERVER, mock_buckets(SERVER, world_size, [7, 3]), step=9)
    assert run.applied == [(world_size, 9)]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_workers_talk_to_the_server_only(world_size: int) -> None:
    run = run_step(SERVER, mock_buckets(SERVER, world_size, [7, 3]))
    for message in run.outcome.sent:
        assert (message.src == world_size) != (message.dst == world_size)


def test_pushes_that_arrive_late_are_still_added_in_rank_order() -> None:
    terms = float32_terms(4, 101)
    run = run_step(SERVER, float32_buckets(SERVER, [terms]), turns=[3, 3, 3, 2, 2, 2, 1, 1, 0, 4])
    expected = fold_sum(fold(101, 4), terms)
    for parameters in run.parameters:
        assert parameters[0].tobytes() == expected.tobytes()


def test_workers_receive_parameters_and_not_gradients() -> None:
    """What the server reads after applying is what every worker writes."""
    terms = float32_terms(2, 7)
    marked = np.full(7, 5.5, dtype=np.float32)

    def tamper(index: int, sent: Sent) -> Message:
        tag = sent.message.tag
        return Message(tag, marked) if tag.phase is Phase.PULL else sent.message

    run = run_step(SERVER, float32_buckets(SERVER, [terms]), tamper=tamper)
    assert all(run.parameters[worker][0] is marked for worker in (0, 1))


def test_a_verdict_that_is_not_commit_leaves_the_parameters_alone() -> None:
    def tamper(index: int, sent: Sent) -> Message:
        if sent.message.tag.phase is Phase.COMMIT and sent.dst == 1:
            assert sent.message.payload == COMMIT
            return Message(sent.message.tag, b"\x01")
        return sent.message

    run = run_step(SERVER, mock_buckets(SERVER, 3, [7]), tamper=tamper)
    assert set(run.outcome.errors) == {1}
    assert run.parameters[1] == {}
