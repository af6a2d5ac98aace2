"""The mock tensor tells apart what a protocol could get wrong."""

from collections import Counter

import pytest

from dmlf.errors import SchemaMismatch
from dmlf.numerics import MockAccumulator, MockTensor
from dmlf.numerics.mock import canonical, leaves


def test_a_sum_remembers_who_and_in_which_order() -> None:
    a, b, c = (MockTensor.of_rank(rank, [10**rank, 2 * 10**rank]) for rank in range(3))
    total = (a + b) + c
    assert total.values == [111, 222]
    assert total.folds == [((0, 1), 2)] * 2
    assert (total + b).contributions(1) == Counter({0: 1, 1: 2, 2: 1})


def test_canonical_forgets_sides_and_keeps_brackets() -> None:
    assert canonical((2, (1, 0))) == canonical(((0, 1), 2))
    assert canonical((0, (1, 2))) != canonical(((0, 1), 2))
    assert leaves(((3, 1), 1)) == [3, 1, 1]


def test_slices_read_and_write_values_with_their_folds() -> None:
    tensor = MockTensor.of_rank(0, [1, 2, 3])
    tensor[slice(1, 3)] = MockTensor([20, 30], [7, (7, 8)])
    assert tensor.values == [1, 20, 30]
    assert tensor.folds == [0, 7, (7, 8)]
    assert len(tensor[slice(0, 2)]) == 2


def test_lengths_that_do_not_fit_are_refused() -> None:
    two, three = MockTensor.of_rank(0, [1, 2]), MockTensor.of_rank(1, [1, 2, 3])
    with pytest.raises(ValueError, match="one fold for each value"):
        MockTensor([1, 2], [0])
    with pytest.raises(ValueError, match="cannot add"):
        two + three
    with pytest.raises(ValueError, match="do not fit"):
        three[slice(0, 1)] = two


@pytest.mark.parametrize("method", ["load", "add", "finish", "store"])
@pytest.mark.parametrize("payload", [MockTensor.of_rank(1, [1]), [1, 2]], ids=["short", "list"])
def test_an_accumulator_refuses_another_schema(method: str, payload: object) -> None:
    accumulator = MockAccumulator(5, MockTensor.of_rank(5, [1, 2]))
    with pytest.raises(SchemaMismatch) as caught:
        getattr(accumulator, method)(slice(0, 2), payload)
    assert caught.value.rank == 5


def test_what_is_sent_does_not_change_afterwards() -> None:
    accumulator = MockAccumulator(0, MockTensor.of_rank(0, [1, 2]))
    sent = accumulator.partial(slice(0, 2))
    accumulator.add(slice(0, 2), MockTensor.of_rank(1, [5, 5]))
    assert sent.values == [1, 2]
    assert accumulator.reduced(slice(0, 2)).values == [6, 7]


def test_an_accumulator_has_no_scale() -> None:
    accumulator = MockAccumulator(0, MockTensor.of_rank(0, [1]))
    assert accumulator.scale() is None
    assert accumulator.is_finite()
    with pytest.raises(SchemaMismatch):
        accumulator.merge_scale(b"\x00\x00")
