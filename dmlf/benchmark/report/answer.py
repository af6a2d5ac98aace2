"""What a reader who stops there should take away: verdicts, one small table, and its caveats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dmlf.benchmark.claims import Judged
from dmlf.benchmark.cohorts import Cohort, Contestant
from dmlf.benchmark.noise import noise
from dmlf.benchmark.report import faults
from dmlf.benchmark.report.markdown import bullets, code, count, escape, listing, table
from dmlf.benchmark.report.material import Material
from dmlf.benchmark.report.verdicts import (
    CEILING_KIND,
    PEER_KIND,
    SERIAL_KIND,
    compared,
    headline_sizes,
    verdicts,
)
from dmlf.benchmark.statements import PEER
from dmlf.benchmark.statistics import median_estimate
from dmlf.benchmark.table import STRONG


def section(material: Material) -> Iterator[str]:
    """The answer of every comparable part of the table, of the peer, and of injected faults."""
    yield "## The answer"
    if not material.judged:
        yield "The table has no runs."
    for cohort, judged in material.judged:
        yield from answer(cohort, judged)
    yield from _peer(material.cohorts)
    survived = faults.answer(material.faults)
    if survived is not None:
        yield survived


def answer(cohort: Cohort, judged: Sequence[Judged]) -> Iterator[str]:
    """Verdicts on a cohort, the ratios behind them, and what is left out."""
    yield f"**{escape(cohort.label)}.**{_experiment(cohort)}"
    yield bullets(verdicts(cohort, judged))
    rows = _rows(judged)
    if rows:
        yield _table(rows)
    caveats = _caveats(cohort, bool(rows))
    if caveats:
        yield " ".join(caveats)


def _experiment(cohort: Cohort) -> str:
    if cohort.experiment == STRONG:
        return ""
    return (
        f" Every rank has {cohort.runs[0].samples_per_rank} samples of each step, so that W ranks "
        "do W times the work of serial, which has one rank's."
    )


def _rows(judged: Sequence[Judged]) -> list[list[str]]:
    """Every float32 contestant at the sizes that the verdicts are on, in the claims' order."""
    against_peer = _numbers(judged, PEER_KIND, "ratio")
    of_ceiling = _numbers(judged, CEILING_KIND, "share")
    return [
        [
            str(item.claim.world_size),
            code(item.claim.subject),
            item.finding.numbers["ratio"],
            against_peer.get(item.claim.who, ""),
            of_ceiling.get(item.claim.who, ""),
            item.finding.reservation,
        ]
        for size in headline_sizes(judged)
        for item in compared(judged, SERIAL_KIND)
        if item.claim.world_size == size
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The rows under their header, without columns that say nothing."""
    header = (
        "workers",
        "strategy",
        "times serial",
        f"times {PEER}",
        "% of the ceiling",
        "reservation",
    )
    full = [column for column in range(len(header)) if any(row[column] for row in rows)]
    right = [place for place, column in enumerate(full) if column in (0, 2, 3, 4)]
    return table(
        [header[column] for column in full],
        [[row[column] for column in full] for row in rows],
        right=right,
    )


def _numbers(judged: Sequence[Judged], kind: str, name: str) -> dict[str, str]:
    return {item.claim.who: item.finding.numbers[name] for item in compared(judged, kind)}


def _caveats(cohort: Cohort, has_table: bool) -> list[str]:
    sentences = []
    serial = cohort.point(Contestant("serial", "float32", 1))
    if has_table and serial is not None:
        sentences.append(
            f"Serial reaches {median_estimate(serial.throughput).text()} samples/s. Brackets hold "
            "95 % intervals."
        )
        if any(cohort.ceiling(size) for size in cohort.planned_ceilings()):
            sentences.append("The ceiling is what the same ranks reach that never synchronise.")
    points = [point for point in cohort.points() if point.contestant.world_size > 1]
    crowded = sorted({p.contestant.world_size for p in points if p.oversubscribed})
    if crowded:
        sentences.append(
            "Oversubscribed points (more processes than cores), here some at world size "
            f"{listing([str(size) for size in crowded])}, are left out where that is not said."
        )
    loaded = sum(point.loaded for point in points)
    if loaded:
        sentences.append(f"Left out: {count(loaded, 'point')} measured beside other work.")
    unsteady = sum("unsteady" in verdict.noticed for verdict in noise(cohort))
    if unsteady:
        sentences.append(
            f"The runs of {count(unsteady, 'point')} differ too much among themselves for any "
            "statement (see [Validity](#validity))."
        )
    return sentences


def _peer(parts: Sequence[Cohort]) -> Iterator[str]:
    """What the peer is like, once, and which of ours is like it."""
    present = {point.contestant.strategy for cohort in parts for point in cohort.points()}
    if PEER not in present:
        return
    text = f"**The peer.** {code(PEER)} is PyTorch's DDP over Gloo, which sends through loopback"
    if "ring-tcp" in present:
        text += f"; {code('ring-tcp')} does so too and is the like-for-like comparison"
    if "ring-shm" in present:
        text += f"; {code('ring-shm')} shows what shared memory adds to that"
    yield f"{text}."
