"""A rank whose process lives through several generations of its group, and keeps its replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmlf.protocol import Holding, Member, registry
from dmlf.runtime import NoTransport
from dmlf.runtime.faults import FaultKind, Injector
from dmlf.runtime.member import Line, StartOrder
from dmlf.training.replica import Replica, make_backend
from dmlf.training.result import RankReport
from dmlf.training.sampler import owned_shards
from dmlf.training.worker import Again, RankJob, Trainer
from dmlf.transport import Transport
from dmlf.transport.tcp import TcpTransport


class RecoverableRank:
    """Fulfils `dmlf.runtime.member.Program`: the state that it holds survives a failure."""

    def __init__(self, rank: int, job: RankJob) -> None:
        config = job.config
        self._job = job
        self._algorithm = registry().get(config.algorithm)
        num_servers = 0
        if self._algorithm is not None:
            num_servers = self._algorithm.server_count(config.num_servers)
        self._group = (rank, config.world_size, num_servers)
        is_worker = rank < config.world_size
        shards = owned_shards(rank, config.world_size, config.num_shards) if is_worker else range(0)
        self._replica = Replica(config, make_backend(config), rank, shards)
        self._holds = not (is_worker and num_servers)  # else it has no optimizer
        self._fresh = True
        self._history: tuple[int, Mapping[str, Any] | None] = (-1, None)

    def run(self, order: StartOrder, line: Line) -> RankReport:
        """Train one generation to its end; whatever it raises, the replica is kept."""
        replica, plan = self._replica, self._job.checkpoint
        fresh, self._fresh = self._fresh, False
        # Only from the run's very beginning is what a new process holds a state of the run.
        if fresh and (order.generation or (plan is not None and plan.resume)):
            replica.done = None
        if not order.trust_memory:
            replica.done = None
        if fresh and order.note is not None:
            self._history = order.note
        holding = None
        if self._holds and replica.done is not None:
            holding = Holding(replica.done, replica.parts)
        transport = NoTransport() if order.endpoint is None else order.endpoint.connect()
        try:
            replica.allocate(transport.allocate)
            step, history = self._history
            injector = self._injector(order.generation, line, transport)
            again = Again(order.generation, line, holding, history, step, injector)
            member = Member(*self._group, order.generation)
            trainer = Trainer(replica, transport, member, self._algorithm, self._job, again)
            try:
                report = trainer.train()
            finally:
                if trainer.recorder.epochs:
                    self._history = (trainer.recorder.done, trainer.recorder.history())
        except BaseException:
            transport.abandon()
            raise
        transport.close()
        return report

    def _injector(self, generation: int, line: Line, transport: Transport) -> Injector | None:
        mine = [
            (number, spec)
            for number, spec in enumerate(self._job.faults)
            if (spec.rank, spec.generation) == (self._group[0], generation)
        ]
        if not mine:
            return None

        def damage(kind: FaultKind) -> None:
            assert isinstance(transport, TcpTransport)  # others are refused before the start
            if kind is FaultKind.CUT:
                transport.cut_next()
            else:
                transport.corrupt_next()

        return Injector(mine, line.fired, self._replica.backend.parameters, damage)
