"""Combining vectors elementwise in one pass, block by block, in the cache; on several cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_THREADS = 4
"""More add no faster: they wait for memory."""
_BLOCK = 1 << 17  # elements
_WORTH_SHARING = 4 * _BLOCK

Vector = npt.NDArray[Any]


def in_blocks(numel: int, work: Callable[[slice], None], threads: int = 1) -> None:
    """Call `work` for every block of [0, numel) once; return when all have been done.

    threads: at most MAX_THREADS, this one among them, which take blocks as they are free. Few
    blocks are worth none but this one.
    """
    if numel <= _BLOCK:
        if numel:
            work(slice(0, numel))
        return
    places = iter(range(0, numel, _BLOCK))
    turn = threading.Lock()

    def take_blocks() -> None:
        while True:
            with turn:
                start = next(places, None)
            if start is None:
                return
            work(slice(start, min(start + _BLOCK, numel)))

    others = threads - 1 if numel >= _WORTH_SHARING else 0
    helpers = [_pool().submit(take_blocks) for _ in range(others)]
    try:
        take_blocks()
    finally:  # whatever happens, nobody goes on behind the caller's back
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def combine(operation: np.ufunc, vectors: Sequence[Vector], out: Vector, part: slice) -> Vector:
    """Write ((v0 op v1) op v2) ... of a part into `out`, which may be v0; return that part.

    vectors: at least one, all as long as `out` and of one dtype.
    """
    first, *others = vectors
    block, left = out[part], first[part]
    for other in others:
        left = operation(left, other[part], out=block)
    if not others and first is not out:
        np.copyto(block, left)
    return block


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS - 1, thread_name_prefix="dmlf-adder")
