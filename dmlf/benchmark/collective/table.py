"""What the terminal shows of a record."""

from __future__ import annotations

from dmlf.benchmark.collective.config import PEERS
from dmlf.benchmark.collective.load import Collectives
from dmlf.benchmark.collective.summary import Point, points, size_text
from dmlf.benchmark.statistics import Estimate, significant

_HEADER = ("size", "contestant", "time (ms)", "algbw (GB/s)", "busbw (GB/s)")


def render(record: Collectives) -> str:
    """One table per world size: times, bandwidths, ratios to the peers, share of the limit."""
    parts = []
    for world_size in record.config.world_sizes:
        found = points(record, world_size)
        peers = [peer for peer in PEERS if any(point.cell.contestant == peer for point in found)]
        header = (*_HEADER, *(f"x {peer}" for peer in peers), "of the limit")
        rows = [_row(point, peers) for point in found]
        crowded = world_size > record.cores
        title = f"all-reduce (float32), world size {world_size}, {record.config.rounds} rounds"
        title += f", oversubscribed: {record.cores} cores" if crowded else ""
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if index == 1 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (header, *rows)
        ]
        parts.append("\n".join([title, *lines]))
    skipped = [
        f"skipped at world size {entry.world_size}: {entry.contestant}: {entry.reason}"
        for entry in record.skipped
    ]
    return "\n\n".join([*parts, *(["\n".join(skipped)] if skipped else [])])


def _row(point: Point, peers: list[str]) -> tuple[str, ...]:
    return (
        size_text(point.cell.size_bytes),
        point.cell.contestant,
        significant(1e3 * point.call_s.median),
        significant(point.algbw / 1e9),
        significant(point.busbw.median / 1e9),
        *(_text(point.speedups.get(peer)) for peer in peers),
        "" if point.limit_share is None else f"{significant(100 * point.limit_share.median, 2)} %",
    )


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return estimate.text() if estimate.low is not None else significant(estimate.median)
