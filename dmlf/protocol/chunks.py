"""Cutting a bucket into chunks."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=256)  # every step cuts the same few buckets
def chunk_slices(numel: int, num_chunks: int) -> tuple[slice, ...]:
    """Cut `numel` elements into `num_chunks` contiguous chunks whose sizes differ by at most 1.

    The first `numel % num_chunks` chunks are the longer ones; chunks may be empty.
    """
    base, longer = divmod(numel, num_chunks)
    slices, start = [], 0
    for index in range(num_chunks):
        stop = start + base + (index < longer)
        slices.append(slice(start, stop))
        start = stop
    return tuple(slices)
