"""How soon both sides learn: epochs, and time relative to serial, to the target accuracy.

Epochs are a property of the training and not of the machine, up to rounding: of each seed that both
sides have, and each side's own serial run sets its target. Times are divided by serial's of the
same side, as throughputs are.
"""

from __future__ import annotations

from collections.abc import Iterator

from dmlf.benchmark.checks import PASSED
from dmlf.benchmark.cohorts import Cohort, Contestant, Point
from dmlf.benchmark.compare.result import Finding, Result, changed, less_is_better, named
from dmlf.benchmark.noise import unfit
from dmlf.benchmark.statistics import ratio_estimate


def convergence(mine: Cohort, theirs: Cohort, same_machine: bool) -> Iterator[Finding]:
    """Findings on every contestant that both sides have and that reached a target on some."""
    for contestant in mine.contestants():
        if contestant not in theirs.contestants():
            continue
        for find in (_epochs, _time):
            finding = find(mine, theirs, contestant, same_machine)
            if finding is not None:
                yield finding


def _epochs(
    mine: Cohort, theirs: Cohort, contestant: Contestant, same_machine: bool
) -> Finding | None:
    old, new = _by_seed(mine, contestant), _by_seed(theirs, contestant)
    shared = sorted(old.keys() & new.keys())
    if not shared:
        return None
    subject = named(mine, contestant)
    pairs = [(old[seed], new[seed]) for seed in shared]
    detail = "; ".join(
        f"seed {seed}: {_text(before)} in A, {_text(after)} in B"
        for seed, (before, after) in zip(shared, pairs, strict=True)
        if before != after
    )
    if not detail:
        agreed = f"the same for {len(shared)} seed{'s' * (len(shared) != 1)}"
        return Finding(Result.AGREES, "epochs to target", subject, agreed)
    result = Result.DIFFERS
    if same_machine and all(_later(after, before) for before, after in pairs):
        result = Result.REGRESSION
    elif same_machine and all(_later(before, after) for before, after in pairs):
        result = Result.IMPROVEMENT
    return Finding(result, "epochs to target", subject, detail)


def _by_seed(cohort: Cohort, contestant: Contestant) -> dict[int, int | None]:
    """By seed, of checked runs that had a target: the epoch that reached it, None for never."""
    return {
        run.seed: run.epochs_to_target
        for run in cohort.runs
        if Contestant(run.strategy, run.reduction, run.world_size) == contestant
        and run.check == PASSED
        and run.target_accuracy is not None
    }


def _later(one: int | None, other: int | None) -> bool:
    return other is not None and (one is None or one > other)


def _text(epochs: int | None) -> str:
    return "never" if epochs is None else str(epochs)


def _time(
    mine: Cohort, theirs: Cohort, contestant: Contestant, same_machine: bool
) -> Finding | None:
    serial = Contestant("serial", contestant.reduction, 1)
    if contestant == serial:
        return None
    kind, subject = "time to target against serial", named(mine, contestant)
    sides = [(side.point(contestant), side.point(serial)) for side in (mine, theirs)]
    if any(_times(point) is None for pair in sides for point in pair):
        return None
    quotients, reserved = [], False
    for letter, (top, bottom) in zip("AB", sides, strict=True):
        reason = unfit((contestant, top), (serial, bottom))
        if top is None or bottom is None or reason is not None:
            return Finding(Result.UNDECIDED, kind, subject, f"{letter}: {reason}")
        quotients.append(ratio_estimate(_times(top) or (), _times(bottom) or ()))
        reserved |= any(point.oversubscribed or point.loaded for point in (top, bottom))
    return changed(
        kind, subject, *quotients, better=less_is_better, reserved=reserved,
        same_machine=same_machine,
    )  # fmt: skip


def _times(point: Point | None) -> list[float] | None:
    """Of all runs of a point; None if one has none."""
    if point is None:
        return None
    values = list(point.values("time_to_target_s"))
    return values if values and len(values) == len(point.runs) else None
