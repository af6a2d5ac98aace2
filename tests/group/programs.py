"""Functions that ranks run, imported by name in their processes."""

from __future__ import annotations

import os
import signal
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


def environment(name: str) -> tuple[str | None, str, str]:
    return os.environ.get(name), os.environ["OMP_NUM_THREADS"], os.environ["RANK"]


def nested() -> list[int]:
    return dmlf.launch(rank, 2)


def rank() -> int:
    return dmlf.init().rank


def unpicklable() -> Any:
    return lambda: 0


def fails_on_rank(failing: int, how: str) -> None:
    group = dmlf.init()
    if group.rank == failing:
        if how == "raise":
            raise ValueError("what went wrong")
        os.kill(os.getpid(), signal.SIGKILL)
    group.barrier()


def twice() -> list[Any]:
    with dmlf.init() as group:
        group.barrier()
    dmlf.shutdown()
    dmlf.init(timeout_s=60)
    return [dmlf.all_gather(np.array(dmlf.rank())).tolist(), dmlf.is_initialized()]


def other_transport() -> str:
    try:
        dmlf.init(transport="tcp")
    except dmlf.ConfigError as error:
        return error.key
    return "no error"
