"""Buckets hold whole tensors, last first, within their cap."""

from __future__ import annotations

import math

import pytest

from dmlf.protocol import BucketShape
from dmlf.training.layout import make_buckets

SHAPES = {"a": (3, 4), "b": (), "c": (7,), "d": (50,), "e": (2, 2, 2)}


@pytest.mark.parametrize("cap", [4, 28, 60, 200, 1 << 20])
def test_tensors_are_whole_in_reverse_order_within_the_cap(cap: int) -> None:
    buckets = make_buckets(SHAPES, cap)
    placements = [placed for bucket in buckets for placed in bucket.placements]
    assert [placed.name for placed in placements] == ["e", "d", "c", "b", "a"]
    for bucket in buckets:
        assert bucket.numel * 4 <= cap or len(bucket.placements) == 1
        stop = 0
        for placed in bucket.placements:
            assert placed.shape == SHAPES[placed.name]
            assert placed.slice == slice(stop, stop + math.prod(placed.shape))
            stop = placed.slice.stop
        assert bucket.numel == stop
    assert [bucket.index for bucket in buckets] == list(range(len(buckets)))


def test_what_travels_for_an_exact_bucket() -> None:
    (bucket,) = make_buckets(SHAPES, 1 << 20)
    assert bucket.shape(exact=False) == BucketShape(78, 4, 0)
    assert bucket.shape(exact=True) == BucketShape(78, 8, 10)
