"""Groups of runs that may be compared, and the points that they make.

A cohort is one workload, computed by one version of the sources on one machine. Runs of different
cohorts are never put into one median or one figure panel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dmlf.benchmark.checks import CEILING, PASSED
from dmlf.benchmark.statistics import Estimate, median_estimate
from dmlf.benchmark.table import STRONG, RunRow
from dmlf.config import UNSYNCHRONIZED

# Serial first, then the protocols, then the peer; what is not named here follows by name.
_ALGORITHMS = ("serial", "parameter_server", "ring")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A strategy with its reduction at one world size: what a point in a figure stands for."""

    strategy: str
    reduction: str
    world_size: int

    def __str__(self) -> str:
        exact = ", exact" if self.reduction == "exact" else ""
        return f"{self.strategy}{exact}"


@dataclass(frozen=True, slots=True)
class Point:
    """All runs of one contestant whose check passed (or of a ceiling); there is at least one."""

    contestant: Contestant
    runs: tuple[RunRow, ...]

    @property
    def oversubscribed(self) -> bool:
        """Whether the processes' compute threads outnumbered the cores."""
        return any(run.oversubscribed for run in self.runs)

    def values(self, column: str) -> list[float]:
        """The column's value of every run that has one."""
        found = (getattr(run, column) for run in self.runs)
        return [float(value) for value in found if value is not None]

    @property
    def loaded(self) -> bool:
        """Whether others took much of the cores' time in at least half of the runs.

        A median over runs withstands fewer.
        """
        return 2 * sum(run.loaded is True for run in self.runs) >= len(self.runs)

    @property
    def throughput(self) -> list[float]:
        """Samples per second of every run."""
        return self.values("throughput_samples_per_s")

    def estimate(self, column: str) -> Estimate:
        """Median over runs with its interval; the column must have values."""
        return median_estimate(self.values(column))


@dataclass(frozen=True, slots=True)
class Cohort:
    """Comparable runs of one task; `runs` also holds the task's runs that did not complete.

    In strong scaling they share the global batch, in weak scaling the samples of each rank.
    """

    label: str
    task: str
    key: str
    runs: tuple[RunRow, ...]

    @property
    def experiment(self) -> str:
        """`strong` or `weak`: what stays the same from one world size to the next."""
        return self.runs[0].experiment

    @property
    def completed(self) -> list[RunRow]:
        """Training runs that completed, whatever their check says."""
        return [run for run in self._training if run.status == "completed"]

    @property
    def _training(self) -> list[RunRow]:
        """All runs but those that are only a ceiling for speed."""
        return [run for run in self.runs if run.algorithm != UNSYNCHRONIZED]

    def contestants(self) -> list[Contestant]:
        """Every training that was planned, in the order of figures and tables."""
        keys = {Contestant(run.strategy, run.reduction, run.world_size) for run in self._training}
        return sorted(
            keys,
            key=lambda c: (c.reduction != "float32", strategy_order(c.strategy), c.world_size),
        )

    def checked(self, contestant: Contestant) -> list[RunRow]:
        """The contestant's completed runs that passed their check, timed or not."""
        return [
            run
            for run in self.completed
            if Contestant(run.strategy, run.reduction, run.world_size) == contestant
            and run.check == PASSED
        ]

    def point(self, contestant: Contestant) -> Point | None:
        """The contestant's timed and checked runs; None when there are none."""
        return self._point(contestant, PASSED)

    def ceiling(self, world_size: int) -> Point | None:
        """The timed runs without synchronisation; no training result, and in no other number."""
        return self._point(ceiling_contestant(world_size), CEILING)

    def planned_ceilings(self) -> set[int]:
        """The world sizes at which runs without synchronisation were planned."""
        return {run.world_size for run in self.runs if run.algorithm == UNSYNCHRONIZED}

    def _point(self, contestant: Contestant, check: str) -> Point | None:
        runs = tuple(
            run
            for run in self.runs
            if Contestant(run.strategy, run.reduction, run.world_size) == contestant
            and run.check == check
            and run.throughput_samples_per_s is not None
        )
        return Point(contestant, runs) if runs else None

    def points(self, reduction: str | None = None) -> list[Point]:
        """Every point there is, in order; of one reduction if given."""
        found = (
            self.point(contestant)
            for contestant in self.contestants()
            if reduction in (None, contestant.reduction)
        )
        return [point for point in found if point is not None]

    def reductions(self) -> list[str]:
        """The reductions that have points, float32 first."""
        return sorted({p.contestant.reduction for p in self.points()}, key=lambda r: r != "float32")


def ceiling_contestant(world_size: int) -> Contestant:
    """What the runs without synchronisation at one world size are called."""
    return Contestant(UNSYNCHRONIZED, "float32", world_size)


def strategy_order(strategy: str) -> tuple[int, str]:
    """Sort key of strategies: serial, parameter server, ring, others by name, stock DDP last."""
    algorithm = strategy.partition("-")[0].partition(":")[0]
    if algorithm in _ALGORITHMS:
        return _ALGORITHMS.index(algorithm), strategy
    return len(_ALGORITHMS) + (algorithm == "ddp"), strategy


def strategies(points: Iterable[Point]) -> list[str]:
    """The strategies of some points, in order."""
    return sorted({point.contestant.strategy for point in points}, key=strategy_order)


def cohorts(runs: Sequence[RunRow]) -> list[Cohort]:
    """Split a table into its comparable parts, in the table's order; one at least for each task."""
    found = []
    for task in dict.fromkeys(run.task for run in runs):
        of_task = [run for run in runs if run.task == task]
        keys = list(dict.fromkeys(run.cohort for run in of_task if run.cohort is not None))
        for key in keys or [""]:
            members = tuple(run for run in of_task if run.cohort in (key, None))
            name = task if members[0].experiment == STRONG else f"{task}, weak scaling"
            label = name if len(keys) < 2 else f"{name} (variant {key[:6]})"
            found.append(Cohort(label, task, key, members))
    return found


def mixtures(runs: Sequence[RunRow]) -> list[str]:
    """One sentence for everything that should be the same within a task and is not."""
    kinds = (
        ("workload_sha256", "configurations"),
        ("source_sha256", "versions of the sources"),
        ("constraints_sha256", "sets of pinned dependencies"),
        ("machine_sha256", "machines or installed versions"),
    )
    found = []
    for task in dict.fromkeys(run.task for run in runs):
        completed = [run for run in runs if run.task == task and run.status == "completed"]
        for column, name in kinds:
            values = [getattr(run, column) for run in completed]
            distinct = list(dict.fromkeys(values))
            if len(distinct) > 1:
                shown = ", ".join(
                    f"{values.count(value)} runs with {(value or 'none')[:8]}" for value in distinct
                )
                found.append(f"{task}: {len(distinct)} different {name} ({shown})")
    return found
