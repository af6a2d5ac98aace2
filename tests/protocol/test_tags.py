"""A message is refused by the first field in which it differs."""

import pytest

from dmlf.conformance.test_algorithms import ERRORS
from dmlf.errors import ProtocolError
from dmlf.protocol import Phase, Tag, validate

EXPECTED = Tag(generation=1, step=2, bucket=3, phase=Phase.PUSH, round=4, src=5)
OTHER = Tag(generation=10, step=20, bucket=30, phase=Phase.PULL, round=40, src=50)


def test_every_field_has_its_error() -> None:
    assert tuple(ERRORS) == Tag._fields


def test_the_expected_tag_is_accepted() -> None:
    validate(0, EXPECTED, Tag(*EXPECTED))


@pytest.mark.parametrize("name", Tag._fields)
def test_one_field_that_differs_names_its_error(name: str) -> None:
    received = EXPECTED._replace(**{name: getattr(OTHER, name)})
    with pytest.raises(ProtocolError) as caught:
        validate(7, EXPECTED, received)
    assert type(caught.value) is ERRORS[name]
    assert (caught.value.rank, caught.value.expected, caught.value.received) == (
        7,
        EXPECTED,
        received,
    )


@pytest.mark.parametrize("first", range(len(Tag._fields)))
def test_the_first_of_several_fields_decides(first: int) -> None:
    received = Tag(*EXPECTED[:first], *OTHER[first:])
    with pytest.raises(ProtocolError) as caught:
        validate(7, EXPECTED, received)
    assert type(caught.value) is ERRORS[Tag._fields[first]]


def test_a_tag_reads_as_a_place_in_the_run() -> None:
    shown = str(EXPECTED)
    for part in ("push", "step 2", "bucket 3", "round 4", "rank 5", "generation 1"):
        assert part in shown
