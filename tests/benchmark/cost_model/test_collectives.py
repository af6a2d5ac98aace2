"""Samples out of a record of the collective benchmark."""

from __future__ import annotations

import pytest

from dmlf.benchmark.collective.load import parse_record
from dmlf.benchmark.cost_model import coefficients, samples_of
from tests.benchmark.collective.records import SIZES, record


def test_only_what_had_its_cores_and_has_a_form_is_taken() -> None:
    samples = samples_of(parse_record(record(cores=2), "record"), "shm")
    assert [(s.algorithm, s.world_size, s.num_bytes) for s in samples] == [
        ("ring", 2, size) for size in SIZES
    ]
    assert samples[1].seconds == pytest.approx((1.0e-3, 1.1e-3, 0.9e-3, 1.0e-3, 1.05e-3))
    assert samples[1].transport == "shm"
    more = samples_of(parse_record(record(cores=4), "record"), "shm")
    assert {(s.algorithm, s.world_size) for s in more} == {
        ("ring", 2),
        ("ring", 4),
        ("parameter_server", 2),
    }
    assert samples_of(parse_record(record(), "record"), "tcp") == []


def test_a_step_of_two_ranks_by_hand() -> None:
    """A ring's two rounds and the commit's one; a tree's two; pushes, verdicts and pulls."""
    assert coefficients("ring", 2, 80) == (3, 80, 40)
    assert coefficients("tree", 2, 80) == (3, 160, 80)
    assert coefficients("parameter_server", 2, 80) == (6, 320, 80)
