"""Which samples make up which logical shard of which step: a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dmlf.protocol import chunk_slices

SampleIds = npt.NDArray[np.int64]


class ShardSampler:
    """Deals samples to steps and logical shards, independent of the world size.

    Every epoch is a new permutation, seeded by (seed, epoch); every sample is used exactly once
    per epoch. The last step of an epoch may be smaller; it is cut into `num_shards` shards all
    the same, of which some may be empty.
    """

    def __init__(
        self, num_samples: int, global_batch_size: int, num_shards: int, seed: int
    ) -> None:
        self._num_samples = num_samples
        self._global_batch_size = global_batch_size
        self._num_shards = num_shards
        self._seed = seed
        self.steps_per_epoch = -(-num_samples // global_batch_size)
        self._epoch = -1
        self._order: SampleIds = np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> SampleIds:
        """The sample ids of a step, at most global_batch_size of them."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
            self._order, self._epoch = generator.permutation(self._num_samples), epoch
        start = position * self._global_batch_size
        return self._order[start : start + self._global_batch_size]

    def shards(self, step: int) -> list[SampleIds]:
        """The step's sample ids cut into num_shards contiguous shards."""
        batch = self.batch(step)
        return [batch[part] for part in chunk_slices(len(batch), self._num_shards)]


def owned_shards(rank: int, world_size: int, num_shards: int) -> range:
    """The contiguous block of logical shards that a rank computes."""
    block = chunk_slices(num_shards, world_size)[rank]
    return range(block.start, block.stop)
