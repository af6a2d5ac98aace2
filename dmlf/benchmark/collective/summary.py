"""From samples to what is said: bandwidths, and ratios round by round.

algbw = bytes / time and busbw = algbw * 2 (n - 1) / n, as NVIDIA's nccl-tests define them for
all-reduce (doc/PERFORMANCE.md): busbw is what every rank must at least send and receive, so that
it can be compared over world sizes. All contestants of a round were measured within a second of
each other: ratios are taken per round, where the machine's drift cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmlf.benchmark.cohorts import strategy_order
from dmlf.benchmark.collective.config import LIMIT, PEERS
from dmlf.benchmark.collective.load import Collectives
from dmlf.benchmark.collective.measure import Cell
from dmlf.benchmark.statistics import Estimate, median_estimate


@dataclass(frozen=True, slots=True)
class Point:
    """One contestant at one size. `speedups`: by peer, how many times as fast as that peer.

    `limit_share`: the limit's time over this contestant's, 1 at the limit; None for the limit.
    """

    cell: Cell
    oversubscribed: bool
    call_s: Estimate
    speedups: dict[str, Estimate]
    limit_share: Estimate | None

    @property
    def algbw(self) -> float:
        """Bytes per second, from the median time."""
        return self.cell.size_bytes / self.call_s.median

    @property
    def busbw(self) -> Estimate:
        """Bytes per second that every rank moves at least, with the interval of the time."""
        world_size, time = self.cell.world_size, self.call_s
        moved = self.cell.size_bytes * 2 * (world_size - 1) / world_size
        low, high = (None if bound is None else moved / bound for bound in (time.high, time.low))
        return Estimate(moved / time.median, low, high, time.runs)


def points(record: Collectives, world_size: int) -> list[Point]:
    """Every point of a world size, by size, then contestant."""
    cells = {
        (cell.size_bytes, cell.contestant): cell
        for cell in record.cells
        if cell.world_size == world_size
    }
    return [
        _point(record, cells[size, name], {n: c for (s, n), c in cells.items() if s == size})
        for size, name in sorted(cells, key=lambda key: (key[0], contestant_order(key[1])))
    ]


def contestants(found: Sequence[Point]) -> list[str]:
    """Who takes part in some points, in order."""
    return sorted({point.cell.contestant for point in found}, key=contestant_order)


def contestant_order(name: str) -> tuple[int, tuple[int, str]]:
    """Sort key: strategies, then peers, then the limit."""
    return (2 if name == LIMIT else 1 if name in PEERS else 0, strategy_order(name))


def size_text(size_bytes: int) -> str:
    """`64 KiB`, `1 MiB`, `20 B`."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:g} {name}"
    return f"{size_bytes} B"


def _point(record: Collectives, cell: Cell, others: dict[str, Cell]) -> Point:
    limit = others.get(LIMIT)
    return Point(
        cell=cell,
        oversubscribed=cell.processes > record.cores,
        call_s=median_estimate(cell.call_s),
        speedups={
            peer: _ratio(others[peer], cell)
            for peer in PEERS
            if peer in others and cell.contestant not in (peer, LIMIT)
        },
        limit_share=None if limit is None or limit is cell else _ratio(limit, cell),
    )


def _ratio(numerator: Cell, denominator: Cell) -> Estimate:
    pairs = zip(numerator.call_s, denominator.call_s, strict=True)
    return median_estimate([top / bottom for top, bottom in pairs])
