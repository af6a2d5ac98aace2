"""Was every sample used exactly once in every epoch? What a transcript proves about it.

A transcript holds, by step and shard, the hash of the ids of the samples that were used; each shard
was computed by one rank, or the ranks' records could not have been merged. So the ids are known, to
the strength of the hash, and can be counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmlf.config import RunConfig
from dmlf.training.sampler import ShardSampler
from dmlf.training.transcript import Record, array_hash


def samples_problem(config: RunConfig, num_samples: int, records: Sequence[Record]) -> str | None:
    """Why not every one of `num_samples` samples was used exactly once per epoch; None if it was.

    records: by step, from the first one on. In the last epoch, which may not be whole, no sample
    may be used twice.
    """
    sampler = ShardSampler(num_samples, config.global_batch_size, config.num_shards, config.seed)
    used = np.zeros(num_samples, dtype=np.int64)
    for step, record in enumerate(records):
        recorded = record["samples"]
        for shard, ids in enumerate(sampler.shards(step)):
            if str(shard) not in recorded:
                return f"step {step}: no rank has computed shard {shard}"
            if recorded[str(shard)] != array_hash(ids):
                return f"step {step}: shard {shard} had other samples than its own"
            used[ids] += 1
        if len(recorded) != config.num_shards:
            return f"step {step}: has {len(recorded)} shards instead of {config.num_shards}"
        epoch, position = divmod(step + 1, sampler.steps_per_epoch)
        whole = position == 0
        if used.max(initial=0) > 1 or (whole and used.min(initial=1) < 1):
            wrong = int(np.flatnonzero(used != 1)[0] if whole else used.argmax())
            return f"sample {wrong} was used {used[wrong]} times in epoch {epoch - whole + 1}"
        if whole:
            used[:] = 0
    return None
