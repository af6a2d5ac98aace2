"""What has become of a group of processes: its failures and its generations, as they come about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dmlf.errors import DmlfError
from dmlf.runtime.outcomes import is_echo


@dataclass(slots=True)
class Incident:
    """A failure that ended a generation. Moments in seconds of the machine's clock.

    rank: whose death or failure was the cause. lost: ranks whose process was gone. replaced: those
    of them that another process has taken. stopped_s: when everybody had stopped or was gone.
    resumed_s: when the group trained again, after `step` steps, with the state of `source`.
    """

    generation: int
    rank: int
    cause: DmlfError
    detected_s: float
    stopped_s: float | None = None
    resumed_s: float | None = None
    step: int | None = None
    source: str | None = None
    lost: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Generation:
    """One Start: who it was begun with, and who came and went since the last one.

    Members go by number, `workers` in the order of their ranks. ended_s: when the last one was
    ended; None for the first. resumed_s: when this one trained, after `step` steps, with the state
    of `source`.
    """

    number: int
    workers: tuple[int, ...]
    joined: tuple[int, ...]
    left: tuple[int, ...]
    lost: tuple[int, ...]
    ended_s: float | None
    resumed_s: float | None = None
    step: int | None = None
    source: str | None = None


class History:
    """The record that is kept of a group.

    open: the failure for which the group is being begun anew; None for a change of its members.
    failures_in_a_row: without a step between them. resumed_step: how many steps were done when the
    generation that runs began to train; None before. ended_s: when the last one was told to stop.
    """

    def __init__(self) -> None:
        self.incidents: list[Incident] = []
        self.generations: list[Generation] = []
        self.open: Incident | None = None
        self.failures_in_a_row = 0
        self.resumed_step: int | None = None
        self.ended_s: float | None = None
        self._left: list[int] = []  # members, since the last start
        self._lost: list[int] = []

    def failed(self, generation: int, rank: int, error: DmlfError, now: float) -> Incident:
        """Open an incident, or learn more of the one that is open."""
        incident = self.open
        if incident is None:
            incident = self.open = Incident(generation, rank, error, now)
            self.incidents.append(incident)
            self.failures_in_a_row += 1
        elif is_echo(incident.rank, incident.cause) and not is_echo(rank, error):
            incident.cause, incident.rank = error, rank
        return incident

    def lost(self, member: int) -> None:
        """A member of the last generation is gone."""
        self._lost.append(member)

    def left(self, member: int) -> None:
        """A member of the last generation has left."""
        self._left.append(member)

    def ended(self, now: float) -> None:
        """The generation is being stopped."""
        self.ended_s = now

    def stopped(self, now: float) -> None:
        """Everybody in it has stopped or is gone."""
        self.resumed_step = None
        if self.open is not None:
            self.open.stopped_s = now

    def replaced(self, ranks: Iterable[int]) -> None:
        """Newcomers take the places of these ranks."""
        taken = set(ranks)
        for incident in self.incidents:
            if incident.resumed_s is None:
                incident.replaced += [
                    rank for rank in incident.lost if rank in taken - {*incident.replaced}
                ]

    def started(self, number: int, workers: Sequence[int], joined: Sequence[int]) -> None:
        """The generation `number` begins, with these members."""
        left, lost = tuple(self._left), tuple(self._lost)
        self.generations.append(
            Generation(number, tuple(workers), tuple(joined), left, lost, self.ended_s)
        )
        self._left, self._lost = [], []

    def resumed(self, step: int, source: str, now: float) -> None:
        """The last generation trains, after `step` steps; only the first word of it counts."""
        if self.resumed_step is not None:
            return
        self.resumed_step = step
        generation = self.generations[-1]
        generation.resumed_s, generation.step, generation.source = now, step, source
        for incident in self.incidents:
            if incident.resumed_s is None:
                incident.resumed_s, incident.step, incident.source = now, step, source

    def progressed(self, step: int) -> None:
        """`step` steps are done."""
        if self.resumed_step is not None and step > self.resumed_step:
            self.failures_in_a_row = 0
