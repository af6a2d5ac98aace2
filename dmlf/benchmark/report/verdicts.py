"""The answer's verdicts, one line a question, from judged claims only."""

from __future__ import annotations

from collections.abc import Sequence

from dmlf.benchmark.claims import Judged, Outcome
from dmlf.benchmark.cohorts import Cohort, Contestant
from dmlf.benchmark.report.markdown import code, escape, listing
from dmlf.benchmark.statements import PEER
from dmlf.benchmark.statistics import MIN_REPEATS_FOR_CLAIM, median_estimate

SERIAL_KIND, PEER_KIND, CEILING_KIND = (
    "speed_against_serial",
    f"speed_against_{PEER}",
    "share_of_ceiling",
)
_RELATIONS = (
    (Outcome.HOLDS, "faster"),
    (Outcome.NOT_DISTINGUISHABLE, "not distinguishable"),
    (Outcome.DOES_NOT_HOLD, "slower"),
)
_IN_WORDS = {
    "oversubscribed": "more processes than cores",
    "loaded": "measured beside other work",
}
_SERVER = "parameter_server"


def verdicts(cohort: Cohort, judged: Sequence[Judged]) -> list[str]:
    """Same result? Faster than the peer, than serial? What of the server, and of exactness?"""
    lines = [_same_result(cohort, judged)]
    sizes = headline_sizes(judged)
    for kind, other in ((PEER_KIND, code(PEER)), (SERIAL_KIND, "serial")):
        lines += [_faster(judged, kind, other, size) for size in sizes if _clear(judged, kind)]
    if not sizes:
        lines.append(
            "**Faster? No statement is made on speed:** that takes at least "
            f"{MIN_REPEATS_FOR_CLAIM} checked runs of serial and of a distributed strategy at a "
            "world size above 1, steady, and on cores that nothing else was using."
        )
    return [*lines, *_servers(cohort, judged, sizes), *_price(judged)]


def compared(judged: Sequence[Judged], kind: str) -> list[Judged]:
    """What was found of float32 contestants of more than one worker, also with a reservation."""
    return [
        item
        for item in judged
        if item.claim.kind == kind
        and item.outcome != Outcome.NO_DATA
        and (item.claim.world_size or 0) > 1
        and not item.claim.subject.endswith(", exact")
    ]


def headline_sizes(judged: Sequence[Judged]) -> list[int]:
    """The world sizes at which something is known of speed without a reservation."""
    return sorted({item.claim.world_size or 0 for item in _clear(judged, SERIAL_KIND)})


def _clear(judged: Sequence[Judged], kind: str) -> list[Judged]:
    return [item for item in compared(judged, kind) if not item.finding.reservation]


def _same_result(cohort: Cohort, judged: Sequence[Judged]) -> str:
    items = [i for i in judged if i.claim.kind in ("correctness", "exact_bits")]
    known = [i for i in items if i.outcome != Outcome.NO_DATA]
    checked = any(i.claim.kind == "correctness" for i in known)
    if any(i.outcome == Outcome.DOES_NOT_HOLD for i in known):
        word = "No."
    else:
        word = "Yes." if checked else "Not shown."
    said = known if checked else items
    sentences = [escape(i.text) for i in said]
    return " ".join(
        [f"**Same result? {word}**", *sentences, *_accuracy(cohort, judged), *_convergence(judged)]
    )


def _accuracy(cohort: Cohort, judged: Sequence[Judged]) -> list[str]:
    items = [item for item in judged if item.claim.kind == "accuracy"]
    known = [item for item in items if item.outcome != Outcome.NO_DATA]
    if not known:
        return []
    base = (
        f"{known[0].finding.numbers['limit']} percentage points from serial's test accuracy"
        f"{_serial_accuracy(cohort)}"
    )
    away = [
        f"{code(item.claim.subject)} ({item.finding.numbers['worst']} points)"
        for item in known
        if item.outcome == Outcome.DOES_NOT_HOLD
    ]
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


def _convergence(judged: Sequence[Judged]) -> list[str]:
    items = [i for i in judged if i.claim.kind == "convergence" and i.outcome != Outcome.NO_DATA]
    if not items:
        return []
    later = [code(item.claim.who) for item in items if item.outcome != Outcome.HOLDS]
    if not later:
        return ["None needs more epochs than serial to the target accuracy."]
    return [f"More epochs than serial to the target accuracy are needed by {listing(later)}."]


def _faster(judged: Sequence[Judged], kind: str, other: str, size: int) -> str:
    found = [item for item in _clear(judged, kind) if item.claim.world_size == size]
    parts = []
    for outcome, relation in _RELATIONS:
        names = [code(item.claim.subject) for item in found if item.outcome == outcome]
        if names:
            parts.append(f"{listing(names)} {'is' if len(names) == 1 else 'are'} {relation}")
    outcomes = {item.outcome for item in found}
    if not found:
        word, parts = "Not shown.", ["No point without a reservation can be compared"]
    elif Outcome.HOLDS in outcomes:
        word = "Yes." if len(outcomes) == 1 else "Some."
    else:
        word = "No." if outcomes == {Outcome.DOES_NOT_HOLD} else "Not shown."
    parts += _left_out(judged, kind, size)
    return f"**Faster than {other} at {size} workers? {word}** {'; '.join(parts)}."


def _left_out(judged: Sequence[Judged], kind: str, size: int) -> list[str]:
    """Whose finding has a reservation, other than servers', which have lines of their own."""
    whose: dict[str, list[str]] = {}
    for item in compared(judged, kind):
        reservation = item.finding.reservation
        if item.claim.world_size == size and reservation and not _is_server(item):
            reason = ", ".join(_IN_WORDS[word] for word in reservation.split(", "))
            whose.setdefault(reason, []).append(code(item.claim.subject))
    return [
        f"{listing(names)} {'is' if len(names) == 1 else 'are'} left out ({reason})"
        for reason, names in whose.items()
    ]


def _is_server(item: Judged) -> bool:
    return item.claim.subject.startswith(_SERVER)


def _servers(cohort: Cohort, judged: Sequence[Judged], sizes: Sequence[int]) -> list[str]:
    """What is found of parameter servers, also where it has a reservation, which is then said."""
    found = [item for item in compared(judged, SERIAL_KIND) if _is_server(item)]
    smallest = min((i.claim.world_size or 0 for i in found), default=0)
    lines = []
    for item in found:
        if item.claim.world_size not in (sizes or [smallest]):
            continue
        parts = [_relation(item, "serial")]
        parts += [
            _relation(peer, code(PEER))
            for peer in compared(judged, PEER_KIND)
            if (peer.claim.subject, peer.claim.world_size)
            == (item.claim.subject, item.claim.world_size)
        ]
        why = item.finding.reservation
        crowd = f": {_crowd(cohort, item)}" if item.finding.oversubscribed else ""
        said = f"; {why}{crowd}" if why else ""
        where = f"{code(item.claim.subject)} at {item.claim.world_size} workers"
        lines.append(f"**Parameter server:** {where} is {' and '.join(parts)}{said}.")
    return lines


def _relation(item: Judged, other: str) -> str:
    ratio = f"({item.finding.numbers['ratio']} times)"
    word = dict(_RELATIONS)[item.outcome]
    return f"{word} {'than' if word != 'not distinguishable' else 'from'} {other} {ratio}"


def _crowd(cohort: Cohort, item: Judged) -> str:
    """How many processes shared how many cores."""
    contestant = Contestant(item.claim.subject, "float32", item.claim.world_size or 0)
    point = cohort.point(contestant)
    run = None if point is None else point.runs[0]
    if run is None or run.processes is None or run.affinity_cores is None:
        return "more processes than cores"
    return f"{run.processes} processes, servers included, on {run.affinity_cores} cores"


def _price(judged: Sequence[Judged]) -> list[str]:
    names = [
        f"{item.finding.numbers['ratio']} times for "
        f"{code(item.claim.subject.removesuffix(', exact'))} at {item.claim.world_size} workers"
        for item in judged
        if item.claim.kind == "price_of_exactness"
        and item.outcome != Outcome.NO_DATA
        and not item.finding.reservation
        and (item.claim.world_size or 0) > 1
    ]
    if not names:
        return []
    return [f"**What does the same bits everywhere cost?** Throughput is {listing(names)}."]
