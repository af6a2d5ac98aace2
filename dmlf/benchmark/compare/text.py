"""A comparison in words, what matters first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dmlf.benchmark.compare.findings import Comparison
from dmlf.benchmark.compare.result import Result

_FIRST = (Result.REGRESSION, Result.IMPROVEMENT, Result.DIFFERS, Result.ONLY_ONE)


def lines(comparison: Comparison, *, every: bool) -> Iterator[str]:
    """What differs, line by line, then how much agrees; `every` finding on request."""
    machine = "the same machine" if comparison.same_machine else "different machines"
    sources = "the same sources" if comparison.same_sources else "different sources"
    yield f"A and B: {machine}, {sources}. Absolute times are not compared."
    if not comparison.same_machine:
        yield "Speeds relative to serial or DDP may differ between machines: no regressions there."
    yield from (f"note: {note}" for note in comparison.notes)
    shown = [*_FIRST, *((Result.AGREES, Result.UNDECIDED) if every else ())]
    for result in shown:
        for finding in comparison.findings:
            if finding.result == result:
                yield f"{result}: {finding.kind}, {finding.subject}: {finding.detail}"
    counts = Counter(finding.result for finding in comparison.findings)
    by_kind = Counter(
        finding.kind for finding in comparison.findings if finding.result == Result.AGREES
    )
    agreeing = ", ".join(f"{number} {kind}" for kind, number in by_kind.items()) or "nothing"
    yield f"agrees: {agreeing}. Undecided: {counts[Result.UNDECIDED]}."
    yield f"{counts[Result.REGRESSION]} regressions beyond noise."
