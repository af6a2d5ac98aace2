"""Sends what was left over while its owner is busy elsewhere."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Collection

from dmlf.errors import PeerLost
from dmlf.transport.tcp.links import Link

_YIELD_S = 1e-3
"""How long the owner's own calls, which flush too, are left alone."""
_POLL_S = 0.02


class Flusher:
    """A thread that is started by the first leftover, and sleeps while there is none.

    turn: held by whoever uses the links. The owner holds it during its calls, so that the thread
    acts between them only.
    """

    def __init__(self, links: Collection[Link]) -> None:
        self.turn = threading.Lock()
        self._links = links
        self._left_over = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def notice(self) -> None:
        """Called by the owner, at the end of a call: take over if anything is left to send."""
        if any(link.outgoing for link in self._links) and not self._left_over.is_set():
            self._left_over.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tcp-flusher", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread; called without the turn."""
        self._closed = True
        self._left_over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._left_over.wait()
            time.sleep(_YIELD_S)
            if self._closed:
                return
            if not self.turn.acquire(blocking=False):
                continue
            try:
                waiting = self._flush()
            finally:
                self.turn.release()
            if waiting is not None:
                waiting.poll(int(_POLL_S * 1000))

    def _flush(self) -> select.poll | None:
        """Flush all links once; what to wait for, or None if nothing is left."""
        waiting = None
        for link in self._links:
            if link.outgoing:
                with contextlib.suppress(PeerLost):  # the link says so again to its owner
                    link.flush(receiving=True)
            if link.outgoing:
                waiting = waiting or select.poll()
                waiting.register(link.descriptor, select.POLLOUT)
        if waiting is None:
            self._left_over.clear()
        return waiting
