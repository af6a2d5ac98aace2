"""Two tables: what agrees, what is noise, what got worse, and what cannot be said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.compare.findings import Comparison, Result, compare
from dmlf.benchmark.compare.side import read_side
from dmlf.benchmark.compare.text import lines
from dmlf.benchmark.table import RunRow, Table, write_table
from dmlf.cli import main
from dmlf.errors import MetricsError
from tests.benchmark.rows import rows

SAME: dict[str, Any] = {
    "machine_sha256": "m" * 64,
    "source_sha256": "s" * 64,
    "workload_sha256": "w" * 64,
}


def near(speed: float) -> list[float]:
    """Five runs that differ by little, no two alike."""
    return [speed * factor for factor in (0.99, 0.995, 1.0, 1.004, 1.012)]


def results(
    ring: float | list[float] = 180.0,
    server: float = 140.0,
    speed: float = 1.0,
    extra: tuple[list[RunRow], ...] = (),
    ring_changes: dict[str, Any] | None = None,
    **changes: Any,
) -> list[RunRow]:
    """A table of serial, DDP, ring and server; `speed` makes the whole machine slower."""
    same = SAME | changes
    rings = near(ring) if isinstance(ring, float) else ring
    groups = [
        rows("serial", 1, [speed * v for v in near(100.0)], **same),
        rows("ddp-gloo", 2, [speed * v for v in near(150.0)], **same),
        rows("ring-shm", 1, [speed * v for v in near(90.0)], **same),
        rows("ring-shm", 2, [speed * v for v in rings], **(same | (ring_changes or {}))),
        rows("parameter_server-shm", 2, [speed * v for v in near(server)], **same),
        *extra,
    ]
    return [row for group in groups for row in group]


def compared(tmp_path: Path, first: list[RunRow], second: list[RunRow]) -> Comparison:
    for name, table in (("a", first), ("b", second)):
        write_table(tmp_path / name / "results" / "runs.csv", Table(tuple(table), ()))
    return compare(read_side(tmp_path / "a"), read_side(tmp_path / "b" / "results"))


def found(comparison: Comparison, result: Result) -> set[str]:
    return {f"{f.kind} {f.subject}" for f in comparison.findings if f.result == result}


def exit_code(tmp_path: Path) -> int:
    return main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])


def test_the_same_results_agree(tmp_path: Path) -> None:
    comparison = compared(tmp_path, results(), results())
    assert {f.result for f in comparison.findings} == {Result.AGREES}
    kinds = {f.kind for f in comparison.findings}
    assert kinds == {
        "bits", "against serial", "against ddp-gloo", "efficiency", "ordering", "shape",
    }  # fmt: skip
    assert exit_code(tmp_path) == 0


def test_a_machine_that_is_slower_all_over_agrees(tmp_path: Path) -> None:
    comparison = compared(tmp_path, results(), results(speed=0.5))
    assert {f.result for f in comparison.findings} == {Result.AGREES}


@pytest.mark.parametrize(
    "ring",
    [
        [170.0, 175.0, 180.0, 172.0, 181.0],  # the intervals overlap
        174.0,  # disjoint, but by less than what counts
    ],
)
def test_noise_is_no_regression(tmp_path: Path, ring: float | list[float]) -> None:
    comparison = compared(tmp_path, results(), results(ring=ring))
    assert comparison.regressions == []
    assert exit_code(tmp_path) == 0


def test_a_regression_beyond_noise_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compared(tmp_path, results(), results(ring=155.0, source_sha256="t" * 64))
    subject = "digits: ring-shm at world size 2"
    assert found(comparison, Result.REGRESSION) == {
        f"against serial {subject}", f"against ddp-gloo {subject}", f"efficiency {subject}",
    }  # fmt: skip
    assert exit_code(tmp_path) == 1
    out = capsys.readouterr().out
    assert "REGRESSION: against serial, digits: ring-shm at world size 2: 1.80" in out
    assert "(-14 %)" in out
    assert "different sources" in out


def test_an_improvement_is_no_regression(tmp_path: Path) -> None:
    comparison = compared(tmp_path, results(), results(ring=199.0))
    assert "against serial digits: ring-shm at world size 2" in found(
        comparison, Result.IMPROVEMENT
    )
    assert exit_code(tmp_path) == 0


def test_two_machines_may_favour_different_strategies(tmp_path: Path) -> None:
    other = results(ring=120.0, machine_sha256="n" * 64, final_state_sha256="b" * 64)
    comparison = compared(tmp_path, results(), other)
    assert comparison.regressions == []
    differs = found(comparison, Result.DIFFERS)
    assert "against serial digits: ring-shm at world size 2" in differs
    assert "ordering digits: ring-shm and ddp-gloo at world size 2" in differs
    assert not {f for f in comparison.findings if f.kind == "bits"}
    assert exit_code(tmp_path) == 0


@pytest.mark.parametrize("reason", ["oversubscribed", "loaded"])
def test_a_point_that_says_more_of_the_machine_is_no_regression(
    tmp_path: Path, reason: str
) -> None:
    second = results(ring=120.0, ring_changes={reason: True})
    comparison = compared(tmp_path, results(), second)
    assert comparison.regressions == []
    assert "efficiency digits: ring-shm at world size 2" in found(comparison, Result.DIFFERS)


def test_the_shape_of_scaling_is_compared(tmp_path: Path) -> None:
    comparison = compared(tmp_path, results(), results(ring=60.0))
    assert "shape digits: ring-shm over world sizes" in found(comparison, Result.DIFFERS)


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"final_state_sha256": "b" * 64}, Result.REGRESSION),
        ({"final_state_sha256": "b" * 64, "source_sha256": "t" * 64}, Result.DIFFERS),
    ],
)
def test_other_bits_from_the_same_sources_are_a_regression(
    tmp_path: Path, changes: dict[str, Any], result: Result
) -> None:
    comparison = compared(tmp_path, results(), results(**changes))
    assert "bits digits: serial at world size 1" in found(comparison, result)
    assert bool(comparison.regressions) == (result == Result.REGRESSION)


@pytest.mark.parametrize(
    "broken",
    [
        {"check": "failed", "check_detail": "the final state differs"},
        {"status": "failed", "check": "absent", "reason": "PeerLost: rank 1", "cohort": None},
    ],
)
def test_what_was_right_and_no_longer_is_counts_on_any_machine(
    tmp_path: Path, broken: dict[str, Any]
) -> None:
    gone: dict[str, Any] = {"throughput_samples_per_s": None}
    second = results(ring_changes=broken | gone, machine_sha256="n" * 64)
    comparison = compared(tmp_path, results(), second)
    assert found(comparison, Result.REGRESSION) == {"correctness digits: ring-shm at world size 2"}
    assert exit_code(tmp_path) == 1
    back = compared(tmp_path, second, results())
    assert back.regressions == []
    assert found(back, Result.IMPROVEMENT) >= {"correctness digits: ring-shm at world size 2"}


def test_missing_contestants_and_tasks_are_named(tmp_path: Path) -> None:
    more = rows("tree-tcp", 2, near(120.0), **SAME)
    other = rows("serial", 1, near(50.0), task="mnist", **SAME)
    comparison = compared(tmp_path, results(extra=(more,)), results(extra=(other,)))
    assert found(comparison, Result.ONLY_ONE) == {
        "contestant digits: tree-tcp at world size 2", "task mnist",
    }  # fmt: skip
    assert exit_code(tmp_path) == 0


def test_too_few_runs_are_undecided(tmp_path: Path) -> None:
    comparison = compared(tmp_path, results(), results(ring=near(90.0)[:3]))
    assert "against serial digits: ring-shm at world size 2" in found(comparison, Result.UNDECIDED)
    assert comparison.regressions == []


def test_other_workloads_are_not_compared_in_speed(tmp_path: Path) -> None:
    comparison = compared(tmp_path, results(), results(ring=20.0, workload_sha256="x" * 64))
    assert comparison.findings == ()
    assert any("workloads differ" in note for note in comparison.notes)


def test_a_task_of_mixed_runs_is_left_out_and_named(tmp_path: Path) -> None:
    mixed = rows("ring-shm", 4, near(300.0), **(SAME | {"cohort": "ba9876543210"}))
    comparison = compared(tmp_path, results(extra=(mixed,)), results())
    assert comparison.findings == ()
    assert any("digits has runs that may not be compared" in note for note in comparison.notes)


def test_on_request_everything_is_listed(tmp_path: Path) -> None:
    comparison = compared(tmp_path, results(), results())
    short, long = (list(lines(comparison, every=every)) for every in (False, True))
    assert len(long) == len(short) + len(comparison.findings)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("a,b\n1,2\n"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.with_name("epochs.csv").unlink(),
    ],
)
def test_a_broken_table_is_an_error_that_names_it(
    tmp_path: Path, spoil: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    compared(tmp_path, results(), results())
    spoil(tmp_path / "b" / "results" / "runs.csv")
    with pytest.raises(MetricsError):
        read_side(tmp_path / "b")
    assert exit_code(tmp_path) == 1
    err = capsys.readouterr().err
    assert str(tmp_path / "b") in err
    assert err.count("\n") == 1
