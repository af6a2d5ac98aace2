"""The end of a backward pass, told from within it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class PassWatch:
    """Calls `at_end` once for every backward pass, at its end, in the thread that runs it.

    What `at_end` raises is raised by `backward`.
    """

    def __init__(self, at_end: Callable[[], None]) -> None:
        self._at_end = at_end
        self.is_under_way = False

    def begin(self) -> None:
        """Called within a backward pass, as often as one likes."""
        if not self.is_under_way:
            self.is_under_way = True
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(self._end)

    def reset(self) -> None:
        """No pass is under way: the last one may have ended with an error."""
        self.is_under_way = False

    def _end(self) -> None:
        self.is_under_way = False
        self._at_end()
