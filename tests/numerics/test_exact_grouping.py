"""No distribution of the terms changes a bit: ranks, algorithms, buckets, schedules."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from dmlf.conformance.buckets import exact_buckets
from dmlf.conformance.driving import groups, run_step
from dmlf.numerics import ExactAccumulator, exact_sum
from dmlf.protocol import registry
from tests.numerics.truth import PROPERTY, bits, term_arrays

GROUPS = groups(registry())

EVERYTHING_FINITE = 1e30  # sums of 8 terms stay in float32's range, so that the step commits


def reduced(name: str, world_size: int, shards: np.ndarray, **how: object) -> list:
    """Final values on every rank that has them after one step, as bits."""
    group = GROUPS[name]
    run = run_step(group, exact_buckets(group, world_size, [shards]), **how)  # type: ignore[arg-type]
    assert run.outcome.completed(group.size(world_size))
    found = [bits(parameters[0]) for parameters in run.parameters if parameters]
    assert len(found) == world_size + bool(group.num_servers)
    return found


@pytest.mark.parametrize("name", GROUPS)
@settings(PROPERTY, max_examples=100)
@given(data=st.data())
def test_any_algorithm_world_size_and_schedule_gives_the_same_bits(
    name: str, data: st.DataObject
) -> None:
    shards = np.clip(data.draw(term_arrays()), -EVERYTHING_FINITE, EVERYTHING_FINITE)
    world_size = data.draw(st.integers(1, 8), label="world_size")
    size = GROUPS[name].size(world_size)
    turns = data.draw(st.permutations(range(size)), label="turns")
    expected = bits(exact_sum(list(shards)))
    for result in reduced(name, world_size, shards, turns=turns):
        assert result == expected


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("name", GROUPS)
def test_eight_shards_give_the_same_bits_at_every_world_size(name: str, world_size: int) -> None:
    generator = np.random.default_rng(8)
    values = generator.standard_normal((8, 1009))
    scales = generator.integers(-60, 60, values.shape)
    shards = np.ldexp(values, scales).astype(np.float32)
    expected = bits(exact_sum(list(shards)))
    for result in reduced(name, world_size, shards):
        assert result == expected


@PROPERTY
@given(terms=term_arrays(), data=st.data())
def test_any_tree_of_partial_sums_gives_the_same_bits(
    terms: np.ndarray, data: st.DataObject
) -> None:
    """Not only the groupings of today's algorithms: ranks merge in any order, pair by pair."""
    owner = data.draw(st.lists(st.integers(0, 4), min_size=len(terms), max_size=len(terms)))
    numel = terms.shape[1]
    everything = slice(0, numel)
    ranks = [
        ExactAccumulator(
            rank,
            terms[[i for i, of in enumerate(owner) if of == rank]],
            [everything],
            len(terms),
            np.empty(numel, dtype=np.float32),
        )
        for rank in range(5)
    ]
    for rank in ranks:
        for other in ranks:
            rank.merge_scale(other.scale())
    for rank in ranks:
        rank.begin()
    while len(ranks) > 1:
        ranks = data.draw(st.permutations(ranks))
        ranks[0].add(everything, ranks.pop().partial(everything))
    ranks[0].finish(everything)
    assert bits(ranks[0].reduced(everything)) == bits(exact_sum(list(terms)))


@PROPERTY
@given(data=st.data())
def test_any_cut_into_buckets_along_tensors_gives_the_same_bits(data: st.DataObject) -> None:
    """Tensors keep their own exponents, so the neighbours in a bucket do not matter."""
    num_shards = data.draw(st.integers(1, 6), label="num_shards")
    tensors = data.draw(
        st.lists(term_arrays(num_shards, num_shards), min_size=1, max_size=5), label="tensors"
    )
    tensors = [np.clip(tensor, -EVERYTHING_FINITE, EVERYTHING_FINITE) for tensor in tensors]
    ends = [*data.draw(st.sets(st.integers(1, len(tensors))), label="ends"), len(tensors)]
    name = data.draw(st.sampled_from(list(GROUPS)), label="group")
    world_size = data.draw(st.integers(1, num_shards), label="world_size")

    buckets, groups, tensors_of, start = [], [], [], 0
    for end in sorted(set(ends)):
        part = tensors[start:end]
        buckets.append(np.concatenate(part, axis=1))
        tensors_of.append(part)
        edges = np.cumsum([0, *(tensor.shape[1] for tensor in part)]).tolist()
        groups.append([slice(a, b) for a, b in itertools.pairwise(edges)])
        start = end

    group = GROUPS[name]
    run = run_step(group, exact_buckets(group, world_size, buckets, groups))
    for parameters in run.parameters:
        for index, values in parameters.items():
            whole = [value for tensor in tensors_of[index] for value in bits(exact_sum([*tensor]))]
            assert bits(values) == whole
