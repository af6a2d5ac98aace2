"""Gather what a plan of runs left behind into one tidy table, judged and never merged by guess.

Each expected run becomes one row: completed, failed (it left failure.json), skipped (by the plan,
with a reason), missing, or invalid (its file is not what it claims to be). One bad file spoils its
own row only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmlf.benchmark.checks import Evidence, check_runs
from dmlf.benchmark.elastic import resized
from dmlf.benchmark.files import read_json
from dmlf.benchmark.interference import marked_interference
from dmlf.benchmark.layout import ResultPath
from dmlf.benchmark.records import (
    completed_row,
    epoch_rows,
    experiment,
    reference_state,
    short_cohort,
)
from dmlf.benchmark.schema import validate
from dmlf.benchmark.table import RunRow, Table, write_table
from dmlf.benchmark.targets import with_targets
from dmlf.config import RunConfig
from dmlf.errors import MetricsError

_KEYS = {"path", "reference", "skipped", "samples_per_rank"}


@dataclass(frozen=True, slots=True)
class Expected:
    """One line of the plan: where the run lies, its reference, and why it was skipped, if so.

    `samples_per_rank` is set for a run of weak scaling.
    """

    result: ResultPath
    reference: str | None
    skipped: str | None
    samples_per_rank: int | None = None


@dataclass(frozen=True, slots=True)
class _Completed:
    expected: Expected
    metrics: Mapping[str, Any]
    config: RunConfig
    evidence: Evidence


def gather(expected_path: str | Path, output_path: str | Path) -> Table:
    """Read every expected run, judge it, and write runs.csv at `output_path`, epochs.csv beside it.

    expected_path: JSON list of {"path", "reference", "skipped", "samples_per_rank"}; paths count
    from the current folder. Raises MetricsError when that list itself is not valid, and OSError.
    """
    table = judge(read_expected(expected_path))
    write_table(output_path, table)
    return table


def judge(plan: Sequence[Expected]) -> Table:
    """Read every run of the plan and judge each in the company of the others."""
    found = [_read(expected) for expected in plan]
    completed = [item for item in found if isinstance(item, _Completed)]
    verdicts = iter(check_runs([item.evidence for item in completed]))
    runs, metrics = [], {}
    for item in found:
        if isinstance(item, RunRow):
            runs.append(item)
            continue
        row = completed_row(
            item.expected.result,
            item.metrics,
            item.config,
            item.evidence,
            next(verdicts),
            item.expected.samples_per_rank,
        )
        runs.append(row)
        metrics[row.path] = item.metrics
    marked = marked_interference(runs)
    epochs = [
        epoch
        for row in marked
        if row.path in metrics
        for epoch in epoch_rows(row, metrics[row.path])
    ]
    return Table(runs=tuple(with_targets(marked, epochs)), epochs=tuple(epochs))


def read_expected(path: str | Path) -> list[Expected]:
    """Read the plan strictly. Raises MetricsError, also when the file is absent."""
    name = str(path)
    try:
        entries = read_json(path)
    except FileNotFoundError:
        raise MetricsError(name, "file", "does not exist; it lists the expected runs") from None
    if not isinstance(entries, list):
        raise MetricsError(name, "document", "is not a list of expected runs")
    plan: dict[str, Expected] = {}
    for index, entry in enumerate(entries):
        field = f"[{index}]"
        if not isinstance(entry, dict) or set(entry) != _KEYS:
            raise MetricsError(name, field, f"is not an object of {', '.join(sorted(_KEYS))}")
        texts = (entry["reference"], entry["skipped"])
        if not isinstance(entry["path"], str) or any(
            value is not None and not isinstance(value, str) for value in texts
        ):
            raise MetricsError(name, field, "path must be text; reference, skipped text or null")
        per_rank = entry["samples_per_rank"]
        if per_rank is not None and (type(per_rank) is not int or per_rank < 1):
            raise MetricsError(name, field, "samples_per_rank must be a positive integer or null")
        if entry["path"] in plan:
            raise MetricsError(name, field, f"names {entry['path']} a second time")
        plan[entry["path"]] = Expected(ResultPath.parse(entry["path"]), *texts, per_rank)
    return list(plan.values())


def _read(expected: Expected) -> _Completed | RunRow:
    result = expected.result
    if expected.skipped is not None:
        return _absent_row(expected, "skipped", expected.skipped or "no reason given")
    try:
        metrics = read_json(result.path)
    except FileNotFoundError:
        return _read_failure(expected)
    except (MetricsError, OSError) as error:
        return _absent_row(expected, "invalid", _reason(error))
    try:
        config = validate(metrics, result.path)
    except MetricsError as error:
        return _absent_row(expected, "invalid", _reason(error))
    differences = result.differences(config)
    if expected.samples_per_rank is not None:
        planned = expected.samples_per_rank * config.world_size
        if planned != config.global_batch_size:
            differences.append(
                f"global_batch_size is {planned} by samples_per_rank and "
                f"{config.global_batch_size} in the file"
            )
    if differences:
        reason = f"the file belongs to another configuration: {'; '.join(differences)}"
        return _absent_row(expected, "invalid", reason)
    reference_sha256, problem = reference_state(expected.reference, metrics, config)
    evidence = Evidence(
        config=config,
        cohort=short_cohort(metrics, config),
        final_state_sha256=metrics["final_state_sha256"],
        replicas_identical=metrics["correctness"]["replicas_identical"],
        traffic_matches_theory=metrics["correctness"]["traffic_matches_theory"],
        step_loss=metrics["convergence"]["step_loss"],
        first_step=metrics["timing"]["first_step"],
        resized=resized(metrics, config),
        reference_sha256=reference_sha256,
        reference_problem=problem,
    )
    return _Completed(expected, metrics, config, evidence)


def _read_failure(expected: Expected) -> RunRow:
    path = Path(expected.result.path).with_name("failure.json")
    try:
        failure = read_json(path)
    except FileNotFoundError:
        return _absent_row(
            expected, "missing", "the run left neither metrics.json nor failure.json"
        )
    except (MetricsError, OSError) as error:
        return _absent_row(expected, "failed", f"failure.json is not readable: {_reason(error)}")
    error_block = failure.get("error") if isinstance(failure, dict) else None
    if not isinstance(error_block, dict):
        return _absent_row(expected, "failed", "failure.json names no error")
    kind, message = error_block.get("type"), error_block.get("message")
    return _absent_row(expected, "failed", f"{kind}: {message}")


def _reason(error: Exception) -> str:
    """The error's text without the path, which the row names already."""
    return f"{error.field}: {error.problem}" if isinstance(error, MetricsError) else str(error)


def _absent_row(expected: Expected, status: str, reason: str) -> RunRow:
    result = expected.result
    return RunRow(
        path=result.path,
        task=result.task,
        strategy=result.strategy,
        algorithm=result.algorithm,
        transport=result.transport,
        reduction=result.reduction,
        world_size=result.world_size,
        seed=result.seed,
        rep=result.rep,
        status=status,
        reason=reason,
        experiment=experiment(expected.samples_per_rank),
        samples_per_rank=expected.samples_per_rank,
        check_detail="the run did not complete",
    )
