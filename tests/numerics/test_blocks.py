"""Blocks: each is done once, by whichever thread is free, and nobody goes on behind the caller."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dmlf.numerics import ExactAccumulator, Float32Accumulator
from dmlf.numerics.blocks import MAX_THREADS, in_blocks

DEADLINE_S = 30.0
NUMEL = 1_500_007


@pytest.mark.parametrize("threads", [1, 2, MAX_THREADS])
@pytest.mark.parametrize("numel", [0, 1, 131_072, 131_073, 524_288, NUMEL])
def test_every_element_is_in_one_block(numel: int, threads: int) -> None:
    seen = np.zeros(numel, dtype=np.int64)

    def count(part: slice) -> None:
        seen[part] += 1

    in_blocks(numel, count, threads)
    assert (seen == 1).all()


def test_threads_work_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=DEADLINE_S)
    met = threading.Event()

    def meet(_part: slice) -> None:
        if not met.is_set():
            meeting.wait()
            met.set()

    in_blocks(NUMEL, meet, 2)
    assert met.is_set()


@pytest.mark.parametrize("fails", ["caller", "helper"])
def test_an_error_is_raised_once_nobody_works_any_more(fails: str) -> None:
    caller, working = threading.get_ident(), 0
    meeting = threading.Barrier(2, timeout=DEADLINE_S)
    first: set[int] = set()

    def work(_part: slice) -> None:
        nonlocal working
        working += 1
        own = threading.get_ident()
        if own not in first:
            first.add(own)
            meeting.wait()
        working -= 1
        if (own == caller) == (fails == "caller"):
            raise ArithmeticError(fails)

    with pytest.raises(ArithmeticError, match=fails):
        in_blocks(NUMEL, work, 2)
    assert working == 0


def test_sums_do_not_depend_on_threads() -> None:
    everything = slice(0, NUMEL)
    generator = np.random.default_rng(5)
    floats = [generator.standard_normal(NUMEL).astype(np.float32) for _ in range(3)]
    integers = [generator.integers(-(2**61), 2**61, NUMEL) for _ in range(3)]
    groups = [slice(0, 1_000_003), slice(1_000_003, NUMEL)]
    bits = set()
    for threads in (1, 2, MAX_THREADS):
        plain = Float32Accumulator(0, np.zeros(NUMEL, np.float32), 3, threads)
        plain.load(everything, *floats[:2])
        plain.finish(everything, floats[2])
        shards = np.ones((1, NUMEL), np.float32)
        final = np.empty(NUMEL, np.float32)
        exact = ExactAccumulator(0, shards, groups, 1, final, divisor=3, threads=threads)
        exact.load(everything, *integers[:2])
        exact.add(everything, integers[2])
        exact.finish(everything)
        assert plain.is_finite()
        bits.add((plain.flat.tobytes(), exact.flat.tobytes()))
    assert len(bits) == 1


@pytest.mark.parametrize("place", [0, 700_000, NUMEL - 1])
def test_what_is_not_finite_is_seen_by_whichever_thread(place: int) -> None:
    everything, payload = slice(0, NUMEL), np.zeros(NUMEL, np.float32)
    payload[place] = np.nan
    for method in ("load", "finish"):
        accumulator = Float32Accumulator(0, np.zeros(NUMEL, np.float32), 1, 2)
        getattr(accumulator, method)(everything, payload)
        if method == "load":
            accumulator.finish(everything)
        assert not accumulator.is_finite()
