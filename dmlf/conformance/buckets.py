"""Buckets for whole groups, with values that depend on rank, bucket and index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmlf.conformance.driving import Group
from dmlf.numerics import ExactAccumulator, Float32Accumulator, MockAccumulator, MockTensor
from dmlf.protocol import chunk_slices


def lengths(world_size: int) -> list[int]:
    """Bucket lengths at which chunking goes wrong first."""
    around = {world_size - 1, world_size, world_size + 1}
    return sorted({0, 1, 13, 101} | around)


def mock_value(rank: int, bucket: int, index: int) -> int:
    """A number that no other (rank, bucket, index) has, and whose sums tell them apart too."""
    return 10**6 * int(3**rank) + 1009 * bucket + index


def mock_buckets(
    group: Group, world_size: int, numels: Sequence[int]
) -> list[list[MockAccumulator]]:
    """One MockAccumulator per rank and bucket; a server's holds a rank that must not be summed."""
    return [
        [
            MockAccumulator(
                rank,
                MockTensor.of_rank(rank, [mock_value(rank, index, i) for i in range(numel)]),
            )
            for index, numel in enumerate(numels)
        ]
        for rank in range(world_size + group.num_servers)
    ]


def float32_terms(num_terms: int, numel: int, seed: int = 0) -> np.ndarray:
    """[num_terms, numel] float32 of mixed signs and magnitudes, so that order shows."""
    generator = np.random.default_rng([seed, num_terms, numel])
    values = generator.standard_normal((num_terms, numel))
    return np.ldexp(values, generator.integers(-12, 12, values.shape)).astype(np.float32)


def float32_buckets(group: Group, buckets: Sequence[np.ndarray]) -> list[list[Float32Accumulator]]:
    """`buckets[bucket]` is [world_size, numel]; a server starts from garbage, not from zeros."""
    world_size = len(buckets[0])
    ranks = [
        [Float32Accumulator(rank, terms[rank].copy()) for terms in buckets]
        for rank in range(world_size)
    ]
    for server in range(world_size, world_size + group.num_servers):
        ranks.append([Float32Accumulator(server, np.full_like(terms[0], 7.0)) for terms in buckets])
    return ranks


def exact_buckets(
    group: Group,
    world_size: int,
    buckets: Sequence[np.ndarray],
    groups: Sequence[Sequence[slice]] | None = None,
) -> list[list[ExactAccumulator]]:
    """`buckets[bucket]` is [num_shards, numel]; ranks own contiguous blocks of shards."""
    num_shards = len(buckets[0])
    blocks = chunk_slices(num_shards, world_size) + (slice(0, 0),) * group.num_servers
    if groups is None:
        groups = [[slice(0, shards.shape[1])] for shards in buckets]
    return [
        [
            ExactAccumulator(
                rank,
                shards[block],
                tensors,
                num_shards,
                np.full(shards.shape[1], np.nan, dtype=np.float32),
            )
            for shards, tensors in zip(buckets, groups, strict=True)
        ]
        for rank, block in enumerate(blocks)
    ]
