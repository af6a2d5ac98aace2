"""Functions that ranks run, imported by name in their processes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

import dmlf

GLOBAL_BATCH, SHARDS = 24, 6
Arrays = dict[str, np.ndarray]


def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(7, 16), torch.nn.Tanh(), torch.nn.Linear(16, 9), torch.nn.Linear(9, 3)
    )


def samples(count: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 7, generator=generator)
    return inputs, torch.randint(3, (count,), generator=generator)


def arrays(module: torch.nn.Module) -> Arrays:
    return {name: value.float().numpy().copy() for name, value in module.state_dict().items()}


def one_thread() -> None:
    torch.set_num_threads(1)


def logical_shards(step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same shards of a step for everybody, whatever the world size is."""
    inputs, targets = samples()
    size = GLOBAL_BATCH // SHARDS
    for shard in range(SHARDS):
        start = (step * GLOBAL_BATCH + shard * size) % len(inputs)
        yield inputs[start : start + size], targets[start : start + size]


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(outputs, targets, reduction="sum") / GLOBAL_BATCH


def exact_training(steps: int, bucket_cap_mb: float = 25.0) -> Arrays:
    """Train on this rank's share of the logical shards, each of them a pass of its own."""
    one_thread()
    group = dmlf.init()
    model = dmlf.DistributedDataParallel(
        mlp(), reduction="exact", gradient_op="sum", bucket_cap_mb=bucket_cap_mb
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        mine = list(logical_shards(step))[group.rank :: group.world_size]
        for index, (inputs, targets) in enumerate(mine):
            last = index == len(mine) - 1
            with contextlib.nullcontext() if last else model.no_sync():
                loss_of(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return arrays(model)


def serial_training(steps: int) -> Arrays:
    """The reference: plain torch, with the exact sum of the gradients of all shards."""
    one_thread()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        terms = []
        for inputs, targets in logical_shards(step):
            loss_of(model(inputs), targets).backward()
            terms.append([parameter.grad for parameter in model.parameters()])
            optimizer.zero_grad()
        for parameter, gradients in zip(model.parameters(), zip(*terms, strict=True), strict=True):
            parameter.grad = dmlf.exact_sum(gradients)
        optimizer.step()
        optimizer.zero_grad()
    return arrays(model)


class Branches(torch.nn.Module):
    """Some parameters take part in some steps only, one never does, and one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem = torch.nn.Linear(7, 8)
        self.frozen = torch.nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.left = torch.nn.Linear(8, 3)
        self.right = torch.nn.Linear(8, 3)
        self.never = torch.nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor, branch: str) -> dict[str, tuple[torch.Tensor]]:
        hidden = self.frozen(torch.tanh(self.stem(inputs)))
        return {"outputs": (getattr(self, branch)(hidden),)}


class Mixed(torch.nn.Module):
    """Parameters of three dtypes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.wide = torch.nn.Linear(7, 6).double()
        self.plain = torch.nn.Linear(6, 5)
        self.narrow = torch.nn.Linear(5, 3).bfloat16()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.plain(self.wide(inputs.double()).float())
        return self.narrow(hidden.bfloat16()).float()


def normalised() -> torch.nn.Module:
    torch.manual_seed(4)
    return torch.nn.Sequential(
        torch.nn.Linear(7, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)
    )


def train_plainly(model: Any, rank: int, size: int) -> None:
    """Uneven batches, the last one smaller."""
    inputs, targets = samples(89)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for start in range(0, 89, 8 * size):
        mine = slice(start + 8 * rank, start + 8 * rank + 8)
        if start + 8 * size > 89:
            mine = slice(start + 2 * rank, start + 2 * rank + 2)
        optimizer.zero_grad()
        cross_entropy(model(inputs[mine]), targets[mine]).backward()
        optimizer.step()


def train_accumulating(model: Any, rank: int, size: int) -> None:
    """Two passes a step; gradients are set to zero in place, or left, in some steps."""
    inputs, targets = samples()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(6):
        if step != 3:
            optimizer.zero_grad(set_to_none=step % 2 == 0)
        for part in range(2):
            start = ((step * 2 + part) * size + rank) * 5 % 90
            mine = slice(start, start + 5)
            with contextlib.nullcontext() if part else model.no_sync():
                cross_entropy(model(inputs[mine]), targets[mine]).backward()
        optimizer.step()


def train_branches(model: Any, rank: int, size: int) -> None:
    """Ranks take different branches, sometimes all the same."""
    inputs, targets = samples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(6):
        start = (step * size + rank) * 5 % 90
        branch = "left" if step % 3 == 0 or rank % 2 else "right"
        optimizer.zero_grad()
        (outputs,) = model(inputs[start : start + 5], branch=branch)["outputs"]
        cross_entropy(outputs, targets[start : start + 5]).backward()
        optimizer.step()


CASES: dict[str, tuple[Any, Any]] = {
    "plain": (mlp, train_plainly),
    "accumulating": (mlp, train_accumulating),
    "branches": (Branches, train_branches),
    "mixed": (Mixed, train_plainly),
    "normalised": (normalised, train_plainly),
}


def beside_stock_ddp(case: str) -> tuple[Arrays, Arrays]:
    """The final state of one script under stock DDP over Gloo, and under ours."""
    one_thread()
    group = dmlf.init()
    build, train = CASES[case]
    dist.init_process_group("gloo")
    theirs = torch.nn.parallel.DistributedDataParallel(build(), find_unused_parameters=True)
    train(theirs, group.rank, group.world_size)
    dist.destroy_process_group()
    ours = dmlf.DistributedDataParallel(build())
    train(ours, group.rank, group.world_size)
    return arrays(theirs.module), arrays(ours)


def joining() -> tuple[Arrays, int]:
    """Rank r has 2 + r batches; returns the state and how many steps were made here."""
    one_thread()
    group = dmlf.init()
    model = dmlf.DistributedDataParallel(mlp())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = samples()
    made = 0
    with model.join():
        for step in range(2 + group.rank):
            start = (step * 3 + group.rank) * 5
            optimizer.zero_grad()
            cross_entropy(model(inputs[start : start + 5]), targets[start : start + 5]).backward()
            optimizer.step()
            made += 1
    return arrays(model), made


def joining_serially(world_size: int) -> Arrays:
    """What `joining` computes: the mean divides by the world size, whoever is through."""
    one_thread()
    model = mlp()
    inputs, targets = samples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1 + world_size):
        optimizer.zero_grad()
        for rank in range(world_size):
            if step < 2 + rank:
                start = (step * 3 + rank) * 5
                outputs = model(inputs[start : start + 5])
                (cross_entropy(outputs, targets[start : start + 5]) / world_size).backward()
        optimizer.step()
    return arrays(model)


def different_modules(kind: str) -> str:
    """Wrap modules that differ on the last rank; return the error."""
    group = dmlf.init(timeout_s=10)
    module: Any = mlp()
    if group.rank == group.world_size - 1:
        if kind == "shape":
            module[2] = torch.nn.Linear(16, 10)
        elif kind == "dtype":
            module[2] = module[2].double()
        elif kind == "frozen":
            module[2].weight.requires_grad_(False)
        elif kind == "fewer":
            del module[3]
        elif kind == "name":
            del module[3]
            module.add_module("extra", torch.nn.Linear(9, 3))
    bucket_cap_mb = 1.0 if kind == "options" and group.rank else 25.0
    try:
        dmlf.DistributedDataParallel(module, bucket_cap_mb=bucket_cap_mb)
    except dmlf.DmlfError as error:
        group.barrier()
        return f"{type(error).__name__}: {error}"
    return "no error"


def different_values() -> tuple[Arrays, Arrays]:
    """Wrap modules with other values on every rank; return them before and after."""
    group = dmlf.init()
    module = normalised()
    torch.manual_seed(10 + group.rank)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 9)
    before = arrays(module)
    return before, arrays(dmlf.DistributedDataParallel(module))


def not_finite(reduction: str) -> tuple[list[str], Arrays]:
    """The gradient of the last rank is NaN in the second of four steps, which all skip."""
    one_thread()
    group = dmlf.init()
    model = dmlf.DistributedDataParallel(mlp(), reduction=reduction)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = samples()
    seen = []
    for step in range(4):
        optimizer.zero_grad()
        factor = float("nan") if step == 1 and group.rank == group.world_size - 1 else 1.0
        try:
            (cross_entropy(model(inputs[:8]), targets[:8]) * factor).backward()
        except dmlf.NonFiniteGradient as error:
            seen.append(type(error).__name__)
            assert all(parameter.grad is None for parameter in model.parameters())
            continue
        optimizer.step()
        seen.append("applied")
    return seen, arrays(model)


def other_models_in_turn() -> list[str]:
    """Ranks run the backward passes of two models in different orders."""
    group = dmlf.init(timeout_s=10)
    one = dmlf.DistributedDataParallel(mlp())
    two = dmlf.DistributedDataParallel(torch.nn.Linear(7, 3))
    inputs, targets = samples()
    errors = []
    for model in (one, two) if group.rank else (two, one):
        try:
            cross_entropy(model(inputs[:8]), targets[:8]).backward()
        except dmlf.DmlfError as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


def closed_group() -> str:
    one_thread()
    group = dmlf.init()
    model = dmlf.DistributedDataParallel(mlp())
    group.close()
    inputs, targets = samples()
    try:
        cross_entropy(model(inputs[:8]), targets[:8]).backward()
    except dmlf.DmlfError as error:
        return type(error).__name__
    return "no error"


def digest(state: Arrays) -> str:
    """One hash of all values."""
    sha = hashlib.sha256()
    for name in sorted(state):
        sha.update(state[name].tobytes())
    return sha.hexdigest()


def with_optimizer(reduction: str, steps: int, passes: int = 1) -> Arrays:
    """The Horovod form of `exact_training`; every rank starts with other parameters."""
    one_thread()
    group = dmlf.init()
    model = mlp()
    if group.rank:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
    plain = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    optimizer = dmlf.DistributedOptimizer(
        plain,
        model.named_parameters(),
        op="sum",
        reduction=reduction,
        backward_passes_per_step=SHARDS,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    dmlf.broadcast_parameters(model.state_dict(), root_rank=0)
    for step in range(steps):
        optimizer.zero_grad()
        for inputs, targets in list(logical_shards(step))[group.rank :: group.world_size]:
            loss_of(model(inputs), targets).backward()
        if step % 2:
            optimizer.synchronize()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            with optimizer.skip_synchronize():
                optimizer.step()
        else:
            optimizer.step()
        schedule.step()
    return arrays(model)


def optimizer_errors() -> list[str]:
    """What is wrong with the use of an optimizer, on all ranks alike."""
    one_thread()
    group = dmlf.init(timeout_s=10)
    errors = []

    def refused(action: Any) -> None:
        try:
            action()
        except dmlf.DmlfError as error:
            errors.append(f"{type(error).__name__}: {error}")
        group.barrier()

    def sgd(model: torch.nn.Module, **settings: Any) -> Any:
        optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.1, **settings})
        return dmlf.DistributedOptimizer(optimizer, model.named_parameters())

    inputs, targets = samples(8)
    refused(lambda: sgd(mlp(), lr=0.1 + group.rank))

    model = mlp()
    optimizer = sgd(model)
    if group.rank:
        model[0].bias.data.add_(1.0)
    cross_entropy(model(inputs), targets).backward()
    refused(optimizer.step)

    optimizer = sgd(mlp())
    model = mlp()
    optimizer = sgd(model)
    cross_entropy(model(inputs), targets).backward()
    refused(lambda: cross_entropy(model(inputs), targets).backward())

    model = mlp()
    optimizer = sgd(model)
    before = arrays(model)
    (cross_entropy(model(inputs), targets) * (float("inf") if group.rank else 1.0)).backward()
    refused(optimizer.step)
    assert digest(before) == digest(arrays(model))
    return errors


def optimizer_state(case: str) -> tuple[Any, Any]:
    """Rank 1 has trained alone; its optimizer goes to all ranks. Returns it, and what came."""
    one_thread()
    group = dmlf.init(timeout_s=10)
    torch.manual_seed(0)
    model = mlp()
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}
    optimizer = kinds[case](model.parameters(), lr=0.1)
    if group.rank == 1:
        inputs, targets = samples(8)
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.05
    before = optimizer.state_dict()
    dmlf.broadcast_optimizer_state(optimizer, root_rank=1)
    return before, optimizer.state_dict()


def plain_values() -> list[Any]:
    """Values of rank 1, and the error for what no JSON holds."""
    dmlf.init(timeout_s=10)
    rank = dmlf.rank()
    values: list[Any] = [dmlf.broadcast_object({"epoch": 7 * rank, "best": [0.5, None]}, 1)]
    try:
        dmlf.broadcast_object({1, 2} if rank else None, root_rank=1)
    except dmlf.ConfigError as error:
        values.append(str(error))
    return values


def joining_optimizer() -> tuple[Arrays, Arrays]:
    """The Horovod form of `joining`, with momentum: parameters, and the optimizer's state."""
    one_thread()
    group = dmlf.init()
    model = mlp()
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = dmlf.DistributedOptimizer(plain)
    inputs, targets = samples()
    with optimizer.join():
        for step in range(2 * group.rank):
            start = (step * 3 + group.rank) * 5
            optimizer.zero_grad()
            cross_entropy(model(inputs[start : start + 5]), targets[start : start + 5]).backward()
            optimizer.step()
    momenta = {
        str(index): state["momentum_buffer"].numpy().copy()
        for index, state in plain.state_dict()["state"].items()
    }
    return arrays(model), momenta


def _under_stock_ddp(hook: Any, state: Any, rebuilds: bool) -> tuple[Arrays, Any]:
    """Train stock DDP with a communication hook; the final state, and the buckets it saw."""
    model = torch.nn.parallel.DistributedDataParallel(
        mlp(), bucket_cap_mb=0.0004, find_unused_parameters=not rebuilds
    )
    buckets: list[tuple[int, ...]] = []

    def recording(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        buckets.append(tuple(gradient.numel() for gradient in bucket.gradients()))
        return hook(state, bucket)

    recording.__annotations__.clear()
    if hook is not None:
        model.register_comm_hook(state, recording)
    train_plainly(model, dmlf.rank(), dmlf.world_size())
    return arrays(model.module), buckets


def hooked(reduction: str, algorithm: str) -> tuple[list[Arrays], list[Any]]:
    """Final states without the hook, with it, and with it where DDP rebuilds its buckets."""
    one_thread()
    dmlf.init()
    dist.init_process_group("gloo")
    state = dmlf.CommHookState(reduction=reduction, algorithm=algorithm)
    runs = [
        _under_stock_ddp(None, None, True),
        _under_stock_ddp(dmlf.comm_hook, state, False),
        _under_stock_ddp(dmlf.comm_hook, state, True),
    ]
    dist.destroy_process_group()
    return [state for state, _ in runs], [buckets for _, buckets in runs]


def hooked_directly() -> Arrays:
    """The documented line, on a model in two dtypes."""
    one_thread()
    group = dmlf.init()
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(Mixed())
    model.register_comm_hook(dmlf.CommHookState(), dmlf.comm_hook)
    train_plainly(model, group.rank, group.world_size)
    dist.destroy_process_group()
    return arrays(model.module)


def hooked_with_errors(kind: str) -> str:
    """What backward raises under stock DDP when something is wrong."""
    one_thread()
    group = dmlf.init(timeout_s=10)
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(mlp())
    reduction = "exact" if kind == "mismatch" and group.rank else "float32"
    model.register_comm_hook(dmlf.CommHookState(reduction=reduction), dmlf.comm_hook)
    inputs, targets = samples(8)
    factor = float("nan") if kind == "nan" and group.rank else 1.0
    if kind == "closed":
        group.close()
    try:
        (cross_entropy(model(inputs), targets) * factor).backward()
    except dmlf.DmlfError as error:
        return type(error).__name__
    finally:
        dist.destroy_process_group()
    return "no error"


def served(reduction: str, steps: int, kind: str = "sgd") -> tuple[Arrays, int]:
    """`with_optimizer` on parameter servers, with a schedule; and how much state is held here."""
    one_thread()
    group = dmlf.init()
    model = mlp()
    plain: torch.optim.Optimizer
    if kind == "sgd":
        plain = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    else:
        plain = torch.optim.AdamW(model.parameters(), lr=0.02)
    dmlf.broadcast_parameters(model.named_parameters())
    dmlf.broadcast_optimizer_state(plain)
    optimizer = dmlf.DistributedOptimizer(
        plain,
        model.named_parameters(),
        algorithm="parameter_server",
        op="sum",
        reduction=reduction,
        backward_passes_per_step=SHARDS,
        bucket_cap_mb=0.0004,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 ** (step % 2))
    for step in range(steps):
        optimizer.zero_grad()
        for inputs, targets in list(logical_shards(step))[group.rank :: group.world_size]:
            loss_of(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    return arrays(model), len(plain.state_dict()["state"])


def served_serially(steps: int, kind: str) -> Arrays:
    """What `served` computes, by plain torch."""
    one_thread()
    model = mlp()
    optimizer: torch.optim.Optimizer
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 ** (step % 2))
    for step in range(steps):
        terms = []
        for inputs, targets in logical_shards(step):
            loss_of(model(inputs), targets).backward()
            terms.append([parameter.grad for parameter in model.parameters()])
            optimizer.zero_grad()
        for parameter, gradients in zip(model.parameters(), zip(*terms, strict=True), strict=True):
            parameter.grad = dmlf.exact_sum(gradients)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return arrays(model)


def served_with_errors() -> list[str]:
    """A step that no server applies, one that all apply, and a call that there is not."""
    one_thread()
    group = dmlf.init(timeout_s=20)
    model = mlp()
    plain = torch.optim.SGD(model.parameters(), lr=0.2)
    optimizer = dmlf.DistributedOptimizer(plain, algorithm="parameter_server")
    inputs, targets = samples(8)
    seen = []
    for step in range(3):
        before = digest(arrays(model))
        factor = float("nan") if step == 1 and group.rank else 1.0
        (cross_entropy(model(inputs), targets) * factor).backward()
        try:
            optimizer.step()
        except dmlf.NonFiniteGradient:
            seen.append("refused" if digest(arrays(model)) == before else "applied in part")
            continue
        seen.append("applied" if digest(arrays(model)) != before else "not applied")
    try:
        optimizer.synchronize()
    except dmlf.ConfigError:
        seen.append("ConfigError")
    return seen


def served_and_failing() -> None:
    """A worker that fails while a server serves."""
    group = dmlf.init(timeout_s=20)
    model = mlp()
    dmlf.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.2), algorithm="parameter_server"
    )
    if group.rank == 1:
        raise ValueError("on purpose")
    group.barrier()


def without_servers() -> str:
    dmlf.init()
    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.2)
    try:
        dmlf.DistributedOptimizer(optimizer, algorithm="parameter_server")
    except dmlf.ConfigError as error:
        return str(error)
    return "no error"


def server_in_a_collective() -> None:
    dmlf.init()
    dmlf.barrier()
