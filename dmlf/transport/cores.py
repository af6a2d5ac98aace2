"""Which core a rank runs on, and how to leave it.

Two ranks that wake one another are drawn onto one core by the scheduler, which takes the one that
wakes as a hint of where the other should run, and then they take turns where they could run at
once: an all-reduce of 4 MiB takes four times as long. A rank that sees its peer on its own core
therefore asks for any other one, for a moment. Where more is running than there are cores, another
one would have to be shared too, and who stays loses least.
"""

from __future__ import annotations

import ctypes
import os
import time

MOVE_S = 1e-2
"""How often a rank leaves a core that it shares."""

_libc = ctypes.CDLL(None)


def current_core() -> int:
    """The number of the core that this thread runs on, at this moment (Linux only)."""
    return int(_libc.sched_getcpu())


def _running() -> int:
    """How many threads of this machine run or wait for a core, this one among them."""
    with open("/proc/loadavg", "rb", buffering=0) as file:
        return int(file.read(64).split()[3].partition(b"/")[0])


class CoreMover:
    """Moves one rank's thread; it may run on all cores again as soon as it has moved."""

    def __init__(self) -> None:
        self._next = 0.0

    def leave(self, core: int) -> bool:
        """Leave `core` for any other that this process may use; whether that was tried.

        At most once in MOVE_S, so that two ranks do not chase one another.
        """
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + MOVE_S
        cores = os.sched_getaffinity(0)
        others = cores - {core}
        if not others or _running() > (os.cpu_count() or 1):
            return False
        os.sched_setaffinity(0, others)
        os.sched_setaffinity(0, cores)
        return True
