"""A whole run: check the configuration, start the ranks, bring their reports together."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

from dmlf.config import UNSYNCHRONIZED, RunConfig
from dmlf.env import require_torch
from dmlf.errors import ConfigError
from dmlf.protocol import registry
from dmlf.runtime import process_context, run_ranks
from dmlf.runtime.measuring_lock import measuring_lock
from dmlf.tasks.registry import resolve_task
from dmlf.tasks.task import NumpyTask
from dmlf.training.ddp_job import DdpJob
from dmlf.training.result import RankReport, RunResult
from dmlf.training.worker import RankJob
from dmlf.transport import TRANSPORTS


def train(config: RunConfig, *, exclusive: bool = False, transcript: bool = False) -> RunResult:
    """Run `config` to its end in processes of its own and return what was measured.

    exclusive: hold the host-wide measuring lock, so that no other measured run overlaps.
    transcript: let every rank record the hashes of what it does; it costs time in every step.
    Raises ConfigError before any process starts, and what ended the run otherwise.
    """
    preload = _check(config)
    if transcript and config.algorithm in ("ddp", UNSYNCHRONIZED):
        raise ConfigError("transcript", transcript, f"none with algorithm {config.algorithm!r}")
    started_at, start = datetime.now(UTC), time.monotonic()
    with measuring_lock() if exclusive else nullcontext(0.0) as lock_wait_s:
        load_before = os.getloadavg()
        ranks = _run(config, preload, transcript)
        load_after = os.getloadavg()
    return RunResult(
        config=config,
        ranks=ranks,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        launch_s=min(report.start_s[0] for report in ranks) - start - lock_wait_s,
        total_s=time.monotonic() - start,
        lock_wait_s=lock_wait_s,
        load_before=load_before,
        load_after=load_after,
    )


def replay_hash(config: RunConfig) -> str:
    """The final state's SHA-256 of the serial replay of `config`, in a process of its own."""
    context = process_context(_check(config), config.threads_per_rank)
    (result,) = run_ranks(context, "dmlf.training.replay:replay", [config])
    return str(result)


def _check(config: RunConfig) -> list[str]:
    """Refuse what cannot run; return the modules that every rank will need."""
    algorithms = ("serial", *registry(), "ddp", UNSYNCHRONIZED)
    if config.algorithm not in algorithms:
        raise ConfigError("algorithm", config.algorithm, f"one of {', '.join(algorithms)}")
    if config.algorithm in registry() and config.transport not in TRANSPORTS:
        raise ConfigError("transport", config.transport, f"one of {', '.join(TRANSPORTS)}")
    task = resolve_task(config)
    if isinstance(task, NumpyTask):
        if config.algorithm == "ddp":
            raise ConfigError("algorithm", "ddp", f"a dmlf algorithm: {config.task} needs no torch")
        return ["dmlf.training.unsynchronized"]
    if importlib.util.find_spec("torch") is None:
        require_torch()
    # Torch's optimizers import torch._dynamo when they are first made, which takes seconds.
    return [
        "dmlf.training.unsynchronized",
        "dmlf.training.torch_backend",
        "torch",
        "torch._dynamo",
        *task.preload,
    ]


def _run(config: RunConfig, preload: list[str], transcript: bool) -> list[RankReport]:
    context = process_context(preload, config.threads_per_rank)
    if config.algorithm == "serial":
        job = RankJob(config, None, transcript)
        return run_ranks(context, "dmlf.training.worker:run_rank", [job])
    if config.algorithm == "ddp":
        # Gloo would listen on the address of the host's name; keep it on loopback.
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        with tempfile.TemporaryDirectory(prefix="dmlf-ddp-") as folder:
            ddp_job = DdpJob(config, str(Path(folder) / "rendezvous"))
            return run_ranks(
                context, "dmlf.training.ddp:run_ddp_rank", [ddp_job] * config.world_size
            )
    if config.algorithm == UNSYNCHRONIZED:
        meeting = TRANSPORTS["queue"](context, config.world_size)
        apart = [RankJob(config, endpoint) for endpoint in meeting]
        program = "dmlf.training.unsynchronized:run_unsynchronized_rank"
        return run_ranks(context, program, apart)
    group_size = config.world_size + registry()[config.algorithm].num_servers
    endpoints = TRANSPORTS[config.transport](context, group_size)
    jobs = [RankJob(config, endpoint, transcript) for endpoint in endpoints]
    return run_ranks(context, "dmlf.training.worker:run_rank", jobs)
