"""A real accumulator and a MockTensor moved together through the same protocol.

The payload of every gradient message carries both: the numbers as the real accumulator sends
them, and for each element the fold that made it. So one simulated run proves bits and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmlf.errors import SchemaMismatch
from dmlf.numerics import ExactAccumulator, Float32Accumulator, MockAccumulator, MockTensor


@dataclass(frozen=True, slots=True)
class TrackedPayload:
    """values: [n] float32 or int64. folds: the MockTensor of the same n elements."""

    values: Any
    folds: MockTensor


class TrackedAccumulator:
    """`dmlf.protocol.Accumulator` over a real accumulator and a mock one."""

    def __init__(
        self, rank: int, real: Float32Accumulator | ExactAccumulator, tensor: MockTensor
    ) -> None:
        self._rank = rank
        self.real = real
        self.mock = MockAccumulator(rank, tensor)
        self.numel = real.numel

    def scale(self) -> bytes | None:
        """The scale of the real accumulator."""
        return self.real.scale()

    def merge_scale(self, payload: bytes) -> None:
        """Merge into the real accumulator."""
        self.real.merge_scale(payload)

    def begin(self) -> None:
        """Begin the real accumulator."""
        self.real.begin()

    def partial(self, chunk: slice) -> TrackedPayload:
        """Partial sums of both."""
        return TrackedPayload(self.real.partial(chunk), self.mock.partial(chunk))

    def load(self, chunk: slice, payload: Any, *others: Any) -> None:
        """Load both."""
        values, folds = self._parts((payload, *others))
        self.real.load(chunk, *values)
        self.mock.load(chunk, *folds)

    def add(self, chunk: slice, *payloads: Any) -> None:
        """Add to both."""
        values, folds = self._parts(payloads)
        self.real.add(chunk, *values)
        self.mock.add(chunk, *folds)

    def finish(self, chunk: slice, *payloads: Any) -> None:
        """Finish both."""
        values, folds = self._parts(payloads)
        self.real.finish(chunk, *values)
        self.mock.finish(chunk, *folds)

    def reduced(self, chunk: slice) -> TrackedPayload:
        """Final values of both."""
        return TrackedPayload(self.real.reduced(chunk), self.mock.reduced(chunk))

    def store(self, chunk: slice, payload: Any) -> None:
        """Store into both."""
        tracked = self._checked(payload)
        self.real.store(chunk, tracked.values)
        self.mock.store(chunk, tracked.folds)

    def is_finite(self) -> bool:
        """The verdict of the real accumulator."""
        return self.real.is_finite()

    def _parts(self, payloads: Sequence[Any]) -> tuple[list[Any], list[MockTensor]]:
        tracked = [self._checked(payload) for payload in payloads]
        return [part.values for part in tracked], [part.folds for part in tracked]

    def _checked(self, payload: Any) -> TrackedPayload:
        if not isinstance(payload, TrackedPayload):
            raise SchemaMismatch(
                self._rank, "a chunk of a bucket", type(payload).__name__, "payload"
            )
        return payload
