"""A group of simulated ranks, its links, its faults and its clock."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dmlf.errors import (
    DeadlineExceeded,
    DmlfError,
    NonFiniteGradient,
    PeerLost,
    SimulationFailure,
    TransportError,
)
from dmlf.protocol import Apply, Gradient, Recv, Send, WriteParameters
from dmlf.simulation.agenda import TICK_NS, Choose, Event, SeededAgenda
from dmlf.simulation.faults import Fault, FaultKind, Footprint
from dmlf.simulation.invariants import NON_FINITE, TERMINATION, check_commit
from dmlf.simulation.network import contents
from dmlf.simulation.process import DONE, Process
from dmlf.simulation.scenario import SECOND_NS, Scenario, reference_of
from dmlf.simulation.wire import FaultLog, Wire

_MAX_EVENTS = 1_000_000


class TraceEvent(NamedTuple):
    """One event: virtual time, what happened to whom, and the message or effect concerned."""

    now_ns: int
    kind: str
    rank: int
    peer: int
    subject: object
    checksum: int = 0

    def __str__(self) -> str:
        peer = "" if self.peer < 0 else f" -> {self.peer}"
        subject = "" if self.subject is None else f": {self.subject}"
        return f"{self.now_ns / 1e6:10.3f} ms  {self.kind} {self.rank}{peer}{subject}"


@dataclass(frozen=True, slots=True)
class Run:
    """How a simulated run went.

    outcomes: by rank, `completed`, `crashed` or the name of the error. choices: the schedule.
    """

    outcomes: tuple[str, ...]
    versions: tuple[int, ...]
    fired: dict[FaultKind, int]
    trace: list[TraceEvent]
    choices: list[int]
    now_ns: int
    footprint: Footprint

    def trace_sha256(self) -> str:
        """One hash for every event with its time, order, messages and payloads."""
        return hashlib.sha256(repr(self.trace).encode()).hexdigest()


class World:
    """Runs a scenario under a fault plan, one event at a time, checking after each.

    `run` raises SimulationFailure (without a seed: the caller knows it) when an invariant breaks.
    trace and choices hold what happened until then.
    """

    def __init__(self, scenario: Scenario, plan: Sequence[Fault], choose: Choose) -> None:
        self._scenario = scenario
        self._agenda = SeededAgenda(choose)
        self.choices = self._agenda.choices
        self.trace: list[TraceEvent] = []
        self._log = FaultLog()
        self._wire = Wire(scenario.group_size, plan, self._agenda, self._log)
        self._rank_faults = {
            (fault.rank, fault.index): fault
            for fault in plan
            if fault.kind in (FaultKind.CRASH, FaultKind.PAUSE)
        }
        self._non_finite = {
            (fault.rank, fault.index, fault.detail): fault
            for fault in plan
            if fault.kind is FaultKind.NON_FINITE
        }
        reference = reference_of(scenario)
        self._processes = [
            Process(
                scenario,
                reference,
                rank,
                frozenset((step, b) for poisoned, step, b in self._non_finite if poisoned == rank),
            )
            for rank in range(scenario.group_size)
        ]
        self._waiting: set[int] = set()

    def run(self) -> Run:
        """Let everything happen that can."""
        for process in self._processes:
            self._schedule(process)
        agenda, limit = self._agenda, _MAX_EVENTS
        while (event := agenda.next()) is not None:
            self._execute(event)
            limit -= 1
            if not limit:
                raise SimulationFailure(TERMINATION, f"no end after {_MAX_EVENTS} events")
        self._check_end()
        links = self._wire.links.items()
        return Run(
            tuple(str(process.ended) for process in self._processes),
            tuple(process.replica.version for process in self._processes),
            dict(self._log.fired),
            self.trace,
            self.choices,
            agenda.now_ns,
            Footprint(
                tuple((*ends, len(link.history)) for ends, link in links if link.history),
                tuple(process.effects for process in self._processes),
            ),
        )

    def _execute(self, event: Event) -> None:
        kind, rank, peer = event
        if kind == "effect":
            self._advance(self._processes[rank])
        elif kind == "deliver":
            self._record(kind, rank, peer, None)
            self._wire.deliver(rank, peer)
            self._wake(rank, peer)
        elif kind == "late":
            self._record(kind, rank, peer, None)
            self._wire.release_late(rank, peer)
        elif kind == "deadline":
            timeout_s = self._scenario.timeout_ns / SECOND_NS
            self._fail(rank, peer, DeadlineExceeded(rank, peer, timeout_s))
        elif kind == "lost":
            self._fail(rank, peer, PeerLost(f"rank {peer}", "its process has ended"))
        else:
            self._rank_fault(kind, self._processes[rank])

    def _advance(self, process: Process) -> None:
        effect, rank = process.pending, process.rank
        version = process.replica.version
        if isinstance(effect, Send):
            message = process.take()
            assert message is not None
            checksum = zlib.crc32(contents(message.payload))
            self._record("send", rank, message.dst, message.tag, checksum)
            self._wire.send(rank, message)
        elif isinstance(effect, Recv):
            envelope = self._wire.links[effect.src, rank].inbox.popleft()
            checksum = zlib.crc32(contents(envelope.payload))
            self._record("receive", rank, effect.src, envelope.tag, checksum)
            if envelope.is_damaged:
                process.throw(
                    TransportError(f"rank {rank}: a frame from rank {effect.src} is damaged")
                )
            else:
                process.take(envelope)
        else:
            if isinstance(effect, Gradient):
                fault = self._non_finite.pop((rank, effect.step, effect.bucket), None)
                if fault is not None:
                    self._log.fire(fault, self._agenda.now_ns)
            subject = effect.bucket if isinstance(effect, WriteParameters) else effect
            self._record("apply" if isinstance(effect, Apply) else "effect", rank, -1, subject)
            process.take()
        if process.replica.version != version:
            views = [other.view() for other in self._processes]
            check_commit(views, self._scenario.world_size)
        self._after(process)

    def _after(self, process: Process) -> None:
        """Post what `process` can do next, or tell those who wait for it that it has ended."""
        if process.ended is None:
            self._schedule(process)
            return
        self._record(f"ended ({process.ended})", process.rank, -1, None)
        for rank in list(self._waiting):
            self._post_if_lost(rank, process.rank)

    def _schedule(self, process: Process) -> None:
        rank, effect, now_ns = process.rank, process.pending, self._agenda.now_ns
        if process.ended is not None:
            return
        fault = self._rank_faults.get((rank, process.effects))
        if fault is not None:
            self._agenda.post(Event(fault.kind, rank), now_ns)
        elif isinstance(effect, Recv) and not self._wire.links[effect.src, rank].inbox:
            self._waiting.add(rank)
            deadline_ns = now_ns + self._scenario.timeout_ns
            self._agenda.post(Event("deadline", rank, effect.src), deadline_ns)
            self._post_if_lost(rank, effect.src)
        else:
            self._agenda.post(Event("effect", rank), now_ns)

    def _wake(self, src: int, rank: int) -> None:
        effect = self._processes[rank].pending
        if rank in self._waiting and isinstance(effect, Recv) and effect.src == src:
            self._stop_waiting(rank, src)
            self._agenda.post(Event("effect", rank), self._agenda.now_ns)

    def _stop_waiting(self, rank: int, src: int) -> None:
        self._waiting.discard(rank)
        self._agenda.cancel(Event("deadline", rank, src))
        self._agenda.cancel(Event("lost", rank, src))

    def _post_if_lost(self, rank: int, src: int) -> None:
        """A rank that waits for one that has ended finds out, once nothing is on the way."""
        effect = self._processes[rank].pending
        is_waiting = isinstance(effect, Recv) and effect.src == src
        ended = self._processes[src].ended is not None
        if is_waiting and ended and self._wire.links[src, rank].is_empty:
            self._agenda.post(Event("lost", rank, src), self._agenda.now_ns)

    def _fail(self, rank: int, src: int, error: DmlfError) -> None:
        self._record(type(error).__name__, rank, src, None)
        self._stop_waiting(rank, src)
        self._processes[rank].throw(error)
        self._after(self._processes[rank])

    def _rank_fault(self, kind: str, process: Process) -> None:
        self._record(kind, process.rank, -1, None)
        if kind == "resume":
            self._schedule(process)
            return
        now_ns = self._agenda.now_ns
        fault = self._rank_faults.pop((process.rank, process.effects))
        self._log.fire(fault, now_ns)
        if fault.kind is FaultKind.CRASH:
            process.crash()
            self._after(process)
        else:
            self._agenda.post(Event("resume", process.rank), now_ns + fault.detail)

    def _record(self, kind: str, rank: int, peer: int, subject: object, checksum: int = 0) -> None:
        self.trace.append(TraceEvent(self._agenda.now_ns, kind, rank, peer, subject, checksum))

    def _check_end(self) -> None:
        log, scenario = self._log, self._scenario
        ended = {process.rank: process.ended for process in self._processes}
        if None in ended.values():
            raise SimulationFailure(TERMINATION, f"nothing can happen any more: {ended}")
        bound_ns = log.last_ns + scenario.timeout_ns + len(self.trace) * TICK_NS
        if self._agenda.now_ns > bound_ns:
            raise SimulationFailure(
                TERMINATION, f"the end came {self._agenda.now_ns - bound_ns} ns too late"
            )
        may_fail = log.is_harmful or log.stalled_ns >= scenario.timeout_ns
        if not may_fail and set(ended.values()) != {DONE}:
            raise SimulationFailure(TERMINATION, f"no harmful fault fired, but: {ended}")
        if log.is_harmful and log.only_non_finite and log.stalled_ns < scenario.timeout_ns:
            verdicts = {
                process.error.step if isinstance(process.error, NonFiniteGradient) else None
                for process in self._processes
            }
            if len(verdicts) > 1 or None in verdicts:
                raise SimulationFailure(NON_FINITE, f"the verdicts differ: {ended}")
