"""Medians, intervals and ratios of runs, against known answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dmlf.benchmark.statistics import (
    Estimate,
    efficiency_estimate,
    median_estimate,
    ratio_estimate,
    significant,
)


def exact_percentiles(values: list[float]) -> tuple[float, float]:
    """The bootstrap's limit: every resample once (5 values: 3,125 of them)."""
    medians = [np.median(pick) for pick in itertools.product(values, repeat=len(values))]
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def test_the_interval_is_that_of_all_resamples() -> None:
    values = [10.0, 11.0, 13.0, 17.0, 29.0]
    estimate = median_estimate(values)
    assert (estimate.median, estimate.runs) == (13.0, 5)
    assert (estimate.low, estimate.high) == exact_percentiles(values)


def test_same_data_same_interval_whatever_came_before() -> None:
    first = median_estimate([3.0, 1.0, 2.0, 8.0, 5.0])
    ratio_estimate([1.0, 2.0], [3.0, 4.0])
    assert median_estimate([3.0, 1.0, 2.0, 8.0, 5.0]) == first
    assert median_estimate([8.0, 5.0, 1.0, 2.0, 3.0]).median == first.median


def test_one_run_has_no_interval_and_is_never_below_or_above() -> None:
    single = median_estimate([7.0])
    assert (single.low, single.high) == (None, None)
    assert "1 run, no interval" in single.text()
    assert not single.below(median_estimate([100.0] * 5))
    assert not median_estimate([1.0] * 5).below(single)
    assert ratio_estimate([7.0], [1.0, 2.0, 3.0]).low is None
    assert ratio_estimate([1.0, 2.0, 3.0], [7.0]).low is None


def test_a_ratio_resamples_both_sides() -> None:
    noisy, steady = [8.0, 9.0, 10.0, 11.0, 12.0], [5.0] * 5
    up, down = ratio_estimate(noisy, steady), ratio_estimate(steady, noisy)
    assert up.median == 2.0
    assert (up.low, up.high) == (8 / 5, 12 / 5)
    assert (down.low, down.high) == (5 / 12, 5 / 8)
    both = ratio_estimate(noisy, noisy)
    assert both.low is not None
    assert both.high is not None
    assert both.low < 0.9
    assert both.high > 1.1


def test_efficiency_divides_by_world_size_and_base() -> None:
    assert efficiency_estimate([150.0] * 5, 2, [100.0] * 5) == Estimate(0.75, 0.75, 0.75, 5)


def test_intervals_that_touch_are_not_told_apart() -> None:
    low, high = Estimate(1.0, 0.5, 2.0, 5), Estimate(3.0, 2.0, 4.0, 5)
    assert not low.below(high)
    assert low.below(Estimate(3.0, 2.1, 4.0, 5))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.4166, "1.42"), (12345.6, "12,300"), (0.01234, "0.0123"), (999.9, "1,000"),
     (100.0, "100"), (-0.5, "-0.500")],
)  # fmt: skip
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text
