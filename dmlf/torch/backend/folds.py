"""Combining one block of every rank in the order of ranks: 0 and 1, then 2, and so on.

The order of an element's additions depends on nothing but the ranks: not on the place of the
element in its tensor, and so not on how DDP lays out its buckets, before or after it rebuilds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dmlf.errors import ConfigError
from dmlf.torch.backend.wire import Vector

_COMBINE: dict[str, np.ufunc] = {
    "SUM": np.add,
    "AVG": np.add,
    "PRODUCT": np.multiply,
    "MIN": np.minimum,
    "MAX": np.maximum,
    "BAND": np.bitwise_and,
    "BOR": np.bitwise_or,
    "BXOR": np.bitwise_xor,
}
_BITWISE = ("BAND", "BOR", "BXOR")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPLEX = (torch.complex64, torch.complex128)
_WIDENED = (torch.float16, torch.bfloat16)


class Fold:
    """What one rank does to its part of a reduction.

    own: this rank's block. out: where the result goes, [numel]; may be `own` itself.
    Blocks come by `take` in the order of ranks, the own one among them.
    """

    def __init__(self, operation: Operation, rank: int, own: Vector, out: Vector) -> None:
        self._combine = operation.combine
        self._divisor = operation.divisor
        self._rank, self._own, self._out = rank, own, out
        self._partial: Vector | None = None

    def take(self, src: int, block: Vector) -> None:
        """Combine with the block of rank `src`, which is valid until the next one is received."""
        in_place = self._own is self._out
        if self._partial is not None:
            # The own block may be overwritten once it is combined.
            out = self._out if src >= self._rank or not in_place else self._partial
            with np.errstate(all="ignore"):
                self._partial = self._combine(self._partial, block, out=out)
        elif not in_place:
            np.copyto(self._out, block)
            self._partial = self._out
        else:
            # The own block comes next without a receive between.
            self._partial = block if src + 1 >= self._rank else block.copy()

    def finish(self) -> Vector:
        """The result, in `out`."""
        if self._divisor is not None:
            self._out /= self._out.dtype.type(self._divisor)
        return self._out


class WideFold:
    """`Fold` of 16-bit floats: combined in float32, and rounded once."""

    def __init__(self, operation: Operation, own: Vector, out: Vector) -> None:
        self._dtype = operation.dtype
        self._combine = operation.combine
        self._divisor = operation.divisor
        self._out = out
        self._partial: Vector | None = None

    def take(self, _src: int, block: Vector) -> None:
        """Combine with the block of a rank."""
        wide = torch.from_numpy(block.copy()).view(self._dtype).float().numpy()
        if self._partial is None:
            self._partial = wide
        else:
            with np.errstate(all="ignore"):
                self._combine(self._partial, wide, out=self._partial)

    def finish(self) -> Vector:
        """The result, in `out`."""
        assert self._partial is not None
        if self._divisor is not None:
            self._partial /= np.float32(self._divisor)
        narrow = torch.from_numpy(self._partial).to(self._dtype).view(torch.int16)
        self._out.view(np.int16)[...] = narrow.numpy()
        return self._out


class Operation:
    """A torch ReduceOp on one dtype. Raises ConfigError for a pair that has no meaning here.

    SUM, PRODUCT, MIN, MAX: all dtypes but float8; sums of bool are `or`, products `and`. MIN, MAX:
    not complex. AVG: floating point. BAND, BOR, BXOR: integers and bool. NaN wins over any number.
    """

    def __init__(self, reduce_op: Any, dtype: torch.dtype, world_size: int) -> None:
        self.name: str = getattr(reduce_op, "op", reduce_op).name
        self.dtype = dtype
        allowed = list(_COMBINE)
        if dtype in _COMPLEX:
            allowed = ["SUM", "AVG", "PRODUCT"]
        elif dtype in _FLOATS:
            allowed = [name for name in _COMBINE if name not in _BITWISE]
        elif dtype.is_floating_point:
            allowed = []
        else:
            allowed.remove("AVG")
        if self.name not in allowed:
            ops = ", ".join(allowed) or "no reduction"
            raise ConfigError("op", self.name, f"{ops} for tensors of {dtype}")
        self.combine = _COMBINE[self.name]
        self.divisor = world_size if self.name == "AVG" else None

    def fold(self, rank: int, own: Vector, out: Vector) -> Fold | WideFold:
        """The fold of one block."""
        if self.dtype in _WIDENED:
            return WideFold(self, own, out)
        return Fold(self, rank, own, out)
