"""The serial reference: one process that adds gradients in an algorithm's published order.

It holds no message, no process and no protocol; only `Algorithm.fold`. A distributed float32 run
that ends with the same bits has added every contribution once, in the order it promised.
"""

from __future__ import annotations

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, NonFiniteGradient
from dmlf.numerics import all_finite, fold_sum
from dmlf.protocol import registry
from dmlf.training.replica import Replica, make_backend
from dmlf.training.sampler import owned_shards


def replay(_rank: int, config: RunConfig) -> str:
    """Train serially as `config`'s workers would together; return the final state's SHA-256.

    Raises ConfigError unless the reduction is float32 and the algorithm publishes its order, and
    NonFiniteGradient as the run itself would.
    """
    algorithm = registry().get(config.algorithm)
    if algorithm is None or config.reduction != "float32":
        raise ConfigError(
            "algorithm",
            f"{config.algorithm} ({config.reduction})",
            f"one of {', '.join(registry())} with reduction float32; "
            "the reference of an exact run is the exact serial run",
        )
    backend = make_backend(config)
    ranks = [
        Replica(config, backend, rank, owned_shards(rank, config.world_size, config.num_shards))
        for rank in range(config.world_size)
    ]
    for step in range(ranks[0].num_steps):
        shards = ranks[0].sampler.shards(step)
        for rank in ranks:
            rank.compute(step, shards)
        for index, bucket in enumerate(ranks[0].buckets):
            plan = algorithm.fold(bucket.numel, config.world_size)
            total = ranks[0].store.flat[index]
            total[...] = fold_sum(plan, [rank.store.flat[index] for rank in ranks])
            if not all_finite(total):
                raise NonFiniteGradient(step)
        ranks[0].apply(step)
    return ranks[0].state().sha256()
