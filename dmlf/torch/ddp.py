"""A module whose gradients are the same on all ranks after backward, as torch's DDP has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, SupportsIndex

import numpy as np
import torch

from dmlf.errors import ConfigError
from dmlf.group import Group
from dmlf.group.binding import waits_for_group
from dmlf.group.group import all_reduce_named
from dmlf.torch.passes import PassWatch
from dmlf.torch.reducer import GradientReducer, group_of_process
from dmlf.torch.replicas import bytes_of, confirm_same_layout, copy_from_rank, described

_PREFIX = "module."


class DistributedDataParallel(torch.nn.Module):
    """`module` on every rank of a group, with gradients that every backward pass synchronises.

    Use it as `torch.nn.parallel.DistributedDataParallel`; see docs/library-torch.md. On
    construction all ranks check that their modules have the same parameters and buffers, and take
    the values of rank 0. When `backward` returns, `.grad` of every parameter is the mean over the
    ranks, with the same bits on all of them; it is a view of memory that the next backward pass
    writes to. `state_dict` has the names of the plain module.

    reduction: `float32` adds in the published order of the algorithm (float64 parameters in
    float64, those of 16 bits in float32, rounded once). `exact` sums every backward pass of every
    rank, those under `no_sync` too, as a term of its own, in a way that no grouping changes.
    gradient_op: `mean` divides the sum by the world size, `sum` does not: then divide the loss by
    the global batch, and exact gradients are the same bits at every world size at which the
    passes are the same (see `ShardedBatchSampler`). A sum that was not cleared before the next
    backward pass is refused: it would be summed again.
    algorithm: any registered all-reduce; that of the group by default.
    transport: of the group that `dmlf.init` makes where there is none yet.
    bucket_cap_mb: MiB of gradients that are summed at once.
    group: the process's own by default, which `dmlf.init` makes if need be.
    broadcast_buffers: whether rank 0's buffers replace the others' after every synchronised pass.
    Cost of a pass: the algorithm's messages and bytes, three agreements, two copies of the
    gradients; in `exact`, a row of memory of the model's size per local pass.

    Raises SchemaMismatch, on all ranks, for modules that differ; ConfigError. In backward, as
    they are: NonFiniteGradient on all ranks alike, with all `.grad` None, after which training may
    go on with the next batch; CollectiveMismatch; DeadlineExceeded and what else ends a group.
    """

    module: torch.nn.Module

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        algorithm: str | None = None,
        transport: str | None = None,
        reduction: str = "float32",
        gradient_op: str = "mean",
        bucket_cap_mb: float = 25.0,
        broadcast_buffers: bool = True,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(module, torch.nn.Module):
            raise ConfigError("module", type(module).__name__, "a torch.nn.Module")
        self.module = module
        self.require_backward_grad_sync = True
        self._buffers_to_send = dict(module.named_buffers()) if broadcast_buffers else {}
        self._algorithm = None if algorithm is None else all_reduce_named(algorithm)
        self._options = (algorithm, reduction, gradient_op, bucket_cap_mb)
        self._frozen: dict[str, torch.Tensor] = {}
        self._synchronizes = False  # whether the backward pass under way ends with a sum
        self._follows = True  # whether the pass of the last forward is one that synchronises
        self._bound: GradientReducer | None = None
        self._watch = PassWatch(self._end_backward)
        if group is not None or not waits_for_group(self):
            self.bind(group or group_of_process(transport))
        self.register_load_state_dict_pre_hook(_with_prefix)  # type: ignore[no-untyped-call]

    def bind(self, group: Group) -> None:
        """Synchronise with the ranks of `group` from now on; `dmlf.elastic` calls it."""
        self.release()
        self.group = group
        module, (algorithm, reduction, gradient_op, bucket_cap_mb) = self.module, self._options
        tensors = _tensors_of(module)
        confirm_same_layout(
            group,
            [
                ("options", f"{algorithm}, {reduction}, {gradient_op}, {bucket_cap_mb} MiB"),
                *(
                    (name, described(tensor) + (", trained" if tensor.requires_grad else ""))
                    for name, tensor in tensors.items()
                ),
            ],
            "the module to wrap",
        )
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trained:
            raise ConfigError("module", type(module).__name__, "a parameter that requires_grad")
        self._frozen = {name: p for name, p in module.named_parameters() if name not in trained}
        self._bound = GradientReducer(
            group,
            trained,
            name="DistributedDataParallel",
            reduction=reduction,
            gradient_op=gradient_op,
            bucket_cap_mb=bucket_cap_mb,
            algorithm=self._algorithm,
        )
        copy_from_rank(group, tensors, root=0)
        self._watch = PassWatch(self._end_backward)
        self._synchronizes, self._follows = False, True
        self._bound.watch(self._on_gradient)

    def release(self) -> None:
        """Synchronise with nobody; `dmlf.elastic` calls it where a group is no more."""
        if self._bound is not None:
            self._bound.release()
            self._bound = None

    def _check_bound(self) -> GradientReducer:
        if self._bound is None:
            allowed = "one in the function decorated by dmlf.elastic, which has its group"
            raise ConfigError("DistributedDataParallel", "a pass without a group", allowed)
        return self._bound

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the module; the backward pass of what it returns ends with a synchronisation."""
        outputs = self.module(*inputs, **kwargs)
        if torch.is_grad_enabled():
            self._check_bound()
            self._watch.reset()
            self._synchronizes = False
            synchronizes = self.require_backward_grad_sync
            self._follows = synchronizes
            for tensor in _tensors_in(outputs):
                if tensor.grad_fn is not None:
                    tensor.register_hook(  # type: ignore[no-untyped-call]
                        lambda _gradient: self._begin_backward(synchronizes)
                    )
        return outputs

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled, as a group cannot be; `.module` can."""
        allowed = "one of its .module, the plain module; wrap that to train it"
        raise ConfigError("DistributedDataParallel", "a copy or a pickle", allowed)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the plain module; `load_state_dict` takes it, and that of torch's DDP."""
        return self.module.state_dict(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Passes whose forward is in here add to the local gradient only."""
        before, self.require_backward_grad_sync = self.require_backward_grad_sync, False
        try:
            yield
        finally:
            self.require_backward_grad_sync = before

    @contextmanager
    def join(self) -> Iterator[None]:
        """Train in here with numbers of batches that differ between ranks.

        A rank that is through with its batches takes part, without gradients, in the passes of
        the others, whose mean still divides by the world size, as torch's does. At the end all
        ranks have the parameters and buffers of a rank that was there to the last.
        """
        yield
        last = self._check_bound().accompany_all(self._share_buffers)
        if last is not None:
            copy_from_rank(self.group, _tensors_of(self.module), last)

    def _begin_backward(self, synchronizes: bool) -> None:
        self._synchronizes = self._synchronizes or synchronizes
        self._watch.begin()

    def _on_gradient(self) -> None:
        """A parameter has its gradient: backward has begun, also where outputs hide tensors."""
        if not self._watch.is_under_way:
            self._begin_backward(self._follows)

    def _end_backward(self) -> None:
        synchronizes, self._synchronizes = self._synchronizes, False
        for name, parameter in self._frozen.items():
            if parameter.requires_grad:
                allowed = "False, as it was when the module was wrapped; wrap it after unfreezing"
                raise ConfigError(f"parameter {name}: requires_grad", True, allowed)
        self._check_bound().add_pass()
        if synchronizes:
            self._check_bound().reduce()
            self._share_buffers()

    def _share_buffers(self) -> None:
        """Take the buffers of the first rank that trains."""
        if not self._buffers_to_send:
            return
        buffers = [buffer for buffer in self.module.buffers() if buffer.numel()]
        if not buffers:
            return
        packed = np.concatenate([bytes_of(buffer) for buffer in buffers])
        own = packed.copy()
        self.group.broadcast(packed, self._check_bound().active[0])
        if np.array_equal(own, packed):
            return
        start = 0
        for buffer in buffers:
            size = buffer.numel() * buffer.element_size()
            part = torch.from_numpy(packed[start : start + size])
            buffer.copy_(part.view(buffer.dtype).view(buffer.shape))
            start += size


def _tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers. Raises ConfigError for one that has no shape yet."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in tensors.items():
        if torch.nn.parameter.is_lazy(tensor):
            allowed = "a module that was run once, so that its lazy parameters have shapes"
            raise ConfigError(f"parameter {name}", "uninitialized", allowed)
    return tensors


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists, dictionaries and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors_in(getattr(value, field.name))


def _with_prefix(wrapper: torch.nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    """Accept the names of the plain module, and those of torch's DDP."""
    assert isinstance(wrapper, DistributedDataParallel)
    own = set(wrapper.module.state_dict())
    for key in [key for key in state if key.startswith(prefix)]:
        name = key[len(prefix) :]
        if name in own or not name.startswith(_PREFIX):
            state[prefix + _PREFIX + name] = state.pop(key)
