"""What every section of the report is written from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dmlf.benchmark.claims import Judged
from dmlf.benchmark.cohorts import Cohort
from dmlf.benchmark.collective.load import Loaded
from dmlf.benchmark.faults.load import Faults
from dmlf.benchmark.projection import Projection
from dmlf.benchmark.table import Table


@dataclass(frozen=True, slots=True)
class Places:
    """Paths as the commands name them, and the figures' folder as seen from the report."""

    figures: str
    link: str
    report: str


@dataclass(frozen=True, slots=True)
class Material:
    """The table, its comparable parts with their judged claims, and what is reported beside them.

    `steps` names the drawings of recorded steps that lie among the figures, by strategy.
    `projection_problem` says why there is no projection.
    """

    table: Table
    judged: tuple[tuple[Cohort, tuple[Judged, ...]], ...]
    places: Places
    collectives: Loaded
    faults: Faults = field(default_factory=Faults)
    steps: tuple[str, ...] = ()
    projection: Projection | None = None
    projection_problem: str = "none was asked for"

    @property
    def cohorts(self) -> list[Cohort]:
        """The comparable parts alone."""
        return [cohort for cohort, _ in self.judged]


Section = Callable[[Material], Iterator[str]]
"""Yields blocks of Markdown, the first of them its heading; nothing where it has no place."""
