"""Vectors of any number type under any elementwise operation, on their way around a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.numerics.accumulators import checked_payload
from dmlf.numerics.blocks import combine, in_blocks

OPERATIONS: dict[str, np.ufunc] = {
    "sum": np.add,
    "product": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}
"""What `ElementwiseAccumulator` can do; NaN wins over any number."""


class ElementwiseAccumulator:
    """Combines in the order that the protocol publishes; the vector is replaced by the result.

    flat: [numel] of any dtype. What is not finite is combined like anything else.
    """

    def __init__(self, rank: int, flat: npt.NDArray[Any], operation: str = "sum") -> None:
        self._rank = rank
        self.flat = flat
        self.numel = flat.size
        self._operation = OPERATIONS[operation]

    def scale(self) -> None:
        """None: nothing has to be agreed upon."""

    def merge_scale(self, payload: bytes) -> None:
        """Never called: there is no scale."""
        raise AssertionError("an elementwise operation has no scale")

    def begin(self) -> None:
        """Return at once: the local vector is the partial result."""

    def partial(self, chunk: slice) -> npt.NDArray[Any]:
        """The partial result of `chunk`: a view."""
        return self.flat[chunk]

    def load(self, chunk: slice, payload: Any, *others: Any) -> None:
        """Replace the partial result of `chunk` by that of the payloads."""
        self._combine(chunk, [self._checked(chunk, part) for part in (payload, *others)])

    def add(self, chunk: slice, *payloads: Any) -> None:
        """Combine with received partial results, in place; integers wrap around."""
        if payloads:
            received = [self._checked(chunk, payload) for payload in payloads]
            self._combine(chunk, [self.flat[chunk], *received])

    def finish(self, chunk: slice, *payloads: Any) -> None:
        """Combine with the last ones: what comes out is final."""
        self.add(chunk, *payloads)

    def reduced(self, chunk: slice) -> npt.NDArray[Any]:
        """The final values of `chunk`: a view."""
        return self.flat[chunk]

    def store(self, chunk: slice, payload: Any) -> None:
        """Take final values of `chunk` from another rank."""
        self.flat[chunk] = self._checked(chunk, payload)

    def is_finite(self) -> bool:
        """True: whatever the values are, they are the result."""
        return True

    def _combine(self, chunk: slice, vectors: Sequence[npt.NDArray[Any]]) -> None:
        flat = self.flat[chunk]

        def combine_part(part: slice) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                combine(self._operation, vectors, flat, part)

        in_blocks(flat.size, combine_part)

    def _checked(self, chunk: slice, payload: Any) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = checked_payload(self._rank, payload, chunk, self.flat.dtype)
        return values
