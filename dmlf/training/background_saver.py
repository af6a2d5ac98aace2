"""Writes checkpoints while training goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from dmlf.checkpoint import CheckpointStore, Snapshot, Verified
from dmlf.runtime.driver import SLICE_S
from dmlf.runtime.member import Line
from dmlf.transport.base import never

_LOWEST_PRIORITY = 19


class BackgroundSaver:
    """Writes one snapshot at a time, in a thread; who brings the next one waits for it.

    The thread takes what time the steps leave: for a core it comes after all ranks. Who waits for
    it leaves it a core. There is one for all snapshots: who starts a thread waits until that runs.
    line: looked at for an order to stop while somebody waits, and told what has been saved.
    """

    def __init__(self, store: CheckpointStore, line: Line | None) -> None:
        self._store = store
        self._line = line
        self._thread = ThreadPoolExecutor(1, "dmlf-checkpoint", _come_last)
        self._last: Future[None] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write `snapshot`, whose arrays nobody changes until `wait` has returned.

        Raises what went wrong with the one before.
        """
        self.wait()
        self._last = self._thread.submit(self._write, snapshot)

    def check(self) -> None:
        """Raise what has gone wrong so far. Raises CheckpointWriteError."""
        if self._last is not None and self._last.done():
            self._last.result()

    def wait(self) -> None:
        """Return when nothing is being written. Raises CheckpointWriteError."""
        self._wait(never if self._line is None else self._line.check)
        self.check()

    def close(self) -> None:
        """Return when all is durable, and let go of the folder; what it raises leaves it held.

        Raises CheckpointWriteError.
        """
        self.wait()
        self._thread.shutdown()
        self._store.close()

    def abandon(self) -> Verified:
        """End what is being written, well or not, let go of the folder, and say what is in it.

        Never before the thread has ended: the next writer of the folder would remove its draft.
        So no order is looked for meanwhile, which would end this.
        """
        self._wait(never if self._line is None else self._line.beat)
        self._thread.shutdown()
        self._store.close()
        return self._store.verified()

    def _wait(self, meanwhile: Callable[[], None]) -> None:
        while self._last is not None and not wait([self._last], SLICE_S).done:
            meanwhile()

    def _write(self, snapshot: Snapshot) -> None:
        self._store.save(snapshot)
        if self._line is not None:
            self._line.saved(snapshot.state.step)


def _come_last() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
