"""What ranks run with parameter servers."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

import dmlf
from tests.torch.training import (
    SHARDS,
    Arrays,
    arrays,
    digest,
    exact_step,
    logical_shards,
    loss_of,
    mlp,
    one_thread,
    samples,
)


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
        exact_step(model, optimizer, step)
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


def served_with_a_tensor() -> None:
    """A setting that a schedule would change in place, where the servers do not see it."""
    one_thread()
    dmlf.init()
    plain = torch.optim.SGD(mlp().parameters(), lr=torch.tensor(0.5))
    dmlf.DistributedOptimizer(plain, algorithm="parameter_server")
