"""The exact operator once more, in unlimited integers, and what the tests draw for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
from hypothesis import settings

PROPERTY = settings(deadline=None, derandomize=True, database=None, max_examples=150)

LARGEST = float(np.finfo(np.float32).max)
SUBNORMAL = 2.0**-149
NUMELS = (0, 1, 2, 3, 5, 7, 13, 31)

ELEMENTS = st.one_of(
    st.sampled_from([0.0, -0.0, SUBNORMAL, -SUBNORMAL, 1.0, -1.0, LARGEST, -LARGEST]),
    st.floats(width=32, min_value=-1.0, max_value=1.0),
    st.floats(width=32, min_value=-(2.0**-126), max_value=2.0**-126),  # subnormal
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.builds(
        lambda sign, fraction, decade: float(np.float32(sign * fraction * 10.0**decade)),
        st.sampled_from([-1, 1]),
        st.floats(min_value=1.0, max_value=10.0),
        st.integers(-30, 30),
    ),
)


def term_arrays(min_terms: int = 1, max_terms: int = 8) -> st.SearchStrategy[np.ndarray]:
    """[terms, numel] float32, of which all rows are summed."""
    shapes = st.tuples(st.integers(min_terms, max_terms), st.sampled_from(NUMELS))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=ELEMENTS))


def unit_of(terms: np.ndarray) -> Fraction:
    """2^(E - 51) with the smallest E such that all |x| < 2^E; 0 where all are zero."""
    largest = max((abs(float(x)) for x in terms.flat), default=0.0)
    return Fraction(0) if largest == 0.0 else Fraction(2) ** (math.frexp(largest)[1] - 51)


def fixed_point_sum(terms: np.ndarray) -> np.ndarray:
    """The definition of the operator: [terms, numel] float32 -> [numel] float32."""
    unit = unit_of(terms)
    result = np.zeros(terms.shape[1], dtype=np.float32)
    if unit:
        for index in range(terms.shape[1]):
            # round() of a Fraction is half to even, and so is float() of an int.
            total = sum(round(Fraction(float(x)) / unit) for x in terms[:, index])
            with np.errstate(over="ignore"):
                result[index] = np.float32(float(total) * float(unit))
    return result


def true_sums(terms: np.ndarray) -> list[Fraction]:
    """The sums of real numbers, not rounded at all."""
    return [sum((Fraction(float(x)) for x in column), Fraction(0)) for column in terms.T]


def bits(array: np.ndarray) -> Sequence[int]:
    """What equality means here: +0 and -0 differ, a NaN equals itself."""
    assert array.dtype == np.float32
    return array.view(np.uint32).tolist()
