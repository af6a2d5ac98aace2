"""A whole matrix of runs, constructed: a time model of a 2-core machine with seeded noise.

Nothing here is measured. The runs go through the product's own builder of metrics files, so they
have its form; tests then break single files and see what is made of them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dmlf.benchmark.files import write_json
from dmlf.benchmark.metrics import build_metrics
from dmlf.config import RunConfig, split_strategy
from dmlf.training.result import RankReport, RunResult
from dmlf.training.state import RankState

CORES = 2
NUMEL = 670_218
STEPS_PER_EPOCH = 6
SAMPLES = 1437
BATCH = 256
PROTOCOLS = ("parameter_server-queue", "ring-queue")
STARTED = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def environment(cores: int = CORES) -> dict[str, Any]:
    return {
        "python": "3.11.9",
        "implementation": "CPython",
        "platform": "Linux-6.1-x86_64",
        "kernel": "6.1.0",
        "cpu_model": "Example CPU, 2.4 GHz",
        "logical_cores": cores,
        "affinity_cores": cores,
        "memory_bytes": 8 << 30,
        "virtualization": "kvm",
        "governor": None,
        "torch": "2.13.0+cpu",
        "torch_threads": None,
        "numpy": "2.4.0",
        "thread_variables": {"OMP_NUM_THREADS": "1"},
    }


@contextmanager
def fixed_environment(source: str = "sources", cores: int = CORES) -> Iterator[None]:
    """Put constants where the product looks at this machine and this checkout."""
    with (
        patch("dmlf.env.capture_environment", lambda: environment(cores)),
        patch("dmlf.env.source_sha256", lambda left_out=(): sha256(source)),
        patch("dmlf.env.constraints_sha256", lambda path: sha256("constraints")),
        patch("dmlf.env.git_state", lambda: ("0123456789abcdef0123456789abcdef01234567", False)),
    ):
        yield


def run_config(
    strategy: str = "serial",
    world_size: int = 1,
    rep: int = 0,
    reduction: str = "float32",
    **changes: Any,
) -> RunConfig:
    algorithm, transport = split_strategy(strategy)
    values: dict[str, Any] = {
        "algorithm": algorithm,
        "transport": transport,
        "world_size": world_size,
        "rep": rep,
        "reduction": reduction,
        "global_batch_size": BATCH,
        "num_shards": 8,
        "epochs": 10,
    }
    return RunConfig(**(values | changes))


def final_state(config: RunConfig) -> str:
    """The hash that a correct run ends with."""
    return final_state_of(_end(config))


def _end(config: RunConfig) -> str:
    """Where a correct run ends: as its serial replay does, or anywhere the same if exact."""
    if config.reduction == "exact":
        return sha256(f"{config.task} exact {config.seed}")
    order = "serial" if config.world_size == 1 else f"{config.algorithm} {config.world_size}"
    return sha256(f"{config.task} {order} {config.seed}")


def run_result(config: RunConfig) -> RunResult:
    """A finished run as the launcher would hand it over."""
    noise = random.Random(f"{config.strategy} {config.world_size} {config.rep} {config.reduction}")
    ranks = _reports(config, noise)
    # Apart from all others, as the measuring lock keeps them.
    order = random.Random(f"{config.task} {config.sha256()} {config.rep}")
    started_at = STARTED + timedelta(minutes=10 * order.randrange(1 << 20))
    return RunResult(
        config=config,
        ranks=ranks,
        started_at=started_at,
        finished_at=started_at + timedelta(minutes=5),
        launch_s=0.8,
        total_s=4.0,
        lock_wait_s=0.1,
        load_before=(0.4 + 0.5 * noise.random(), 0.5, 0.3),
        load_after=(1.4, 0.8, 0.4),
    )


def _reports(config: RunConfig, noise: random.Random) -> list[RankReport]:
    servers = config.num_servers if config.algorithm == "parameter_server" else 0
    processes = config.world_size + servers
    crowd = max(1.0, processes / CORES)
    exact = config.reduction == "exact"
    run_noise = noise.lognormvariate(0, 0.03)
    compute = 0.0165 / config.world_size * (1.6 if exact else 1.0) * crowd * run_noise
    per_byte = {"serial": 0.0, "ring": 0.9e-9, "parameter_server": 0.7e-9, "ddp": 1.4e-9}
    sent, messages = _traffic(config)
    transfer = per_byte[config.algorithm] * sent / config.world_size * crowd + 1e-4 * (sent > 0)
    waiting = (0.0007 * config.world_size * crowd) if sent else 0.0
    steps = config.epochs * STEPS_PER_EPOCH
    if config.max_steps is not None:
        steps = min(steps, config.max_steps)
    shape = [noise.lognormvariate(0, 0.04) * (3 if step == 0 else 1) for step in range(steps)]
    batch = config.global_batch_size
    sizes = [batch if (s + 1) % STEPS_PER_EPOCH else SAMPLES % batch for s in range(steps)]
    losses = [0.08 + 2.2 * 0.93**step for step in range(steps)]
    if config.algorithm == "ddp":
        losses = [loss * (1 + 1e-5) for loss in losses]
    state = _end(config)
    reports = []
    for rank in range(processes):
        worker = rank < config.world_size
        small = [size / BATCH for size in sizes]
        forward = [compute * n * part * worker for n, part in zip(shape, small, strict=True)]
        wait = [waiting * n for n in shape] if worker else [compute * n for n in shape]
        communication = [w + transfer * n for w, n in zip(wait, shape, strict=True)]
        optimizer = [2e-4 * (not servers or not worker)] * steps
        data = [1e-4 * worker] * steps
        step_s = [
            sum(parts) + 5e-5 for parts in zip(forward, communication, optimizer, data, strict=True)
        ]
        share = [size // config.world_size + (rank < size % config.world_size) for size in sizes]
        evaluates = rank == (config.world_size if servers else 0)
        reports.append(
            RankReport(
                rank=rank,
                role="worker" if worker else "server",
                initial_state_sha256=sha256(f"initial {config.seed}"),
                state=_state(state, servers, None if worker else rank - config.world_size),
                start_s=[100 + sum(step_s[:index]) for index in range(steps)],
                step_s=step_s,
                samples=share if worker else [],
                data_s=data,
                forward_backward_s=forward,
                communication_s=communication,
                wait_s=wait,
                hidden_s=[0.0] * len(wait),
                optimizer_s=optimizer,
                loss_sum=[n * x for n, x in zip(share, losses, strict=True)] if worker else [],
                messages_sent=None if config.algorithm == "ddp" else messages * steps * (rank == 0),
                payload_bytes_sent=(
                    None if config.algorithm == "ddp" else sent * steps * (rank == 0)
                ),
                theoretical_messages=(
                    None if config.algorithm == "ddp" else messages * steps * (rank == 0)
                ),
                theoretical_payload_bytes=sent * steps * (rank == 0),
                epochs=_epochs(config, losses, step_s) if evaluates else [],
                torch_threads=1,
            )
        )
    return reports


def _state(state: str, servers: int, server: int | None) -> RankState:
    """Entries that stand for `state`: three buckets, a part of them on each of several servers."""
    names = ["a", "b", "c"][slice(0, None) if server is None else slice(server, None, servers)]
    optimizer = {f"{name}.m": f"moment of {name} in {state}" for name in names}
    parameters = {name: f"{name} in {state}" for name in names}
    return RankState(parameters, None if servers and server is None else optimizer)


def final_state_of(state: str) -> str:
    return _state(state, 0, None).sha256()


def _traffic(config: RunConfig) -> tuple[int, int]:
    """Payload bytes and messages of one step, all ranks together."""
    size, partial = config.world_size, 8 if config.reduction == "exact" else 4
    if config.algorithm == "parameter_server":
        return size * NUMEL * (partial + 4), 2 * size
    if config.algorithm == "serial" or size == 1:
        return 0, 0
    return (size - 1) * NUMEL * (partial + 4), 2 * size * (size - 1)


def _epochs(config: RunConfig, losses: list[float], step_s: list[float]) -> list[dict[str, Any]]:
    epochs = []
    wiggle = random.Random(f"{config.algorithm} {config.world_size} {config.reduction}")
    for epoch in range(len(step_s) // STEPS_PER_EPOCH + 1):
        done = epoch * STEPS_PER_EPOCH
        gap = 0.88 * 0.45**epoch + (0.0008 * wiggle.random() if epoch else 0.0)
        part = losses[done - STEPS_PER_EPOCH : done]
        epochs.append(
            {
                "epoch": epoch,
                "train_loss": sum(part) / len(part) if epoch else None,
                "test_loss": 0.12 + 2.2 * 0.5**epoch,
                "test_accuracy": 0.972 - gap,
                "elapsed_s": sum(step_s[:done]),
            }
        )
    return epochs


def result_path(root: Path, config: RunConfig, name: str = "metrics.json") -> Path:
    return (
        root / "results" / config.task / config.strategy / config.reduction
        / f"world_size={config.world_size}" / f"seed={config.seed}" / f"rep={config.rep}" / name
    )  # fmt: skip


def reference_path(root: Path, config: RunConfig) -> Path:
    return (
        root / "results" / config.task / f"{config.algorithm}-replay" / config.reduction
        / f"world_size={config.world_size}" / f"seed={config.seed}" / "reference.json"
    )  # fmt: skip


def matrix_configs(
    reps: int = 5, world_sizes: Iterable[int] = (1, 2, 4), exact: bool = True, **changes: Any
) -> list[RunConfig]:
    configs = []
    for rep in range(reps):
        for reduction in ("float32", "exact") if exact else ("float32",):
            configs.append(run_config("serial", 1, rep, reduction, **changes))
            for strategy in (*PROTOCOLS, *(["ddp-gloo"] if reduction == "float32" else [])):
                for size in world_sizes:
                    configs.append(run_config(strategy, size, rep, reduction, **changes))
    return configs


def metrics_of(config: RunConfig) -> dict[str, Any]:
    return build_metrics(run_result(config), ["dmlf", "train"], "constraints.txt")


def write_run(root: Path, config: RunConfig) -> Path:
    path = result_path(root, config)
    write_json(path, metrics_of(config))
    return path


def write_matrix(root: Path, configs: Iterable[RunConfig]) -> Path:
    """Write every run, the references that they need, and the plan; return the plan's path."""
    expected = []
    for config in configs:
        path = write_run(root, config)
        reference = None
        if config.algorithm in ("ring", "parameter_server") and config.reduction == "float32":
            reference = reference_path(root, config)
            write_json(
                reference,
                {
                    "schema_version": 1,
                    "config": config.as_mapping() | {"rep": 0},
                    "final_state_sha256": final_state(config),
                    "provenance": metrics_of(config)["provenance"],
                },
            )
        expected.append(
            {
                "path": str(path),
                "reference": None if reference is None else str(reference),
                "skipped": None,
                "samples_per_rank": None,
            }
        )
    plan = root / "expected.json"
    write_json(plan, expected)
    return plan
