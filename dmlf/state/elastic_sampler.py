"""A sampler that keeps its place in an epoch when the number of ranks changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.config import MAX_WORLD_SIZE
from dmlf.errors import ConfigError
from dmlf.protocol import chunk_slices

_SAME = ("num_samples", "global_batch_size", "seed", "shuffle", "drop_last")


class ElasticSampler:
    """Deals the batches of an epoch to ranks; a batch sampler for torch's DataLoader, or alone.

    An epoch is a permutation of the samples, a function of (seed, epoch) alone, cut into global
    batches that do not depend on the world size; each is dealt to the ranks in contiguous parts
    that differ by at most one sample. So the place is one number, the batches that are done, and
    after `reset` what is left is dealt anew: no sample is lost, and none comes twice.

    dataset: something with a length, or the number of samples. global_batch_size: most samples of
    a step over all ranks. The batches of an epoch differ by at most one sample, so that no rank
    ever gets an empty part: 100 samples by 32 are 25, 25, 25, 25. drop_last: all batches are full,
    and the rest of the permutation, another one in each epoch, is left out: 32, 32, 32. shuffle:
    False for the samples in their order.

    The place moves when the loop says so with `advance()`, after a step that is applied, and not
    when indices are drawn: loaders draw ahead. Raises ConfigError.
    Cost: 8 bytes per sample, and a permutation per epoch. Others that do this: Horovod's
    ElasticSampler and torchelastic's ElasticDistributedSampler, which repeat samples to fill up.
    """

    def __init__(
        self,
        dataset: Sized | int,
        global_batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.num_samples = dataset if isinstance(dataset, int) else len(dataset)
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        _integer("num_samples", self.num_samples, 1, 1 << 48)
        _integer("global_batch_size", global_batch_size, 1, 1 << 48)
        _integer("seed", seed, 0, (1 << 63) - 1)
        if drop_last and self.num_samples < global_batch_size:
            allowed = f"at most num_samples ({self.num_samples}) with drop_last"
            raise ConfigError("global_batch_size", global_batch_size, allowed)
        self._epoch = 0
        self._batch = 0
        self._deals = 0
        self.reset(rank, world_size)

    @property
    def epoch(self) -> int:
        """The epoch that is being drawn from, counted from 0."""
        return self._epoch

    @property
    def batch(self) -> int:
        """Batches of this epoch that are done."""
        return self._batch

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, whatever the world size."""
        if self.drop_last:
            return self.num_samples // self.global_batch_size
        return -(-self.num_samples // self.global_batch_size)

    def __len__(self) -> int:
        """Batches of this epoch that are still to be done: the same on all ranks."""
        return self.batches_per_epoch - self._batch

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's part of each batch that is not done, from the present place on.

        An iteration that outlives a `reset`, `set_epoch` or `load_state_dict` raises RuntimeError:
        what it would go on to deal is no longer what is left.
        """
        order, bounds = self._order(), self._bounds()
        deal, rank, world_size = self._deals, self._rank, self._world_size
        for batch in range(self._batch, self.batches_per_epoch):
            if deal != self._deals:
                raise RuntimeError("the sampler was reset while it was iterated; iterate anew")
            ids = order[bounds[batch]]
            yield ids[chunk_slices(len(ids), world_size)[rank]].tolist()

    def advance(self, batches: int = 1) -> None:
        """Say that so many more batches are done, on all ranks. Raises ConfigError."""
        _integer("batches", batches, 0, len(self))
        self._batch += batches

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`; the epoch that it is in already keeps its place."""
        _integer("epoch", epoch, 0, 1 << 48)
        if epoch != self._epoch:
            self._epoch, self._batch = epoch, 0
            self._deals += 1

    def reset(self, rank: int, world_size: int) -> None:
        """Deal what is left of the epoch to `world_size` ranks, of which this is `rank`."""
        _integer("world_size", world_size, 1, MAX_WORLD_SIZE)
        _integer("rank", rank, 0, world_size - 1)
        smallest = min(part.stop - part.start for part in self._bounds())
        if world_size > smallest:
            allowed = f"at most {smallest}, the samples of a batch: each rank needs one"
            raise ConfigError("world_size", world_size, allowed)
        self._rank, self._world_size = rank, world_size
        self._deals += 1

    def state_dict(self) -> dict[str, Any]:
        """The place, for a checkpoint, and what it is a place of; the same on all ranks."""
        same = {name: getattr(self, name) for name in _SAME}
        return {**same, "epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` gave, whatever the world size was.

        Raises ConfigError where it is a place of other data, batches or order.
        """
        for name in _SAME:
            if state.get(name) != getattr(self, name):
                allowed = f"{state.get(name)!r}, with which the place was saved"
                raise ConfigError(name, getattr(self, name), allowed)
        _integer("epoch", state.get("epoch"), 0, 1 << 48)
        _integer("batch", state.get("batch"), 0, self.batches_per_epoch)
        self._epoch, self._batch = state["epoch"], state["batch"]
        self._deals += 1

    def _order(self) -> npt.NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.num_samples)
        generator = np.random.Generator(np.random.Philox(key=[self.seed, self._epoch]))
        return generator.permutation(self.num_samples)

    def _bounds(self) -> Sequence[slice]:
        """Where each batch of an epoch stands in its order."""
        if self.drop_last:
            size = self.global_batch_size
            return [slice(i * size, (i + 1) * size) for i in range(self.batches_per_epoch)]
        return chunk_slices(self.num_samples, self.batches_per_epoch)


def _integer(key: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(key, value, f"an integer from {low} to {high}")
