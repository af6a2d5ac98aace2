"""A loop of a user's own: train, save, go on in another process."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

import dmlf


def optimizer_of(kind: str, model: torch.nn.Module) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    if kind == "lbfgs":
        return torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, history_size=4)
    return torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True)


def run(_rank: int, argument: tuple[str, str, int, int, bool]) -> tuple[int, str]:
    """Train the steps from `first` to `last` on what `folder` holds if `first` is above 0; save.

    random_state: whether the state of the global random generators is put back.
    Returns the steps in all, and a hash of everything that decides what comes next.
    """
    kind, folder, first, last, random_state = argument
    # Another process must not happen to draw the same numbers.
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(first)
    data = torch.sin(torch.arange(640.0).reshape(80, 8))
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 16),
        torch.nn.BatchNorm1d(16),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(16, 8),
    )
    optimizer = optimizer_of(kind, model)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 4, 9], gamma=0.5)
    sampler = dmlf.ElasticSampler(data, 16, seed=3)
    generators = {"noise": torch.Generator(), "picks": np.random.default_rng(first)}
    items = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "sampler": sampler}
    items |= generators
    losses: list[float] = []
    if first:
        loaded = dmlf.load(folder, random_state=random_state, **items)
        assert loaded.step == first
        losses = loaded.state["losses"]
    for _ in range(first, last):
        if not len(sampler):
            sampler.set_epoch(sampler.epoch + 1)
        batch = data[next(iter(sampler))]
        noise = torch.randn(batch.shape, generator=generators["noise"])
        scale = random.random() + np.random.random() + generators["picks"].random()

        def closure(batch: torch.Tensor = batch + 0.01 * scale * noise) -> torch.Tensor:
            optimizer.zero_grad()
            loss = ((model(batch) - batch) ** 2).mean()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
        scheduler.step()
        sampler.advance()
    dmlf.save(folder, step=last, state={"losses": losses}, **items)
    digest = hashlib.sha256(repr(losses).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    digest.update(repr(optimizer.state_dict()).encode())
    digest.update(repr((scheduler.state_dict(), sampler.state_dict())).encode())
    digest.update(repr((random.random(), np.random.random(), torch.rand(4))).encode())
    return len(losses), digest.hexdigest()
