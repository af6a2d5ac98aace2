"""What ranks run with `dmlf.DistributedOptimizer`, and to share state."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

import dmlf
from tests.torch.training import (
    SHARDS,
    Arrays,
    arrays,
    digest,
    logical_shards,
    loss_of,
    mlp,
    one_thread,
    samples,
)


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
