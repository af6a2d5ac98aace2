"""The heartbeat of a rank's training, which no other thread can beat in its stead, and its notes.

Two words in anonymous shared memory: how often the rank has looked for orders while it waited, and
how many steps it has done. A process that lives and whose training is stuck, in user code or
stopped, leaves them as they are. Behind them stand notes, a line of JSON each: they wake nobody,
and can be read when the process is gone.
"""

from __future__ import annotations

import json
import mmap
import os
import weakref
from collections.abc import Mapping
from multiprocessing import reduction
from typing import Any, NamedTuple

_BYTES = 16


class Reading(NamedTuple):
    """Beats in waits, and steps done."""

    beats: int
    step: int


class Pulse:
    """Made by the launcher; travels to one rank's process as an inherited descriptor."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("dmlf-pulse", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, _BYTES)
        self.descriptor = descriptor
        self._words = memoryview(mmap.mmap(descriptor, _BYTES)).cast("q")
        self._end = _BYTES  # of the notes that this end has written, or read
        weakref.finalize(self, os.close, descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand over a duplicate of the descriptor, while a process is being spawned."""
        return _inherit, (reduction.DupFd(self.descriptor),)

    def beat(self) -> None:
        """On the rank: it looks after its waiting."""
        self._words[0] += 1

    def stepped(self, done: int) -> None:
        """On the rank: `done` steps of the run are done."""
        self._words[1] = done

    def read(self) -> Reading:
        """What it says now; the rank gets on if that is another thing than before."""
        return Reading(*self._words)

    def note(self, notes: Mapping[str, Any]) -> None:
        """On the rank: leave notes by name, as JSON; a number may be infinite."""
        line = json.dumps(notes).encode() + b"\n"
        while line:
            written = os.pwrite(self.descriptor, line, self._end)
            self._end, line = self._end + written, line[written:]

    def noted(self) -> list[dict[str, Any]]:
        """The notes since the last call; one that the rank is about to write comes later."""
        there = os.fstat(self.descriptor).st_size - self._end
        if not there:
            return []
        *lines, unfinished = os.pread(self.descriptor, there, self._end).split(b"\n")
        self._end += there - len(unfinished)
        return [json.loads(line) for line in lines]


def _inherit(duplicate: Any) -> Pulse:
    return Pulse(duplicate.detach())
