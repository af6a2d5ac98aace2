"""What one rank's accumulator accepts, refuses and reports, called by hand."""

import numpy as np
import pytest

from dmlf.errors import SchemaMismatch
from dmlf.numerics import (
    ElementwiseAccumulator,
    ExactAccumulator,
    Float32Accumulator,
    all_finite,
    exact_sum,
)
from tests.numerics.truth import bits

ALL = slice(0, 4)


def float32_accumulator() -> Float32Accumulator:
    return Float32Accumulator(3, np.arange(4, dtype=np.float32))


def exact_accumulator(shards: np.ndarray | None = None) -> ExactAccumulator:
    if shards is None:
        shards = np.arange(8, dtype=np.float32).reshape(2, 4)
    flat = np.empty(4, dtype=np.float32)
    return ExactAccumulator(3, shards, [slice(0, 1), slice(1, 4)], len(shards), flat)


@pytest.mark.parametrize("method", ["load", "add", "finish", "store"])
@pytest.mark.parametrize(
    ("payload", "received"),
    [
        (np.zeros(4, dtype=np.float16), "float16[4]"),
        (np.zeros(3, dtype=np.float32), "float32[3]"),
        (np.zeros((4, 1), dtype=np.float32), "float32[4, 1]"),
        (b"\x00" * 16, "bytes"),
    ],
)
def test_float32_refuses_another_schema(method: str, payload: object, received: str) -> None:
    accumulator = float32_accumulator()
    with pytest.raises(SchemaMismatch) as caught:
        getattr(accumulator, method)(ALL, payload)
    error = caught.value
    assert (error.rank, error.expected, error.received) == (3, "float32[4]", received)
    assert accumulator.flat.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("method", "dtype", "expected"),
    [
        ("load", np.float32, "int64[4]"),
        ("add", np.float32, "int64[4]"),
        ("finish", np.float32, "int64[4]"),
        ("store", np.int64, "float32[4]"),
    ],
)
def test_exact_refuses_the_payload_of_the_other_half(
    method: str, dtype: type, expected: str
) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        getattr(exact_accumulator(), method)(ALL, np.zeros(4, dtype=dtype))
    assert (caught.value.rank, caught.value.expected) == (3, expected)


@pytest.mark.parametrize("payload", [b"", b"\x00" * 3, b"\x00" * 6, [0, 0]])
def test_exact_refuses_a_scale_of_other_groups(payload: object) -> None:
    with pytest.raises(SchemaMismatch):
        exact_accumulator().merge_scale(payload)  # type: ignore[arg-type]


def test_float32_has_no_scale() -> None:
    accumulator = float32_accumulator()
    assert accumulator.scale() is None
    with pytest.raises(SchemaMismatch):
        accumulator.merge_scale(b"\x00\x00")


def test_the_scale_is_the_largest_exponent_of_each_group_little_endian() -> None:
    accumulator = exact_accumulator(np.array([[0, -8, 1, 2], [0, 1, 2, 3]], dtype=np.float32))
    assert accumulator.scale() == np.array([-32768, 4], dtype="<i2").tobytes()
    accumulator.merge_scale(np.array([7, 3], dtype="<i2").tobytes())
    assert accumulator.scale() == np.array([7, 4], dtype="<i2").tobytes()


def test_chunks_that_cut_through_groups_round_like_the_whole() -> None:
    shards = np.random.default_rng(2).standard_normal((2, 4)).astype(np.float32)
    shards[:, 0] *= 2.0**40
    accumulator = exact_accumulator(shards)
    accumulator.begin()
    for chunk in (slice(0, 2), slice(2, 2), slice(2, 3), slice(3, 4)):
        accumulator.finish(chunk)
    expected = [*bits(exact_sum(list(shards[:, :1]))), *bits(exact_sum(list(shards[:, 1:])))]
    assert bits(accumulator.flat) == expected


def test_finishing_a_chunk_writes_that_chunk_only() -> None:
    accumulator = exact_accumulator(np.ones((1, 4), dtype=np.float32))
    accumulator.flat[...] = 9.0
    accumulator.begin()
    accumulator.finish(slice(2, 3))
    assert accumulator.flat.tolist() == [9, 9, 1, 9]


def test_a_group_that_is_not_finite_leaves_its_neighbour_alone() -> None:
    accumulator = exact_accumulator(np.array([[np.nan, 1, 2, 3]], dtype=np.float32))
    accumulator.begin()
    accumulator.finish(ALL)
    assert np.isnan(accumulator.flat[0])
    assert accumulator.flat[1:].tolist() == [1, 2, 3]
    assert not accumulator.is_finite()


def test_a_verdict_that_came_with_the_scale_is_kept() -> None:
    """A rank that only ever stores finite values still knows that another saw NaN."""
    accumulator = exact_accumulator()
    accumulator.merge_scale(np.array([32767, 0], dtype="<i2").tobytes())
    accumulator.store(ALL, np.zeros(4, dtype=np.float32))
    assert not accumulator.is_finite()


def test_partial_sums_and_final_values_are_views() -> None:
    """The cost that the algorithms state has no copies in it."""
    float32, exact = float32_accumulator(), exact_accumulator()
    part = slice(1, 3)
    assert np.shares_memory(float32.partial(part), float32.flat)
    assert np.shares_memory(float32.reduced(part), float32.flat)
    assert np.shares_memory(exact.reduced(part), exact.flat)
    assert np.shares_memory(exact.partial(part), exact.partial(ALL))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_all_finite_sees_every_place(value: float, place: int) -> None:
    values = np.ones(3, dtype=np.float32)
    assert all_finite(values)
    values[place] = value
    assert not all_finite(values)


def test_nothing_is_finite() -> None:
    assert all_finite(np.zeros(0, dtype=np.float32))


@pytest.mark.parametrize("finish", [ALL, slice(0, 2), slice(2, 4)])
@pytest.mark.parametrize("value", [np.nan, np.inf, np.finfo(np.float32).max])
def test_float32_vouches_for_the_sums_it_finished(value: float, finish: slice) -> None:
    """Also the largest float32, whose square overflows: 3 + max is finite, max + max is not."""
    accumulator = float32_accumulator()
    payload = np.array([0, 0, 0, value], dtype=np.float32)
    accumulator.add(ALL, payload)
    if value == payload[3] and np.isfinite(value):
        accumulator.finish(finish)
        assert accumulator.is_finite()
        accumulator.add(ALL, payload)
    accumulator.finish(finish)
    assert accumulator.is_finite() == (finish == slice(0, 2))


def test_float32_looks_again_at_what_was_replaced_after_it_was_added() -> None:
    for replace in ("load", "store"):
        accumulator = float32_accumulator()
        accumulator.add(ALL, np.ones(4, dtype=np.float32))
        getattr(accumulator, replace)(ALL, np.array([0, np.nan, 0, 0], dtype=np.float32))
        accumulator.finish(ALL)
        assert not accumulator.is_finite()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("numel", [0, 1, 131_072, 300_001])
def test_payloads_loaded_together_have_the_bits_of_one_after_the_other(
    count: int, numel: int
) -> None:
    everything = slice(0, numel)
    generator = np.random.default_rng(count)
    floats = [generator.standard_normal(numel).astype(np.float32) for _ in range(count)]
    integers = [generator.integers(-(2**62), 2**62, numel) for _ in range(count)]
    shards, divided = np.empty((0, numel), dtype=np.float32), np.empty(numel, dtype=np.float32)

    def accumulators() -> list[Float32Accumulator | ExactAccumulator | ElementwiseAccumulator]:
        stale = np.full(numel, np.nan, dtype=np.float32)
        exact = ExactAccumulator(0, shards, [everything], 1, divided)
        return [
            Float32Accumulator(0, stale.copy()),
            ElementwiseAccumulator(0, stale.copy(), "max"),
            exact,
        ]

    for together, apart in zip(accumulators(), accumulators(), strict=True):
        payloads = integers if isinstance(together, ExactAccumulator) else floats
        kept = [payload.copy() for payload in payloads]
        together.load(everything, *payloads)
        apart.load(everything, payloads[0])
        for payload in payloads[1:]:
            apart.add(everything, payload)
        assert together.partial(everything).tobytes() == apart.partial(everything).tobytes()
        assert all(map(np.array_equal, payloads, kept))
        if isinstance(together, Float32Accumulator):
            together.finish(everything)
            assert together.is_finite()


@pytest.mark.parametrize("divisor", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("numel", [0, 1, 131_072, 300_001])
def test_what_is_added_while_finishing_has_the_bits_of_what_was_added_before(
    divisor: int, count: int, numel: int
) -> None:
    """Of a middle chunk, which ends within a block and cuts a group; the rest stays as it is."""
    chunk = slice(numel // 5, numel - numel // 7)
    generator = np.random.default_rng(count)
    shards = generator.standard_normal((2, numel)).astype(np.float32)
    shards[:, : numel // 2] *= np.float32(2.0**40)
    groups = [slice(0, numel // 2), slice(numel // 2, numel)]
    length = chunk.stop - chunk.start
    floats = [generator.standard_normal(length).astype(np.float32) for _ in range(count)]
    integers = [generator.integers(-(2**61), 2**61, length) for _ in range(count)]

    def accumulators() -> list[Float32Accumulator | ExactAccumulator | ElementwiseAccumulator]:
        flat = np.full(numel, 7, dtype=np.float32)
        exact = ExactAccumulator(0, shards, groups, 2, flat, divisor=divisor)
        return [
            exact,
            Float32Accumulator(0, shards[0].copy(), divisor),
            ElementwiseAccumulator(0, shards[0].copy(), "product"),
        ]

    for together, apart in zip(accumulators(), accumulators(), strict=True):
        payloads = integers if isinstance(together, ExactAccumulator) else floats
        together.begin()
        apart.begin()
        together.finish(chunk, *payloads)
        for payload in payloads:
            apart.add(chunk, payload)
        apart.finish(chunk)
        assert together.flat.tobytes() == apart.flat.tobytes()
        assert together.is_finite()


@pytest.mark.parametrize("wrong", [0, 1])
@pytest.mark.parametrize("method", ["load", "add", "finish"])
def test_nothing_is_changed_where_one_payload_has_another_schema(method: str, wrong: int) -> None:
    for accumulator in (float32_accumulator(), exact_accumulator()):
        before, final = accumulator.partial(ALL).copy(), accumulator.flat.copy()
        payloads = [before + 1, before + 1]
        payloads[wrong] = payloads[wrong][:3]
        with pytest.raises(SchemaMismatch):
            getattr(accumulator, method)(ALL, *payloads)
        assert accumulator.partial(ALL).tolist() == before.tolist()
        assert accumulator.flat.tobytes() == final.tobytes()


def test_float32_checks_every_block_of_a_long_sum() -> None:
    for place in (0, 131_071, 131_072, 150_000):
        accumulator = Float32Accumulator(0, np.ones(150_001, dtype=np.float32))
        payload = np.arange(150_001, dtype=np.float32)
        accumulator.add(slice(0, 150_001), payload)
        assert accumulator.flat.tolist() == (payload + 1).tolist()
        payload[place] = -np.inf
        accumulator.finish(slice(0, 150_001), payload)
        assert not accumulator.is_finite()


def test_float32_looks_again_where_something_is_added_to_what_was_loaded() -> None:
    for later in ("add", "finish"):
        accumulator = float32_accumulator()
        accumulator.load(ALL, np.ones(4, dtype=np.float32))
        getattr(accumulator, later)(ALL, np.array([0, np.inf, 0, 0], dtype=np.float32))
        accumulator.finish(ALL)
        assert not accumulator.is_finite()
