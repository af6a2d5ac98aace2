"""What ranks run with `dmlf.DistributedDataParallel`."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

import dmlf
from tests.torch.training import (
    Arrays,
    Mixed,
    arrays,
    logical_shards,
    loss_of,
    mlp,
    normalised,
    one_thread,
    samples,
    train_plainly,
)


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
