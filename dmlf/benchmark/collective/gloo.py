"""One rank of the peer Gloo: `torch.distributed.all_reduce` on the CPU, over loopback."""

from __future__ import annotations

from datetime import timedelta

from dmlf.benchmark.collective.config import GLOO
from dmlf.benchmark.collective.data import Values, bounded_problem
from dmlf.env import require_torch
from dmlf.errors import WrongSum
from dmlf.numerics.exact import Float32


class GlooTurn:
    """A call is one in-place `all_reduce`. rendezvous: the path of an empty file, or of none."""

    def __init__(
        self, rank: int, rendezvous: str, values: Values, max_numel: int, timeout_s: float
    ) -> None:
        torch = require_torch()
        import torch.distributed as dist

        torch.set_num_threads(1)
        self._rank, self._values, self._dist = rank, values, dist
        dist.init_process_group(
            "gloo",
            init_method=f"file://{rendezvous}",
            rank=rank,
            world_size=values.world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        self._whole = torch.zeros(max_numel)
        self._tensor = self._whole

    def prepare(self, numel: int) -> None:
        """Use the first `numel` elements from now on."""
        self._tensor = self._whole[:numel]

    def fill(self) -> None:
        """Put this rank's values in."""
        vector = self._vector()
        vector[...] = self._values.of(self._rank, vector.size)

    def barrier(self) -> None:
        """Gloo's own barrier."""
        self._dist.barrier()

    def call(self) -> None:
        """One all-reduce."""
        self._dist.all_reduce(self._tensor)

    def check(self, calls: int) -> None:
        """Hold the vector against the float64 sum: Gloo publishes no order of additions."""
        problem = bounded_problem(self._values, self._vector(), calls)
        if problem is not None:
            raise WrongSum(GLOO, self._rank, problem)

    def close(self) -> None:
        """Leave the group."""
        self._dist.destroy_process_group()

    def _vector(self) -> Float32:
        vector: Float32 = self._tensor.numpy()
        return vector
