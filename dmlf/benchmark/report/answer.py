"""The first paragraph: what a reader who stops there should take away, from judged claims only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dmlf.benchmark.claims import Judged, Outcome
from dmlf.benchmark.cohorts import Cohort, Contestant
from dmlf.benchmark.noise import noise
from dmlf.benchmark.report import faults
from dmlf.benchmark.report.markdown import code, count, escape, listing
from dmlf.benchmark.report.material import Material
from dmlf.benchmark.statements import PEER
from dmlf.benchmark.statistics import MIN_REPEATS_FOR_CLAIM, median_estimate
from dmlf.benchmark.table import STRONG

_ORDER = (
    (Outcome.HOLDS, "faster than"),
    (Outcome.DOES_NOT_HOLD, "slower than"),
    (Outcome.NOT_DISTINGUISHABLE, "not distinguishable from"),
)


def section(material: Material) -> Iterator[str]:
    """A paragraph for every comparable part of the table, and one on injected faults."""
    yield "## The answer"
    if not material.judged:
        yield "The table has no runs."
    for cohort, judged in material.judged:
        yield answer(cohort, judged)
    survived = faults.answer(material.faults)
    if survived is not None:
        yield survived


def answer(cohort: Cohort, judged: Sequence[Judged]) -> str:
    """One paragraph on a cohort. Oversubscribed and loaded points are left out; that is said."""
    sentences = [
        item.text
        for item in judged
        if item.claim.kind in ("correctness", "exact_bits")
        and (item.claim.kind == "correctness" or item.outcome != Outcome.NO_DATA)
    ]
    sentences += _experiment(cohort)
    sentences += _speed(cohort, judged)
    sentences += _accuracy(cohort, judged)
    sentences += _convergence(judged)
    sentences += _price(judged)
    left_out = sorted(
        {
            point.contestant.world_size
            for point in cohort.points()
            if (point.oversubscribed or point.loaded) and point.contestant.world_size > 1
        }
    )
    if left_out:
        sizes = listing([str(size) for size in left_out])
        sentences.append(
            "Oversubscribed points (more processes than cores) and those measured beside other "
            f"work, here some at world size {sizes}, are shown below and left out here."
        )
    unsteady = sum("unsteady" in verdict.noticed for verdict in noise(cohort))
    if unsteady:
        sentences.append(
            f"The runs of {count(unsteady, 'point')} differ too much among themselves for any "
            "statement (see [Validity](#validity))."
        )
    return f"**{escape(cohort.label)}.** {' '.join(sentences)}"


def _experiment(cohort: Cohort) -> list[str]:
    if cohort.experiment == STRONG:
        return []
    samples = cohort.runs[0].samples_per_rank
    return [
        f"Every rank has {samples} samples of each step, so that W ranks do W times the work of "
        "serial, which has one rank's."
    ]


def _convergence(judged: Sequence[Judged]) -> list[str]:
    items = [i for i in judged if i.claim.kind == "convergence" and i.outcome != Outcome.NO_DATA]
    if not items:
        return []
    later = [
        f"{code(item.claim.subject)} at world size {item.claim.world_size}"
        for item in items
        if item.outcome != Outcome.HOLDS
    ]
    if not later:
        return ["None needs more epochs than serial to the target accuracy."]
    return [f"More epochs than serial to the target accuracy are needed by {listing(later)}."]


def _speed(cohort: Cohort, judged: Sequence[Judged]) -> list[str]:
    against_serial = _comparisons(judged, "speed_against_serial")
    if not against_serial:
        return [
            "No statement is made on speed: that takes at least "
            f"{MIN_REPEATS_FOR_CLAIM} checked runs of serial and of a distributed strategy at a "
            "world size above 1, steady, and on cores that nothing else was using."
        ]
    serial = cohort.point(Contestant("serial", "float32", 1))
    base = "" if serial is None else f"{median_estimate(serial.throughput).text()} samples/s"
    sentences = [f"Serial reaches {base}."] if base else []
    sentences += _grouped(against_serial, "serial")
    sentences += _grouped(_comparisons(judged, f"speed_against_{PEER}"), code(PEER))
    sentences += _shares(_comparisons(judged, "share_of_ceiling"))
    return [*sentences, "Brackets hold 95 % intervals."]


def _comparisons(judged: Sequence[Judged], kind: str) -> list[Judged]:
    return [
        item
        for item in judged
        if item.claim.kind == kind
        and item.outcome != Outcome.NO_DATA
        and not item.finding.reservation
        and (item.claim.world_size or 0) > 1
        and not item.claim.subject.endswith(", exact")
    ]


def _grouped(items: Sequence[Judged], other: str) -> list[str]:
    sentences = []
    for size in sorted({item.claim.world_size or 0 for item in items}):
        parts = []
        for outcome, relation in _ORDER:
            names = [
                f"{code(item.claim.subject)} ({item.finding.numbers['ratio']} times)"
                for item in items
                if item.outcome == outcome and item.claim.world_size == size
            ]
            if names:
                verb = "is" if len(names) == 1 else "are"
                parts.append(f"{listing(names)} {verb} {relation} {other}")
        sentences.append(f"At world size {size}, {'; '.join(parts)}.")
    return sentences


def _shares(items: Sequence[Judged]) -> list[str]:
    sentences = []
    for size in sorted({item.claim.world_size or 0 for item in items}):
        names = [
            f"{code(item.claim.subject)} {item.finding.numbers['share']} %"
            for item in items
            if item.claim.world_size == size
        ]
        sentences.append(
            f"Of the throughput of {size} ranks that never synchronise, {listing(names)} "
            f"{'is' if len(names) == 1 else 'are'} reached."
        )
    return sentences


def _accuracy(cohort: Cohort, judged: Sequence[Judged]) -> list[str]:
    items = [item for item in judged if item.claim.kind == "accuracy"]
    known = [item for item in items if item.outcome != Outcome.NO_DATA]
    if not known:
        return []
    limit = known[0].finding.numbers["limit"]
    away = [
        f"{code(item.claim.subject)} ({item.finding.numbers['worst']} points)"
        for item in known
        if item.outcome == Outcome.DOES_NOT_HOLD
    ]
    base = f"{limit} percentage points from serial's test accuracy{_serial_accuracy(cohort)}"
    if away:
        return [f"More than {base} in some run: {listing(away)}."]
    whose = listing([code(item.claim.subject) for item in known])
    if len(known) == len(items):
        whose = "all distributed strategies"
    return [f"The runs of {whose} end at most {base}."]


def _serial_accuracy(cohort: Cohort) -> str:
    serial = cohort.point(Contestant("serial", "float32", 1))
    values = [] if serial is None else serial.values("test_accuracy")
    return f" ({100 * median_estimate(values).median:.1f} %)" if values else ""


def _price(judged: Sequence[Judged]) -> list[str]:
    items = [
        item
        for item in judged
        if item.claim.kind == "price_of_exactness"
        and item.outcome != Outcome.NO_DATA
        and not item.finding.reservation
        and (item.claim.world_size or 0) > 1
    ]
    if not items:
        return []
    names = [
        f"{item.finding.numbers['ratio']} for "
        f"{code(item.claim.subject.removesuffix(', exact'))} at world size {item.claim.world_size}"
        for item in items
    ]
    return [f"Throughput with exact reduction, relative to float32, is {listing(names)}."]
