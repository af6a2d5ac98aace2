"""A bucket that has a size and no contents: the protocols' Accumulator in virtual time.

A payload is a number of bytes. Adding one moves the rank's clock by what the addition costs.
"""

from __future__ import annotations

from dmlf.protocol import BucketShape


class Clock:
    """One rank's virtual time in seconds."""

    __slots__ = ("now_s",)

    def __init__(self) -> None:
        self.now_s = 0.0


class SizedAccumulator:
    """`dmlf.protocol.Accumulator` without elements; s_per_byte: cost of adding partial sums."""

    __slots__ = ("_clock", "_itemsize", "_s_per_byte", "_scale", "numel")

    def __init__(self, shape: BucketShape, clock: Clock, s_per_byte: float) -> None:
        self.numel = shape.numel
        self._itemsize = shape.partial_itemsize
        self._scale = bytes(shape.scale_bytes) if shape.scale_bytes else None
        self._clock = clock
        self._s_per_byte = s_per_byte

    def scale(self) -> bytes | None:
        """As many bytes as the scale of an exact sum has."""
        return self._scale

    def merge_scale(self, payload: bytes) -> None:
        """Return at once: all scales are equal."""

    def begin(self) -> None:
        """Return at once: the local partial sum is part of the computation."""

    def partial(self, chunk: slice) -> int:
        """The bytes of a partial sum."""
        size: int = (chunk.stop - chunk.start) * self._itemsize
        return size

    def load(self, chunk: slice, payload: int, *others: int) -> None:
        """Let the additions take their time; a copy is part of the link's time per byte."""
        self.add(chunk, *others)

    def add(self, chunk: slice, *payloads: int) -> None:
        """Let the additions take their time."""
        for payload in payloads:
            self._clock.now_s += payload * self._s_per_byte

    def finish(self, chunk: slice, *payloads: int) -> None:
        """Let the last additions take their time; rounding is part of that."""
        self.add(chunk, *payloads)

    def reduced(self, chunk: slice) -> int:
        """The bytes of final float32 values."""
        size: int = (chunk.stop - chunk.start) * 4
        return size

    def store(self, chunk: slice, payload: int) -> None:
        """Return at once: a copy is part of the link's time per byte."""

    def is_finite(self) -> bool:
        """Return True."""
        return True
