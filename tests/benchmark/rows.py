"""Rows of the table written by hand, for tests that need certain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dmlf.benchmark.cohorts import Cohort, cohorts
from dmlf.benchmark.table import RunRow
from dmlf.config import split_strategy


def rows(
    strategy: str,
    world_size: int,
    throughput: Sequence[float],
    reduction: str = "float32",
    **changes: Any,
) -> list[RunRow]:
    """One completed and checked row per throughput."""
    algorithm, transport = split_strategy(strategy)
    found = []
    for rep, speed in enumerate(throughput):
        values: dict[str, Any] = {
            "path": f"results/{changes.get('task', 'digits')}/{strategy}/{reduction}"
            f"/world_size={world_size}/seed={changes.get('seed', 0)}/rep={rep}/metrics.json",
            "task": "digits",
            "strategy": strategy,
            "algorithm": algorithm,
            "transport": transport,
            "reduction": reduction,
            "world_size": world_size,
            "seed": 0,
            "rep": rep,
            "status": "completed",
            "check": "passed",
            "check_detail": "constructed",
            "cohort": "0123456789ab",
            "final_state_sha256": "a" * 64,
            "test_accuracy": 0.97,
            "throughput_samples_per_s": speed,
            "step_time_s": 256 / speed,
            "exposed_fraction": 0.3,
            "waiting_fraction": 0.1,
            "wait_s": 0.1 * 256 / speed,
            "hidden_s": 0.0,
            "oversubscribed": False,
            "workload": "{}",
        }
        found.append(RunRow(**(values | changes)))
    return found


def one_cohort(*groups: list[RunRow]) -> Cohort:
    (cohort,) = cohorts([row for group in groups for row in group])
    return cohort
