"""What a collective record shows, as statements whose every word follows from the samples.

A strategy is called faster or slower than a peer at a size when the whole 95 % interval of their
ratio, taken round by round, lies on one side of 1, over at least MIN_REPEATS_FOR_CLAIM rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmlf.benchmark.claims import Outcome
from dmlf.benchmark.collective.config import LIMIT, PEERS
from dmlf.benchmark.collective.load import Collectives
from dmlf.benchmark.collective.summary import Point, contestants, points, size_text
from dmlf.benchmark.statistics import MIN_REPEATS_FOR_CLAIM, Estimate

_BY_SIDE = {1: Outcome.HOLDS, -1: Outcome.DOES_NOT_HOLD, 0: Outcome.NOT_DISTINGUISHABLE}
_RELATIONS = (
    (Outcome.HOLDS, "faster than"),
    (Outcome.DOES_NOT_HOLD, "slower than"),
    (Outcome.NOT_DISTINGUISHABLE, "not distinguishable from"),
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One strategy against one peer at one world size: the outcome at every size, and the text."""

    strategy: str
    peer: str
    world_size: int
    oversubscribed: bool
    outcomes: tuple[tuple[int, Outcome], ...]
    text: str


def outcome_of(ratio: Estimate) -> Outcome:
    """Is something faster (HOLDS), by how many times as fast as another it is?"""
    if ratio.runs < MIN_REPEATS_FOR_CLAIM or ratio.low is None:
        return Outcome.NO_DATA
    return _BY_SIDE[ratio.side_of(1.0)]


def statements(record: Collectives) -> list[Statement]:
    """Every strategy against every peer that took part, at every world size."""
    found = []
    for world_size in record.config.world_sizes:
        here = points(record, world_size)
        for strategy in contestants(here):
            own = [point for point in here if point.cell.contestant == strategy]
            for peer in PEERS:
                if strategy not in (*PEERS, LIMIT) and all(peer in p.speedups for p in own):
                    found.append(_statement(strategy, peer, world_size, own))
    return found


def _statement(strategy: str, peer: str, world_size: int, own: Sequence[Point]) -> Statement:
    outcomes = [(point, outcome_of(point.speedups[peer])) for point in own]
    who = f"{strategy} at world size {world_size}"
    parts = []
    for outcome, relation in _RELATIONS:
        sizes = [
            f"{size_text(point.cell.size_bytes)} ({point.speedups[peer].text()} times)"
            for point, found in outcomes
            if found == outcome
        ]
        if sizes:
            parts.append(f"{relation} {peer} at {_listing(sizes)}")
    if parts:
        text = f"{who} is {'; '.join(parts)}."
    else:
        text = (
            f"No statement on {who} and {peer}: a claim needs {MIN_REPEATS_FOR_CLAIM} rounds, "
            f"and there are {len(own[0].cell.call_s)}."
        )
    return Statement(
        strategy,
        peer,
        world_size,
        any(point.oversubscribed for point in own),
        tuple((point.cell.size_bytes, outcome) for point, outcome in outcomes),
        text,
    )


def _listing(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
