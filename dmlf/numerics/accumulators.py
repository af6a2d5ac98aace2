"""One rank's bucket on its way to the global sum: plain float32, or exact.

Both fulfil `dmlf.protocol.Accumulator`; protocols cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dmlf.errors import SchemaMismatch
from dmlf.numerics.exact import (
    ALL_ZERO,
    NON_FINITE,
    Float32,
    Int64,
    add_as_fixed_point,
    group_exponent,
    to_float32,
)


def _checked(rank: int, payload: Any, chunk: slice, dtype: type) -> Any:
    """Return `payload` if it is a vector of `dtype` as long as `chunk`."""
    numel = chunk.stop - chunk.start
    if isinstance(payload, np.ndarray) and payload.dtype == dtype and payload.shape == (numel,):
        return payload
    expected = f"{np.dtype(dtype).name}[{numel}]"
    received = (
        f"{payload.dtype.name}{list(payload.shape)}"
        if isinstance(payload, np.ndarray)
        else type(payload).__name__
    )
    raise SchemaMismatch(rank, expected, received, "payload of a chunk")


def all_finite(values: Float32) -> bool:
    """Whether no element is NaN or infinite. Cost: two passes, no temporary."""
    return values.size == 0 or bool(np.isfinite(values.max()) and np.isfinite(values.min()))


class Float32Accumulator:
    """Adds in the order of arrival of the protocol's own rounds; that order is published.

    flat: [numel] float32, this rank's gradient; it is replaced by the global sum, in place.
    """

    def __init__(self, rank: int, flat: Float32) -> None:
        self._rank = rank
        self.flat = flat
        self.numel = flat.size

    def scale(self) -> None:
        """None: nothing has to be agreed upon."""

    def merge_scale(self, payload: bytes) -> None:
        """Refuse: a float32 sum has no scale."""
        raise SchemaMismatch(self._rank, "no scale", payload, "float32 reduction")

    def begin(self) -> None:
        """Return at once: the local gradient is the partial sum."""

    def partial(self, chunk: slice) -> Float32:
        """The partial sum of `chunk`: a view."""
        return self.flat[chunk]

    def load(self, chunk: slice, payload: Any) -> None:
        """Replace the partial sum of `chunk`."""
        self.flat[chunk] = _checked(self._rank, payload, chunk, np.float32)

    def add(self, chunk: slice, payload: Any) -> None:
        """Add a received partial sum, in place."""
        own = self.flat[chunk]
        with np.errstate(over="ignore", invalid="ignore"):  # found by is_finite, on every rank
            np.add(own, _checked(self._rank, payload, chunk, np.float32), out=own)

    def finish(self, chunk: slice) -> None:
        """Return at once: partial sums are float32 already."""

    def reduced(self, chunk: slice) -> Float32:
        """The final values of `chunk`: a view."""
        return self.flat[chunk]

    def store(self, chunk: slice, payload: Any) -> None:
        """Take final values of `chunk` from another rank."""
        self.flat[chunk] = _checked(self._rank, payload, chunk, np.float32)

    def is_finite(self) -> bool:
        """Whether all final values are finite."""
        return all_finite(self.flat)


class ExactAccumulator:
    """Adds integers, so that no order matters (see `dmlf.numerics.exact`).

    shards: [local shards, numel] float32, one gradient per logical shard (no row on a server).
    groups: slices that cover the bucket, one per parameter tensor; each has its own exponent.
    num_terms: logical shards of the step, over all ranks.
    flat: [numel] float32, takes the final values.
    """

    def __init__(
        self,
        rank: int,
        shards: Float32,
        groups: Sequence[slice],
        num_terms: int,
        flat: Float32,
    ) -> None:
        self._rank = rank
        self._shards = shards
        self._groups = groups
        self._num_terms = num_terms
        self.flat = flat
        self.numel = flat.size
        self._total: Int64 = np.zeros(self.numel, dtype=np.int64)
        self._exponents = np.array(
            [
                max((group_exponent(shard[group]) for shard in shards), default=ALL_ZERO)
                for group in groups
            ],
            dtype="<i2",
        )

    def scale(self) -> bytes:
        """The largest exponent of each group so far: int16, little endian."""
        return self._exponents.tobytes()

    def merge_scale(self, payload: bytes) -> None:
        """Take the larger exponent of each group."""
        if not isinstance(payload, bytes) or len(payload) != self._exponents.nbytes:
            expected = f"{self._exponents.nbytes} bytes"
            raise SchemaMismatch(self._rank, expected, type(payload).__name__, "scale")
        np.maximum(self._exponents, np.frombuffer(payload, dtype="<i2"), out=self._exponents)

    def begin(self) -> None:
        """Convert every local shard by the agreed exponents, and add."""
        for group, exponent in zip(self._groups, self._exponents, strict=True):
            add_as_fixed_point(self._shards[:, group], int(exponent), self._total[group])

    def partial(self, chunk: slice) -> Int64:
        """The integer partial sum of `chunk`: a view."""
        return self._total[chunk]

    def load(self, chunk: slice, payload: Any) -> None:
        """Replace the partial sum of `chunk`."""
        self._total[chunk] = _checked(self._rank, payload, chunk, np.int64)

    def add(self, chunk: slice, payload: Any) -> None:
        """Add a received partial sum, in place, modulo 2^64."""
        own = self._total[chunk]
        np.add(own, _checked(self._rank, payload, chunk, np.int64), out=own)

    def finish(self, chunk: slice) -> None:
        """Round the complete integer sum of `chunk` to float32."""
        for group, exponent in zip(self._groups, self._exponents, strict=True):
            start, stop = max(chunk.start, group.start), min(chunk.stop, group.stop)
            if start < stop:
                part = slice(start, stop)
                to_float32(self._total[part], int(exponent), self._num_terms, self.flat[part])

    def reduced(self, chunk: slice) -> Float32:
        """The final values of `chunk`: a view."""
        return self.flat[chunk]

    def store(self, chunk: slice, payload: Any) -> None:
        """Take final values of `chunk` from another rank."""
        self.flat[chunk] = _checked(self._rank, payload, chunk, np.float32)

    def is_finite(self) -> bool:
        """Whether no shard held NaN or infinity and no sum left float32's range."""
        return not (self._exponents == NON_FINITE).any() and all_finite(self.flat)
