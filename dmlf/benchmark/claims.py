"""Claims as data: a name, a text for every outcome, and a predicate over comparable runs.

The report prints what the predicates find and nothing else. A difference in speed is claimed only
from points that are fit for it (see `noise`) and where the 95 % interval of their ratio leaves out
1; where it holds 1 the two are "not distinguishable", and without enough checked runs there is "no
data".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dmlf.benchmark.cohorts import Cohort, Contestant, ceiling_contestant
from dmlf.benchmark.noise import unfit
from dmlf.benchmark.statistics import Estimate, median_estimate, ratio_estimate


class Outcome(StrEnum):
    """What a predicate found."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOT_DISTINGUISHABLE = "not distinguishable"
    NO_DATA = "no data"


@dataclass(frozen=True, slots=True)
class Finding:
    """An outcome, the numbers for its text, and what a point that took part suffered from."""

    outcome: Outcome
    numbers: Mapping[str, str] = field(default_factory=dict)
    oversubscribed: bool = False
    loaded: bool = False

    @property
    def reservation(self) -> str:
        """Empty where the finding may stand in the answer, else what keeps it out."""
        words = (("oversubscribed", self.oversubscribed), ("loaded", self.loaded))
        return ", ".join(word for word, holds in words if holds)


Predicate = Callable[[Cohort], Finding]


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement about a cohort. `texts` has a template for every outcome, `asked` is the claim.

    `kind` groups claims of one form (see `claim_list`), `subject` is whom it is about, `{who}` in
    the templates, and `figure` the figure that shows it, None where a table does.
    """

    name: str
    kind: str
    subject: str
    world_size: int | None
    figure: str | None
    asked: str
    texts: Mapping[Outcome, str]
    predicate: Predicate

    @property
    def who(self) -> str:
        """The subject and its world size, where it has one."""
        at = "" if self.world_size is None else f" at world size {self.world_size}"
        return f"{self.subject}{at}"

    @property
    def tested(self) -> str:
        """What was asked: the sentence that is true when the claim holds."""
        return self.asked.format(who=self.who)

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
        return self.said_of(self.claim.who)

    def said_of(self, who: str) -> str:
        """The same sentence about others, of whom it is true with the same numbers."""
        return self.claim.texts[self.outcome].format(who=who, **self.finding.numbers)

    def command(self, figures: str, report: str) -> str:
        """The command that rebuilds what shows this claim; figures: the figures' folder."""
        shown = self.claim.figure
        return f"snakemake {report if shown is None else f'{figures}/{shown}.svg'}"


def no_data(reason: str) -> Finding:
    """Nothing to say, and why."""
    return Finding(Outcome.NO_DATA, {"reason": reason})


def faster(subject: Contestant, base: Contestant) -> Predicate:
    """Holds when the interval of the subject's throughput over the base's lies above 1."""

    def predicate(cohort: Cohort) -> Finding:
        mine, theirs = cohort.point(subject), cohort.point(base)
        reason = unfit((subject, mine), (base, theirs))
        if mine is None or theirs is None or reason:
            return no_data(reason or "")
        ratio = ratio_estimate(mine.throughput, theirs.throughput)
        return Finding(
            _above(ratio, 1.0),
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
            mine.loaded or theirs.loaded,
        )

    return predicate


def share_of_ceiling(subject: Contestant, limit: float) -> Predicate:
    """Holds when the interval of throughput over that without synchronisation lies above `limit`.

    Runs without synchronisation are no training results; they stand for a speed alone.
    """

    def predicate(cohort: Cohort) -> Finding:
        mine, ceiling = cohort.point(subject), cohort.ceiling(subject.world_size)
        reason = unfit((subject, mine), (ceiling_contestant(subject.world_size), ceiling))
        if mine is None or ceiling is None or reason:
            return no_data(reason or "")
        share = ratio_estimate(mine.throughput, ceiling.throughput, 100.0)
        return Finding(
            _above(share, 100 * limit),
            {"share": share.text(), "limit": f"{100 * limit:g}"},
            mine.oversubscribed or ceiling.oversubscribed,
            mine.loaded or ceiling.loaded,
        )

    return predicate


def _above(estimate: Estimate, limit: float) -> Outcome:
    return _BY_SIDE[estimate.side_of(limit)]


def _below(estimate: Estimate, limit: float) -> Outcome:
    return _BY_SIDE[-estimate.side_of(limit)]


_BY_SIDE = {1: Outcome.HOLDS, -1: Outcome.DOES_NOT_HOLD, 0: Outcome.NOT_DISTINGUISHABLE}


def communication_below(subject: Contestant, limit: float) -> Predicate:
    """Holds when the interval of the share of a step spent in communication lies below `limit`."""

    def predicate(cohort: Cohort) -> Finding:
        point = cohort.point(subject)
        reason = unfit((subject, point))
        if point is None or reason:
            return no_data(reason or "")
        share, waiting = (
            median_estimate([100 * value for value in point.values(column)])
            for column in ("exposed_fraction", "waiting_fraction")
        )
        numbers = {
            "share": share.text(),
            "waiting": waiting.text(),
            "limit": f"{100 * limit:g}",
        }
        outcome = _below(share, 100 * limit)
        return Finding(outcome, numbers, point.oversubscribed, point.loaded)

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


def converges_no_slower(subject: Contestant) -> Predicate:
    """Holds when no checked run needs more epochs to the target accuracy than serial of its seed.

    Does not hold when every run needs more. Repeats of a seed are the same training, so seeds are
    compared in pairs and no interval is drawn: where some need more and some do not, the two are
    not distinguishable.
    """

    def predicate(cohort: Cohort) -> Finding:
        point = cohort.checked(subject)
        serial = {
            run.seed: run.epochs_to_target
            for run in cohort.checked(Contestant("serial", subject.reduction, 1))
        }
        if not point:
            return no_data(f"{subject} at world size {subject.world_size} has no checked run")
        pairs = [(run, serial.get(run.seed)) for run in point if run.target_accuracy is not None]
        known = [(run.epochs_to_target, base) for run, base in pairs if base is not None]
        if len(known) < len(point):
            return no_data("there is no checked serial run whose accuracy sets a target")
        later = [mine is None or mine > base for mine, base in known]
        numbers = {
            "mine": _epochs([mine for mine, _ in known]),
            "serial": _epochs([base for _, base in known]),
            "later": str(sum(later)),
            "runs": str(len(later)),
        }
        if not any(later):
            return Finding(Outcome.HOLDS, numbers)
        return Finding(
            Outcome.DOES_NOT_HOLD if all(later) else Outcome.NOT_DISTINGUISHABLE, numbers
        )

    return predicate


def _epochs(values: Sequence[int | None]) -> str:
    """`7`, `7 to 9`, `7 to never`."""
    known = sorted(value for value in values if value is not None)
    shown = [str(value) for value in dict.fromkeys([*known[:1], *known[-1:]])]
    if len(known) < len(values):
        shown = [*shown[:1], "never"]
    return " to ".join(shown)


def sooner(subject: Contestant, base: Contestant) -> Predicate:
    """Holds when the interval of the subject's time to the target over the base's lies below 1."""

    def predicate(cohort: Cohort) -> Finding:
        mine, theirs = cohort.point(subject), cohort.point(base)
        reason = unfit((subject, mine), (base, theirs))
        if mine is None or theirs is None or reason:
            return no_data(reason or "")
        mine_s, theirs_s = mine.values("time_to_target_s"), theirs.values("time_to_target_s")
        for contestant, point, times in ((subject, mine, mine_s), (base, theirs, theirs_s)):
            if len(times) < len(point.runs):
                return no_data(
                    f"{len(point.runs) - len(times)} of {len(point.runs)} runs of {contestant} at "
                    f"world size {contestant.world_size} have no time to the target"
                )
        ratio = ratio_estimate(mine_s, theirs_s)
        numbers = {
            "mine": median_estimate(mine_s).text(),
            "theirs": median_estimate(theirs_s).text(),
            "ratio": ratio.text(),
        }
        return Finding(
            _below(ratio, 1.0),
            numbers,
            mine.oversubscribed or theirs.oversubscribed,
            mine.loaded or theirs.loaded,
        )

    return predicate


def all_checked(cohort: Cohort) -> Finding:
    """Holds when every completed training run passed its correctness check."""
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
        return no_data("no training run completed")
    if absent:
        return no_data(f"{absent} of {len(verdicts)} training runs had nothing to compare with")
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
