"""Which steps count, and what the slowest rank did in them.

A step ends when its last worker ends, so the slowest worker's time is the step's time. Where ranks
never wait for one another it is the workers' mean: none of them holds up another. Warm-up
steps are left out, and so is a step with fewer samples than the global batch (the last of an
epoch): it does less work, and mixing it in would blur the median. A server's times are kept raw
and are not steps of their own; workers wait for it inside theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmlf.config import RunConfig

PHASES = ("data_s", "forward_backward_s", "communication_s", "wait_s", "hidden_s", "optimizer_s")


@dataclass(frozen=True, slots=True)
class StepSummary:
    """Measured steps of a run: `step_s` [measured steps] in seconds, and medians of phases.

    `phase_s` maps each phase to the median, over measured steps, of the time that the slowest
    worker of that step spent in it. Medians of parts need not add up to the median of the whole.
    `exposed_fraction` is the median share of a step in which communication was not hidden behind
    computation, `waiting_fraction` that in which it waited to receive.
    """

    step_s: NDArray[np.float64]
    phase_s: Mapping[str, float]
    exposed_fraction: float
    waiting_fraction: float

    @property
    def measured_steps(self) -> int:
        """Number of steps behind the statistics."""
        return int(self.step_s.size)

    def statistics(self) -> dict[str, float]:
        """Mean, median, sample standard deviation, extremes and 5/95 % percentiles, in seconds."""
        times = self.step_s
        return {
            "mean": float(times.mean()),
            "median": float(np.median(times)),
            "stdev": float(times.std(ddof=1)) if times.size > 1 else 0.0,
            "min": float(times.min()),
            "max": float(times.max()),
            "p5": float(np.percentile(times, 5)),
            "p95": float(np.percentile(times, 95)),
        }


def summarise_steps(per_rank: Sequence[Mapping[str, Any]], config: RunConfig) -> StepSummary | None:
    """Summarise `timing.per_rank` of a run of `config`; None when no step is left to measure.

    Every worker's lists must have the same length.
    """
    workers = [entry for entry in per_rank if entry["role"] == "worker"]
    if not all(entry["step_s"] for entry in workers):
        return None
    step_s = np.array([entry["step_s"] for entry in workers], dtype=np.float64)
    samples = np.array([entry["samples"] for entry in workers], dtype=np.int64)
    counts = (np.arange(step_s.shape[1]) >= config.warmup_steps) & (
        samples.sum(axis=0) == config.global_batch_size
    )
    measured = np.flatnonzero(counts)
    if not measured.size:
        return None
    slowest_rank = step_s[:, measured].argmax(axis=0)
    slowest_s = step_s[slowest_rank, measured]
    in_phase = {
        phase: np.array([entry["phases"][phase] for entry in workers], dtype=np.float64)[
            slowest_rank, measured
        ]
        for phase in PHASES
    }

    def fraction(part_s: NDArray[np.float64]) -> float:
        whole_s = np.maximum(slowest_s, np.finfo(np.float64).tiny)
        return float(np.median(np.minimum(part_s / whole_s, 1.0)))

    return StepSummary(
        step_s=slowest_s if config.synchronous else step_s[:, measured].mean(axis=0),
        phase_s={phase: float(np.median(times)) for phase, times in in_phase.items()},
        exposed_fraction=fraction(in_phase["communication_s"] - in_phase["hidden_s"]),
        waiting_fraction=fraction(in_phase["wait_s"]),
    )
