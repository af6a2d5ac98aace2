"""An optimizer that brings the gradients of all ranks together before it steps, as Horovod's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, SupportsIndex

import torch

from dmlf.errors import ConfigError
from dmlf.group import Group
from dmlf.group.binding import waits_for_group
from dmlf.group.group import all_reduce_named
from dmlf.protocol import registry
from dmlf.torch.broadcast import broadcast_optimizer_state, broadcast_parameters
from dmlf.torch.passes import PassWatch
from dmlf.torch.reducer import GradientReducer, group_of_process
from dmlf.torch.replicas import confirm_same_layout, confirm_same_values, described
from dmlf.torch.served import ServedReducer

NamedParameters = Iterable[tuple[str, torch.Tensor]]


class DistributedOptimizer(torch.optim.Optimizer):
    """`optimizer`, whose `step` first replaces all gradients by their mean over the ranks.

    Use it as `horovod.torch.DistributedOptimizer`; see docs/library-torch.md. Everything else
    (`param_groups`, `state_dict`, schedulers, hooks) is that of `optimizer`.

    named_parameters: `model.named_parameters()`; the names stand in errors.
    op: `mean` divides the sum over ranks by the world size, `sum` does not.
    reduction: `float32`, or `exact`, where every backward pass is a term of the sum (see
    `DistributedDataParallel`). backward_passes_per_step: how many passes may add up before a step.
    algorithm: any registered all-reduce; that of the group by default. Or `parameter_server`, where
    the ranks were started with servers: these hold the optimizer's state and step, ranks push
    gradients and pull parameters, and a server's process ends in this constructor, when the ranks
    close their group.
    Cost of a step: as of a pass of `DistributedDataParallel`. Before the first one all ranks
    compare the hash of their parameters.

    Raises SchemaMismatch, on all ranks, where parameters or options differ; ConfigError. In
    `step` and `synchronize`: NonFiniteGradient on all ranks alike, with all gradients cleared and
    nothing applied; CollectiveMismatch; DeadlineExceeded and what else ends a group.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        named_parameters: NamedParameters | None = None,
        *,
        op: str = "mean",
        reduction: str = "float32",
        backward_passes_per_step: int = 1,
        algorithm: str | None = None,
        bucket_cap_mb: float = 25.0,
        group: Group | None = None,
    ) -> None:
        self._optimizer = optimizer
        if isinstance(backward_passes_per_step, bool) or backward_passes_per_step < 1:
            allowed = "a whole number, at least 1"
            raise ConfigError("backward_passes_per_step", backward_passes_per_step, allowed)
        self._passes_per_step = backward_passes_per_step
        self._named = _named_parameters(optimizer, named_parameters)
        self._options = (algorithm, reduction, op, bucket_cap_mb)
        self._passes = 0  # since the last synchronisation
        self._is_synchronized = False
        self._skips = False
        self._has_started = False
        self._served: ServedReducer | None = None
        self._bound: GradientReducer | None = None
        if group is not None or not waits_for_group(self):
            self.bind(group or group_of_process())

    def bind(self, group: Group) -> None:
        """Synchronise with the ranks of `group` from now on; `dmlf.elastic` calls it."""
        self.release()
        self._group = group
        algorithm, reduction, op, bucket_cap_mb = self._options
        named_algorithm = registry().get(algorithm or group.algorithm.name)
        served = named_algorithm is not None and named_algorithm.has_servers
        if served and group.joint is None:
            allowed = "servers: start the ranks with num_servers, or dmlf run --servers 1"
            raise ConfigError("algorithm", algorithm, allowed)
        everyone = group.joint if served else None
        confirm_same_layout(
            everyone or group,
            [
                ("options", f"{algorithm}, {reduction}, {op}, {bucket_cap_mb} MiB"),
                *((name, described(parameter)) for name, parameter in self._named.items()),
                *_settings(self._optimizer),
            ],
            "the optimizer to wrap",
        )
        if everyone is not None and named_algorithm is not None:
            self._bound = self._served = ServedReducer(
                group,
                everyone,
                self._named,
                self._optimizer,
                algorithm=named_algorithm,
                reduction=reduction,
                gradient_op=op,
                bucket_cap_mb=bucket_cap_mb,
            )
            if group.is_server:
                self._served.serve()
        else:
            self._bound = GradientReducer(
                group,
                self._named,
                name="DistributedOptimizer",
                reduction=reduction,
                gradient_op=op,
                bucket_cap_mb=bucket_cap_mb,
                algorithm=None if algorithm is None else all_reduce_named(algorithm),
            )
        self._watch = PassWatch(self._end_pass)
        self._bound.watch(self._watch.begin)

    def release(self) -> None:
        """Synchronise with nobody; `dmlf.elastic` calls it where a group is no more."""
        self._passes, self._is_synchronized, self._has_started = 0, False, False
        if self._bound is not None:
            self._bound.release()
            self._bound = None

    def _check_bound(self) -> GradientReducer:
        if self._bound is None:
            allowed = "one in the function decorated by dmlf.elastic, which has its group"
            raise ConfigError("DistributedOptimizer", "a step without a group", allowed)
        return self._bound

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_optimizer"], name)

    def __repr__(self) -> str:
        return f"DistributedOptimizer({self._optimizer!r})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled, as a group cannot be; its `state_dict` can."""
        allowed = "one of its state_dict(), or of the optimizer before it is wrapped"
        raise ConfigError("DistributedOptimizer", "a copy or a pickle", allowed)

    def state_dict(self) -> dict[str, Any]:
        """That of the wrapped optimizer."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load it into the wrapped optimizer."""
        self._optimizer.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: wrap the optimizer once it has all its parameters."""
        allowed = "called before the optimizer is wrapped"
        raise ConfigError("add_param_group", "a new group", allowed)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients, with what is kept of passes since the last step."""
        if self._bound is not None:
            self._bound.forget_terms()
            self._watch.reset()
        self._passes = 0
        self._is_synchronized = False
        self._optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Synchronise, then let the wrapped optimizer step.

        closure: computes gradients anew and returns the loss; what follows from the loss must
        follow on all ranks.
        """
        if closure is None:
            if self._served is not None:
                return self._bring_together()
            if not self._skips and not self._is_synchronized:
                self._bring_together()
            self._is_synchronized = False
            return self._optimizer.step()

        def synchronized() -> Any:
            with torch.enable_grad():
                loss = closure()
            self._bring_together()
            return loss

        return self._optimizer.step(synchronized) if self._served is None else synchronized()

    def synchronize(self) -> None:
        """Replace all gradients by their mean (sum) now, to look at or clip them before `step`."""
        if self._served is not None:
            allowed = "an all-reduce, as no rank has the sum of the gradients"
            raise ConfigError("algorithm", "parameter_server", allowed)
        self._bring_together()

    def _bring_together(self) -> None:
        self._start()
        self._watch.reset()
        self._passes = 0
        self._check_bound().reduce()
        self._is_synchronized = True

    @contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        """`step` in here applies the gradients as they are."""
        self._skips = True
        try:
            yield
        finally:
            self._skips = False

    @contextmanager
    def join(self) -> Iterator[None]:
        """Train in here with numbers of batches that differ between ranks.

        As `DistributedDataParallel.join`; at the end all ranks have the parameters and the
        optimizer's state of a rank that was there to the last.
        """
        yield
        self._start()
        last = self._check_bound().accompany_all()
        if last is not None:
            broadcast_parameters(self._named, last, group=self._group)
            if self._served is None:
                broadcast_optimizer_state(self._optimizer, last, group=self._group)

    def _start(self) -> None:
        """Before the first synchronisation: see that all ranks have the same parameters."""
        if not self._has_started:
            subject = "parameters differ; call dmlf.broadcast_parameters before the first step"
            confirm_same_values(self._group, self._named, subject)
            if self._served is not None:
                self._served.start()
            self._has_started = True

    def _end_pass(self) -> None:
        self._passes += 1
        self._is_synchronized = False
        if self._passes > self._passes_per_step:
            allowed = f"{self._passes} or more, or a step() between the backward passes"
            raise ConfigError("backward_passes_per_step", self._passes_per_step, allowed)
        self._check_bound().add_pass()


def _named_parameters(
    optimizer: torch.optim.Optimizer, named: NamedParameters | None
) -> dict[str, torch.Tensor]:
    """The optimizer's parameters that require a gradient, by name, in the optimizer's order."""
    names: dict[torch.Tensor, str] = {}
    for name, parameter in named or ():
        if name in names.values():
            raise ConfigError("named_parameters", name, "every name once")
        names[parameter] = name
    found: dict[str, torch.Tensor] = {}
    for number, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            if not parameter.requires_grad:
                continue
            name = f"{number}.{index}" if named is None else names.get(parameter, "")
            if not name:
                where = f"parameter {index} of group {number}"
                raise ConfigError("named_parameters", f"no name for {where}", "one for each")
            found[name] = parameter
    if not found:
        raise ConfigError("optimizer", type(optimizer).__name__, "a parameter that requires_grad")
    return found


def _settings(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str]]:
    """The hyperparameters of every group, which all ranks must have alike."""
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if value is None or isinstance(value, bool | int | float | str | tuple):
                yield f"{key} of group {number}", repr(value)
