"""The machine's limit: no all-reduce can be faster than the additions and copies that it needs.

Each of n ranks must add at least (n - 1)/n of the vector, and copy (n - 1)/n of it from where the
sums were made (Patarasuk & Yuan, JPDC 2009, section 2). All ranks do that at once, in memory of
the kind that their fastest transport uses, with nothing to wait for.
"""

from __future__ import annotations

import numpy as np

from dmlf.benchmark.collective.data import FoldReference, Values
from dmlf.benchmark.collective.strategy import StrategyTurn
from dmlf.numerics.exact import Float32
from dmlf.transport import Endpoint


class LimitTurn(StrategyTurn):
    """A ring's rank that adds and copies as much as it must, and exchanges nothing but barriers."""

    def __init__(
        self,
        strategy: str,
        rank: int,
        endpoint: Endpoint,
        values: Values,
        reference: FoldReference,
        max_numel: int,
        timeout_s: float,
    ) -> None:
        super().__init__(strategy, rank, endpoint, values, reference, max_numel, timeout_s)
        self._others: Float32 = self._transport.allocate(max_numel, np.float32)
        self._others[...] = values.of((rank + 1) % values.world_size, max_numel)

    def prepare(self, numel: int) -> None:
        """Use the first `numel` elements from now on."""
        super().prepare(numel)
        moved = numel - numel // self._values.world_size
        self._sum, self._addend = self._vector[:moved], self._others[:moved]
        self._target, self._source = self._vector[-moved:], self._others[numel - moved : numel]

    def call(self) -> None:
        """Add, then copy."""
        np.add(self._sum, self._addend, out=self._sum)
        self._target[...] = self._source

    def check(self, calls: int) -> None:
        """Nothing is claimed of the vector."""
