"""The timed simulator: the protocols' own generators for every rank, under the link model.

Discrete events, ordered by virtual time and then by posting: one for each message that arrives.
A rank runs ahead of them to its next wait, as nobody else can change what it does until then; only
where ranks share a port does it let those send first that are earlier.
No clock of the machine is read, so equal inputs give equal bits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from dmlf.errors import SimulationFailure
from dmlf.protocol import Algorithm, Gradient, Member, ReadParameters, Recv, Send
from dmlf.simulation.invariants import TERMINATION
from dmlf.simulation.timed.links import Cluster
from dmlf.simulation.timed.sized import Clock, SizedAccumulator
from dmlf.simulation.timed.workload import Straggling, Workload

_NO_STRAGGLING = Straggling()
_NOBODY = -1 << 62


@dataclass(frozen=True, slots=True)
class Timing:
    """What a timed simulation found.

    step_ends_s: when the last worker ended each step. slowest_compute_s: of the slowest rank, by
    step. messages, payload_bytes: of all ranks and steps together.
    """

    step_ends_s: tuple[float, ...]
    slowest_compute_s: tuple[float, ...]
    messages: int
    payload_bytes: int

    @property
    def first_step_s(self) -> float:
        """A step that all workers begin at once."""
        return self.step_ends_s[0]

    @property
    def step_s(self) -> float:
        """Mean time of a step, without the first, which alone begins on all workers at once."""
        if len(self.step_ends_s) == 1:
            return self.first_step_s
        return (self.step_ends_s[-1] - self.first_step_s) / (len(self.step_ends_s) - 1)


class _Rank(Clock):
    """One rank's generator and what it waits for; `now_s` is its own time."""

    __slots__ = (
        "buckets", "generator", "held", "host", "inbox", "member", "rank", "release_s", "step",
        "waits_for",
    )  # fmt: skip

    def __init__(self, member: Member, host: int) -> None:
        super().__init__()
        self.member = member
        self.rank = member.rank
        self.host = host
        self.inbox: dict[int, deque[tuple[float, Send]]] = {}
        self.waits_for = _NOBODY
        self.held: Send | None = None
        self.step = -1
        self.release_s: list[float] = []
        self.buckets: list[SizedAccumulator] = []
        self.generator: Any = None


class TimedWorld:
    """A group of ranks in virtual time; `run` lets it end its steps."""

    def __init__(
        self,
        algorithm: Algorithm,
        cluster: Cluster,
        workload: Workload,
        world_size: int,
        num_servers: int,
        num_steps: int,
        straggling: Straggling = _NO_STRAGGLING,
    ) -> None:
        self._algorithm = algorithm
        self._workload = workload
        self._released_s = workload.released_s
        self._world_size = world_size
        self._num_steps = num_steps
        self._factors = [straggling.factors(step, world_size) for step in range(num_steps)]
        self._latency_s = cluster.port.latency_s
        self._overhead_s = cluster.overhead_s
        self._local = cluster.local
        servers = algorithm.server_count(num_servers)
        self._ranks = []
        for rank in range(world_size + servers):
            node = _Rank(Member(rank, world_size, servers), cluster.host(rank, world_size))
            gamma = cluster.reduction_s_per_byte
            node.buckets = [SizedAccumulator(shape, node, gamma) for shape in workload.buckets]
            self._ranks.append(node)
        hosts = cluster.num_hosts(world_size)
        self._s_per_byte = [cluster.port.s_per_byte] * hosts + [cluster.server_s_per_byte] * servers
        self._out_free_s = [0.0] * len(self._s_per_byte)
        self._in_free_s = [0.0] * len(self._s_per_byte)
        self._local_free_s: dict[tuple[int, int], float] = {}
        self._shares_ports = cluster.ranks_per_host > 1
        self._events: list[tuple[float, int, _Rank, int, Send | None]] = []
        self._posted = 0
        self._step_ends_s = [0.0] * num_steps
        self._running = len(self._ranks)
        self._messages = self._payload_bytes = 0

    def run(self) -> Timing:
        """Run all steps to their end. Raises SimulationFailure if the ranks wait for ever."""
        for node in self._ranks:
            if self._begin_step(node):
                self._post(0.0, node, _NOBODY, None)
        events = self._events
        while events:
            at_s, _, node, src, message = heappop(events)
            if message is None:
                held, node.held = node.held, None
                if held is not None:
                    self._send(node, held)
                self._advance(node, None)
            elif src < 0:  # from the same host: no port on its way
                self._deliver(at_s, node, ~src, message)
            else:
                self._arrive(at_s, node, src, message)
        if self._running:
            waiting = {n.rank: n.waits_for for n in self._ranks if n.waits_for != _NOBODY}
            raise SimulationFailure(TERMINATION, f"ranks wait for ranks for ever: {waiting}")
        computed = tuple(
            self._workload.compute_s * max(factors, default=0.0) for factors in self._factors
        )
        return Timing(tuple(self._step_ends_s), computed, self._messages, self._payload_bytes)

    def _post(self, at_s: float, node: _Rank, src: int, message: Send | None) -> None:
        self._posted += 1
        heappush(self._events, (at_s, self._posted, node, src, message))

    def _begin_step(self, node: _Rank) -> bool:
        """Make the next step's generator; False if there is none."""
        node.step += 1
        if node.step == self._num_steps:
            self._running -= 1
            return False
        node.generator = self._algorithm.rank_step(
            node.member, node.step, len(self._workload.buckets)
        )
        if node.rank < self._world_size:
            factor, start_s = self._factors[node.step][node.rank], node.now_s
            node.release_s = [start_s + factor * ready_s for ready_s in self._released_s]
        else:
            node.release_s = [0.0] * len(self._released_s)  # a server computes no gradient
        return True

    def _send(self, node: _Rank, effect: Send) -> None:
        """Let a message leave: its event is the moment at which its first byte arrives."""
        payload = effect.payload
        size = payload if type(payload) is int else len(payload)
        self._messages += 1
        self._payload_bytes += size
        dst = self._ranks[effect.dst]
        host = node.host
        if host == dst.host:
            link = node.rank, effect.dst
            leaves_s = max(node.now_s, self._local_free_s.get(link, 0.0))
            self._local_free_s[link] = left_s = leaves_s + size * self._local.s_per_byte
            self._post(left_s + self._local.latency_s, dst, ~node.rank, effect)
            return
        free_s = self._out_free_s[host]
        leaves_s = free_s if free_s > node.now_s else node.now_s
        self._out_free_s[host] = leaves_s + size * self._s_per_byte[host]
        self._posted += 1
        heappush(
            self._events,
            (leaves_s + self._latency_s, self._posted, dst, node.rank, effect),
        )

    def _arrive(self, at_s: float, node: _Rank, src: int, message: Send) -> None:
        """The first byte is at the receiver's port: it passes the port in its turn."""
        payload, host = message.payload, node.host
        size = payload if type(payload) is int else len(payload)
        free_s = self._in_free_s[host]
        done_s = (free_s if free_s > at_s else at_s) + size * self._s_per_byte[host]
        last_s = at_s + size * self._s_per_byte[self._ranks[src].host]
        if done_s < last_s:  # a slower port is still sending it
            done_s = last_s
        self._in_free_s[host] = done_s
        self._deliver(done_s, node, src, message)

    def _deliver(self, done_s: float, node: _Rank, src: int, message: Send) -> None:
        """Put a message where `node` finds it, and let it go on if it waits for it."""
        if node.waits_for != src:
            inbox = node.inbox.get(src)
            if inbox is None:
                inbox = node.inbox[src] = deque()
            inbox.append((done_s, message))
            return
        node.waits_for = _NOBODY
        if node.now_s < done_s:
            node.now_s = done_s
        node.now_s += self._overhead_s
        self._advance(node, message)

    def _advance(self, node: _Rank, answer: Any) -> None:
        """Fulfil effects until `node` waits, or must let others send first."""
        send, overhead_s, events = node.generator.send, self._overhead_s, self._events
        shares_ports = self._shares_ports
        while True:
            try:
                effect = send(answer)
            except StopIteration:
                self._end_step(node)
                if not self._begin_step(node):
                    return
                send, answer = node.generator.send, None
                continue
            kind, answer = type(effect), None
            if kind is Send:
                node.now_s += overhead_s
                if shares_ports and events and events[0][0] <= node.now_s:
                    node.held = effect
                    self._post(node.now_s, node, _NOBODY, None)
                    return
                self._send(node, effect)
            elif kind is Recv:
                inbox = node.inbox.get(effect.src)
                if not inbox:
                    node.waits_for = effect.src
                    return
                # A Send has the tag and the payload that a protocol reads of a Message.
                done_s, answer = inbox.popleft()
                if node.now_s < done_s:
                    node.now_s = done_s
                node.now_s += overhead_s
            elif kind is Gradient:
                release_s = node.release_s[effect.bucket]
                if node.now_s < release_s:
                    node.now_s = release_s
                answer = node.buckets[effect.bucket]
            elif kind is ReadParameters:
                answer = node.buckets[effect.bucket].numel * 4
            # Apply and WriteParameters are part of the computation.

    def _end_step(self, node: _Rank) -> None:
        if node.rank < self._world_size:
            ends_s = self._step_ends_s
            ends_s[node.step] = max(ends_s[node.step], node.now_s)
