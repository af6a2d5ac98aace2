"""The machine's limit: no all-reduce can be faster than the additions and copies that it needs.

Each of n ranks must add at least (n - 1)/n of the vector, and copy (n - 1)/n of it from where the
sums were made (Patarasuk & Yuan, JPDC 2009, section 2). All ranks do that at once, each within its
own vector and with nothing to wait for, in memory of the kind that the fastest transport uses. So
no more memory is touched than an all-reduce must touch, and none that another core wrote last.
"""

from __future__ import annotations

import itertools

import numpy as np

from dmlf.benchmark.collective.strategy import StrategyTurn


class LimitTurn(StrategyTurn):
    """A ring's rank that adds and copies as much as it must, and exchanges nothing but barriers."""

    def prepare(self, numel: int) -> None:
        """Use the first `numel` elements from now on."""
        super().prepare(numel)
        world_size = self._values.world_size
        size = numel // world_size
        chunks = [self._vector[index * size : (index + 1) * size] for index in range(world_size)]
        self._neighbours = list(itertools.pairwise(chunks))

    def call(self) -> None:
        """Add n - 1 chunks, then copy n - 1 chunks."""
        for chunk, following in self._neighbours:
            np.add(chunk, following, out=chunk)
        for chunk, following in self._neighbours:
            following[...] = chunk

    def check(self, calls: int) -> None:
        """Nothing is claimed of the vector."""
