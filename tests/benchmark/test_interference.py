"""Runs that had company: who is marked, and what a mark takes away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dmlf.benchmark.interference import marked_interference
from dmlf.benchmark.noise import ANSWER, noise
from dmlf.benchmark.table import SPEED_COLUMNS, RunRow
from tests.benchmark.rows import one_cohort, rows

NOON = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)


def run(rep: int, start_s: float, end_s: float, **changes: Any) -> RunRow:
    """A run from `start_s` to `end_s` after noon."""
    values: dict[str, Any] = {
        "machine_sha256": "m" * 64,
        "started_at": (NOON + timedelta(seconds=start_s)).isoformat(timespec="milliseconds"),
        "finished_at": (NOON + timedelta(seconds=end_s)).isoformat(timespec="milliseconds"),
        "lock_wait_s": 0.0,
        "processes": 2,
        "threads_per_rank": 1,
        "others_cpu_share": 0.02,
    }
    (row,) = rows("ring-queue", 2, [100.0 + rep], **(values | {"rep": rep} | changes))
    name = f"results/digits/ring-queue/float32/world_size=2/seed=0/rep={rep}/metrics.json"
    return RunRow(**{**{f: getattr(row, f) for f in RunRow.__dataclass_fields__}, "path": name})


def contaminated(*runs: RunRow) -> list[int]:
    return [row.rep for row in marked_interference(runs) if row.contaminated_by is not None]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run(0, 0, 10), run(1, 10, 20), run(2, 20, 30)], []),
        ([run(0, 0, 10), run(1, 9, 20), run(2, 20, 30)], [0, 1]),
        ([run(0, 0, 10), run(1, 9.97, 20)], []),  # a clock's tolerance
        ([run(2, 20, 30), run(0, 0, 100), run(1, 5, 6)], [2, 0, 1]),  # any order; one within
        ([run(0, 0, 10), run(1, 2, 20, lock_wait_s=8.0)], []),  # it waited for the lock
        ([run(0, 0, 10), run(1, 2, 20, lock_wait_s=4.0)], [0, 1]),
        ([run(0, 0, 10), run(1, 2, 20, machine_sha256="n" * 64)], []),
        ([run(0, 0, 10), run(1, 2, 20, status="failed", started_at=None)], []),
    ],
)
def test_runs_that_overlap_on_a_machine(runs: list[RunRow], expected: list[int]) -> None:
    assert contaminated(*runs) == expected


def test_a_contaminated_run_keeps_its_proof_and_loses_its_speed() -> None:
    clean, first, second = marked_interference([run(0, 0, 5), run(1, 10, 20), run(2, 15, 25)])
    assert clean.throughput_samples_per_s == 100.0
    assert first.contaminated_by == second.path
    assert second.contaminated_by == first.path
    for row in (first, second):
        assert all(getattr(row, column) is None for column in SPEED_COLUMNS)
        assert (row.check, row.final_state_sha256) == ("passed", "a" * 64)


@pytest.mark.parametrize(
    ("changes", "loaded"),
    [
        ({}, False),
        ({"load_before_1m": 9.0, "load_after_1m": 9.0}, False),  # the runs before it leave that
        ({"others_cpu_share": 0.10}, False),
        ({"others_cpu_share": 0.11}, True),
        ({"others_cpu_share": None}, None),
    ],
)
def test_others_that_took_the_cores_time(changes: dict[str, Any], loaded: bool | None) -> None:
    (row,) = marked_interference([run(0, 0, 5, **changes)])
    assert row.loaded is loaded


@pytest.mark.parametrize(("disturbed", "loaded"), [(0, False), (2, False), (3, True), (5, True)])
def test_a_median_withstands_fewer_disturbed_runs_than_half(disturbed: int, loaded: bool) -> None:
    shares = [0.5] * disturbed + [0.0] * (5 - disturbed)
    runs = [run(rep, 10 * rep, 10 * rep + 9, others_cpu_share=s) for rep, s in enumerate(shares)]
    cohort = one_cohort(marked_interference(runs))
    (point,) = cohort.points()
    assert point.loaded is loaded
    (verdict,) = noise(cohort)
    assert (verdict.excluded_from == ANSWER) is loaded
    assert verdict.others == max(shares)
