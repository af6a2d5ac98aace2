"""The seam between protocols, which move pieces of a bucket, and numerics, which add them.

A bucket is one flat vector of `numel` elements. While it is summed its elements are *partial*
(float32, or int64 for the exact reduction); `finish` turns them into *reduced* float32 values,
which are final. Chunks are slices of the bucket.
"""

from __future__ import annotations

from typing import Any, Protocol


class Accumulator(Protocol):
    """One rank's bucket on its way from local gradients to the sum over all ranks.

    Every method that takes payloads adds them from the left, in one pass, and raises SchemaMismatch
    when the length or dtype of one is not that of the chunk.
    """

    numel: int

    def scale(self) -> bytes | None:
        """What all ranks must agree on before adding (None: nothing)."""

    def merge_scale(self, payload: bytes) -> None:
        """Take in another rank's scale; idempotent, commutative and associative."""

    def begin(self) -> None:
        """Make the local partial sum, now that the scale is agreed upon."""

    def partial(self, chunk: slice) -> Any:
        """The partial sum of `chunk`, to be sent."""

    def load(self, chunk: slice, payload: Any, *others: Any) -> None:
        """Replace the partial sum of `chunk` by that of the payloads."""

    def add(self, chunk: slice, *payloads: Any) -> None:
        """Add received partial sums, if there are any, to that of `chunk`."""

    def finish(self, chunk: slice, *payloads: Any) -> None:
        """Add the last partial sums; round the complete sum to its final float32 value."""

    def reduced(self, chunk: slice) -> Any:
        """The final values of `chunk`, to be sent."""

    def store(self, chunk: slice, payload: Any) -> None:
        """Take final values of `chunk` from another rank."""

    def is_finite(self) -> bool:
        """Whether all final values that `finish` made on this rank are finite.

        Every final value is made on one rank, so the verdicts of all ranks together cover all.
        """
