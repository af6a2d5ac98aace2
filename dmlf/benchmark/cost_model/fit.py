"""Alpha, beta and gamma by least squares on relative errors, with bootstrap intervals.

The closed forms are linear in the parameters, so with every row divided by its measured time the
squares are those of relative errors: a kilobyte counts as much as a megabyte. Parameters are
never negative: of all subsets of them (there are four at most) the best with no negative value is
taken, which is what non-negative least squares finds (Lawson & Hanson, 1974). Intervals are those
of a bootstrap over points, with the runs of each point resampled as well (Efron, 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray

from dmlf.benchmark.cost_model.samples import CollectiveSample, coefficients
from dmlf.benchmark.statistics import CONFIDENCE_PERCENT, Estimate
from dmlf.errors import ConfigError

Matrix = NDArray[np.float64]

_RESAMPLES = 400
_SEED = 20_240_229
_WORTH_A_KNEE = 0.8
"""Two bandwidths must at least take a fifth off the error of one."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A transport's parameters in seconds: per round, per byte, and per added byte.

    s_per_byte: of bytes up to `knee_bytes` of a vector, and of those beyond; one value without a
    knee. Either may be larger: caches end, or small messages cost more than a latency for each
    accounts for. reduction_s_per_byte: None where the samples cannot tell additions
    from bytes (as with rings alone, which always add half of what they carry): then additions are
    part of s_per_byte. parameters: how many numbers the samples could tell apart, and were fitted.
    """

    latency_s: Estimate
    s_per_byte: tuple[Estimate, ...]
    reduction_s_per_byte: Estimate | None
    knee_bytes: int | None
    parameters: int

    def predict_s(self, sample: CollectiveSample) -> float:
        """Seconds of one collective like that of `sample`, whose own time is not looked at."""
        row = _row(sample, self.knee_bytes)
        values = [self.latency_s.median, *(estimate.median for estimate in self.s_per_byte)]
        gamma = self.reduction_s_per_byte
        values.append(0.0 if gamma is None else gamma.median)
        return float(np.dot(row, values))


def fit(samples: Sequence[CollectiveSample], knee_bytes: int | None = None) -> Calibration:
    """Fit the parameters to samples of one transport. Raises ConfigError on too few points."""
    transports = {sample.transport for sample in samples}
    if len(transports) != 1:
        raise ConfigError("samples", sorted(transports), "samples of one transport")
    rows = np.array([_row(sample, knee_bytes) for sample in samples])
    times = np.array([sample.median_s for sample in samples])
    used = _told_apart(rows / times[:, None])
    if len(samples) < len(used):
        raise ConfigError("samples", len(samples), f"at least {len(used)} points")
    best = _solve(rows[:, used], times)
    generator = np.random.default_rng(_SEED)
    drawn = []
    for _ in range(_RESAMPLES):
        picks = generator.integers(0, len(samples), len(samples))
        medians = [_resampled_median(samples[pick].seconds, generator) for pick in picks]
        drawn.append(_solve(rows[picks][:, used], np.array(medians)))
    tail = (100 - CONFIDENCE_PERCENT) / 2
    lows, highs = np.percentile(np.array(drawn), [tail, 100 - tail], axis=0)
    estimates = {
        column: Estimate(float(value), float(low), float(high), len(samples))
        for column, value, low, high in zip(used, best, lows, highs, strict=True)
    }
    last = rows.shape[1] - 1
    nothing = Estimate(0.0, 0.0, 0.0, len(samples))
    return Calibration(
        estimates.get(0, nothing),
        tuple(estimates.get(column, nothing) for column in range(1, last)),
        estimates.get(last),
        knee_bytes,
        len(used),
    )


def _resampled_median(seconds: Sequence[float], generator: np.random.Generator) -> float:
    picks = generator.integers(0, len(seconds), len(seconds))
    return float(median([seconds[pick] for pick in picks]))


def choose_knee(samples: Sequence[CollectiveSample]) -> int | None:
    """The vector size at which a second bandwidth begins; None if one does nearly as well."""

    def error(knee_bytes: int | None) -> float:
        rows = np.array([_row(sample, knee_bytes) for sample in samples])
        times = np.array([sample.median_s for sample in samples])
        used = _told_apart(rows / times[:, None])
        residuals = rows[:, used] @ _solve(rows[:, used], times) / times - 1
        return float(np.sqrt(np.mean(residuals**2)))

    sizes = sorted({sample.num_bytes for sample in samples})[1:-1]
    best = min(sizes, key=error, default=None)
    return best if best is not None and error(best) < _WORTH_A_KNEE * error(None) else None


def _row(sample: CollectiveSample, knee_bytes: int | None) -> list[float]:
    num_bytes = sample.num_bytes
    rounds, carried, added = coefficients(
        sample.algorithm, sample.world_size, num_bytes, sample.num_buckets
    )
    if knee_bytes is None:
        return [rounds, carried, added]
    below = min(1.0, knee_bytes / num_bytes) if num_bytes else 1.0
    return [rounds, carried * below, carried * (1 - below), added]


def _told_apart(relative: Matrix) -> list[int]:
    """The columns that are there and no combination of those before them."""
    used: list[int] = []
    for column in range(relative.shape[1]):
        scale = np.linalg.norm(relative[:, column])
        if scale == 0:
            continue
        tried = relative[:, [*used, column]]
        if np.linalg.matrix_rank(tried / np.linalg.norm(tried, axis=0), tol=1e-6) > len(used):
            used.append(column)
    return used


def _solve(rows: Matrix, times: Matrix) -> Matrix:
    """The parameters of at least 0 with the least squares of relative errors."""
    relative = rows / times[:, None]
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1.0
    scaled, ones = relative / scale, np.ones(len(times))
    count = rows.shape[1]
    best, least = np.zeros(count), float(len(times))
    for size in range(1, count + 1):
        for subset in combinations(range(count), size):
            chosen = list(subset)
            values = np.linalg.lstsq(scaled[:, chosen], ones, rcond=None)[0]
            if np.any(values < 0):
                continue
            squares = float(np.sum((scaled[:, chosen] @ values - 1) ** 2))
            if squares < least - 1e-12:
                least, best = squares, np.zeros(count)
                best[chosen] = values
    found: Matrix = best / scale
    return found
