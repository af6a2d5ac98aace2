"""Claims as data: a name, a text for every outcome, and a predicate over comparable runs.

The report prints what the predicates find and nothing else. A difference in speed is claimed only
from MIN_REPEATS_FOR_CLAIM runs on both sides whose 95 % intervals are disjoint; when they overlap
the two are "not distinguishable", and without enough checked runs there is "no data".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dmlf.benchmark.cohorts import Cohort, Contestant, Point
from dmlf.benchmark.statistics import (
    MIN_REPEATS_FOR_CLAIM,
    Estimate,
    median_estimate,
    ratio_estimate,
)
from dmlf.config import UNSYNCHRONIZED


class Outcome(StrEnum):
    """What a predicate found."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOT_DISTINGUISHABLE = "not distinguishable"
    NO_DATA = "no data"


@dataclass(frozen=True, slots=True)
class Finding:
    """An outcome, the numbers for its text, and whether an oversubscribed point took part."""

    outcome: Outcome
    numbers: Mapping[str, str] = field(default_factory=dict)
    oversubscribed: bool = False


Predicate = Callable[[Cohort], Finding]


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement about a cohort. `texts` has a template for every outcome.

    `kind` groups claims of one form (see `claim_list`), `subject` is whom it is about, and
    `figure` the figure that shows it, None where a table does.
    """

    name: str
    kind: str
    subject: str
    world_size: int | None
    figure: str | None
    texts: Mapping[Outcome, str]
    predicate: Predicate

    def judge(self, cohort: Cohort) -> Judged:
        """Apply the predicate to the runs."""
        return Judged(self, self.predicate(cohort))


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim and what was found."""

    claim: Claim
    finding: Finding

    @property
    def outcome(self) -> Outcome:
        """Holds, does not hold, not distinguishable, or no data."""
        return self.finding.outcome

    @property
    def text(self) -> str:
        """The sentence that the data allow."""
        return self.claim.texts[self.outcome].format(**self.finding.numbers)

    def command(self, figures: str, report: str) -> str:
        """The command that rebuilds what shows this claim; figures: the figures' folder."""
        shown = self.claim.figure
        return f"snakemake {report if shown is None else f'{figures}/{shown}.svg'}"


def no_data(reason: str) -> Finding:
    """Nothing to say, and why."""
    return Finding(Outcome.NO_DATA, {"reason": reason})


def too_few(*sides: tuple[Contestant, Point | None]) -> str | None:
    """Why these points cannot carry a claim; None when they can."""
    for contestant, point in sides:
        runs = 0 if point is None else len(point.runs)
        if runs < MIN_REPEATS_FOR_CLAIM:
            where = f"{contestant} at world size {contestant.world_size}"
            return (
                f"{where} has {runs} checked run{'s' * (runs != 1)} and a claim "
                f"needs {MIN_REPEATS_FOR_CLAIM}"
            )
    return None


def faster(subject: Contestant, base: Contestant) -> Predicate:
    """Holds when the subject's throughput interval lies above the base's."""

    def predicate(cohort: Cohort) -> Finding:
        mine, theirs = cohort.point(subject), cohort.point(base)
        reason = too_few((subject, mine), (base, theirs))
        if mine is None or theirs is None or reason:
            return no_data(reason or "")
        ratio = ratio_estimate(mine.throughput, theirs.throughput)
        return Finding(
            _order(median_estimate(mine.throughput), median_estimate(theirs.throughput)),
            {
                "ratio": ratio.text(),
                "inverse": ratio_estimate(theirs.throughput, mine.throughput).text(),
                "mine": median_estimate(mine.throughput).text(),
                "theirs": median_estimate(theirs.throughput).text(),
                "efficiency": ratio_estimate(
                    mine.throughput, theirs.throughput, base.world_size / subject.world_size
                ).text(),
            },
            mine.oversubscribed or theirs.oversubscribed,
        )

    return predicate


def share_of_ceiling(subject: Contestant, limit: float) -> Predicate:
    """Holds when the interval of throughput over that without synchronisation lies above `limit`.

    Runs without synchronisation are no training results; they stand for a speed alone.
    """

    def predicate(cohort: Cohort) -> Finding:
        mine, ceiling = cohort.point(subject), cohort.ceiling(subject.world_size)
        unsynchronized = Contestant(UNSYNCHRONIZED, "float32", subject.world_size)
        reason = too_few((subject, mine), (unsynchronized, ceiling))
        if mine is None or ceiling is None or reason:
            return no_data(reason or "")
        share = ratio_estimate(mine.throughput, ceiling.throughput, 100.0)
        threshold = Estimate(100 * limit, 100 * limit, 100 * limit, share.runs)
        return Finding(
            _order(share, threshold),
            {"share": share.text(), "limit": f"{100 * limit:g}"},
            mine.oversubscribed or ceiling.oversubscribed,
        )

    return predicate


def _order(mine: Estimate, theirs: Estimate) -> Outcome:
    if theirs.below(mine):
        return Outcome.HOLDS
    return Outcome.DOES_NOT_HOLD if mine.below(theirs) else Outcome.NOT_DISTINGUISHABLE


def communication_below(subject: Contestant, limit: float) -> Predicate:
    """Holds when the interval of the share of a step spent in communication lies below `limit`."""

    def predicate(cohort: Cohort) -> Finding:
        point = cohort.point(subject)
        reason = too_few((subject, point))
        if point is None or reason:
            return no_data(reason or "")
        shares = point.values("exposed_fraction")
        share = median_estimate([100 * value for value in shares])
        threshold = Estimate(100 * limit, 100 * limit, 100 * limit, share.runs)
        waiting = [
            100 * wait_s / step_time_s
            for wait_s, step_time_s in zip(
                point.values("wait_s"), point.values("step_time_s"), strict=True
            )
        ]
        numbers = {
            "share": share.text(),
            "waiting": median_estimate(waiting).text(),
            "limit": f"{100 * limit:g}",
        }
        return Finding(_order(threshold, share), numbers, point.oversubscribed)

    return predicate


def accuracy_within(strategy: str, reduction: str, points: float) -> Predicate:
    """Holds when every checked run ends within `points` (percentage points) of serial's accuracy.

    Compared with the serial runs of the same seed and reduction; serial repeats are bit-identical,
    so any of them stands for all.
    """

    def predicate(cohort: Cohort) -> Finding:
        checked = [run for point in cohort.points(reduction) for run in point.runs]
        serial = {run.seed: run.test_accuracy for run in checked if run.strategy == "serial"}
        mine = [run for run in checked if run.strategy == strategy]
        if not mine:
            return no_data(f"{strategy} has no checked run")
        gaps = []
        for run in mine:
            base = serial.get(run.seed)
            if base is None or run.test_accuracy is None:
                return no_data("there is no checked serial run with an accuracy to compare with")
            gaps.append(100 * (run.test_accuracy - base))
        worst = max(gaps, key=abs)
        outcome = Outcome.HOLDS if abs(worst) <= points else Outcome.DOES_NOT_HOLD
        return Finding(outcome, {"worst": f"{worst:+.2f}", "limit": f"{points:g}"})

    return predicate


def all_checked(cohort: Cohort) -> Finding:
    """Holds when every completed run passed its correctness check."""
    verdicts = [run.check for run in cohort.completed]
    failed, absent = verdicts.count("failed"), verdicts.count("absent")
    numbers = {
        "completed": str(len(verdicts)),
        "passed": str(verdicts.count("passed")),
        "failed": str(failed),
        "absent": str(absent),
    }
    if failed:
        return Finding(Outcome.DOES_NOT_HOLD, numbers)
    if not verdicts:
        return no_data("no run completed")
    if absent:
        return no_data(f"{absent} of {len(verdicts)} completed runs had nothing to compare with")
    return Finding(Outcome.HOLDS, numbers)


def same_exact_bits(cohort: Cohort) -> Finding:
    """Holds when all exact runs of a seed ended in one state, over at least two contestants."""
    exact = [run for run in cohort.completed if run.reduction == "exact"]
    contestants = {(run.strategy, run.world_size) for run in exact}
    if len(contestants) < 2:
        return no_data("fewer than two different exact contestants completed")
    seeds = {run.seed for run in exact}
    states = {(run.seed, run.final_state_sha256) for run in exact}
    numbers = {
        "runs": str(len(exact)),
        "contestants": str(len(contestants)),
        "states": str(len(states)),
        "seeds": f"{len(seeds)} seed{'s' * (len(seeds) != 1)}",
    }
    return Finding(Outcome.HOLDS if len(states) == len(seeds) else Outcome.DOES_NOT_HOLD, numbers)
