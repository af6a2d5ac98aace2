"""One simulated rank: the protocol's own generator, driven effect by effect."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dmlf.errors import DmlfError, SimulationFailure
from dmlf.protocol import (
    Apply,
    Effect,
    Gradient,
    Message,
    ReadParameters,
    Recv,
    Send,
    Tag,
    WriteParameters,
)
from dmlf.simulation.invariants import (
    NOTHING_FOREIGN,
    PAYLOAD_KEPT,
    TYPED_ERRORS,
    View,
)
from dmlf.simulation.network import Envelope, contents
from dmlf.simulation.replica import Replica
from dmlf.simulation.scenario import Reference, Scenario
from dmlf.simulation.tracked import TrackedPayload

DONE = "completed"
CRASHED = "crashed"
_GARBAGE = 4919


class Outgoing(NamedTuple):
    """A message as it leaves: its value now, and the sender's memory that must keep it."""

    dst: int
    tag: Tag
    payload: Any
    live: Any


class Process:
    """Runs all steps of one rank.

    pending: the effect to fulfil next (None once ended). effects: effects fulfilled so far.
    ended: None while running, else DONE, CRASHED or the name of the error; error: that error.
    """

    def __init__(
        self,
        scenario: Scenario,
        reference: Reference,
        rank: int,
        non_finite: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self._scenario = scenario
        self._member = scenario.member(rank)
        self._num_buckets = len(scenario.bucket_numels)
        self.rank = rank
        self.replica = Replica(scenario, reference, rank, non_finite)
        self.pending: Effect | None = None
        self.effects = 0
        self.ended: str | None = None
        self.error: DmlfError | None = None
        self._lent: dict[int, Any] = {}
        self._start_step(0)

    def view(self) -> View:
        """What can be seen from outside."""
        return self.replica.view()

    def take(self, envelope: Envelope | None = None) -> Outgoing | None:
        """Fulfil the pending effect, and run to the next one.

        envelope: what to receive, for a Recv. Returns the message of a Send.
        """
        effect, outgoing = self.pending, None
        result: Any = None
        received = effect if isinstance(effect, Recv) else None
        lent: dict[int, Any] = {}
        if received is None or received.src in self._lent:  # else what was received stays valid
            lent, self._lent = self._lent, {}
        try:
            if isinstance(effect, Send):
                payload = effect.payload
                outgoing = Outgoing(effect.dst, effect.tag, snapshot(payload), payload)
            elif isinstance(effect, Recv):
                assert envelope is not None
                payload = snapshot(envelope.payload)
                self._lent[effect.src] = payload
                result = Message(envelope.tag, payload)
            elif isinstance(effect, Gradient):
                result = self.replica.gradient(effect.step, effect.bucket)
            elif isinstance(effect, Apply):
                self.replica.apply(effect.step)
            elif isinstance(effect, ReadParameters):
                result = self.replica.read(effect.bucket)
            elif isinstance(effect, WriteParameters):
                self.replica.write(effect.bucket, effect.payload)
            else:
                raise SimulationFailure(
                    TYPED_ERRORS, f"rank {self.rank} yielded {effect!r}, which is no effect"
                )
        except SimulationFailure:
            raise
        except DmlfError as error:
            self.throw(error)
            return None
        for payload in lent.values():
            _overwrite(payload)
        self.effects += 1
        self._run(result, None)
        if received is not None and envelope is not None and self.error is None:
            self._check_accepted(received, envelope)
        return outgoing

    def throw(self, error: DmlfError) -> None:
        """Let the pending effect fail."""
        self.effects += 1
        self._run(None, error)

    def crash(self) -> None:
        """End at once, without a word to anyone."""
        self.pending, self.ended = None, CRASHED

    def _start_step(self, step: int) -> None:
        self.replica.begin_step(step)
        self._generator = self._scenario.algorithm.rank_step(self._member, step, self._num_buckets)
        self._run(None, None)

    def _run(self, result: Any, error: DmlfError | None) -> None:
        try:
            if error is not None:
                self.pending = self._generator.throw(error)
            else:
                self.pending = self._generator.send(result)
        except StopIteration:
            self._finish_step()
        except SimulationFailure:
            raise
        except DmlfError as raised:
            self.pending, self.error, self.ended = None, raised, type(raised).__name__
        except Exception as raised:
            raise SimulationFailure(TYPED_ERRORS, f"rank {self.rank} raised {raised!r}") from raised

    def _finish_step(self) -> None:
        self.replica.end_step()
        if self.replica.step + 1 < self._scenario.steps:
            self._start_step(self.replica.step + 1)
        else:
            self.pending, self.ended = None, DONE

    def _check_accepted(self, effect: Recv, envelope: Envelope) -> None:
        """The protocol went on: it must have been the right message, whatever its tag says."""
        expected = effect.tag._replace(src=effect.src, generation=self._member.generation)
        where = f"rank {self.rank} waited for {expected} and accepted {envelope.origin}"
        if envelope.origin != expected:
            raise SimulationFailure(NOTHING_FOREIGN, where)
        if envelope.is_copy:
            raise SimulationFailure(NOTHING_FOREIGN, f"{where} a second time")
        if envelope.live is not None and contents(envelope.live) != contents(envelope.payload):
            raise SimulationFailure(PAYLOAD_KEPT, f"{where}, overwritten by its sender in flight")


def snapshot(payload: Any) -> Any:
    """A copy of `payload` that shares no memory with it."""
    if isinstance(payload, TrackedPayload):
        return TrackedPayload(payload.values.copy(), payload.folds[:])
    return payload.copy() if isinstance(payload, np.ndarray) else payload


def _overwrite(lent: Any) -> None:
    values = lent.values if isinstance(lent, TrackedPayload) else lent
    if isinstance(values, np.ndarray):
        values.fill(_GARBAGE)
