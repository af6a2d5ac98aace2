"""A rank whose process lives through several generations of its group, and keeps its replica."""

from __future__ import annotations

from dmlf.checkpoint import Verified
from dmlf.protocol import Holding, Member, registry
from dmlf.runtime import NoTransport
from dmlf.runtime.faults import FaultKind, FaultSpec, Injector
from dmlf.runtime.member import Line, StartOrder
from dmlf.training.closing import close_links
from dmlf.training.notes import read_notes
from dmlf.training.replica import Replica, make_backend
from dmlf.training.result import RankReport, report_to_json
from dmlf.training.sampler import owned_shards
from dmlf.training.worker import Again, RankJob, Trainer
from dmlf.transport import Endpoint, Transport
from dmlf.transport.tcp import TcpEndpoint, TcpTransport

HOLD_S = 60.0
"""How long a step is held back for a change of membership that was injected."""


class RecoverableRank:
    """Fulfils `dmlf.runtime.member.Program`: the state that it holds survives a failure.

    server: which one, or None for a worker. Rank and shards come with each generation.
    """

    def __init__(self, server: int | None, job: RankJob) -> None:
        config = job.config
        self._job = job
        self._server = server
        self._algorithm = registry().get(config.algorithm)
        self._num_servers = 0
        if self._algorithm is not None:
            self._num_servers = self._algorithm.server_count(config.num_servers)
        place = 0 if server is None else config.world_size + server
        self._replica = Replica(config, make_backend(config), place, range(0))
        self._holds = not (server is None and self._num_servers)  # else it has no optimizer
        self._fresh = True
        self._verified: Verified = frozenset()

    def run(self, order: StartOrder, line: Line) -> RankReport:
        """Train one generation to its end; whatever it raises, the replica is kept."""
        replica, plan = self._replica, self._job.checkpoint
        fresh, self._fresh = self._fresh, False
        # Only from the run's very beginning is what a new process holds a state of the run.
        if fresh and (order.generation or (plan is not None and plan.resume)):
            replica.done = None
        if not order.trust_memory:
            replica.done = None
        holding = None
        if self._holds and replica.done is not None:
            holding = Holding(replica.done, replica.part_digests())
        shards = range(0)
        if self._server is None:
            shards = owned_shards(order.rank, order.world_size, self._job.config.num_shards)
        transport: Transport = NoTransport()
        if order.endpoint is not None:
            transport = _connect(order.endpoint, line)
        try:
            replica.enter(order.rank, shards, transport.allocate)
            injector = self._injector(order, line, transport)
            again = Again(
                order.generation,
                line,
                holding,
                *read_notes(order.notes),
                injector,
                self._verified,
                order.saved,
            )
            member = Member(order.rank, order.world_size, self._num_servers, order.generation)
            trainer = Trainer(replica, transport, member, self._algorithm, self._job, again)
            try:
                report = trainer.train()
            except Exception:
                trainer.note()
                raise
            finally:
                self._verified = trainer.verified
        except BaseException:
            transport.abandon()
            raise
        close_links(transport, order.rank)
        return report

    def _injector(self, order: StartOrder, line: Line, transport: Transport) -> Injector | None:
        mine = [
            (number, spec)
            for number, spec in enumerate(self._job.faults)
            if spec.rank == order.rank
            and spec.generation in (None, order.generation)
            and number not in order.struck
        ]
        if not mine:
            return None

        def damage(kind: FaultKind) -> None:
            assert isinstance(transport, TcpTransport)  # others are refused before the start
            if kind is FaultKind.CUT:
                transport.cut_next()
            else:
                transport.corrupt_next()

        def ask(spec: FaultSpec) -> None:
            if spec.kind is FaultKind.LEAVE:
                line.leave()
            else:
                line.want(spec.count or 0)
            line.hold(HOLD_S)

        return Injector(mine, line.fired, self._replica.backend.parameters, damage, ask)


def _connect(endpoint: Endpoint, line: Line) -> Transport:
    """Open the links. Only where that may take long can it be interrupted."""
    if isinstance(endpoint, TcpEndpoint):
        return endpoint.connect(line.check)
    return endpoint.connect()


class RemoteRank(RecoverableRank):
    """The same on another host: its report travels as text."""

    def run(self, order: StartOrder, line: Line) -> str:  # type: ignore[override]
        """Train one generation to its end."""
        return report_to_json(super().run(order, line))
