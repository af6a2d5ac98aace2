"""Vectors that a transport may send as they are, although it goes on reading them after `send`."""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Any

import numpy.typing as npt

from dmlf.transport.base import allocate_plain


class Registered:
    """Remembers the vectors that it made; they live as long as this does."""

    def __init__(self) -> None:
        self._bounds: list[tuple[int, int]] = []  # (first address, one past the last)
        self._vectors: list[npt.NDArray[Any]] = []

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A vector of zeros [numel]."""
        vector = allocate_plain(numel, dtype)
        start = vector.__array_interface__["data"][0]
        insort(self._bounds, (start, start + vector.nbytes))
        self._vectors.append(vector)
        return vector

    def holds(self, payload: npt.NDArray[Any]) -> bool:
        """Whether `payload` is such a vector, or a part of one without gaps."""
        start = payload.__array_interface__["data"][0]
        index = bisect_right(self._bounds, (start, 1 << 64)) - 1
        return (
            index >= 0
            and payload.flags.c_contiguous
            and start + payload.nbytes <= self._bounds[index][1]
        )
