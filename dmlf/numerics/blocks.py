"""Combining several vectors elementwise in one pass, block by block, in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 17  # elements

Vector = npt.NDArray[Any]


def combined(operation: np.ufunc, vectors: Sequence[Vector], out: Vector) -> Iterator[Vector]:
    """Write ((v0 op v1) op v2) ... into `out`, which may be v0; yield each block once it is done.

    vectors: at least one, all [numel] of one dtype. A caller must take all blocks, one after the
    other.
    """
    first, *others = vectors
    for start in range(0, out.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        block, left = out[part], first[part]
        for other in others:
            left = operation(left, other[part], out=block)
        if not others and first is not out:
            np.copyto(block, left)
        yield block
