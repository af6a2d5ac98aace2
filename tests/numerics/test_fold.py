"""float32 keeps its promise: every algorithm's bits are those of its published order."""

import numpy as np
import pytest

from dmlf.conformance.buckets import float32_buckets, float32_terms, lengths
from dmlf.conformance.driving import Group, groups, run_step
from dmlf.numerics import fold_sum
from dmlf.protocol import registry

GROUPS = groups(registry())

LARGE = 50_021  # a prime, and more elements than any chunk boundary could hide in


@pytest.mark.parametrize("world_size", range(1, 10))
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_every_algorithm_gives_the_bits_of_its_published_order(
    group: Group, world_size: int
) -> None:
    numels = [*lengths(world_size), LARGE]
    terms = [float32_terms(world_size, numel) for numel in numels]
    run = run_step(group, float32_buckets(group, terms))
    assert run.outcome.completed(group.size(world_size))
    for index, numel in enumerate(numels):
        replayed = fold_sum(group.algorithm.fold(numel, world_size), terms[index])
        found = [parameters[index] for parameters in run.parameters if index in parameters]
        assert len(found) == world_size + bool(group.num_servers)
        assert all(values.tobytes() == replayed.tobytes() for values in found)


@pytest.mark.parametrize("world_size", [3, 4, 8])
def test_the_order_shows_in_these_values(world_size: int) -> None:
    """Were the data blind to order, the test above would prove nothing."""
    terms = float32_terms(world_size, LARGE)
    ring = fold_sum(registry()["ring"].fold(LARGE, world_size), terms)
    server = fold_sum(registry()["parameter_server"].fold(LARGE, world_size), terms)
    assert np.mean(ring != server) > 0.1


def test_a_fold_adds_as_it_is_bracketed() -> None:
    big, small = np.float32(1.0), np.float32(2.0**-24)
    terms = [np.full(2, value, dtype=np.float32) for value in (big, small, small)]
    plan = [(slice(0, 1), ((0, 1), 2)), (slice(1, 2), (0, (1, 2)))]
    assert fold_sum(plan, terms).tolist() == [1.0, 1.0 + 2.0**-23]


def test_the_terms_are_left_alone() -> None:
    terms = float32_terms(1, 5)
    before = terms.copy()
    result = fold_sum([(slice(0, 5), 0)], terms)
    result += 1
    assert (terms == before).all()
