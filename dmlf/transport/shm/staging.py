"""Copies of payloads that do not lie in the arena, and when their space may be used again."""

from __future__ import annotations

from collections import deque

from dmlf.transport.shm.memory import Arena

_SMALLEST_BITS = 12


class Staging:
    """Blocks of the arena in sizes of powers of two, lent to messages until these are done with.

    Holds at most twice the bytes that were ever in flight at once, plus a page a block.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._free: dict[int, list[int]] = {}

    def take(self, num_bytes: int) -> tuple[int, int]:
        """A block of at least `num_bytes`: (size class, offset)."""
        bits = max(_SMALLEST_BITS, (num_bytes - 1).bit_length())
        blocks = self._free.setdefault(bits, [])
        return bits, blocks.pop() if blocks else self._arena.take(1 << bits)

    def give_back(self, lent: deque[tuple[int, int, int]], done: int) -> None:
        """Take back the blocks of messages up to number `done` from `lent` (number, *block)."""
        while lent and lent[0][0] <= done:
            _, bits, offset = lent.popleft()
            self._free[bits].append(offset)
