"""The program of one rank: every contestant side by side, each taking its turn when told to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

from dmlf.benchmark.collective.config import GLOO, LIMIT
from dmlf.benchmark.collective.data import FoldReference, Values
from dmlf.benchmark.collective.limit import LimitTurn
from dmlf.benchmark.collective.strategy import StrategyTurn
from dmlf.benchmark.collective.timing import Turn, time_calls
from dmlf.runtime.conversation import END
from dmlf.transport import Endpoint


@dataclass(frozen=True, slots=True)
class RankJob:
    """What a rank is told at the start.

    endpoints: this rank's end of every contestant's transport, by strategy or `limit`.
    rendezvous: where Gloo's ranks find each other; None where this rank takes no part in Gloo.
    """

    world_size: int
    max_numel: int
    bucket_numel: int
    seed: int
    timeout_s: float
    endpoints: Mapping[str, Endpoint]
    rendezvous: str | None


@dataclass(frozen=True, slots=True)
class Order:
    """Take a turn: `calls` calls of a contestant on vectors of `numel` elements."""

    contestant: str
    numel: int
    calls: int


def run_rank(rank: int, argument: tuple[RankJob, Connection]) -> None:
    """Answer every order with the seconds that its calls took on this rank.

    Between turns it blocks in a read, so that it takes nothing from whose turn it is. Raises
    WrongSum, and whatever a transport raises.
    """
    job, orders = argument
    values = Values(job.seed, job.world_size, job.max_numel)
    reference = FoldReference(values, job.bucket_numel)
    turns: dict[str, Turn] = {}
    for name, endpoint in job.endpoints.items():
        if name == LIMIT:
            kind: type[StrategyTurn] = LimitTurn
            label = f"ring-{LIMIT}"
        else:
            kind, label = StrategyTurn, name
        turns[name] = kind(label, rank, endpoint, values, reference, job.max_numel, job.timeout_s)
    if job.rendezvous is not None:
        from dmlf.benchmark.collective.gloo import GlooTurn

        turns[GLOO] = GlooTurn(rank, job.rendezvous, values, job.max_numel, job.timeout_s)
    while (order := orders.recv()) is not END:
        turn = turns[order.contestant]
        turn.prepare(order.numel)
        orders.send(time_calls(turn, order.calls, job.world_size))
    for turn in turns.values():
        turn.close()
