"""Collectives of a group over every transport: what they give, and what they refuse."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest

from dmlf.errors import (
    CollectiveMismatch,
    ConfigError,
    DeadlineExceeded,
    GroupClosed,
    NonFiniteGradient,
    PeerLost,
    SchemaMismatch,
)
from dmlf.group import Group
from dmlf.numerics import exact_sum
from dmlf.runtime import NoTransport
from tests.group.worlds import world

TRANSPORTS = ["queue", "shm", "tcp"]
SIZES = [1, 2, 3, 4, 5]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
FLOATS = ["f2", "f4", "f8"]
COMPLEX = ["c8", "c16"]
FOLDS = {"sum": np.add, "product": np.multiply, "min": np.minimum, "max": np.maximum}

every_transport = pytest.mark.parametrize("transport", TRANSPORTS)
every_size = pytest.mark.parametrize("world_size", SIZES)


def operand(rank: int, dtype: str, shape: tuple[int, ...] = (3, 7)) -> Any:
    """Small whole numbers that differ by rank and place, so every order gives the same."""
    numel = int(np.prod(shape))
    values = (np.arange(numel) * 5 + 3 * rank) % 4 + 1
    return (values * (1 + 1j) if dtype in COMPLEX else values).astype(dtype).reshape(shape)


def folded(op: str, world_size: int, dtype: str, shape: tuple[int, ...] = (3, 7)) -> Any:
    """What all ranks must get, computed here."""
    result = operand(0, dtype, shape)
    for rank in range(1, world_size):
        result = FOLDS[op](result, operand(rank, dtype, shape))
    return result


@every_transport
@every_size
def test_every_operation_of_every_dtype(transport: str, world_size: int) -> None:
    cases = [(op, dtype) for op in FOLDS for dtype in INTEGERS + FLOATS]
    cases += [(op, dtype) for op in ("sum", "product") for dtype in COMPLEX]

    def program(group: Group) -> list[Any]:
        return [group.all_reduce(operand(group.rank, dtype), op) for op, dtype in cases]

    for results in world(transport, world_size, program):
        for (op, dtype), result in zip(cases, results, strict=True):
            assert result.dtype == dtype
            np.testing.assert_array_equal(result, folded(op, world_size, dtype))


@every_size
@pytest.mark.parametrize("algorithm", ["ring", "tree"])
def test_the_mean_is_the_sum_divided(world_size: int, algorithm: str) -> None:
    def program(group: Group) -> list[Any]:
        return [group.all_reduce(operand(group.rank, d), "mean") for d in FLOATS + COMPLEX]

    for results in world("shm", world_size, program, algorithm=algorithm):
        for dtype, result in zip(FLOATS + COMPLEX, results, strict=True):
            expected = folded("sum", world_size, dtype) / np.dtype(dtype).type(world_size)
            np.testing.assert_array_equal(result, expected)


@every_transport
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (10_007,)])
def test_any_shape(transport: str, shape: tuple[int, ...]) -> None:
    def program(group: Group) -> tuple[Any, ...]:
        summed = group.all_reduce(operand(group.rank, "f4", shape))
        sent = group.broadcast(operand(group.rank, "i8", shape), root=2)
        return summed, sent, group.all_gather(operand(group.rank, "f8", shape))

    for summed, sent, gathered in world(transport, 3, program):
        assert gathered.shape == (3, *shape)
        np.testing.assert_array_equal(summed, folded("sum", 3, "f4", shape))
        np.testing.assert_array_equal(sent, operand(2, "i8", shape))
        for rank in range(3):
            np.testing.assert_array_equal(gathered[rank], operand(rank, "f8", shape))


def test_values_of_any_layout_are_replaced_in_place() -> None:
    def program(group: Group) -> list[Any]:
        whole = np.zeros((6, 14))
        part = whole[::2, ::2]
        part[...] = operand(group.rank, "f8")
        turned = np.asfortranarray(operand(group.rank, "f8"))
        assert group.all_reduce(part) is part
        assert group.all_reduce(turned) is turned
        assert whole.sum() == part.sum()
        return [part, turned]

    for results in world("shm", 3, program):
        for result in results:
            np.testing.assert_array_equal(result, folded("sum", 3, "f8"))


@every_size
def test_booleans_travel(world_size: int) -> None:
    def program(group: Group) -> list[Any]:
        mine = np.arange(world_size) == group.rank
        return [group.all_gather(mine), group.broadcast(mine, root=world_size - 1)]

    for gathered, sent in world("tcp", world_size, program):
        np.testing.assert_array_equal(gathered, np.eye(world_size, dtype=bool))
        np.testing.assert_array_equal(sent, np.arange(world_size) == world_size - 1)


@every_transport
def test_the_exact_sum_does_not_depend_on_order_or_world_size(transport: str) -> None:
    scales = 10.0 ** np.arange(-6, 6, 4)
    parts = np.random.default_rng(1).standard_normal((3, 1001)) * scales[:, None]
    vectors = [*parts.astype(np.float32), np.zeros(1001, np.float32), np.zeros(1001, np.float32)]
    expected = exact_sum(vectors).tobytes()
    for order in ([0, 1, 2], [2, 0, 1], [3, 2, 1, 0], [4, 1, 3, 0, 2]):

        def program(group: Group, order: list[int] = order) -> Any:
            return group.all_reduce(vectors[order[group.rank]].copy(), reduction="exact")

        for result in world(transport, len(order), program):
            assert result.tobytes() == expected


def test_the_float32_sum_is_the_published_one() -> None:
    vectors = np.random.default_rng(2).standard_normal((3, 6)).astype(np.float32)
    a, b, c = vectors
    expected = np.empty(6, np.float32)
    for chunk, order in (
        (slice(0, 2), (a, b, c)),
        (slice(2, 4), (b, c, a)),
        (slice(4, 6), (c, a, b)),
    ):
        expected[chunk] = (order[0][chunk] + order[1][chunk]) + order[2][chunk]
    for result in world("shm", 3, lambda group: group.all_reduce(vectors[group.rank].copy())):
        assert result.tobytes() == expected.tobytes()


# What is refused


@pytest.mark.parametrize(
    ("value", "op", "key"),
    [
        ([1.0], "sum", "array"),
        (1.0, "sum", "array"),
        (np.float32(1), "sum", "array"),
        (np.array(["a"]), "sum", "array"),
        (np.array([None]), "sum", "array"),
        (np.array([1], dtype=">i4"), "sum", "array"),
        (np.array([1], dtype="M8[s]"), "sum", "array"),
        (np.zeros(2, dtype=[("a", "f4")]), "sum", "array"),
        (np.zeros(2, np.longdouble), "sum", "array"),
        (np.ma.zeros(2), "sum", "array"),
        (np.broadcast_to(np.zeros(1), 3), "sum", "array"),
        (np.zeros(2, bool), "sum", "op"),
        (np.zeros(2, np.int32), "mean", "op"),
        (np.zeros(2, np.complex64), "max", "op"),
        (np.zeros(2), "average", "op"),
    ],
)
def test_a_wrong_operand_is_refused_before_anything_is_sent(value: Any, op: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Group(NoTransport(), 0, 2).all_reduce(value, op)  # whatever is sent would be an error
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


def test_other_arguments_are_checked() -> None:
    group = Group(NoTransport(), 0, 2)
    for call, key in (
        (lambda: group.broadcast(np.zeros(1), root=2), "root"),
        (lambda: group.broadcast(np.zeros(1), root=True), "root"),
        (lambda: group.all_reduce(np.zeros(1), reduction="float64"), "reduction"),
        (lambda: group.all_reduce(np.zeros(1), reduction="exact"), "reduction"),
        (lambda: group.all_reduce(np.zeros(1, "f4"), "max", reduction="exact"), "reduction"),
        (lambda: group.allocate(-1), "numel"),
        (lambda: group.allocate(2.5), "numel"),  # type: ignore[arg-type]
        (lambda: group.allocate(1, object), "array"),
        (lambda: group.allocate(1, "float31"), "array"),
        (lambda: Group(NoTransport(), 0, 1, timeout_s=0.0), "timeout_s"),
        (lambda: Group(NoTransport(), 0, 1, timeout_s=float("nan")), "timeout_s"),
        (lambda: Group(NoTransport(), 0, 1, algorithm="parameter_server"), "algorithm"),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.key == key


MISMATCHES = {
    "order": (lambda group: group.barrier(), lambda group: group.all_gather(np.zeros(2))),
    "shape": tuple(lambda group, n=n: group.all_reduce(np.zeros(n)) for n in (3, 4)),
    "layout": tuple(lambda group, s=s: group.all_reduce(np.zeros(s)) for s in ((2, 3), (3, 2))),
    "dtype": tuple(lambda group, d=d: group.all_reduce(np.zeros(3, d)) for d in ("f4", "f8")),
    "op": tuple(lambda group, op=op: group.all_reduce(np.zeros(3), op) for op in ("sum", "max")),
    "root": tuple(lambda group, root=root: group.broadcast(np.zeros(3), root) for root in (0, 1)),
    "reduction": tuple(
        lambda group, r=r: group.all_reduce(np.zeros(3, "f4"), reduction=r)
        for r in ("exact", "float32")
    ),
    "subject": tuple(lambda group, s=s: group.confirm_equal(s, bytes(32)) for s in "ab"),
}


@every_transport
@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_ranks_that_differ_all_learn_who_and_how(
    transport: str, world_size: int, mismatch: str
) -> None:
    usual, other = MISMATCHES[mismatch]
    odd = world_size // 2

    def program(group: Group) -> Any:
        with pytest.raises(CollectiveMismatch) as caught:
            (other if group.rank == odd else usual)(group)
        total = group.all_reduce(np.ones(4))  # and the group can be used on
        return caught.value, total

    for rank, (error, total) in enumerate(world(transport, world_size, program)):
        assert (error.rank, error.call) == (rank, 0)
        assert (error.other_rank == odd) == (rank != odd)
        assert error.expected != error.received
        np.testing.assert_array_equal(total, np.full(4, world_size))


def test_different_algorithms_are_a_mismatch() -> None:
    def program(group: Group) -> Any:
        with pytest.raises(CollectiveMismatch):
            group.all_reduce(np.zeros(3))

    groups = world(
        "queue", 3, lambda group: setattr(group, "algorithm", _algorithm(group)) or program(group)
    )
    assert groups == [None] * 3


def _algorithm(group: Group) -> Any:
    from dmlf.group.group import all_reduce_named

    return all_reduce_named("tree" if group.rank == 1 else "ring")


def test_digests_that_differ_are_a_schema_mismatch() -> None:
    def program(group: Group) -> None:
        group.confirm_equal("weights", bytes(32))
        with pytest.raises(SchemaMismatch):
            group.confirm_equal("weights", bytes([group.rank == 2] * 32))

    assert world("shm", 3, program)[0] is None


@every_transport
def test_infinity_in_an_exact_sum_is_found_by_all(transport: str) -> None:
    def program(group: Group) -> Any:
        value = np.ones(3, np.float32)
        if group.rank == 1:
            value[1] = np.inf
        with pytest.raises(NonFiniteGradient):
            group.all_reduce(value, reduction="exact")
        return group.all_reduce(np.ones(2, np.float32), reduction="exact")

    for result in world(transport, 3, program):
        np.testing.assert_array_equal(result, [3.0, 3.0])


# Ranks that leave


@pytest.mark.parametrize("transport", ["shm", "tcp"])  # threads share the ends of queues
@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("how", ["closes", "abandons"])
def test_a_rank_that_has_left_is_noticed_at_once(transport: str, world_size: int, how: str) -> None:
    gone = world_size - 1

    def program(group: Group) -> Any:
        group.barrier()
        if group.rank == gone:
            group.close() if how == "closes" else group.abandon()
            return None
        group.all_reduce(np.ones(5))

    errors = world(transport, world_size, program)
    for error in errors[:gone]:
        assert not isinstance(error, DeadlineExceeded)
        assert isinstance(error, Exception)
    if transport != "tcp":  # which may see the connection close first
        for error in errors[:gone]:
            assert isinstance(error, GroupClosed)
            assert f"rank {gone} " in str(error.cause)


@every_transport
def test_a_rank_that_never_calls_is_named_within_the_timeout(transport: str) -> None:
    done = threading.Event()

    def program(group: Group) -> Any:
        if group.rank == 3:
            assert done.wait(TIMEOUT_S)
            return None
        try:
            group.all_reduce(np.ones(5))
        finally:
            if group.rank == 0:
                done.set()

    *errors, _ = world(transport, 4, program, timeout_s=0.5)
    for error in errors:
        assert isinstance(error, DeadlineExceeded | GroupClosed), error
        assert "rank 3" in str(error), error


TIMEOUT_S = 30.0


def test_a_timeout_that_is_changed_holds_from_the_next_call() -> None:
    def program(group: Group) -> None:
        group.barrier()
        group.timeout_s = 0.2
        if group.rank == 0:
            group.barrier()

    error, _ = world("shm", 2, program)
    assert isinstance(error, DeadlineExceeded)
    assert error.timeout_s == 0.2


@every_transport
def test_an_error_in_the_middle_breaks_the_group_for_all(transport: str) -> None:
    def program(group: Group) -> list[Any]:
        bucket = np.ones(3)
        errors: list[Exception] = []

        def fails(at: Any) -> Any:
            if group.rank == 1:
                raise ValueError("in the middle")
            all_reduce = group.algorithm.all_reduce
            assert all_reduce is not None
            from dmlf.numerics import ElementwiseAccumulator

            return all_reduce(group.member, at, ElementwiseAccumulator(group.rank, bucket))

        for _ in range(2):
            try:
                group.call("something", fails)
            except Exception as error:
                errors.append(error)
        return errors

    for rank, (first, second) in enumerate(world(transport, 3, program)):
        if rank == 1:
            assert isinstance(first, ValueError)
        else:
            assert isinstance(first, GroupClosed), first
        assert isinstance(second, GroupClosed)
        assert second.cause


def test_a_closed_group_refuses_every_call() -> None:
    group = Group(NoTransport(), 0, 1)
    group.close()
    group.close()
    for call in (
        group.barrier,
        lambda: group.all_reduce(np.zeros(1)),
        lambda: group.broadcast(np.zeros(1)),
        lambda: group.all_gather(np.zeros(1)),
        lambda: group.allocate(3),
    ):
        with pytest.raises(GroupClosed) as caught:
            call()
        assert "closed" in str(caught.value)


def test_a_group_ends_with_its_block() -> None:
    with Group(NoTransport(), 0, 1) as group:
        group.barrier()
    with pytest.raises(GroupClosed):
        group.barrier()


def test_a_call_within_a_call_is_refused() -> None:
    group = Group(NoTransport(), 0, 1)

    def nested(_at: Any) -> Any:
        group.barrier()
        yield

    with pytest.raises(GroupClosed) as caught:
        group.call("outer", nested)
    assert "within" in str(caught.value)


def test_a_forked_process_has_no_place_in_the_group() -> None:
    group = Group(NoTransport(), 0, 1)
    child = os.fork()
    if not child:
        status = 1
        try:
            group.close()
            group = Group(NoTransport(), 0, 1)
            group._process = -1
            group.barrier()
        except GroupClosed:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    group.barrier()
    group.close()


# Threads and registered memory


def test_threads_of_a_rank_take_turns() -> None:
    def program(group: Group) -> list[float]:
        results: list[float] = []

        def many() -> None:
            for _ in range(50):
                results.append(group.all_reduce(np.ones(3))[1])

        threads = [threading.Thread(target=many) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        return results

    for results in world("shm", 2, program):
        assert results == [2.0] * 150


@every_transport
@pytest.mark.parametrize("who", ["all", "one"])
@pytest.mark.parametrize("call", ["all_reduce", "broadcast", "all_gather"])
def test_registered_vectors_are_not_written_while_somebody_reads(
    transport: str, who: str, call: str
) -> None:
    """Every rank overwrites its vector as soon as a call returns; a slow reader would see it."""

    def program(group: Group) -> None:
        registers = who == "all" or group.rank == 0
        vector = group.allocate(30_000, "f8") if registers else np.zeros(30_000)
        for turn in range(20):
            vector[...] = operand(group.rank + turn, "f8", (30_000,))
            wanted = [operand(rank + turn, "f8", (30_000,)) for rank in range(group.world_size)]
            if call == "all_reduce":
                group.all_reduce(vector)
                np.testing.assert_array_equal(vector, sum(wanted))
            elif call == "broadcast":
                group.broadcast(vector, root=0)
                np.testing.assert_array_equal(vector, wanted[0])
            else:
                np.testing.assert_array_equal(group.all_gather(vector), wanted)
            vector[...] = -1.0

    assert world(transport, 3, program) == [None] * 3


def test_links_are_freed_although_those_with_the_servers_fail_to_close() -> None:
    class Lost(NoTransport):
        def close(self) -> None:
            raise PeerLost("rank 1", "killed")

    class Closing(NoTransport):
        closed = False

        def close(self) -> None:
            self.closed = True

    own = Closing()
    group = Group(own, 0, 1)
    group.joint = Group(Lost(), 0, 1)
    with pytest.raises(PeerLost, match="killed"):
        group.close()
    assert own.closed
    group.close()  # nothing is left to close
