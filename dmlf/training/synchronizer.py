"""When a step's protocol runs: after backward, or beside it on a thread of its own.

Both drive the same protocol over the same buckets, in the same order, so the bits do not depend
on the choice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

from dmlf.protocol import Accumulator, Steps
from dmlf.runtime import Driver, Local

RankStep = Callable[[int], Steps[None]]
"""The protocol of one step of this rank: step -> generator."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds that one step spent on synchronisation.

    communication_s: sending, receiving, adding. wait_s: the part of it blocked in a receive.
    hidden_s: the part of it during which this rank still computed. optimizer_s: in Apply.
    """

    communication_s: float
    wait_s: float
    hidden_s: float
    optimizer_s: float


class Synchronizer(Protocol):
    """Brings a step's gradients together on all ranks and lets the optimizer step."""

    def begin(self, step: int) -> Callable[[int], None] | None:
        """Expect the gradients of `step`; return what to call when a bucket's is complete."""

    def finish(self, step: int) -> StepTimes:
        """All local gradients are complete: return when `step` is applied, or raise its error."""

    def run(self, protocol: Steps[None]) -> None:
        """Drive any other protocol, between steps."""

    def close(self) -> None:
        """End what was started."""


class SequentialSynchronizer:
    """Synchronises after backward, in the calling thread."""

    def __init__(self, driver: Driver, rank_step: RankStep) -> None:
        self._driver = driver
        self._rank_step = rank_step

    def begin(self, step: int) -> None:
        """Nothing can be done yet."""

    def finish(self, step: int) -> StepTimes:
        """Drive the step's protocol to its end."""
        driver, start = self._driver, time.monotonic()
        waited, applied = driver.wait_s, driver.apply_s
        driver.run(self._rank_step(step))
        optimizer_s = driver.apply_s - applied
        communication_s = time.monotonic() - start - optimizer_s
        return StepTimes(communication_s, driver.wait_s - waited, 0.0, optimizer_s)

    def run(self, protocol: Steps[None]) -> None:
        """Drive `protocol` to its end."""
        self._driver.run(protocol)

    def close(self) -> None:
        """Nothing was started."""


class BucketGate:
    """What the communication thread asks for; holds back a bucket until it is complete.

    `waited_s` grows by the time that the thread was held back.
    """

    def __init__(self, local: Local, num_buckets: int) -> None:
        self.waited_s = 0.0
        self._local = local
        self._complete = [threading.Event() for _ in range(num_buckets)]
        self._abandoned = False
        self.apply = local.apply
        self.read_parameters = local.read_parameters
        self.write_parameters = local.write_parameters

    def shut(self) -> None:
        """Hold back all buckets: a new step begins."""
        for event in self._complete:
            event.clear()

    def open(self, bucket: int) -> None:
        """Let `bucket` go, except for the last one.

        That one goes with `open_all`, after backward: so nothing is applied, and no parameter is
        written, while backward may still read it.
        """
        if bucket < len(self._complete) - 1:
            self._complete[bucket].set()

    def open_all(self) -> None:
        """Let all buckets go: backward is over."""
        for event in self._complete:
            event.set()

    def abandon(self) -> None:
        """Release the thread: the gradients of this step will never be complete."""
        self._abandoned = True
        self.open_all()

    def gradient(self, step: int, bucket: int) -> Accumulator:
        """Wait until `bucket` is complete; return its accumulator."""
        start = time.monotonic()
        self._complete[bucket].wait()
        self.waited_s += time.monotonic() - start
        if self._abandoned:
            raise _Abandoned
        return self._local.gradient(step, bucket)


class _Abandoned(Exception):
    """The computation of a step failed on this rank; its own error says why."""


class OverlappedSynchronizer:
    """Synchronises each bucket, in index order, as soon as backward has completed it.

    One thread drives the protocols of all steps. driver: made with `gate`.
    """

    def __init__(self, driver: Driver, gate: BucketGate, rank_step: RankStep) -> None:
        self._driver = driver
        self._gate = gate
        self._rank_step = rank_step
        self._steps: SimpleQueue[int | None] = SimpleQueue()
        self._outcomes: SimpleQueue[tuple[float, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(
            target=self._drive_steps, name="dmlf-communication", daemon=True
        )
        self._thread.start()

    def begin(self, step: int) -> Callable[[int], None]:
        """Start the step's protocol; buckets go to it one by one."""
        driver = self._driver
        self._before = (driver.wait_s, driver.apply_s, self._gate.waited_s)
        self._gate.shut()
        self._steps.put(step)
        return self._gate.open

    def finish(self, step: int) -> StepTimes:
        """Let the last bucket go and wait for the protocol's end."""
        start = time.monotonic()
        self._gate.open_all()
        busy_s, error = self._outcomes.get()
        exposed_s = time.monotonic() - start
        if error is not None:
            raise error
        driver = self._driver
        wait_s, apply_s, gate_s = (
            now - before
            for now, before in zip(
                (driver.wait_s, driver.apply_s, self._gate.waited_s), self._before, strict=True
            )
        )
        communication_s = busy_s - gate_s - apply_s
        hidden_s = max(0.0, communication_s - (exposed_s - apply_s))
        # What the hand-over between the threads costs is exposed communication too.
        return StepTimes(exposed_s - apply_s + hidden_s, wait_s, hidden_s, apply_s)

    def run(self, protocol: Steps[None]) -> None:
        """Drive `protocol` in the calling thread: the other one waits for the next step."""
        self._driver.run(protocol)

    def close(self) -> None:
        """End the thread, also in the middle of a step whose computation failed."""
        self._gate.abandon()
        self._steps.put(None)

    def _drive_steps(self) -> None:
        while (step := self._steps.get()) is not None:
            start, error = time.monotonic(), None
            try:
                self._driver.run(self._rank_step(step))
            except _Abandoned:
                return
            except Exception as caught:
                error = caught
            self._outcomes.put((time.monotonic() - start, error))


def make_synchronizer(
    make_driver: Callable[[Any], Driver],
    local: Local,
    num_buckets: int,
    rank_step: RankStep,
    overlap: bool,
) -> Synchronizer:
    """The synchronizer of a rank; `make_driver(local)` makes the driver that it uses."""
    if not overlap:
        return SequentialSynchronizer(make_driver(local), rank_step)
    gate = BucketGate(local, num_buckets)
    return OverlappedSynchronizer(make_driver(gate), gate, rank_step)
