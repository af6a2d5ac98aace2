"""The parameter server: one owner of each bucket, pushes added in rank order."""

import numpy as np
import pytest

from dmlf.conformance.buckets import exact_buckets, float32_buckets, float32_terms, mock_buckets
from dmlf.conformance.driving import Sent, group, run_step
from dmlf.errors import NonFiniteGradient
from dmlf.numerics import fold_sum
from dmlf.protocol import Message, Phase, owned_buckets, owner
from dmlf.protocol.agree import COMMIT
from dmlf.protocol.algorithms.parameter_server import fold

SERVER = group("parameter_server")

every_server_count = pytest.mark.parametrize("num_servers", [1, 2, 3])


def test_fold_is_the_order_of_ranks() -> None:
    assert fold(5, 4) == [(slice(0, 5), (((0, 1), 2), 3))]


@every_server_count
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_every_server_applies_once_and_nobody_else(world_size: int, num_servers: int) -> None:
    servers = group("parameter_server", num_servers)
    run = run_step(servers, mock_buckets(servers, world_size, [7, 3, 5]), step=9)
    assert sorted(run.applied) == [(world_size + server, 9) for server in range(num_servers)]


@every_server_count
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_gradients_and_parameters_travel_between_workers_and_owners_only(
    world_size: int, num_servers: int
) -> None:
    servers = group("parameter_server", num_servers)
    run = run_step(servers, mock_buckets(servers, world_size, [7, 3, 5]))
    owners = [world_size + bucket % num_servers for bucket in range(3)]
    for message in run.outcome.sent:
        tag, ends = message.message.tag, (message.src, message.dst)
        if tag.phase in (Phase.PUSH, Phase.PULL):
            assert ends[tag.phase is Phase.PUSH] == owners[tag.bucket]
            assert ends[tag.phase is Phase.PULL] < world_size
        else:
            assert tag.phase is Phase.COMMIT
            assert message.src >= world_size


@pytest.mark.parametrize("num_servers", range(1, 8))
@pytest.mark.parametrize("num_buckets", [0, 1, 2, 5, 7])
def test_every_bucket_has_one_owner(num_buckets: int, num_servers: int) -> None:
    owned = [owned_buckets(s, num_buckets, num_servers) for s in range(num_servers)]
    assert sorted(bucket for buckets in owned for bucket in buckets) == list(range(num_buckets))
    assert all(owner(b, num_servers) == s for s, buckets in enumerate(owned) for b in buckets)
    assert max(map(len, owned)) - min(map(len, owned)) <= 1


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_server_that_owns_nothing_takes_part_in_the_verdict(world_size: int) -> None:
    servers = group("parameter_server", 3)
    run = run_step(servers, mock_buckets(servers, world_size, [7]), step=9)
    assert run.outcome.completed(world_size + 3)
    assert len(run.applied) == 3
    told = {m.dst for m in run.outcome.sent if m.src == world_size + 2}
    assert told >= set(range(world_size))


@pytest.mark.parametrize("reduction", ["float32", "exact"])
@pytest.mark.parametrize("num_servers", [2, 3, 4])
@pytest.mark.parametrize("bad_bucket", [0, 1, 2])
def test_what_is_not_finite_on_one_server_stops_all(
    bad_bucket: int, num_servers: int, reduction: str
) -> None:
    """In any order of moves: slow servers, slow workers."""
    servers, size = group("parameter_server", num_servers), 2 + num_servers
    for first in range(size):
        terms = [float32_terms(2, numel) for numel in (7, 3, 5)]
        terms[bad_bucket][1, 2] = np.nan
        buckets = (
            float32_buckets(servers, terms)
            if reduction == "float32"
            else exact_buckets(servers, 2, terms)
        )
        turns = [first] * 50 + [rank for rank in range(size) if rank != first]
        run = run_step(servers, buckets, step=4, turns=turns)  # type: ignore[arg-type]
        assert run.applied == []
        assert not any(run.parameters)
        assert set(run.outcome.errors) == set(range(size))
        assert all(type(error) is NonFiniteGradient for error in run.outcome.errors.values())
        assert run.outcome.num_unread == 0


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_no_server_applies_before_all_have_all_pushes(silent: int) -> None:
    """While one worker's push to one server is missing, nothing is applied anywhere."""
    servers = group("parameter_server", 3)

    def tamper(index: int, sent: Sent) -> Message:
        tag = sent.message.tag
        missing = tag.phase is Phase.PUSH and (sent.src, tag.bucket) == (1, silent)
        return Message(tag._replace(step=8), sent.message.payload) if missing else sent.message

    run = run_step(servers, mock_buckets(servers, 2, [7, 3, 5]), step=9, tamper=tamper)
    assert set(run.outcome.errors) == {2 + silent}
    assert run.applied == []
    assert not any(run.parameters)


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
