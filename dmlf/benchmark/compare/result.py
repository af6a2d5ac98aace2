"""What a comparison is made of: a finding, and how a change is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from dmlf.benchmark.cohorts import Cohort, Contestant
from dmlf.benchmark.statistics import Estimate

MIN_CHANGE = 0.05


class Result(StrEnum):
    """What was found of one thing that both sides have, or that one lacks."""

    AGREES = "agrees"
    UNDECIDED = "undecided"
    DIFFERS = "differs"
    IMPROVEMENT = "improvement"
    REGRESSION = "REGRESSION"
    ONLY_ONE = "on one side only"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a comparison."""

    result: Result
    kind: str
    subject: str
    detail: str


def named(cohort: Cohort, contestant: Contestant) -> str:
    """A contestant in words."""
    return f"{cohort.label}: {contestant} at world size {contestant.world_size}"


def apart(old: Estimate, new: Estimate) -> bool:
    """Whether two values differ beyond noise: disjoint intervals, and MIN_CHANGE at least."""
    change = new.median / old.median - 1
    return abs(change) >= MIN_CHANGE and (old.below(new) or new.below(old))


def more_is_better(change: float) -> bool:
    """For speeds."""
    return change > 0


def less_is_better(change: float) -> bool:
    """For times."""
    return change < 0


def changed(
    kind: str,
    subject: str,
    old: Estimate,
    new: Estimate,
    *,
    better: Callable[[float], bool],
    reserved: bool,
    same_machine: bool,
) -> Finding:
    """Judge a ratio on both sides.

    reserved: a point was oversubscribed or loaded, so that the ratio says more of the machine.
    """
    change = new.median / old.median - 1
    detail = f"{old.text()} in A, {new.text()} in B ({100 * change:+.0f} %)"
    if not apart(old, new):
        return Finding(Result.AGREES, kind, subject, detail)
    if reserved or not same_machine:
        why = "oversubscribed or loaded" if reserved else "other machine"
        return Finding(Result.DIFFERS, kind, subject, f"{detail}; {why}")
    result = Result.IMPROVEMENT if better(change) else Result.REGRESSION
    return Finding(result, kind, subject, detail)
