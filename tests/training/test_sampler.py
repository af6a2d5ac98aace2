"""Samples are dealt by (seed, step, shard) alone, each once per epoch."""

from __future__ import annotations

import numpy as np
import pytest

from dmlf.training.sampler import ShardSampler, owned_shards


@pytest.mark.parametrize(
    ("num_samples", "batch", "shards"), [(1, 8, 8), (100, 8, 4), (96, 32, 8), (37, 12, 3)]
)
def test_every_sample_once_per_epoch(num_samples: int, batch: int, shards: int) -> None:
    sampler = ShardSampler(num_samples, batch, shards, seed=3)
    for epoch in range(3):
        first = epoch * sampler.steps_per_epoch
        seen = [
            ids
            for step in range(first, first + sampler.steps_per_epoch)
            for ids in sampler.shards(step)
        ]
        assert sorted(np.concatenate(seen)) == list(range(num_samples))


def test_a_step_does_not_depend_on_what_was_asked_before() -> None:
    late = ShardSampler(100, 8, 4, seed=3)
    walked = ShardSampler(100, 8, 4, seed=3)
    for step in range(60):
        walked.batch(step)
    np.testing.assert_array_equal(late.batch(59), walked.batch(59))


def test_seeds_and_epochs_differ() -> None:
    orders = {
        tuple(ShardSampler(64, 64, 8, seed).batch(step)) for seed in (0, 1) for step in (0, 1)
    }
    assert len(orders) == 4


@pytest.mark.parametrize("num_shards", [1, 5, 8])
def test_shards_are_owned_once_in_contiguous_blocks(num_shards: int) -> None:
    for world_size in range(1, num_shards + 1):
        blocks = [owned_shards(rank, world_size, num_shards) for rank in range(world_size)]
        assert [shard for block in blocks for shard in block] == list(range(num_shards))
        assert all(len(block) >= 1 for block in blocks)
