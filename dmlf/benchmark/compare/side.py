"""One side of a comparison: the table of a folder of results, by task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmlf.benchmark.cohorts import Cohort, cohorts
from dmlf.benchmark.collective.load import Loaded, load
from dmlf.benchmark.table import Table, read_table
from dmlf.errors import MetricsError

_TABLE = "runs.csv"
_COLLECTIVES = "collective.json"


@dataclass(frozen=True, slots=True)
class Side:
    """A table with its comparable parts, one for each task; `path` is as it was given.

    collectives: the record beside the table, or why there is none.
    """

    path: str
    table: Table
    parts: dict[str, Cohort]
    mixed: tuple[str, ...]
    collectives: Loaded

    def values(self, column: str) -> set[object]:
        """The values of a column over completed runs."""
        return {getattr(run, column) for run in self.table.runs if run.status == "completed"}


def read_side(path: Path) -> Side:
    """Read RESULTS: a table, a folder that holds one, or a folder with a folder results.

    A task with runs that may not be compared with each other (of two revisions, say) has no part:
    it is in `mixed`. Raises MetricsError when there is no table, or a broken one.
    """
    places = [path] if path.is_file() else [path / _TABLE, path / "results" / _TABLE]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise MetricsError(str(path), "folder", f"holds no {_TABLE}; run the workflow first")
    table = read_table(found)
    parts: dict[str, Cohort] = {}
    mixed = set()
    for cohort in cohorts(table.runs):
        if cohort.task in parts:
            mixed.add(cohort.task)
        parts[cohort.task] = cohort
    kept = {task: cohort for task, cohort in parts.items() if task not in mixed}
    record = load(found.with_name(_COLLECTIVES))
    return Side(str(path), table, kept, tuple(sorted(mixed)), record)
