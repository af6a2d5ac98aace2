"""Sums of float32 vectors that do not depend on any order: int64 fixed point, shared exponent.

For each group of elements (a parameter tensor, say) all parties agree on the smallest E with
max |x| < 2^E over all terms. Every term is rounded once to a multiple of the unit u = 2^(E - 51)
and from then on is an integer. Integers are added modulo 2^64, which is associative and
commutative, so grouping, order, number of ranks and cutting into chunks cannot change a bit.
The total is rounded to float32 once, at the end.

Conversion costs one float64 addition. With M = 1.5 * 2^52 * u, the sum x + M lies in the binade
whose spacing is u, so the addition rounds x to a multiple of u (half to even), and the bits of
the result, read as int64, are bits(M) + x/u. Summing these bit patterns and subtracting
N * bits(M) once gives the exact integer total of N terms.

Limits: at most 4,096 terms (then |total| < 2^63); float32 in and out. Error of the result r
against the true sum s of N terms: |r - s| <= N * u / 2 + ulp32(r) / 2 + 2^-53 |r|, where u is
2^-50 of the largest magnitude in the group, or less. An element more than 2^27 times smaller
than its group's largest begins to lose relative (not absolute) precision.

Sources: the rounding by addition of a constant is Demmel & Nguyen, "Fast reproducible
floating-point summation", ARITH 2013, section 3, and Rump, Ogita & Oishi, "Accurate
floating-point summation part I", SISC 2008; integer accumulation after Kulisch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

MAX_TERMS = 4096
NON_FINITE = 32767
"""The exponent of a group that holds NaN or infinity; larger than any other, so it wins."""
ALL_ZERO = -32768
_FRACTION_BITS = 51
_BLOCK = 1 << 15  # elements converted at a time: the float64 scratch stays in the L2 cache


def group_exponent(values: Float32) -> int:
    """Smallest E with |x| < 2^E for all of `values`; ALL_ZERO or NON_FINITE where none exists."""
    if values.size == 0:
        return ALL_ZERO
    largest = max(float(values.max()), -float(values.min()))  # max and min propagate NaN
    if not math.isfinite(largest):
        return NON_FINITE
    return ALL_ZERO if largest == 0.0 else math.frexp(largest)[1]


def _rounding_constant(exponent: int) -> float:
    """M for the unit 2^(exponent - 51): 1.5 * 2^52 units."""
    return math.ldexp(1.5, 52 + exponent - _FRACTION_BITS)


def add_as_fixed_point(terms: Float32 | Sequence[Float32], exponent: int, total: Int64) -> None:
    """Add all `terms` [terms][n] to the running bit-pattern `total` [n], in place.

    Nothing is added where the group is all zero or not finite. Cost: three short passes a term.
    """
    if exponent in (ALL_ZERO, NON_FINITE):
        return
    constant = _rounding_constant(exponent)
    scratch = np.empty(min(_BLOCK, total.size), dtype=np.float64)
    for start in range(0, total.size, _BLOCK):
        block = slice(start, min(start + _BLOCK, total.size))
        part = scratch[: block.stop - start]
        for term in terms:
            part[...] = term[block]  # on its own, because np.add would cast in small pieces
            part += constant
            total[block] += part.view(np.int64)


def to_float32(total: Int64, exponent: int, num_terms: int, out: Float32) -> None:
    """Write the float32 value of `total`, the sum of `num_terms` bit patterns, to `out` [n]."""
    if exponent in (ALL_ZERO, NON_FINITE):
        out[...] = 0.0 if exponent == ALL_ZERO else math.nan
        return
    bits = int(np.float64(_rounding_constant(exponent)).view(np.int64))
    offset = np.uint64((bits * num_terms) % (1 << 64))
    unit = math.ldexp(1.0, exponent - _FRACTION_BITS)
    with np.errstate(over="ignore"):  # a total above float32's range becomes infinity, and is found
        for start in range(0, total.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            integers = (total[block].view(np.uint64) - offset).view(np.int64)
            out[block] = integers * unit


def exact_sum(terms: Sequence[Any]) -> Any:
    """Sum float32 arrays or tensors so that no order or grouping of `terms` changes a bit.

    terms: 1 to 4,096 numpy arrays or CPU torch tensors, float32, all of one shape.
    Returns the same kind as the first term. NaN or infinity in any term makes all of it NaN.
    The error bound is stated in this module's docstring. Raises ValueError on bad input.
    """
    if not 1 <= len(terms) <= MAX_TERMS:
        raise ValueError(f"exact_sum takes 1 to {MAX_TERMS} terms, got {len(terms)}")
    arrays = [_as_array(index, term) for index, term in enumerate(terms)]
    shape = arrays[0].shape
    for index, array in enumerate(arrays):
        if array.dtype != np.float32 or array.shape != shape:
            raise ValueError(f"term {index} is not a float32 array of shape {shape}")
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    exponent = max(group_exponent(array) for array in flat)
    total = np.zeros(flat[0].size, dtype=np.int64)
    add_as_fixed_point(flat, exponent, total)
    result = np.empty(flat[0].size, dtype=np.float32)
    to_float32(total, exponent, len(flat), result)
    shaped = result.reshape(shape)
    return terms[0].new_tensor(shaped) if _is_tensor(terms[0]) else shaped


def error_bound(terms: Sequence[Float32]) -> float:
    """Bound on |exact_sum(terms) - true sum| before the last rounding to float32: N * u / 2."""
    exponent = max(group_exponent(np.ravel(term)) for term in terms)
    if exponent in (ALL_ZERO, NON_FINITE):
        return 0.0
    return len(terms) * math.ldexp(0.5, exponent - _FRACTION_BITS)


def _is_tensor(term: Any) -> bool:
    return hasattr(term, "detach")  # asked so that torch need not be imported


def _as_array(index: int, term: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(term.detach() if _is_tensor(term) else term)
    except (TypeError, RuntimeError) as error:  # on a device, or of a dtype that numpy lacks
        raise ValueError(f"term {index} is not a float32 array or CPU tensor") from error
