"""Algorithm `native`: the engine's own all-reduce, as an oracle for ours and for big clusters.

The engine (torch.distributed) decides how messages travel and in which order float32 values are
added: such a run can be compared with serial by its losses alone. An exact sum does not care for
the order, so there the bits must be those of serial.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmlf.errors import NonFiniteGradient
from dmlf.protocol import Accumulator, Apply, Gradient, Steps


class Collectives(Protocol):
    """What the engine must offer."""

    def all_reduce(self, vector: npt.NDArray[Any], timeout_s: float, maximum: bool = False) -> None:
        """Replace `vector` by its sum, or maximum, over all ranks."""


def native_step(engine: Collectives, step: int, num_buckets: int, timeout_s: float) -> Steps[None]:
    """One step: sum every bucket, agree that all of it is finite, apply.

    Not a protocol: the engine is called between the effects. Cost: one or, for an exact sum, two
    of the engine's all-reduces a bucket, and one of four bytes. Each may take `timeout_s`.
    Raises NonFiniteGradient on all ranks, and what the engine raises.
    """
    finite = True
    for index in range(num_buckets):
        bucket: Accumulator = yield Gradient(step, index)
        scale = bucket.scale()
        if scale is not None:
            exponents = np.frombuffer(scale, dtype="<i2").astype(np.int32)
            engine.all_reduce(exponents, timeout_s, maximum=True)
            bucket.merge_scale(exponents.astype("<i2").tobytes())
        bucket.begin()
        everything = slice(0, bucket.numel)
        engine.all_reduce(bucket.partial(everything), timeout_s)
        bucket.finish(everything)
        finite = finite and bucket.is_finite()
    verdict = np.array([0 if finite else 1], dtype=np.int32)
    engine.all_reduce(verdict, timeout_s, maximum=True)
    if verdict[0]:
        raise NonFiniteGradient(step)
    yield Apply(step)
