"""What is simulated: an algorithm on a small deterministic model, and its serial reference.

Gradients are float32 values of mixed magnitude that depend on step, rank, bucket and index, so
that a sum in another order, a swapped chunk or a stale contribution gives other bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from dmlf.numerics import exact_sum, fold_sum
from dmlf.numerics.exact import Float32
from dmlf.numerics.mock import canonical
from dmlf.protocol import Algorithm, Fold, Member, owned_buckets

Reduction = Literal["float32", "exact"]
SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """An algorithm, a group, and a model of `bucket_numels` trained for `steps` steps.

    num_servers: of an algorithm that has servers; without, there are none whatever it says.
    timeout_ns: virtual time that a rank waits for one message before DeadlineExceeded.
    """

    algorithm: Algorithm
    world_size: int
    steps: int
    bucket_numels: tuple[int, ...]
    reduction: Reduction
    generation: int = 1
    timeout_ns: int = SECOND_NS
    num_servers: int = 1

    @property
    def group_size(self) -> int:
        """Workers and servers together."""
        return self.world_size + self.algorithm.server_count(self.num_servers)

    @property
    def group(self) -> str:
        """The size of the group for a reader."""
        servers = self.group_size - self.world_size
        beside = f", {servers} server{'s' * (servers > 1)}" if servers else ""
        return f"world size {self.world_size}{beside}"

    def member(self, rank: int) -> Member:
        """The place of `rank` in the group."""
        servers = self.group_size - self.world_size
        return Member(rank, self.world_size, servers, self.generation)

    def held_buckets(self, rank: int) -> range:
        """The buckets that `rank` has: all of them, or those that it owns as a server."""
        if rank < self.world_size:
            return range(len(self.bucket_numels))
        return owned_buckets(rank - self.world_size, len(self.bucket_numels), self.num_servers)

    def leaf(self, step: int, rank: int) -> int:
        """The leaf that stands for the contribution of `rank` in `step` in a recorded fold."""
        return step * self.group_size + rank


def shards_of(rank: int) -> int:
    """Logical shards of a worker: rank 0 has two and all others one, so that blocks differ."""
    return 2 if rank == 0 else 1


def groups_of(numel: int) -> list[slice]:
    """The two parameter tensors of a bucket."""
    return [slice(0, numel // 2), slice(numel // 2, numel)]


def shard_gradient(step: int, rank: int, shard: int, bucket: int, numel: int) -> Float32:
    """The gradient of one shard: [numel] float32, magnitudes up to 2^31."""
    index = np.arange(numel, dtype=np.uint64)
    place = (((step + 1) * 31 + rank) * 7 + shard) * 13 + bucket + 1
    mixed = (index + np.uint64(place * 1_000_003)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mantissa = (mixed >> np.uint64(40)).astype(np.float64) - 2.0**23
    exponent = ((mixed >> np.uint64(8)) % np.uint64(17)).astype(np.int32) - 8
    return np.asarray(np.ldexp(mantissa, exponent), dtype=np.float32)


def initial_parameters(bucket: int, numel: int) -> Float32:
    """Parameters before the first step: [numel] float32."""
    return shard_gradient(-1, 0, 0, bucket, numel)


def apply_gradient(parameters: Float32, gradient: Float32) -> None:
    """The optimizer: one step of gradient descent with weight decay, in place."""
    parameters *= np.float32(0.875)
    parameters -= np.float32(0.125) * gradient


def parameters_sha256(parameters: Sequence[Float32]) -> tuple[str, ...]:
    """SHA-256 of the parameters of each bucket."""
    return tuple(hashlib.sha256(bucket.tobytes()).hexdigest() for bucket in parameters)


def mock_value(step: int, rank: int, bucket: int, index: int) -> int:
    """The integer that a worker contributes to one element of the recorded folds."""
    return ((step + 1) * 1_000_003 + (rank + 1) * 10_007 + (bucket + 1) * 101) * (index + 1)


def with_leaves(fold: Fold, scenario: Scenario, step: int) -> Fold:
    """`fold` over ranks as a fold over the leaves of `step`."""
    if isinstance(fold, int):
        return scenario.leaf(step, fold)
    left, right = fold
    return (with_leaves(left, scenario, step), with_leaves(right, scenario, step))


class Reference:
    """The serial run of a scenario: what every rank must have after each step.

    shards[step][rank][bucket]: [shards of rank, numel] float32. gradients[step][rank][bucket]:
    [numel] float32. sums, folds and values are per [step][bucket]: bytes of the reduced
    gradient, canonical fold of each element, integer sum of each element.
    versions[v][bucket]: SHA-256 of the parameters after v steps.
    """

    def __init__(self, scenario: Scenario) -> None:
        workers, numels = range(scenario.world_size), scenario.bucket_numels
        self.num_terms = sum(shards_of(rank) for rank in workers)
        self.shards = [
            [
                [
                    np.stack([shard_gradient(step, r, k, b, n) for k in range(shards_of(r))])
                    for b, n in enumerate(numels)
                ]
                for r in workers
            ]
            for step in range(scenario.steps)
        ]
        self.gradients = [
            [[shards[0] for shards in buckets] for buckets in ranks] for ranks in self.shards
        ]
        self.initial = [initial_parameters(b, n) for b, n in enumerate(numels)]
        self.sums: list[list[bytes]] = []
        self.folds: list[list[list[Fold]]] = []
        self.values: list[list[list[int]]] = []
        parameters = [bucket.copy() for bucket in self.initial]
        self.versions = [parameters_sha256(parameters)]
        for step in range(scenario.steps):
            reduced = [self._reduced(scenario, step, b) for b in range(len(numels))]
            self.sums.append([gradient.tobytes() for gradient in reduced])
            self.folds.append([self._folds(scenario, step, n) for n in numels])
            self.values.append(
                [
                    [sum(mock_value(step, r, b, i) for r in workers) for i in range(n)]
                    for b, n in enumerate(numels)
                ]
            )
            for bucket, gradient in zip(parameters, reduced, strict=True):
                apply_gradient(bucket, gradient)
            self.versions.append(parameters_sha256(parameters))

    def _reduced(self, scenario: Scenario, step: int, bucket: int) -> Float32:
        numel = scenario.bucket_numels[bucket]
        ranks = range(scenario.world_size)
        if scenario.reduction == "float32":
            plan = scenario.algorithm.fold(numel, scenario.world_size)
            return fold_sum(plan, [self.gradients[step][rank][bucket] for rank in ranks])
        result = np.empty(numel, dtype=np.float32)
        for group in groups_of(numel):
            terms = [shard[group] for rank in ranks for shard in self.shards[step][rank][bucket]]
            result[group] = exact_sum(terms)
        return result

    @staticmethod
    def _folds(scenario: Scenario, step: int, numel: int) -> list[Fold]:
        folds: list[Fold] = []
        for chunk, fold in scenario.algorithm.fold(numel, scenario.world_size):
            expected = canonical(with_leaves(fold, scenario, step))
            folds.extend([expected] * (chunk.stop - chunk.start))
        return folds


@lru_cache(maxsize=64)
def reference_of(scenario: Scenario) -> Reference:
    """The reference of `scenario`, computed once."""
    return Reference(scenario)
