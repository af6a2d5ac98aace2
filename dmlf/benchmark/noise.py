"""How far one point can be trusted, as data: what was noticed, and what that keeps it out of.

| noticed         | means                                                   | keeps it out of |
|-----------------|---------------------------------------------------------|-----------------|
| few runs        | under MIN_REPEATS_FOR_CLAIM runs with a speed           | claims          |
| unsteady        | an interval wider than UNSTEADY of its median           | claims          |
| contaminated    | runs measured at the same time as others; their speeds  | (those runs)    |
|                 | are dropped, and what is left makes the point           |                 |
| loaded          | others took much of the cores' time in half of the runs | the answer      |
| oversubscribed  | more threads than cores                                 | the answer      |
| wide            | an interval wider than WIDE of its median               | nothing         |
"""

from __future__ import annotations

from dataclasses import dataclass

from dmlf.benchmark.cohorts import Cohort, Contestant, Point, ceiling_contestant
from dmlf.benchmark.statistics import MIN_REPEATS_FOR_CLAIM, median_estimate
from dmlf.config import UNSYNCHRONIZED

WIDE = 0.10
UNSTEADY = 0.50
CLAIMS, ANSWER, NOTHING = "claims", "answer", "nothing"


@dataclass(frozen=True, slots=True)
class Noise:
    """What was noticed of one contestant; `spread` is None where one run has no interval.

    `spread` is the width of the throughput's 95 % interval over its median, `others` the largest
    part of the cores' time that others took in a run (None: not known).
    """

    contestant: Contestant
    runs: int
    contaminated: int
    spread: float | None
    others: float | None
    noticed: tuple[str, ...]

    @property
    def excluded_from(self) -> str:
        """`claims` (and with them the answer), `answer`, or `nothing`."""
        if {"few runs", "unsteady"} & set(self.noticed):
            return CLAIMS
        return ANSWER if {"loaded", "oversubscribed"} & set(self.noticed) else NOTHING


def noise(cohort: Cohort) -> list[Noise]:
    """The verdict on every contestant that completed a run, ceilings too."""
    contestants = [
        *cohort.contestants(),
        *(ceiling_contestant(size) for size in sorted(cohort.planned_ceilings())),
    ]
    found = (_noise(cohort, contestant) for contestant in contestants)
    return [verdict for verdict in found if verdict is not None]


def _noise(cohort: Cohort, contestant: Contestant) -> Noise | None:
    runs = [
        run
        for run in cohort.runs
        if run.status == "completed"
        and Contestant(run.strategy, run.reduction, run.world_size) == contestant
    ]
    if not runs:
        return None
    point = cohort.point(contestant)
    if point is None and contestant.strategy == UNSYNCHRONIZED:
        point = cohort.ceiling(contestant.world_size)
    timed = 0 if point is None else len(point.runs)
    contaminated = sum(run.contaminated_by is not None for run in runs)
    spread = None if point is None else relative_width(point)
    noticed = (
        ("few runs", timed < MIN_REPEATS_FOR_CLAIM),
        ("unsteady", spread is not None and spread > UNSTEADY),
        ("contaminated", contaminated > 0),
        ("loaded", point is not None and point.loaded),
        ("oversubscribed", any(run.oversubscribed for run in runs)),
        ("wide", spread is not None and WIDE < spread <= UNSTEADY),
    )
    return Noise(
        contestant=contestant,
        runs=timed,
        contaminated=contaminated,
        spread=spread,
        others=max(
            (r.others_cpu_share for r in runs if r.others_cpu_share is not None), default=None
        ),
        noticed=tuple(name for name, seen in noticed if seen),
    )


def relative_width(point: Point) -> float | None:
    """Width of the throughput's interval over its median; None with a single run."""
    estimate = median_estimate(point.throughput)
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / estimate.median


def unfit(*sides: tuple[Contestant, Point | None]) -> str | None:
    """Why these points cannot carry a claim; None when they can."""
    for contestant, point in sides:
        where = f"{contestant} at world size {contestant.world_size}"
        runs = 0 if point is None else len(point.runs)
        if point is None or runs < MIN_REPEATS_FOR_CLAIM:
            return (
                f"{where} has {runs} checked run{'s' * (runs != 1)} and a claim "
                f"needs {MIN_REPEATS_FOR_CLAIM}"
            )
        width = relative_width(point)
        if width is not None and width > UNSTEADY:
            return (
                f"{where} is unsteady: its interval is {100 * width:.0f} % of its median, and a "
                f"claim needs at most {100 * UNSTEADY:.0f} %"
            )
    return None
