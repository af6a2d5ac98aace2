"""Two tables: what agrees, what is noise, what got worse, and what cannot be said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.compare.findings import Comparison, compare
from dmlf.benchmark.compare.result import Result
from dmlf.benchmark.compare.side import read_side
from dmlf.benchmark.compare.text import lines
from dmlf.benchmark.files import write_json
from dmlf.benchmark.table import RunRow, Table, write_table
from dmlf.cli import main
from dmlf.errors import MetricsError
from tests.benchmark.collective.records import TIMES, record
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


def learning(
    epochs: dict[int, int | None], seconds: float = 8.0, **changes: Any
) -> tuple[list[RunRow], ...]:
    """Another task, whose ring reaches the target in so many epochs, by seed; serial in 4."""
    same = SAME | {"target_accuracy": 0.96, "task": "learning"} | changes
    groups = []
    for seed, needed in epochs.items():
        for name, size, after, took in (("serial", 1, 4, 10.0), ("ring-shm", 2, needed, seconds)):
            groups.append(rows(name, size, near(100.0), seed=seed, epochs_to_target=after, **same))
            for row, factor in zip(groups[-1], near(1.0), strict=True):
                time_s = None if after is None else took * factor
                object.__setattr__(row, "time_to_target_s", time_s)
    return tuple(groups)


TARGET = "epochs to target learning: ring-shm at world size 2"


@pytest.mark.parametrize(
    ("after", "result"),
    [
        ({0: 4, 1: 5}, Result.AGREES),
        ({0: 5, 1: 6}, Result.REGRESSION),
        ({0: 5, 1: None}, Result.REGRESSION),
        ({0: 3, 1: 4}, Result.IMPROVEMENT),
        ({0: 5, 1: 4}, Result.DIFFERS),
        ({0: 4, 1: 6}, Result.DIFFERS),
        ({0: 4, 2: 9}, Result.AGREES),  # of the seeds that both have
    ],
)
def test_epochs_to_the_target_are_compared_seed_by_seed(
    tmp_path: Path, after: dict[int, int | None], result: Result
) -> None:
    first, second = results(extra=learning({0: 4, 1: 5})), results(extra=learning(after))
    assert TARGET in found(compared(tmp_path, first, second), result)
    elsewhere = [*results(extra=learning(after, machine_sha256="n" * 64), machine_sha256="n" * 64)]
    comparison = compared(tmp_path, first, elsewhere)
    expected = Result.AGREES if result == Result.AGREES else Result.DIFFERS
    assert TARGET in found(comparison, expected)


@pytest.mark.parametrize(
    ("seconds", "result"),
    [(8.1, Result.AGREES), (12.0, Result.REGRESSION), (4.0, Result.IMPROVEMENT)],
)
def test_time_to_the_target_is_compared_with_serial_s(
    tmp_path: Path, seconds: float, result: Result
) -> None:
    first = results(extra=learning({0: 4}))
    second = results(extra=learning({0: 4}, seconds))
    comparison = compared(tmp_path, first, second)
    subject = "time to target against serial learning: ring-shm at world size 2"
    assert subject in found(comparison, result)


def with_records(
    tmp_path: Path, first: dict[str, Any] | None, second: dict[str, Any] | None
) -> Comparison:
    for name, content in (("a", first), ("b", second)):
        if content is not None:
            write_json(tmp_path / name / "results" / "collective.json", content)
    return compared(tmp_path, results(), results())


RING_GLOO = "collective ratio ring-shm against gloo at world size 2"


def test_all_reduces_that_agree(tmp_path: Path) -> None:
    """A machine that is slower all over has the same ratios and orders."""
    slower = {name: [2 * time for time in times] for name, times in TIMES.items()}
    comparison = with_records(tmp_path, record(), record(slower))
    assert RING_GLOO in found(comparison, Result.AGREES)
    assert "collective ordering world size 4" in found(comparison, Result.AGREES)
    assert not {f for f in found(comparison, Result.DIFFERS) if "collective" in f}


def test_all_reduces_that_differ_are_named_and_no_regression(tmp_path: Path) -> None:
    worse = {**TIMES, "ring-shm": [8.0, 8.1, 7.9, 8.2, 8.0]}
    comparison = with_records(tmp_path, record(), record(worse))
    differs = found(comparison, Result.DIFFERS)
    assert RING_GLOO in differs
    assert "collective ordering ring-shm and gloo at world size 2" in differs
    assert comparison.regressions == []
    (detail,) = [f.detail for f in comparison.findings if f"{f.kind} {f.subject}" == RING_GLOO]
    assert detail.startswith("1 KiB 4.00 [")
    assert "; 1 MiB 4.00 [" in detail


def test_all_reduces_of_one_side_alone_are_noted(tmp_path: Path) -> None:
    comparison = with_records(tmp_path, record(), None)
    (note,) = [note for note in comparison.notes if "all-reduce" in note]
    assert "b/results: all-reduce alone is not compared" in note
    assert "does not exist" in note
