"""Which runs had company: measured at the same time as another, or beside other work.

A contaminated run keeps its correctness, which no neighbour can change, and loses its speed. A
loaded one keeps both; a point of which at least half the runs were loaded stays out of the report's
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from dmlf.benchmark.table import SPEED_COLUMNS, RunRow
from dmlf.runtime.others import OTHERS_MATTER

# Wall clocks are compared: they may be set meanwhile, and a run's end is noted after it gives up
# the lock.
_TOLERANCE = timedelta(milliseconds=50)
_NO_SPEED: dict[str, Any] = dict.fromkeys(SPEED_COLUMNS)


def marked_interference(runs: Sequence[RunRow]) -> list[RunRow]:
    """Return the rows with `contaminated_by` and `loaded` filled in, in the same order.

    Two runs of one machine are contaminated when the times overlap from which one held the
    machine (its start, and its wait for the measuring lock after it) to its end. Machines that
    are alike count as one, so that a doubt costs a speed and never adds one. A run is loaded when
    others took more than OTHERS_MATTER of the cores' time while it had them.
    """
    company = _overlaps(runs)
    return [_marked(run, company.get(run.path)) for run in runs]


def _marked(run: RunRow, other: str | None) -> RunRow:
    if run.status != "completed":
        return run
    share = run.others_cpu_share
    loaded = None if share is None else share > OTHERS_MATTER
    blanked = {} if other is None else _NO_SPEED
    return replace(run, loaded=loaded, contaminated_by=other, **blanked)


def _overlaps(runs: Sequence[RunRow]) -> dict[str, str]:
    """For each run that shared its machine's time, one that it shared it with."""
    spans: dict[str | None, list[tuple[datetime, datetime, str]]] = {}
    for run in runs:
        span = _measured(run)
        if span is not None:
            spans.setdefault(run.machine_sha256, []).append((*span, run.path))
    company: dict[str, str] = {}
    for found in spans.values():
        latest: tuple[datetime, str] | None = None
        for begin, end, path in sorted(found):
            if latest is not None and begin + _TOLERANCE < latest[0]:
                company.setdefault(path, latest[1])
                company.setdefault(latest[1], path)
            if latest is None or end > latest[0]:
                latest = end, path
    return company


def _measured(run: RunRow) -> tuple[datetime, datetime] | None:
    if run.started_at is None or run.finished_at is None:
        return None
    begin = datetime.fromisoformat(run.started_at) + timedelta(seconds=run.lock_wait_s or 0.0)
    return begin, datetime.fromisoformat(run.finished_at)
