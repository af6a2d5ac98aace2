"""Functions that ranks run, imported by name in their processes."""

from __future__ import annotations

from typing import Any

import numpy as np

import dmlf


def sums(numel: int) -> list[Any]:
    group = dmlf.init()
    rank = group.rank
    value = np.arange(numel, dtype=np.float32) + rank
    dmlf.all_reduce(value)
    mine = np.full(3, rank, dtype=np.int64)
    gathered = dmlf.all_gather(mine)
    root = np.full((2, 2), rank, dtype=np.float64)
    dmlf.broadcast(root, root=dmlf.world_size() - 1)
    dmlf.barrier()
    return [value, gathered, root]


def different_calls() -> str:
    group = dmlf.init(timeout_s=5)
    value = np.zeros(3 if dmlf.rank() else 4, dtype=np.float32)
    try:
        group.all_reduce(value)
    except dmlf.DmlfError as error:
        group.barrier()
        return str(error)
    return "no error"
