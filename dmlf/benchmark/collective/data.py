"""What is summed, and what the sum must be.

All values are positive, so that nothing cancels: a sum's relative error then has a bound, and
in-place calls, each of which multiplies the values by the world size, can be counted until they
would leave the range of float32.
"""

from __future__ import annotations

import numpy as np

from dmlf.numerics import fold_sum
from dmlf.numerics.exact import Float32
from dmlf.protocol import Algorithm

# Another rank's values begin so many elements further on in the one random vector.
_STRIDE = 4099
# Values start at 2^-40 and may grow by 2^85: their squares, which the check for infinity adds up,
# then stay normal float32 numbers.
_START_EXPONENT = -40
_GROWTH_BITS = 85
_UNIT_ROUNDOFF = 2.0**-24
_BLOCK = 1 << 18


class Values:
    """Random values that depend on rank and index, the same in every process for one seed.

    `max_numel` bounds the vectors that are asked for.
    """

    def __init__(self, seed: int, world_size: int, max_numel: int) -> None:
        generator = np.random.Generator(np.random.PCG64(seed))
        base = generator.random(max_numel + _STRIDE * world_size, dtype=np.float32)
        base += np.float32(0.5)
        base *= np.float32(2.0**_START_EXPONENT)
        self._base: Float32 = base
        self.world_size = world_size

    def of(self, rank: int, numel: int) -> Float32:
        """The vector [numel] that `rank` starts with; not to be written to."""
        start = rank * _STRIDE
        return self._base[start : start + numel]


def calls_per_fill(world_size: int) -> int:
    """How many in-place calls, 2 or more, may follow one another until values are put in anew."""
    return max(2, _GROWTH_BITS // (world_size - 1).bit_length())


def bucket_slices(numel: int, bucket_numel: int) -> list[slice]:
    """The buckets of a vector: all of `bucket_numel` elements but the last one."""
    return [
        slice(start, min(start + bucket_numel, numel)) for start in range(0, numel, bucket_numel)
    ]


class FoldReference:
    """The bits that an algorithm's published order of additions gives after some in-place calls.

    bucket_numel: the vectors are summed in buckets of so many elements.
    """

    def __init__(self, values: Values, bucket_numel: int) -> None:
        self.bucket_numel = bucket_numel
        self._values = values
        self._numel = 0
        self._known: dict[tuple[str, int], Float32] = {}

    def after(self, algorithm: Algorithm, numel: int, calls: int) -> Float32:
        """The vector [numel] that every rank must hold after `calls` calls."""
        if numel != self._numel:
            self._known.clear()
            self._numel = numel
        key = (algorithm.name, calls)
        if key not in self._known:
            world_size = self._values.world_size
            plan = [
                (slice(bucket.start + chunk.start, bucket.start + chunk.stop), fold)
                for bucket in bucket_slices(numel, self.bucket_numel)
                for chunk, fold in algorithm.fold(bucket.stop - bucket.start, world_size)
            ]
            total = fold_sum(plan, [self._values.of(rank, numel) for rank in range(world_size)])
            for _ in range(calls - 1):
                total = fold_sum(plan, [total] * world_size)
            self._known[key] = total
        return self._known[key]


def bitwise_problem(got: Float32, expected: Float32) -> str | None:
    """The first element in which `got` has other bits than `expected`; None if there is none."""
    if np.array_equal(got.view(np.uint32), expected.view(np.uint32)):
        return None
    index = int(np.flatnonzero(got.view(np.uint32) != expected.view(np.uint32))[0])
    return (
        f"element {index} of {got.size} is {got[index]!s}, "
        f"but {expected[index]!s} in the published order of additions"
    )


def bounded_problem(values: Values, got: Float32, calls: int) -> str | None:
    """The first element of `got` that is no float32 sum of the ranks' values, in any order.

    Bound: (n - 1) roundings a call, each of at most 2^-24 relative, as all values are positive
    (Higham, "Accuracy and stability of numerical algorithms", 2002, section 4.2).
    """
    world_size = values.world_size
    bound = 1.01 * calls * (world_size - 1) * _UNIT_ROUNDOFF
    for start in range(0, got.size, _BLOCK):
        stop = min(start + _BLOCK, got.size)
        exact = np.zeros(stop - start, dtype=np.float64)
        for rank in range(world_size):
            exact += values.of(rank, stop)[start:]
        exact *= float(world_size) ** (calls - 1)
        wrong = ~(np.abs(got[start:stop] - exact) <= bound * exact)  # NaN is wrong as well
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            return (
                f"element {start + at} of {got.size} is {got[start + at]!s}, but the float64 sum "
                f"is {exact[at]!s} (bound {bound:.1e} relative)"
            )
    return None
