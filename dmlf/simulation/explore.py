"""Exhaustive exploration: every order in which the events of a group can happen.

A global state is the local state of every rank (which stands for its whole history, see
`local_states`), and what is in flight and delivered on every link. From each state every event
that can happen is followed: each rank's next effect, each delivery. States that were met before
are not expanded again. Nothing is assumed about which events commute; that all orders end alike
is found out, not presupposed.

With a fault allowed, every single crash, drop, duplicate and corruption is followed as well, at
every moment at which it can happen. There is no clock: a deadline passes when nothing else can
happen, which is when virtual time would jump.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dmlf.errors import SimulationFailure
from dmlf.simulation.agenda import Event
from dmlf.simulation.invariants import TERMINATION, check_commit
from dmlf.simulation.local_states import CRASH, DEADLINE, NO_INPUT, PEER_LOST, LocalStates
from dmlf.simulation.process import DONE
from dmlf.simulation.scenario import Scenario

Queue = tuple[int, ...]
State = tuple[tuple[int, ...], tuple[Queue, ...], tuple[Queue, ...], int]
"""Local states by rank; ids of messages in flight, and delivered, by link (src * n + dst); how
many faults may still happen."""

_MESSAGE_FAULTS = ("drop", "duplicate", "corrupt")
_INPUTS = {"crash": CRASH, "lost": PEER_LOST, "deadline": DEADLINE}
_PROGRESS_EVERY = 10_000
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Exploration:
    """states, transitions: of the whole group. local_states: of all ranks together, added up.

    finals: distinct final states; without faults 1 means that no order makes a difference.
    outcomes: how ranks ended in the final states, each with the number of final states.
    """

    states: int
    transitions: int
    local_states: int
    finals: int
    outcomes: dict[tuple[str, ...], int]


class Explorer:
    """Explores all interleavings of a scenario with at most `max_faults` faults, breadth first."""

    def __init__(self, scenario: Scenario, max_faults: int = 0) -> None:
        self._scenario = scenario
        self._max_faults = max_faults
        self._size = scenario.group_size
        self._local = LocalStates(scenario)
        self._came_from: dict[State, tuple[State, Event] | None] = {}

    def run(self, progress: Callable[[int], None] | None = None) -> Exploration:
        """Visit every state that can be reached; `progress` is told the number so far.

        Raises SimulationFailure, with a shortest schedule that leads there, when an invariant
        breaks in any of them, when a rank waits for ever, or fails without a fault.
        """
        empty: tuple[Queue, ...] = ((),) * (self._size * self._size)
        first: State = (self._local.initial(), empty, empty, self._max_faults)
        self._came_from = {first: None}
        waiting = deque([first])
        transitions = 0
        finals: Counter[tuple[str, ...]] = Counter()
        while waiting:
            state = waiting.popleft()
            can_move = False
            for event in self._events(state):
                can_move = True
                transitions += 1
                following = self._checked_successor(state, event)
                if following not in self._came_from:
                    self._came_from[following] = (state, event)
                    waiting.append(following)
                    if progress is not None and len(self._came_from) % _PROGRESS_EVERY == 0:
                        progress(len(self._came_from))
            if not can_move:
                finals[self._outcome(state)] += 1
        states, local_states = len(self._came_from), len(self._local.states)
        return Exploration(states, transitions, local_states, finals.total(), dict(finals))

    def _events(self, state: State) -> list[Event]:
        numbers, in_flight, inboxes, faults_left = state
        size, local_states = self._size, self._local.states
        events = []
        overdue = []
        for rank, number in enumerate(numbers):
            local = local_states[number]
            if local.pending == "recv":
                link = local.peer * size + rank
                if inboxes[link]:
                    events.append(Event("receive", rank, local.peer))
                elif not in_flight[link]:
                    if local_states[numbers[local.peer]].pending == "ended":
                        events.append(Event("lost", rank, local.peer))
                    else:
                        overdue.append(Event("deadline", rank, local.peer))
            elif local.pending != "ended":
                events.append(Event("effect", rank))
            if faults_left and local.pending != "ended":
                events.append(Event("crash", rank))
        for link, queue in enumerate(in_flight):
            if queue:
                events.append(Event("deliver", *divmod(link, size)))
                if faults_left:
                    events += [Event(kind, *divmod(link, size)) for kind in _MESSAGE_FAULTS]
        if faults_left < self._max_faults and all(event.kind == "crash" for event in events):
            events += overdue
        return events

    def _checked_successor(self, state: State, event: Event) -> State:
        try:
            following = self._successor(state, event)
            before, after = state[0], following[0]
            if before != after:
                old = self._local.states[before[event.rank]].view
                if self._local.states[after[event.rank]].view != old:
                    views = [self._local.states[number].view for number in after]
                    check_commit(views, self._scenario.world_size)
            return following
        except SimulationFailure as failure:
            schedule = self._schedule(state, event)
            raise SimulationFailure(failure.invariant, f"{failure.detail}\n{schedule}") from failure

    def _successor(self, state: State, event: Event) -> State:
        numbers, in_flight, inboxes, faults_left = state
        kind, rank, peer = event
        if kind == "deliver":
            link = rank * self._size + peer
            message, *others = in_flight[link]
            delivered = _with(inboxes, link, (*inboxes[link], message))
            return numbers, _with(in_flight, link, tuple(others)), delivered, faults_left
        if kind in _MESSAGE_FAULTS:
            link = rank * self._size + peer
            message, *others = in_flight[link]
            heads = {
                "drop": (),
                "duplicate": (message, self._local.copy_of(message)),
                "corrupt": (self._local.damaged(message),),
            }
            in_flight = _with(in_flight, link, (*heads[kind], *others))
            return numbers, in_flight, inboxes, faults_left - 1
        given = NO_INPUT
        if kind == "receive":
            link = peer * self._size + rank
            given, *others = inboxes[link]
            inboxes = _with(inboxes, link, tuple(others))
        elif kind in _INPUTS:
            given = _INPUTS[kind]
            faults_left -= kind == "crash"
        number = self._local.successor(numbers[rank], given)
        sent = self._local.states[number].sent
        if sent is not None:
            link = rank * self._size + sent[0]
            in_flight = _with(in_flight, link, (*in_flight[link], sent[1]))
        return _with(numbers, rank, number), in_flight, inboxes, faults_left

    def _outcome(self, state: State) -> tuple[str, ...]:
        """How the ranks ended; without a fault all must have completed."""
        outcomes = tuple(self._local.states[number].outcome or "waits" for number in state[0])
        no_fault = state[3] == self._max_faults
        if "waits" in outcomes or (no_fault and set(outcomes) != {DONE}):
            schedule = self._schedule(state, None)
            raise SimulationFailure(TERMINATION, f"the ranks ended as {outcomes}\n{schedule}")
        return outcomes

    def _schedule(self, state: State, last: Event | None) -> str:
        """The shortest way to `state`, and the event that then breaks an invariant."""
        events = [] if last is None else [last]
        while (step := self._came_from[state]) is not None:
            state, event = step
            events.append(event)
        lines = [f"  the shortest schedule, {len(events)} events:"]
        for event in reversed(events):
            peer = "" if event.peer < 0 else f" -> {event.peer}"
            lines.append(f"    {event.kind} {event.rank}{peer}")
        return "\n".join(lines)


def _with(items: tuple[Item, ...], index: int, item: Item) -> tuple[Item, ...]:
    return (*items[:index], item, *items[index + 1 :])
