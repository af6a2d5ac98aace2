"""Compare two sides, finding by finding.

Absolute times are not compared. Every ratio divides by runs of the same table, so that what makes
a whole machine slower or faster cancels out:

| quantity   | is                                                              |
|------------|-----------------------------------------------------------------|
| ratio      | throughput over that of serial, or of the peer at the same size |
| efficiency | throughput over world size times the strategy's own at size 1   |
| ordering   | which of two strategies is faster at one world size             |
| shape      | whether a strategy gets faster or slower from one size to next  |
| to target  | epochs (see `convergence`), and time over serial's, to accuracy |
| collective | all-reduce alone: ratios to peers, and orderings, by size       |

A ratio or efficiency is lower (or higher) in B when its intervals are disjoint and the medians
differ by at least MIN_CHANGE (see `result`): with five runs on each side, intervals of two equal
things are disjoint about once in a hundred times, and a table has dozens. On one machine a lower
one is a regression. On two machines it is a difference, for a machine may well favour another
strategy; and so it is where a point was oversubscribed or loaded, which says more of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

from dmlf.benchmark.checks import FAILED, PASSED
from dmlf.benchmark.cohorts import Cohort, Contestant, Point, strategy_order
from dmlf.benchmark.compare.collectives import collectives
from dmlf.benchmark.compare.convergence import convergence
from dmlf.benchmark.compare.result import Finding, Result, changed, more_is_better, named
from dmlf.benchmark.compare.side import Side
from dmlf.benchmark.noise import unfit
from dmlf.benchmark.statements import PEER
from dmlf.benchmark.statistics import (
    Estimate,
    efficiency_estimate,
    ratio_estimate,
)
from dmlf.benchmark.table import RunRow


@dataclass(frozen=True, slots=True)
class Comparison:
    """All findings, and what is the same on both sides, which decides what they mean."""

    same_machine: bool
    same_sources: bool
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def regressions(self) -> list[Finding]:
        """What got worse from A to B beyond noise."""
        return [finding for finding in self.findings if finding.result == Result.REGRESSION]


def compare(first: Side, second: Side) -> Comparison:
    """Compare side A with side B; A is the one to hold B against."""
    same_machine = _same(first, second, "machine_sha256")
    same_sources = _same(first, second, "source_sha256")
    notes = [
        f"{side.path}: {task} has runs that may not be compared with each other; left out"
        for side in (first, second)
        for task in side.mixed
    ]
    findings: list[Finding] = []
    left_out = {*first.mixed, *second.mixed}
    for task in [*first.parts, *(task for task in second.parts if task not in first.parts)]:
        if task in left_out:
            continue
        mine, theirs = first.parts.get(task), second.parts.get(task)
        if mine is None or theirs is None:
            where = "B" if mine is None else "A"
            findings.append(Finding(Result.ONLY_ONE, "task", task, f"only in {where}"))
            continue
        findings += _contestants(mine, theirs)
        if _workloads(mine) != _workloads(theirs):
            notes.append(f"{task}: the workloads differ; only correctness checks are compared")
            continue
        if same_machine:
            findings += _bits(mine, theirs, same_sources)
        findings += _ratios(mine, theirs, same_machine)
        findings += _orderings(mine, theirs)
        findings += _shapes(mine, theirs)
        findings += convergence(mine, theirs, same_machine)
    records = [side.collectives.record for side in (first, second)]
    if records[0] is not None and records[1] is not None:
        findings += collectives(records[0], records[1])
    elif records != [None, None]:
        side = first if records[0] is None else second
        notes.append(f"{side.path}: all-reduce alone is not compared: {side.collectives.problem}")
    return Comparison(same_machine, same_sources, tuple(notes), tuple(findings))


def _same(first: Side, second: Side, column: str) -> bool:
    values = first.values(column)
    return len(values) == 1 and values == second.values(column)


def _workloads(cohort: Cohort) -> set[str | None]:
    return {run.workload_sha256 for run in cohort.runs if run.status == "completed"}


def _runs(cohort: Cohort, contestant: Contestant) -> list[RunRow]:
    return [
        run
        for run in cohort.runs
        if Contestant(run.strategy, run.reduction, run.world_size) == contestant
    ]


def _contestants(mine: Cohort, theirs: Cohort) -> Iterator[Finding]:
    """Who is on both sides, and whose runs completed and passed on A and no longer do on B."""
    before, after = mine.contestants(), theirs.contestants()
    for contestant in [*before, *(c for c in after if c not in before)]:
        subject = named(mine, contestant)
        if contestant not in after or contestant not in before:
            where = "A" if contestant in before else "B"
            yield Finding(Result.ONLY_ONE, "contestant", subject, f"only in {where}")
            continue
        old, new = _runs(mine, contestant), _runs(theirs, contestant)
        broken = [run for run in new if run.check == FAILED or run.status in ("failed", "invalid")]
        was_broken = [r for r in old if r.check == FAILED or r.status in ("failed", "invalid")]
        if broken and not was_broken:
            reason = broken[0].reason or broken[0].check_detail
            detail = f"{len(broken)} of {len(new)} runs are wrong or failed in B: {reason}"
            yield Finding(Result.REGRESSION, "correctness", subject, detail)
        elif broken:
            detail = f"{len(was_broken)} runs are wrong or failed in A, {len(broken)} in B"
            yield Finding(Result.AGREES, "correctness", subject, detail)
        elif was_broken:
            detail = f"{len(was_broken)} of {len(old)} runs are wrong or failed in A, none in B"
            yield Finding(Result.IMPROVEMENT, "correctness", subject, detail)


def _bits(mine: Cohort, theirs: Cohort, same_sources: bool) -> Iterator[Finding]:
    """Final states on one machine: the same sources must give the same bits."""
    for contestant in mine.contestants():
        old = {(r.seed, r.final_state_sha256) for r in _checked(mine, contestant)}
        new = {(r.seed, r.final_state_sha256) for r in _checked(theirs, contestant)}
        shared = {seed for seed, _ in old} & {seed for seed, _ in new}
        if not shared:
            continue
        subject = named(mine, contestant)
        apart = [
            seed for seed in sorted(shared) if {s for s in old if s[0] == seed} != {
                s for s in new if s[0] == seed
            }
        ]  # fmt: skip
        if not apart:
            yield Finding(Result.AGREES, "bits", subject, f"{len(shared)} seeds end in one state")
        elif same_sources:
            detail = f"seeds {apart} end in other bits, from the same sources"
            yield Finding(Result.REGRESSION, "bits", subject, detail)
        else:
            yield Finding(Result.DIFFERS, "bits", subject, f"seeds {apart} end in other bits")


def _checked(cohort: Cohort, contestant: Contestant) -> list[RunRow]:
    return [run for run in _runs(cohort, contestant) if run.check == PASSED]


def _ratios(mine: Cohort, theirs: Cohort, same_machine: bool) -> Iterator[Finding]:
    for contestant in mine.contestants():
        size, reduction = contestant.world_size, contestant.reduction
        bases = {
            "against serial": Contestant("serial", reduction, 1),
            f"against {PEER}": Contestant(PEER, "float32", size),
            "efficiency": Contestant(contestant.strategy, reduction, 1),
        }
        for kind, base in bases.items():
            if base == contestant or (kind == "efficiency" and contestant.strategy == "serial"):
                continue
            if kind == f"against {PEER}" and reduction != "float32":
                continue
            finding = _ratio(mine, theirs, contestant, base, kind, same_machine)
            if finding is not None:
                yield finding


def _ratio(
    mine: Cohort,
    theirs: Cohort,
    contestant: Contestant,
    base: Contestant,
    kind: str,
    same_machine: bool,
) -> Finding | None:
    sides = [(cohort.point(contestant), cohort.point(base)) for cohort in (mine, theirs)]
    planned = [base in cohort.contestants() for cohort in (mine, theirs)]
    if not all(planned) or contestant not in theirs.contestants():
        return None
    subject = named(mine, contestant)
    quotients, reserved = [], False
    for letter, (top, bottom) in zip("AB", sides, strict=True):
        reason = unfit((contestant, top), (base, bottom))
        if top is None or bottom is None or reason is not None:
            return Finding(Result.UNDECIDED, kind, subject, f"{letter}: {reason}")
        quotients.append(_quotient(top, bottom, kind))
        reserved |= any(point.oversubscribed or point.loaded for point in (top, bottom))
    return changed(
        kind,
        subject,
        *quotients,
        better=more_is_better,
        reserved=reserved,
        same_machine=same_machine,
    )


def _quotient(top: Point, bottom: Point, kind: str) -> Estimate:
    if kind == "efficiency":
        return efficiency_estimate(top.throughput, top.contestant.world_size, bottom.throughput)
    return ratio_estimate(top.throughput, bottom.throughput)


def _orderings(mine: Cohort, theirs: Cohort) -> Iterator[Finding]:
    """Pairs of strategies at one world size; one finding for all that agree, one per inversion."""
    shared = [c for c in mine.contestants() if c in theirs.contestants()]
    for place in dict.fromkeys((c.reduction, c.world_size) for c in shared):
        here = [c for c in shared if (c.reduction, c.world_size) == place]
        agreed, undecided = 0, 0
        for left, right in combinations(sorted(here, key=lambda c: strategy_order(c.strategy)), 2):
            orders = {_order(cohort, left, right) for cohort in (mine, theirs)}
            where = f"{mine.label}: {left} and {right} at world size {left.world_size}"
            if orders == {-1, 1}:
                faster = left if _order(mine, left, right) > 0 else right
                detail = f"{faster} is faster in A, and slower in B"
                yield Finding(Result.DIFFERS, "ordering", where, detail)
            elif 0 in orders:
                undecided += 1
            else:
                agreed += 1
        subject = f"{mine.label}: {place[0]} at world size {place[1]}"
        if agreed or undecided:
            detail = f"{agreed} pairs in the same order, {undecided} undecided on a side"
            result = Result.AGREES if agreed else Result.UNDECIDED
            yield Finding(result, "ordering", subject, detail)


def _order(cohort: Cohort, left: Contestant, right: Contestant) -> int:
    """1 if left is faster, -1 if right is, 0 where that cannot be said."""
    points = cohort.point(left), cohort.point(right)
    if unfit((left, points[0]), (right, points[1])) is not None:
        return 0
    first, second = (p.throughput for p in points if p is not None)
    return ratio_estimate(first, second).side_of(1.0)


def _shapes(mine: Cohort, theirs: Cohort) -> Iterator[Finding]:
    """For each strategy: does it get faster or slower, from each world size to the next?"""
    shared = [c for c in mine.contestants() if c in theirs.contestants()]
    for strategy, reduction in dict.fromkeys((c.strategy, c.reduction) for c in shared):
        own = [c for c in shared if (c.strategy, c.reduction) == (strategy, reduction)]
        if len(own) < 2:
            continue
        steps = {
            (low.world_size, high.world_size): tuple(
                _order(cohort, high, low) for cohort in (mine, theirs)
            )
            for low, high in pairwise(sorted(own, key=lambda c: c.world_size))
        }
        subject = f"{mine.label}: {own[0]} over world sizes"
        apart = [sizes for sizes, pair in steps.items() if set(pair) == {-1, 1}]
        detail = ", ".join(
            f"{low} to {high}: {' / '.join(_WORDS[way] for way in pair)}"
            for (low, high), pair in steps.items()
        )
        undecided = any(0 in pair for pair in steps.values())
        result = Result.DIFFERS if apart else Result.UNDECIDED if undecided else Result.AGREES
        yield Finding(result, "shape", subject, f"{detail} (A / B)")


_WORDS = {1: "faster", -1: "slower", 0: "not distinguishable"}
