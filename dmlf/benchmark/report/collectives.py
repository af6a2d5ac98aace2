"""All-reduce alone: the figure, what it shows, and every number behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dmlf.benchmark.collective.config import LIMIT, PEERS
from dmlf.benchmark.collective.load import Collectives, Loaded
from dmlf.benchmark.collective.statements import statements
from dmlf.benchmark.collective.summary import Point, points, size_text
from dmlf.benchmark.plots import COLLECTIVE, COLLECTIVE_TITLE
from dmlf.benchmark.report.markdown import bullets, code, count, details, escape, listing, table
from dmlf.benchmark.report.material import Material, Places
from dmlf.benchmark.statistics import Estimate, significant

HEADING = "## Collectives"
_MEASURED = (
    "The sum over all ranks of a float32 vector, without any training around it. In one run, all "
    "contestants take turns in an order that is shuffled every round; those whose turn it is not "
    "are blocked and take nothing from it. A call of a strategy is a whole step of its protocol, "
    "with its commit and all of its checks; a call of a peer is its plain all-reduce. The slowest "
    "rank counts. Every result was checked: the strategies' bit for bit against the published "
    "order of additions, the peers' against the float64 sum; a wrong one would have ended the run."
)
_CAPTION = (
    "Bus bandwidth, bytes / time x 2 (n - 1) / n as NVIDIA's nccl-tests define it, over the size "
    "of the vector: medians over rounds with their 95 % intervals. The dashed line is what the "
    "machine can do at most: all ranks at once add and copy (n - 1)/n of the vector, which every "
    "all-reduce must, and wait for nobody; where the vectors fit a core's own cache, no exchange "
    "between cores can come near it. Hollow marks are oversubscribed."
)


def section(material: Material) -> Iterator[str]:
    """All-reduce alone."""
    yield from collectives(material.collectives, material.places)


def collectives(loaded: Loaded, places: Places) -> Iterator[str]:
    """The section; it says so where there is no valid record."""
    yield HEADING
    record = loaded.record
    if record is None:
        yield (
            f"There is no all-reduce to show: {escape(loaded.problem)}. Measure it: "
            "`snakemake results/collective.json`, or `dmlf collective --output FILE`."
        )
        return
    yield _MEASURED
    yield f"![{_alternative(record)}]({places.link}/{COLLECTIVE}.svg)"
    yield f"*{_CAPTION}*"
    yield _statements(record)
    for world_size in record.config.world_sizes:
        found = points(record, world_size)
        summary = f"World size {world_size}: {count(len(found), 'measurement')}"
        yield details(summary, _table(found))
    if record.skipped:
        lines = [
            f"{code(entry.contestant)} took no part at world size {entry.world_size}: "
            f"{escape(entry.reason)}."
            for entry in record.skipped
        ]
        yield bullets(lines)
    yield f"Rebuild it: `snakemake {places.figures}/{COLLECTIVE}.svg`."


def _alternative(record: Collectives) -> str:
    names = dict.fromkeys(cell.contestant for cell in record.cells)
    sizes = [size_text(size) for size in record.config.sizes]
    ranks = listing([str(size) for size in record.config.world_sizes])
    return escape(
        f"{COLLECTIVE_TITLE}: {listing(list(names))}; {sizes[0]} to {sizes[-1]}; {ranks} ranks"
    )


def _statements(record: Collectives) -> str:
    found = statements(record)
    lines = [
        escape(statement.text) + (" (Oversubscribed.)" if statement.oversubscribed else "")
        for statement in found
    ]
    shares = _shares(record)
    if not found:
        lines.append("No strategy was measured beside a peer: nothing is compared.")
    return "**What the data say**\n\n" + bullets([*lines, *shares])


def _shares(record: Collectives) -> list[str]:
    """How near the largest vectors come to the machine's limit."""
    lines = []
    for world_size in record.config.world_sizes:
        largest = max(record.config.sizes)
        parts = [
            f"{code(point.cell.contestant)} {_percent(point.limit_share)}"
            for point in points(record, world_size)
            if point.cell.size_bytes == largest and point.limit_share is not None
        ]
        if parts:
            lines.append(
                f"Share of the limit at {size_text(largest)} and world size {world_size}: "
                f"{listing(parts)}."
            )
    return lines


def _percent(share: Estimate) -> str:
    low, high = share.low, share.high
    shown = f"{significant(100 * share.median, 2)} %"
    if low is None or high is None:
        return shown
    return f"{shown} [{significant(100 * low, 2)}, {significant(100 * high, 2)}]"


def _table(found: Sequence[Point]) -> str:
    peers = [peer for peer in PEERS if any(peer in point.speedups for point in found)]
    header = (
        "size",
        "contestant",
        "time (ms)",
        "algbw (GB/s)",
        "busbw (GB/s)",
        *(f"times as fast as {peer}" for peer in peers),
        "share of the limit",
    )
    rows = [
        [
            size_text(point.cell.size_bytes),
            code(point.cell.contestant) + (" (oversubscribed)" if point.oversubscribed else ""),
            significant(1e3 * point.call_s.median),
            significant(point.algbw / 1e9),
            significant(point.busbw.median / 1e9),
            *(_speedup(point, peer) for peer in peers),
            "" if point.limit_share is None else _percent(point.limit_share),
        ]
        for point in found
    ]
    return table(header, rows, right=(0, *range(2, len(header))))


def _speedup(point: Point, peer: str) -> str:
    if point.cell.contestant in (peer, LIMIT) or peer not in point.speedups:
        return ""
    return point.speedups[peer].text()
