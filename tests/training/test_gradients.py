"""Where gradients and their sums lie: what shares memory, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from dmlf.numerics import exact_sum
from dmlf.protocol import Accumulator
from dmlf.training.gradients import GradientStore
from dmlf.training.layout import make_buckets

SHAPES = {"a": (3, 2), "b": (4,), "c": (2,)}
BUCKETS = make_buckets(SHAPES, 24)  # c and b together, then a


def store(num_rows: int, one_by_one: bool, reduction: str = "exact") -> GradientStore:
    made = GradientStore(0, BUCKETS, reduction, num_rows, max(1, num_rows), one_by_one)
    generator = np.random.default_rng(num_rows)
    for row in made.rows:
        for view in row.values():
            view[...] = generator.standard_normal(view.shape)
    return made


def begun(made: GradientStore, index: int) -> Accumulator:
    accumulator = made.accumulator(index)
    scale = accumulator.scale()
    assert scale is not None
    accumulator.merge_scale(scale)
    accumulator.begin()
    return accumulator


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("num_rows", [1, 4])
def test_buckets_summed_one_after_the_other_hold_the_exact_sums(
    num_rows: int, one_by_one: bool
) -> None:
    made = store(num_rows, one_by_one)
    sums = {name: exact_sum([row[name].copy() for row in made.rows]) for name in SHAPES}
    for bucket in BUCKETS:
        begun(made, bucket.index).finish(slice(0, bucket.numel))
    for name, expected in sums.items():
        assert made.reduced[name].tobytes() == expected.tobytes()


def test_integer_sums_take_turns_in_one_vector_only_where_they_may() -> None:
    for one_by_one in (False, True):
        made = store(2, one_by_one)
        first, second = (made.accumulator(index).partial(slice(0, 1)) for index in (0, 1))
        assert np.shares_memory(first, second) == one_by_one


def test_the_sum_takes_the_place_of_the_first_row_alone() -> None:
    made = store(3, True)
    for name in SHAPES:
        shared = [np.shares_memory(made.reduced[name], row[name]) for row in made.rows]
        assert shared == [True, False, False]


def test_a_server_has_no_rows_and_room_for_every_sum() -> None:
    made = store(0, False)
    assert made.rows == []
    for bucket in BUCKETS:
        accumulator = made.accumulator(bucket.index)
        accumulator.load(slice(0, bucket.numel), np.arange(bucket.numel))
        assert accumulator.partial(slice(0, bucket.numel)).tolist() == list(range(bucket.numel))
    assert {name: view.shape for name, view in made.reduced.items()} == SHAPES


@pytest.mark.parametrize("reduction", ["float32", "exact"])
def test_a_bucket_may_be_empty(reduction: str) -> None:
    buckets = make_buckets({"a": (0, 3), "b": (6,)}, 20)
    made = GradientStore(0, buckets, reduction, 2, 2, True)
    assert [bucket.numel for bucket in buckets] == [6, 0]
    assert made.reduced["a"].shape == (0, 3)
    made.accumulator(1)


def test_float32_is_reduced_in_place() -> None:
    made = store(4, True, "float32")
    (row,) = made.rows
    assert all(np.shares_memory(row[name], made.reduced[name]) for name in SHAPES)
