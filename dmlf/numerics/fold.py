"""Adding float32 vectors in a published order: the serial reference of every algorithm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmlf.numerics.exact import Float32
from dmlf.protocol.algorithm import Fold


def _fold(order: Fold, terms: Sequence[Float32]) -> Float32:
    pending = []  # a chain's left side is as deep as there are ranks: no recursion there
    while not isinstance(order, int):
        order, right = order
        pending.append(right)
    total = terms[order]
    with np.errstate(over="ignore", invalid="ignore"):
        for right in reversed(pending):
            total = total + _fold(right, terms)
    return total


def fold_sum(plan: Sequence[tuple[slice, Fold]], terms: Sequence[Float32]) -> Float32:
    """Sum `terms` [ranks][numel] chunk by chunk in the order of `plan` (`Algorithm.fold`)."""
    result = np.empty_like(terms[0])
    for chunk, order in plan:
        result[chunk] = _fold(order, [term[chunk] for term in terms])
    return result
