"""The two tidy tables between the runs and everything that is said about them.

runs.csv has one row per expected run, epochs.csv beside it one row per epoch of each completed
run. They are plain CSV with typed columns: empty is "no value", texts hold no control characters
and never start a spreadsheet formula.
"""

from __future__ import annotations

import csv
import io
import math
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from dmlf.benchmark.files import write_text
from dmlf.errors import MetricsError

EPOCHS_NAME = "epochs.csv"
STRONG, WEAK = "strong", "weak"
_MAX_TEXT = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One expected run. `status`: completed, failed, skipped, missing or invalid, with `reason`.

    `check` (passed, failed, absent, ceiling) is the correctness verdict; unless it is `passed` or
    `ceiling`, the columns of speed (SPEED_COLUMNS) are empty, so that no speed can outlive its
    proof. Only runs of one `cohort` (same workload, sources and machine)
    are ever compared. Times are medians over measured steps of the slowest worker, bytes and
    messages those of all ranks per step. `strategy` names the servers too where there is more than
    one.

    `experiment` is `strong` (the global batch is the same at every world size) or `weak`
    (`samples_per_rank` is, and the global batch grows with the world size). `contaminated_by` is
    the path of a run that was measured at the same time on this machine: the columns of speed are
    then empty too. `others_cpu_share` is the part of the cores' time that other processes took
    during the run, and `loaded` says that it was too much; both are empty where it is not known.
    `train_samples` is the size of the training set, where whole epochs tell it.
    `epochs_to_target` and `time_to_target_s` are those after which the test accuracy first reached
    `target_accuracy`, which is known for a task and seed with a checked serial run.
    """

    path: str
    task: str
    strategy: str
    algorithm: str
    transport: str
    reduction: str
    world_size: int
    seed: int
    rep: int
    status: str
    reason: str | None = None
    experiment: str = STRONG
    samples_per_rank: int | None = None
    num_servers: int | None = None
    check: str = "absent"
    check_detail: str = ""
    final_state_sha256: str | None = None
    reference_sha256: str | None = None
    test_accuracy: float | None = None
    final_test_loss: float | None = None
    target_accuracy: float | None = None
    epochs_to_target: int | None = None
    time_to_target_s: float | None = None
    throughput_samples_per_s: float | None = None
    step_time_s: float | None = None
    data_s: float | None = None
    forward_backward_s: float | None = None
    communication_s: float | None = None
    wait_s: float | None = None
    hidden_s: float | None = None
    optimizer_s: float | None = None
    exposed_fraction: float | None = None
    waiting_fraction: float | None = None
    phase_source: str | None = None
    measured_steps: int | None = None
    train_samples: int | None = None
    payload_bytes_per_step: float | None = None
    theoretical_payload_bytes_per_step: float | None = None
    messages_per_step: float | None = None
    processes: int | None = None
    threads_per_rank: int | None = None
    oversubscribed: bool | None = None
    load_before_1m: float | None = None
    load_after_1m: float | None = None
    others_cpu_share: float | None = None
    loaded: bool | None = None
    contaminated_by: str | None = None
    warnings: int | None = None
    warning_texts: str | None = None
    cohort: str | None = None
    workload: str | None = None
    workload_sha256: str | None = None
    machine_sha256: str | None = None
    config_sha256: str | None = None
    source_sha256: str | None = None
    constraints_sha256: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    dmlf_version: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    lock_wait_s: float | None = None
    python: str | None = None
    torch: str | None = None
    torch_threads: int | None = None
    numpy: str | None = None
    platform: str | None = None
    kernel: str | None = None
    cpu_model: str | None = None
    logical_cores: int | None = None
    affinity_cores: int | None = None
    memory_bytes: int | None = None
    virtualization: str | None = None
    governor: str | None = None


STATUSES = ("completed", "failed", "skipped", "missing", "invalid")

# Blank unless the run's check passed, or its verdict is `ceiling`, and where it was contaminated.
SPEED_COLUMNS = (
    "throughput_samples_per_s",
    "step_time_s",
    "data_s",
    "forward_backward_s",
    "communication_s",
    "wait_s",
    "hidden_s",
    "optimizer_s",
    "exposed_fraction",
    "waiting_fraction",
    "time_to_target_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """One epoch of a completed run; epoch 0 is before training.

    `elapsed_s` is training time without evaluation and blank unless the run's check passed.
    """

    path: str
    task: str
    cohort: str
    strategy: str
    reduction: str
    world_size: int
    seed: int
    rep: int
    check: str
    epoch: int
    train_loss: float | None
    test_loss: float
    test_accuracy: float | None
    elapsed_s: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Both tables, as read."""

    runs: tuple[RunRow, ...]
    epochs: tuple[EpochRow, ...]


Row = TypeVar("Row", RunRow, EpochRow)


def write_table(path: str | Path, table: Table) -> None:
    """Write runs.csv at `path` and epochs.csv beside it, each in one step. Raises OSError."""
    write_text(Path(path).parent / EPOCHS_NAME, _encode(EpochRow, table.epochs))
    write_text(path, _encode(RunRow, table.runs))


def read_table(path: str | Path) -> Table:
    """Read what `write_table` wrote. Raises MetricsError when a file is absent or not such."""
    runs = tuple(_decode(RunRow, Path(path)))
    _check_runs(str(path), runs)
    return Table(
        runs=runs,
        epochs=tuple(_decode(EpochRow, Path(path).parent / EPOCHS_NAME)),
    )


def _check_runs(name: str, runs: Sequence[RunRow]) -> None:
    """Refuse what no gathered table holds, and what a median would swallow. Raises MetricsError."""
    seen: set[str] = set()
    for number, row in enumerate(runs, start=2):
        problems = {
            "path": f"{row.path} is there a second time" if row.path in seen else "",
            "status": "" if row.status in STATUSES else f"{row.status!r} is no status",
            "world_size": "" if row.world_size >= 1 else f"{row.world_size} is below 1",
        }
        for column in ("throughput_samples_per_s", "step_time_s"):
            value = getattr(row, column)
            problems[column] = "" if value is None or value > 0 else f"{value} is not above 0"
        for column, problem in problems.items():
            if problem:
                raise MetricsError(name, f"line {number}, {column}", problem)
        seen.add(row.path)


def clean_text(text: str) -> str:
    """Return a text fit for one cell: one line, no control characters, no formula, not endless."""
    flat = _CONTROL.sub(" ", text).strip()
    if flat.startswith(_FORMULA):
        flat = f"'{flat}"
    return flat if len(flat) <= _MAX_TEXT else f"{flat[: _MAX_TEXT - 3]}..."


def _encode(kind: type[Row], rows: Sequence[Row]) -> str:
    names = [item.name for item in fields(kind)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in names])
    return stream.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else clean_text(str(value))


def _decode(kind: type[Row], path: Path) -> list[Row]:
    hints = typing.get_type_hints(kind)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.reader(stream, strict=True))
    except FileNotFoundError:
        remedy = "does not exist; run dmlf gather first"
        raise MetricsError(str(path), "file", remedy) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise MetricsError(str(path), "file", f"is not a table of dmlf: {error}") from None
    if not lines or lines[0] != list(hints):
        problem = "are not those of this version of dmlf; run dmlf gather again"
        raise MetricsError(str(path), "columns", problem)
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(hints):
            problem = f"has {len(line)} cells for {len(hints)} columns"
            raise MetricsError(str(path), f"line {number}", problem)
        values: dict[str, Any] = {}
        for (name, hint), cell in zip(hints.items(), line, strict=True):
            try:
                values[name] = _value(hint, cell)
            except ValueError as error:
                raise MetricsError(str(path), f"line {number}, {name}", str(error)) from None
        rows.append(kind(**values))
    return rows


def _value(hint: Any, cell: str) -> Any:
    optional = isinstance(hint, types.UnionType)
    kind = typing.get_args(hint)[0] if optional else hint
    if not cell and optional:
        return None
    if kind is bool:
        if cell not in ("true", "false"):
            raise ValueError(f"{cell!r} is neither true nor false")
        return cell == "true"
    value = kind(cell)
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{cell} is no finite number")
    return value
