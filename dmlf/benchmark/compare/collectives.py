"""All-reduce alone on both sides: ratios to the peers, and who is faster than whom, by size.

A record is one run: its intervals hold the rounds of that run and not what the next run would
give. So what differs is named, and nothing is called a regression.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from dmlf.benchmark.collective.config import LIMIT, PEERS
from dmlf.benchmark.collective.load import Collectives
from dmlf.benchmark.collective.summary import Point, points, size_text
from dmlf.benchmark.compare.result import Finding, Result, apart
from dmlf.benchmark.statistics import Estimate

Points = dict[tuple[str, int], Point]


def collectives(mine: Collectives, theirs: Collectives) -> Iterator[Finding]:
    """Findings on every world size, contestant and size that both sides have."""
    for world_size in mine.config.world_sizes:
        if world_size not in theirs.config.world_sizes:
            continue
        old, new = _by_place(mine, world_size), _by_place(theirs, world_size)
        sizes = [size for size in mine.config.sizes if size in theirs.config.sizes]
        names = [name for name in _names(old) if name in _names(new)]
        yield from _ratios(old, new, names, sizes, world_size)
        yield from _orderings(old, new, names, sizes, world_size)


def _by_place(record: Collectives, world_size: int) -> Points:
    return {
        (point.cell.contestant, point.cell.size_bytes): point
        for point in points(record, world_size)
        if point.cell.contestant != LIMIT
    }


def _names(found: Points) -> list[str]:
    return list(dict.fromkeys(name for name, _ in found))


def _ratios(
    old: Points, new: Points, names: list[str], sizes: list[int], world_size: int
) -> Iterator[Finding]:
    """One finding per strategy and peer, with the sizes at which the ratio is another."""
    for name in names:
        for peer in PEERS if name not in PEERS else ():
            pairs = [
                (size, old[name, size].speedups[peer], new[name, size].speedups[peer])
                for size in sizes
                if peer in old[name, size].speedups and peer in new[name, size].speedups
            ]
            if not pairs:
                continue
            subject = f"{name} against {peer} at world size {world_size}"
            other = [
                f"{size_text(size)} {before.text()} in A, {after.text()} in B"
                for size, before, after in pairs
                if apart(before, after)
            ]
            if other:
                yield Finding(Result.DIFFERS, "collective ratio", subject, "; ".join(other))
            else:
                detail = f"at {len(pairs)} sizes"
                yield Finding(Result.AGREES, "collective ratio", subject, detail)


def _orderings(
    old: Points, new: Points, names: list[str], sizes: list[int], world_size: int
) -> Iterator[Finding]:
    """One finding per pair whose order turns at some size, and one for all the others."""
    agreed = undecided = 0
    for left, right in combinations(names, 2):
        turned = []
        for size in sizes:
            orders = {_order(side[left, size], side[right, size]) for side in (old, new)}
            if orders == {-1, 1}:
                turned.append(size)
            elif 0 in orders:
                undecided += 1
            else:
                agreed += 1
        if turned:
            detail = f"the faster one in A is the slower one in B at {_listed(turned)}"
            subject = f"{left} and {right} at world size {world_size}"
            yield Finding(Result.DIFFERS, "collective ordering", subject, detail)
    if agreed or undecided:
        detail = f"{agreed} pairs and sizes in the same order, {undecided} undecided on a side"
        result = Result.AGREES if agreed else Result.UNDECIDED
        yield Finding(result, "collective ordering", f"world size {world_size}", detail)


def _order(left: Point, right: Point) -> int:
    """1 if left is faster, -1 if right is, 0 where that cannot be said."""
    first, second = left.call_s, right.call_s
    return _sign(first, second) - _sign(second, first)


def _sign(first: Estimate, second: Estimate) -> int:
    return int(first.below(second))


def _listed(sizes: list[int]) -> str:
    return ", ".join(size_text(size) for size in sizes)
