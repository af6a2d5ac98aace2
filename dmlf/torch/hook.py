"""A communication hook: dmlf's protocols inside torch's own DistributedDataParallel."""
# Annotations are not postponed here: register_comm_hook reads those of the hook.

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from dmlf.errors import ConfigError
from dmlf.group import Group
from dmlf.group.group import all_reduce_named
from dmlf.numerics import ExactAccumulator, Float32Accumulator
from dmlf.protocol import Accumulator
from dmlf.torch.reducer import GRADIENT_OPS, REDUCTIONS, check_choice, group_of_process
from dmlf.torch.replicas import described


class CommHookState:
    """What `comm_hook` needs to know; options as of `dmlf.DistributedDataParallel`."""

    def __init__(
        self,
        group: Group | None = None,
        *,
        reduction: str = "float32",
        gradient_op: str = "mean",
        algorithm: str | None = None,
    ) -> None:
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("gradient_op", gradient_op, GRADIENT_OPS)
        self.group = group or group_of_process()
        self.algorithm = self.group.algorithm if algorithm is None else all_reduce_named(algorithm)
        self.is_exact = reduction == "exact"
        self.divisor = self.group.world_size if gradient_op == "mean" else 1
        self.text = f"{reduction}, {gradient_op}, {self.algorithm.name}"

    def sums_whole(self, numel: int) -> bool:
        """Whether the place of an element in its bucket cannot change a bit of its sum.

        Two terms have one sum in any order; an algorithm may have one order for all elements.
        """
        world_size = self.group.world_size
        return self.is_exact or world_size <= 2 or len(self.algorithm.fold(numel, world_size)) == 1


def comm_hook(
    state: CommHookState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """Sum a bucket of DDP over all ranks: `ddp.register_comm_hook(state, dmlf.comm_hook)`.

    The bits do not depend on which parameters DDP puts into which bucket: where the order of
    additions depends on an element's place, every parameter is summed by itself. Exact sums are
    exact over the ranks; what DDP adds up under `no_sync` is one term. float64 is summed in
    float64, 16 bits in float32.
    Returns a future that is done. Raises, in the thread that runs backward, NonFiniteGradient on
    all ranks (DDP cannot go on after that), ConfigError for sparse gradients, CollectiveMismatch,
    DeadlineExceeded and what else ends a group.
    """
    buffer = bucket.buffer()
    if buffer.layout is not torch.strided:
        allowed = 'dense ones; stock DDP over the backend "dmlf" sums sparse ones'
        raise ConfigError("gradients", str(buffer.layout), allowed)
    values = buffer.detach()
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        values = values.float().cpu()
    if state.is_exact:
        values = values.float()
    local = _DdpBucket(state, values, [gradient.numel() for gradient in bucket.gradients()])
    text = f"comm_hook(bucket {bucket.index()}, {described(buffer)}, {local.num_gradients}"
    state.group.step(f"{text} gradients, {state.text})", local, local.num_buckets, state.algorithm)
    if values.data_ptr() != buffer.data_ptr():
        buffer.copy_(values)
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(buffer)
    return future


class _DdpBucket:
    """Fulfils `dmlf.runtime.Local` for one bucket of DDP, summed in place."""

    def __init__(self, state: CommHookState, values: torch.Tensor, numels: list[int]) -> None:
        ends = np.cumsum([0, *numels]).tolist()
        self._groups = [slice(*ends[at : at + 2]) for at in range(len(numels))]
        self._state = state
        self._flat: np.ndarray[Any, np.dtype[Any]] = values.numpy()
        self.num_gradients = len(numels)
        self._is_whole = state.sums_whole(self._flat.size)
        self.num_buckets = 1 if self._is_whole else len(numels)

    def gradient(self, step: int, bucket: int) -> Accumulator:
        """The accumulator of the whole bucket, or of one parameter in it."""
        state = self._state
        rank = state.group.rank
        if state.is_exact:
            row = self._flat.reshape(1, -1)
            size = state.group.world_size
            return ExactAccumulator(
                rank, row, self._groups, size, self._flat, divisor=state.divisor
            )
        flat = self._flat if self._is_whole else self._flat[self._groups[bucket]]
        return Float32Accumulator(rank, flat, state.divisor)

    def apply(self, step: int) -> None:
        """The sum stands where the gradients were: DDP hands it out."""

    def read_parameters(self, bucket: int) -> Any:
        """Never asked for without servers."""
        raise AssertionError("an all-reduce has no parameters")

    def write_parameters(self, bucket: int, payload: Any) -> None:
        """Never asked for without servers."""
        raise AssertionError("an all-reduce has no parameters")
