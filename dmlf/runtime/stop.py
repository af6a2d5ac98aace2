"""A request to stop that all ranks of this host follow after the same step.

Two words in anonymous shared memory: which signal asks (written by the launcher), and after which
step to stop (written by rank 0 when it begins that step). No rank can end a step that rank 0 has
not begun, as rank 0's gradient is in its sum, so whoever ends the step sees the word: all stop
after this one, or none does.
"""

from __future__ import annotations

import mmap
import os
import weakref
from multiprocessing import reduction
from typing import Any

_BYTES = 16


class StopSignal:
    """Made by the launcher; travels to the ranks' processes as an inherited descriptor."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("dmlf-stop", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, _BYTES)
        self.descriptor = descriptor
        self._words = memoryview(mmap.mmap(descriptor, _BYTES)).cast("q")
        weakref.finalize(self, os.close, descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand over a duplicate of the descriptor, while a process is being spawned."""
        return _inherit, (reduction.DupFd(self.descriptor),)

    @property
    def number(self) -> int:
        """The signal that asks to stop; 0: none has."""
        return self._words[0]

    def request(self, number: int) -> None:
        """Ask all ranks to stop after the step in hand."""
        self._words[0] = number

    def begin(self, step: int) -> None:
        """On rank 0, before it begins `step`: let it be the last one if somebody has asked."""
        if self._words[0]:
            self._words[1] = step + 1

    def follows(self, step: int) -> bool:
        """On every rank that has ended `step`: whether to stop now."""
        return self._words[1] == step + 1


def _inherit(duplicate: Any) -> StopSignal:
    return StopSignal(duplicate.detach())
