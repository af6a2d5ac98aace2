"""Medians of runs and how far to trust them. The run is the unit, not the step.

Steps of one run share a machine state, a start-up and a neighbour's noise; runs, taken in
randomised order, do not. Intervals are percentile bootstrap intervals of 95 % over runs (Efron,
1979). With five to ten runs they are rough and lie inside the range of what was seen. Two values
are told apart by the interval of their ratio: where nothing differs, it leaves out 1 once in
twenty to thirty times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_PERCENT = 95
MIN_REPEATS_FOR_CLAIM = 5
_RESAMPLES = 10_000
_SEED = 20_240_229


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median with its 95 % interval; `low` and `high` are None with a single run."""

    median: float
    low: float | None
    high: float | None
    runs: int

    def text(self, digits: int = 3) -> str:
        """`1.42 [1.31, 1.50]`, or `1.42 (1 run, no interval)`."""
        shown = significant(self.median, digits)
        if self.low is None or self.high is None:
            return f"{shown} (1 run, no interval)"
        return f"{shown} [{significant(self.low, digits)}, {significant(self.high, digits)}]"

    def side_of(self, limit: float) -> int:
        """1 when the whole interval lies above `limit`, -1 when below, else and without one 0."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > limit) - (self.high < limit)

    def below(self, other: Estimate) -> bool:
        """Whether the whole interval lies under the other's; never without both intervals."""
        return self.high is not None and other.low is not None and self.high < other.low


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, and thousands separated: `12,300`."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - int(np.floor(np.log10(abs(value))))
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def median_estimate(values: Sequence[float]) -> Estimate:
    """Median of one value per run. values: at least one."""
    data = np.asarray(values, dtype=np.float64)
    return _estimate(float(np.median(data)), _resampled_medians(data, _generator()), data.size)


def ratio_estimate(
    numerator: Sequence[float], denominator: Sequence[float], scale: float = 1.0
) -> Estimate:
    """Ratio of two medians times `scale`; both sides are resampled. values: positive, per run."""
    top = np.asarray(numerator, dtype=np.float64)
    bottom = np.asarray(denominator, dtype=np.float64)
    generator = _generator()
    tops = _resampled_medians(top, generator)
    bottoms = _resampled_medians(bottom, generator)
    ratio = scale * float(np.median(top)) / float(np.median(bottom))
    return _estimate(ratio, scale * tops / bottoms, min(top.size, bottom.size))


def efficiency_estimate(
    throughput: Sequence[float], world_size: int, base: Sequence[float]
) -> Estimate:
    """Scaling efficiency: throughput at `world_size` over world_size times the base's.

    Strong, when the global batch is the same at every world size; weak, when each rank's part of
    it is. The base is throughput at world size 1 (in weak scaling with one rank's batch), either
    of the same strategy or of serial; which one must be said beside the number.
    """
    return ratio_estimate(throughput, base, 1.0 / world_size)


def _generator() -> np.random.Generator:
    """A fresh stream per estimate, so that no number depends on which others were computed."""
    return np.random.default_rng(_SEED)


def _resampled_medians(
    data: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    picks = generator.integers(0, data.size, size=(_RESAMPLES, data.size))
    medians: NDArray[np.float64] = np.median(data[picks], axis=1)
    return medians


def _estimate(median: float, resampled: NDArray[np.float64], runs: int) -> Estimate:
    if runs < 2:
        return Estimate(median, None, None, runs)
    tail = (100 - CONFIDENCE_PERCENT) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Estimate(median, float(low), float(high), runs)
