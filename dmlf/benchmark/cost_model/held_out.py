"""How far predictions are from what was measured and not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from dmlf.benchmark.cost_model.fit import Calibration
from dmlf.benchmark.cost_model.samples import CollectiveSample
from dmlf.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors |predicted / measured - 1| over some points; residuals: signed, by point."""

    median: float
    maximum: float
    residuals: tuple[float, ...]


def errors(calibration: Calibration, samples: Sequence[CollectiveSample]) -> Errors:
    """Predict samples that the calibration has not seen. Raises ConfigError without any."""
    if not samples:
        raise ConfigError("samples", 0, "at least one point that was held out")
    residuals = tuple(calibration.predict_s(sample) / sample.median_s - 1 for sample in samples)
    sizes = [abs(residual) for residual in residuals]
    return Errors(median(sizes), max(sizes), residuals)
