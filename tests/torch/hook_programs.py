"""What ranks run with the communication hook."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

import dmlf
from tests.torch.training import (
    Arrays,
    Mixed,
    arrays,
    mlp,
    one_thread,
    samples,
    train_plainly,
)

_kept: list[object] = []
"""Models that live as long as their process: with one's reducer ends its Gloo group, which holds
the interpreter while it waits for its threads, and one of these may wait for the interpreter, to
free what was broadcast when the model was wrapped just before (torch 2.13)."""


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
    sparse = kind == "sparse"
    plain = torch.nn.EmbeddingBag(8, 4, sparse=True) if sparse else mlp()
    model = torch.nn.parallel.DistributedDataParallel(plain)
    _kept.append(model)
    reduction = "exact" if kind == "mismatch" and group.rank else "float32"
    model.register_comm_hook(dmlf.CommHookState(reduction=reduction), dmlf.comm_hook)
    inputs, targets = samples(8)
    if sparse:
        inputs, targets = torch.arange(8).reshape(4, 2), torch.arange(4)
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
