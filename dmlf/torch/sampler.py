"""Which samples a rank computes in which pass, so that no world size changes a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from torch.utils.data import Sampler

from dmlf.errors import ConfigError
from dmlf.group import Group
from dmlf.torch.reducer import group_of_process
from dmlf.training.sampler import ShardSampler, owned_shards


class ShardedBatchSampler(Sampler[list[int]]):
    """Deals the logical shards of every global batch to the ranks: `DataLoader(batch_sampler=...)`.

    Each step's global batch is cut into `num_shards` shards, always the same for the same seed,
    epoch and step. A rank gets `passes_per_step` of them, one batch each; with exact reduction,
    `gradient_op="sum"` and a loss that is summed and divided by `global_batch_size`, a step then
    has the same bits on any number of ranks up to `num_shards`, and on one.
    Every epoch is a new permutation; what does not fill a global batch is left out of it.

    Raises ConfigError where there are more ranks than shards, or fewer samples than a batch.
    """

    def __init__(
        self,
        dataset: Sized,
        global_batch_size: int,
        num_shards: int,
        *,
        seed: int = 0,
        group: Group | None = None,
    ) -> None:
        group = group or group_of_process()
        if not 1 <= global_batch_size <= len(dataset):
            raise ConfigError("global_batch_size", global_batch_size, f"1 to {len(dataset)}")
        if not group.world_size <= num_shards <= global_batch_size:
            allowed = f"from the world size, {group.world_size}, to {global_batch_size}"
            raise ConfigError("num_shards", num_shards, allowed)
        self.global_batch_size = global_batch_size
        self._shards = owned_shards(group.rank, group.world_size, num_shards)
        self._sampler = ShardSampler(len(dataset), global_batch_size, num_shards, seed)
        self._steps = len(dataset) // global_batch_size
        self._epoch = 0

    @property
    def passes_per_step(self) -> int:
        """How many batches of this rank make up a step; they may differ by one between ranks."""
        return len(self._shards)

    def ends_step(self, index: int) -> bool:
        """Whether batch number `index` of an epoch is this rank's last one of a step."""
        return (index + 1) % self.passes_per_step == 0

    def set_epoch(self, epoch: int) -> None:
        """Deal the samples of `epoch`, counted from 0, from the next iteration on."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return self._steps * self.passes_per_step

    def __iter__(self) -> Iterator[list[int]]:
        """The sample ids of each of this rank's batches of the epoch."""
        first = self._epoch * self._sampler.steps_per_epoch
        for step in range(first, first + self._steps):
            shards = self._sampler.shards(step)
            for index in self._shards:
                yield shards[index].tolist()
