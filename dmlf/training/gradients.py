"""The storage that gradients live in: one flat vector per bucket, one row per shard if exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.numerics import ExactAccumulator, Float32Accumulator
from dmlf.numerics.exact import Float32, Int64
from dmlf.protocol import Accumulator
from dmlf.training.layout import Bucket
from dmlf.transport import allocate_plain

Views = dict[str, Float32]
Allocate = Callable[[int, npt.DTypeLike], npt.NDArray[Any]]
"""(numel, dtype) -> zeros, where the transport can send them from (`Transport.allocate`)."""


class GradientStore:
    """A rank's gradients of one step, in `buckets`: all there are, or those that a server owns.

    reduction `float32`: one row, the gradient of all local samples together, reduced in place.
    reduction `exact`: one row per local shard; the reduced gradient takes the place of the first,
    which is in the integer sum by then. A server has no rows of its own then (num_rows 0).
    one_by_one: no bucket is begun before all ranks have done with the one before, so that the
    integer sums of all take turns in one vector. Where a step is made of all-reduces the agreement
    on a bucket's scale sees to that; workers of servers push all buckets before any is summed.
    What is sent, the flat gradients and the integer sums, lies where `allocate` puts it.
    threads: how many add what is received.
    """

    def __init__(
        self,
        rank: int,
        buckets: Sequence[Bucket],
        reduction: str,
        num_rows: int,
        num_shards: int,
        one_by_one: bool,
        allocate: Allocate = allocate_plain,
        threads: int = 1,
    ) -> None:
        self._rank = rank
        self._buckets = {bucket.index: bucket for bucket in buckets}
        self._exact = reduction == "exact"
        self._num_shards = num_shards
        self._threads = threads
        num_rows = num_rows if self._exact else 1
        num_vectors = max(1, num_rows)
        vectors: dict[int, Float32] = {
            bucket.index: allocate(num_vectors * bucket.numel, np.float32).reshape(
                num_vectors, bucket.numel
            )
            for bucket in buckets
        }
        self._rows = {index: vector[:num_rows] for index, vector in vectors.items()}
        self.flat: dict[int, Float32] = {index: vector[0] for index, vector in vectors.items()}
        self._totals: dict[int, Int64] = {}
        if self._exact and one_by_one:
            shared = allocate(max(bucket.numel for bucket in buckets), np.int64)
            self._totals = {bucket.index: shared[: bucket.numel] for bucket in buckets}
        elif self._exact:
            self._totals = {bucket.index: allocate(bucket.numel, np.int64) for bucket in buckets}
        self.reduced: Views = self._views(self.flat)
        self.rows: list[Views] = [
            self._views({index: rows[row] for index, rows in self._rows.items()})
            for row in range(num_rows)
        ]

    def accumulator(self, index: int) -> Accumulator:
        """The bucket's accumulator, holding what the rows hold now."""
        if not self._exact:
            return Float32Accumulator(self._rank, self.flat[index], threads=self._threads)
        return ExactAccumulator(
            self._rank,
            self._rows[index],
            self._buckets[index].groups,
            self._num_shards,
            self.flat[index],
            self._totals[index],
            threads=self._threads,
        )

    def scale_to_mean(self, num_samples: int) -> None:
        """Turn the summed gradient of a step into the mean over its samples.

        The one place where this happens, after the global sum, for every strategy.
        """
        for flat in self.flat.values():
            flat *= np.float32(1.0 / num_samples)

    def _views(self, flats: Mapping[int, Float32]) -> Views:
        return {
            placement.name: flat[placement.slice].reshape(placement.shape)
            for index, flat in flats.items()
            for placement in self._buckets[index].placements
        }
