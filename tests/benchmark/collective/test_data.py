"""The checks of a result: they accept what is right, and see a single bit that is not."""

from __future__ import annotations

import numpy as np
import pytest

from dmlf.benchmark.collective.data import (
    FoldReference,
    Values,
    bitwise_problem,
    bounded_problem,
    calls_per_fill,
)
from dmlf.benchmark.collective.openmpi_program import OpenMpiTurn
from dmlf.errors import WrongSum
from dmlf.numerics import fold_sum
from dmlf.protocol import registry

NUMEL = 1003
BUCKET = 400


@pytest.mark.parametrize("world_size", [2, 3, 4, 5, 8, 64])
def test_values_differ_by_rank_and_index_and_stay_in_range(world_size: int) -> None:
    values = Values(7, world_size, NUMEL)
    vectors = [values.of(rank, NUMEL) for rank in range(world_size)]
    assert len({vector.tobytes() for vector in vectors}) == world_size
    assert all(len(np.unique(vector)) > NUMEL // 2 for vector in vectors)
    total = np.sum(vectors, axis=0) * np.float32(world_size) ** (calls_per_fill(world_size) - 1)
    assert np.isfinite(np.dot(total, total))
    assert np.dot(vectors[0], vectors[0]) > np.finfo(np.float32).tiny
    assert np.array_equal(Values(7, world_size, NUMEL + 9).of(1, NUMEL), vectors[1])
    assert not np.array_equal(Values(8, world_size, NUMEL).of(1, NUMEL), vectors[1])


@pytest.mark.parametrize("name", registry())
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_reference_is_the_published_fold_call_after_call(name: str, world_size: int) -> None:
    algorithm, values = registry()[name], Values(0, world_size, NUMEL)
    reference = FoldReference(values, BUCKET)
    vectors = [values.of(rank, NUMEL).copy() for rank in range(world_size)]
    for calls in (1, 2, 3):
        summed = [
            fold_sum(algorithm.fold(stop - start, world_size), [v[start:stop] for v in vectors])
            for start, stop in ((0, 400), (400, 800), (800, 1003))
        ]
        vectors = [np.concatenate(summed)] * world_size
        assert bitwise_problem(vectors[0], reference.after(algorithm, NUMEL, calls)) is None
    shorter = reference.after(algorithm, 10, 1)
    assert shorter.shape == (10,)


@pytest.mark.parametrize("calls", [1, 5])
def test_a_flipped_lowest_bit_is_seen(calls: int) -> None:
    values = Values(0, 3, NUMEL)
    expected = FoldReference(values, BUCKET).after(registry()["ring"], NUMEL, calls)
    got = expected.copy()
    got.view(np.uint32)[17] ^= 1
    assert "element 17 of 1003" in str(bitwise_problem(got, expected))


@pytest.mark.parametrize("calls", [1, 4, 42])
def test_every_order_of_additions_is_within_the_bound(calls: int) -> None:
    values = Values(0, 4, NUMEL)
    for name in registry():
        got = FoldReference(values, BUCKET).after(registry()[name], NUMEL, calls)
        assert bounded_problem(values, got, calls) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: v.__setitem__(900, np.nan),
        lambda v: v.__setitem__(900, v[900] * np.float32(1.0001)),
        lambda v: v.__setitem__(900, 0.0),
        lambda v: v.__setitem__(slice(900, 902), v[900:902][::-1].copy()),
    ],
)
def test_what_is_no_sum_is_beyond_the_bound(damage: object) -> None:
    values = Values(0, 4, NUMEL)
    got = FoldReference(values, BUCKET).after(registry()["ring"], NUMEL, 2).copy()
    damage(got)  # type: ignore[operator]
    assert "element 900 of 1003" in str(bounded_problem(values, got, 2))


def test_one_call_less_is_seen() -> None:
    values = Values(0, 2, NUMEL)
    got = FoldReference(values, BUCKET).after(registry()["ring"], NUMEL, 3)
    assert bounded_problem(values, got, 4) is not None
    assert bounded_problem(values, got, 3) is None


class IdleMpi:
    """An MPI whose all-reduce does nothing."""

    IN_PLACE = SUM = None

    class COMM_WORLD:  # noqa: N801
        @staticmethod
        def Allreduce(*arguments: object, **options: object) -> None: ...  # noqa: N802


def test_a_peer_that_does_not_add_is_found_out() -> None:
    turn = OpenMpiTurn(IdleMpi, 1, Values(0, 2, NUMEL), NUMEL)
    turn.prepare(100)
    turn.fill()
    turn.call()
    with pytest.raises(WrongSum) as caught:
        turn.check(1)
    assert (caught.value.contestant, caught.value.rank) == ("openmpi", 1)


def test_gloo_is_held_against_the_sum(tmp_path) -> None:
    pytest.importorskip("torch", reason="runs torch.distributed")
    from dmlf.benchmark.collective.gloo import GlooTurn

    turn = GlooTurn(0, str(tmp_path / "rendezvous"), Values(0, 1, NUMEL), NUMEL, 30.0)
    try:
        turn.prepare(100)
        turn.fill()
        turn.barrier()
        turn.call()
        turn.check(1)
        turn._vector()[3] *= 1.5
        with pytest.raises(WrongSum) as caught:
            turn.check(1)
    finally:
        turn.close()
    assert "element 3 of 100" in caught.value.detail
