"""The states of single ranks, found while a whole group is explored.

Generators cannot be copied. But what a rank does depends on nothing but what it has received, so
its state is named by its history of effects and received messages. A transition is computed once,
by the real generator (replayed from its start where a history branches), and then looked up.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from dmlf.errors import DeadlineExceeded, DmlfError, PeerLost, TransportError
from dmlf.protocol import Recv, Send
from dmlf.simulation.invariants import View
from dmlf.simulation.network import Envelope, contents
from dmlf.simulation.process import Outgoing, Process
from dmlf.simulation.scenario import SECOND_NS, Scenario, reference_of
from dmlf.simulation.tracked import TrackedPayload

NO_INPUT = -1
CRASH = -2
PEER_LOST = -3
DEADLINE = -4
"""Inputs of a rank that are no messages; a message is named by its id, from 0."""


@dataclass(slots=True)
class LocalState:
    """One state of one rank.

    pending: `send`, `recv`, `local` or `ended`; peer: whom it receives from. sent: the message
    (dst, id) that left on the way into this state. outcome: how it ended. history: all inputs so
    far. successors: the next state by input.
    """

    rank: int
    history: tuple[int, ...]
    pending: str
    peer: int
    view: View
    outcome: str | None
    sent: tuple[int, int] | None = None
    successors: dict[int, int] = field(default_factory=dict)


class LocalStates:
    """All local states met so far, by number, and all messages, by id."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._reference = reference_of(scenario)
        self._message_ids: dict[Hashable, int] = {}
        self._envelopes: list[Envelope] = []
        self._processes: dict[int, Process] = {}
        self.states: list[LocalState] = []

    def initial(self) -> tuple[int, ...]:
        """The first state of every rank."""
        return tuple(self._add(rank, (), self._new(rank), None) for rank in self._ranks)

    def successor(self, number: int, given: int = NO_INPUT) -> int:
        """The state after `given`: a message for a pending Recv, NO_INPUT for another effect.

        Raises SimulationFailure when an invariant of a single rank breaks on the way.
        """
        state = self.states[number]
        known = state.successors.get(given)
        if known is None:
            process = self._processes.pop(number, None) or self._replayed(state)
            outgoing = self._feed(process, given)
            sent = None
            if outgoing is not None:
                envelope = Envelope(outgoing.tag, outgoing.payload, outgoing.tag)
                sent = (outgoing.dst, self._message_id(envelope))
            known = self._add(state.rank, (*state.history, given), process, sent)
            state.successors[given] = known
        return known

    @property
    def _ranks(self) -> range:
        return range(self._scenario.group_size)

    def _new(self, rank: int) -> Process:
        return Process(self._scenario, self._reference, rank)

    def _replayed(self, state: LocalState) -> Process:
        process = self._new(state.rank)
        for given in state.history:
            self._feed(process, given)
        return process

    def _feed(self, process: Process, given: int) -> Outgoing | None:
        if given == NO_INPUT:
            return process.take()
        if given == CRASH:
            process.crash()
            return None
        assert isinstance(process.pending, Recv)
        error: DmlfError
        rank, src = process.rank, process.pending.src
        if given == PEER_LOST:
            error = PeerLost(f"rank {src}", "its process has ended")
        elif given == DEADLINE:
            error = DeadlineExceeded(rank, src, self._scenario.timeout_ns / SECOND_NS)
        elif self._envelopes[given].is_damaged:
            error = TransportError(f"rank {rank}: a frame from rank {src} is damaged")
        else:
            return process.take(self._envelopes[given])
        process.throw(error)
        return None

    def _add(
        self, rank: int, history: tuple[int, ...], process: Process, sent: tuple[int, int] | None
    ) -> int:
        effect = process.pending
        pending, peer = "local", -1
        if process.ended is not None:
            pending = "ended"
        elif isinstance(effect, Recv):
            pending, peer = "recv", effect.src
        elif isinstance(effect, Send):
            pending = "send"
        state = LocalState(rank, history, pending, peer, process.view(), process.ended, sent)
        number = len(self.states)
        self.states.append(state)
        self._processes[number] = process
        return number

    def _message_id(self, envelope: Envelope) -> int:
        flags = (envelope.is_copy, envelope.is_damaged)
        key = (envelope.tag, _identity(envelope.payload), flags)
        if key not in self._message_ids:
            self._message_ids[key] = len(self._envelopes)
            self._envelopes.append(envelope)
        return self._message_ids[key]

    def copy_of(self, message: int) -> int:
        """The id of a second copy of `message`."""
        return self._message_id(replace(self._envelopes[message], is_copy=True))

    def damaged(self, message: int) -> int:
        """The id of `message` with a frame that fails its checksum."""
        return self._message_id(replace(self._envelopes[message], is_damaged=True))


def _identity(payload: Any) -> Hashable:
    """Equal for payloads that no receiver can tell apart."""
    if isinstance(payload, TrackedPayload):
        return contents(payload), tuple(payload.folds.values), tuple(payload.folds.folds)
    return contents(payload)
