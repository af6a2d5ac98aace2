"""One rank's bucket on its way to the global sum: plain float32, or exact.

Both fulfil `dmlf.protocol.Accumulator`; protocols cannot tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.errors import SchemaMismatch
from dmlf.numerics.blocks import combine, in_blocks
from dmlf.numerics.exact import (
    ALL_ZERO,
    NON_FINITE,
    Float32,
    Int64,
    add_as_fixed_point,
    group_exponent,
    to_float32,
)


def checked_payload(rank: int, payload: Any, chunk: slice, dtype: npt.DTypeLike) -> Any:
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


_QUIET = partial(np.errstate, over="ignore", invalid="ignore")
"""For sums of float32: what leaves its range is found by `is_finite`."""


def all_finite(values: Float32) -> bool:
    """Whether no element of `values` [n] is NaN or infinite. Cost: one pass, no temporary.

    Squares cannot cancel, so a finite sum of them is proof. One that is not finite proves
    nothing, as squares overflow early; only then the elements are looked at themselves.
    """
    with _QUIET():
        return _all_finite(values)


def _all_finite(values: Float32) -> bool:
    if values.size == 0 or math.isfinite(np.dot(values, values)):
        return True
    return bool(np.isfinite(values.max()) and np.isfinite(values.min()))


def _divide(values: Float32, divisor: int) -> None:
    if divisor != 1:
        values /= values.dtype.type(divisor)


class Float32Accumulator:
    """Adds in the order of arrival of the protocol's own rounds; that order is published.

    flat: [numel] float32 (or float64, added as such), this rank's gradient; it is replaced by the
    global sum, in place, divided once by `divisor`. threads: how many add long chunks.
    """

    def __init__(self, rank: int, flat: Float32, divisor: int = 1, threads: int = 1) -> None:
        self._rank = rank
        self.flat = flat
        self.numel = flat.size
        self._dtype = flat.dtype
        self._divisor = divisor
        self._threads = threads
        self._finite = True
        self._loaded: tuple[slice, bool] | None = None  # what was last, and whether it is finite

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

    def load(self, chunk: slice, payload: Any, *others: Any) -> None:
        """Replace the partial sum of `chunk` by that of the payloads.

        Sees in passing whether it is finite, as there may be nothing to add.
        """
        received, flat = self._received(chunk, payload, *others), self.flat[chunk]
        not_finite: list[slice] = []

        def sum_up(part: slice) -> None:
            with _QUIET():
                if not _all_finite(combine(np.add, received, flat, part)):
                    not_finite.append(part)

        in_blocks(flat.size, sum_up, self._threads)
        self._loaded = chunk, not not_finite

    def add(self, chunk: slice, *payloads: Any) -> None:
        """Add received partial sums, in place."""
        self._loaded = None
        if not payloads:
            return
        flat = self.flat[chunk]
        vectors = [flat, *self._received(chunk, *payloads)]

        def sum_up(part: slice) -> None:
            with _QUIET():
                combine(np.add, vectors, flat, part)

        in_blocks(flat.size, sum_up, self._threads)

    def finish(self, chunk: slice, *payloads: Any) -> None:
        """Add the last ones, take note whether the sum of `chunk` is finite, and divide it."""
        flat = self.flat[chunk]
        if not payloads and self._loaded is not None and self._loaded[0] == chunk:
            self._finite = self._finite and self._loaded[1]
            _divide(flat, self._divisor)
            return
        vectors = [flat, *self._received(chunk, *payloads)]

        def sum_up(part: slice) -> None:
            with _QUIET():
                block = combine(np.add, vectors, flat, part)
                if not _all_finite(block):
                    self._finite = False
                _divide(block, self._divisor)

        in_blocks(flat.size, sum_up, self._threads)

    def reduced(self, chunk: slice) -> Float32:
        """The final values of `chunk`: a view."""
        return self.flat[chunk]

    def store(self, chunk: slice, payload: Any) -> None:
        """Take final values of `chunk` from another rank."""
        self.flat[chunk] = checked_payload(self._rank, payload, chunk, self._dtype)
        self._loaded = None

    def is_finite(self) -> bool:
        """Whether all final values that were made here are finite."""
        return self._finite

    def _received(self, chunk: slice, *payloads: Any) -> list[Float32]:
        return [checked_payload(self._rank, payload, chunk, self._dtype) for payload in payloads]


class ExactAccumulator:
    """Adds integers, so that no order matters (see `dmlf.numerics.exact`).

    shards: [local shards, numel] float32, one gradient per logical shard (no row on a server).
    groups: slices that cover the bucket, one per parameter tensor; each has its own exponent.
    num_terms: logical shards of the step, over all ranks.
    flat: [numel] float32, takes the final values.
    total: [numel] int64, takes the partial sums, from `begin` or `load` on; of its own where none
    is given.
    divisor: what the sum is divided by, once it is float32. threads: how many add long chunks.
    """

    def __init__(
        self,
        rank: int,
        shards: Float32,
        groups: Sequence[slice],
        num_terms: int,
        flat: Float32,
        total: Int64 | None = None,
        divisor: int = 1,
        threads: int = 1,
    ) -> None:
        self._rank = rank
        self._shards = shards
        self._groups = groups
        self._num_terms = num_terms
        self._divisor = divisor
        self._threads = threads
        self.flat = flat
        self.numel = flat.size
        self._total: Int64 = np.empty(self.numel, dtype=np.int64) if total is None else total
        self._finite = True
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
        self._total.fill(0)
        for group, exponent in zip(self._groups, self._exponents, strict=True):
            add_as_fixed_point(self._shards[:, group], int(exponent), self._total[group])

    def partial(self, chunk: slice) -> Int64:
        """The integer partial sum of `chunk`: a view."""
        return self._total[chunk]

    def load(self, chunk: slice, payload: Any, *others: Any) -> None:
        """Replace the partial sum of `chunk` by that of the payloads, modulo 2^64."""
        self._sum(self._received(chunk, payload, *others), self._total[chunk])

    def add(self, chunk: slice, *payloads: Any) -> None:
        """Add received partial sums, in place, modulo 2^64."""
        if payloads:
            total = self._total[chunk]
            self._sum([total, *self._received(chunk, *payloads)], total)

    def finish(self, chunk: slice, *payloads: Any) -> None:
        """Add the last ones, round the complete sum of `chunk` to float32, and divide it."""
        total = self._total[chunk]
        vectors = [total, *self._received(chunk, *payloads)]

        def sum_up(part: slice) -> None:
            combine(np.add, vectors, total, part)
            self._round(slice(chunk.start + part.start, chunk.start + part.stop))

        in_blocks(total.size, sum_up, self._threads)

    def reduced(self, chunk: slice) -> Float32:
        """The final values of `chunk`: a view."""
        return self.flat[chunk]

    def store(self, chunk: slice, payload: Any) -> None:
        """Take final values of `chunk` from another rank."""
        self.flat[chunk] = checked_payload(self._rank, payload, chunk, np.float32)

    def is_finite(self) -> bool:
        """Whether no shard held NaN or infinity and no sum made here left float32's range."""
        return self._finite and not (self._exponents == NON_FINITE).any()

    def _round(self, block: slice) -> None:
        """Turn the integer sums of a part of the bucket into final values."""
        for group, exponent in zip(self._groups, self._exponents, strict=True):
            start, stop = max(block.start, group.start), min(block.stop, group.stop)
            if start < stop:
                part = slice(start, stop)
                to_float32(self._total[part], int(exponent), self._num_terms, self.flat[part])
        if not all_finite(self.flat[block]):
            self._finite = False
        _divide(self.flat[block], self._divisor)

    def _sum(self, vectors: Sequence[Int64], out: Int64) -> None:
        def sum_up(part: slice) -> None:
            combine(np.add, vectors, out, part)

        in_blocks(out.size, sum_up, self._threads)

    def _received(self, chunk: slice, *payloads: Any) -> list[Int64]:
        return [checked_payload(self._rank, payload, chunk, np.int64) for payload in payloads]
