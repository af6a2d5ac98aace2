"""Models, data and loops of plain torch that the programs of ranks share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
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


def digest(state: Arrays) -> str:
    """One hash of all values."""
    sha = hashlib.sha256()
    for name in sorted(state):
        sha.update(state[name].tobytes())
    return sha.hexdigest()


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


def exact_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """One step of plain torch, with the exact sum of the gradients of all shards."""
    terms = []
    for inputs, targets in logical_shards(step):
        loss_of(model(inputs), targets).backward()
        terms.append([parameter.grad for parameter in model.parameters()])
        optimizer.zero_grad()
    for parameter, gradients in zip(model.parameters(), zip(*terms, strict=True), strict=True):
        parameter.grad = dmlf.exact_sum(gradients)
    optimizer.step()
    optimizer.zero_grad()


def serial_training(steps: int) -> Arrays:
    """The reference: plain torch, with the exact sum of the gradients of all shards."""
    one_thread()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        exact_step(model, optimizer, step)
    return arrays(model)


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
