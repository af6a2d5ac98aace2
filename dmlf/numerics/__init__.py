"""Reductions on numpy arrays and CPU torch tensors: float32 in a published order, and exact."""

from dmlf.numerics.accumulators import ExactAccumulator, Float32Accumulator, all_finite
from dmlf.numerics.elementwise import OPERATIONS, ElementwiseAccumulator
from dmlf.numerics.exact import error_bound, exact_sum
from dmlf.numerics.fold import fold_sum
from dmlf.numerics.mock import MockAccumulator, MockTensor

__all__ = [
    "OPERATIONS",
    "ElementwiseAccumulator",
    "ExactAccumulator",
    "Float32Accumulator",
    "MockAccumulator",
    "MockTensor",
    "all_finite",
    "error_bound",
    "exact_sum",
    "fold_sum",
]
