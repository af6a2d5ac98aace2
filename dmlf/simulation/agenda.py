"""Which event happens next, and what time it then is.

`Agenda` is the seam between what can happen (the world posts it) and what does. `SeededAgenda`
explores: any event that is due may come next, by a choice that can be recorded and replayed.
An agenda that takes the earliest event first makes a timed simulation of the same world.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

TICK_NS = 1_000
"""Virtual time that one event takes."""


class Event(NamedTuple):
    """Something that can happen to `rank`, or on the link from `rank` to `peer`."""

    kind: str
    rank: int
    peer: int = -1


class Agenda(Protocol):
    """Events that are posted and have not happened; each can be posted once at a time."""

    now_ns: int

    def post(self, event: Event, due_ns: int) -> None:
        """Let `event` happen at `due_ns` or later (now, if that has passed)."""

    def cancel(self, event: Event) -> None:
        """Forget `event` if it is posted."""

    def next(self) -> Event | None:
        """Take the next event and move the clock; None when nothing is posted."""


Choose = Callable[[int], int]
"""Given n > 1 events that are due, in order of posting, the index of the one that happens."""


def seeded_choices(seed: int) -> Choose:
    """Uniform choices from a seed."""
    uniform = random.Random(f"schedule {seed}").random
    return lambda count: int(uniform() * count)


def replayed_choices(choices: Sequence[int]) -> Choose:
    """Recorded choices, and the canonical choice (the event posted first) when they run out."""
    following = iter(choices)
    return lambda count: min(next(following, 0), count - 1)


class SeededAgenda:
    """Any event that is due may come next. Virtual time jumps only when nothing is due.

    choices: what was chosen so far, wherever there was a choice.
    """

    def __init__(self, choose: Choose) -> None:
        self.now_ns = 0
        self.choices: list[int] = []
        self._choose = choose
        self._ready: list[Event] = []
        self._later: list[tuple[int, int, Event]] = []
        self._due_ns: dict[Event, int] = {}
        self._posted = 0

    def post(self, event: Event, due_ns: int) -> None:
        """Let `event` happen at `due_ns` or later."""
        if due_ns <= self.now_ns:
            self._ready.append(event)
            return
        self._posted += 1
        self._due_ns[event] = due_ns
        heappush(self._later, (due_ns, self._posted, event))

    def cancel(self, event: Event) -> None:
        """Forget `event` if it is posted."""
        if self._due_ns.pop(event, None) is None and event in self._ready:
            self._ready.remove(event)

    def next(self) -> Event | None:
        """Choose among the events that are due."""
        ready, later = self._ready, self._later
        while later and (later[0][0] <= self.now_ns or not ready):
            due_ns, _, event = heappop(later)
            if self._due_ns.get(event) == due_ns:  # else it was cancelled
                del self._due_ns[event]
                self.now_ns = max(self.now_ns, due_ns)
                ready.append(event)
        if not ready:
            return None
        index = 0
        if len(ready) > 1:
            index = self._choose(len(ready))
            self.choices.append(index)
        self.now_ns += TICK_NS
        return ready.pop(index)
