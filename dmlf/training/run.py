"""A whole run: check the configuration, start the ranks, bring their reports together."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dmlf.config import RunConfig
from dmlf.env import require_torch
from dmlf.errors import ConfigError
from dmlf.protocol import registry
from dmlf.runtime import process_context, run_ranks
from dmlf.runtime.measuring_lock import measuring_lock
from dmlf.tasks.registry import resolve_task
from dmlf.tasks.task import NumpyTask
from dmlf.training.ddp_job import DdpJob
from dmlf.training.result import RankReport, RunResult
from dmlf.training.torchrun import run_as_member, speaks_for_the_run, started_by_torchrun
from dmlf.training.worker import RankJob
from dmlf.transport import TRANSPORTS
from dmlf.transport.emulated import EmulatedLink, emulate


def train(
    config: RunConfig,
    *,
    exclusive: bool = False,
    transcript: bool = False,
    timeline_steps: int = 0,
) -> RunResult:
    """Run `config` to its end in processes of its own and return what was measured.

    In a process that torchrun has started, with transport `process_group`: as that rank of the
    run, and with the same return value on all ranks.

    exclusive: hold the host-wide measuring lock, so that no other measured run overlaps.
    transcript: let every rank record the hashes of what it does; it costs time in every step, and
    nothing overlaps. timeline_steps: let every rank record when it did what, for the first steps.
    Raises ConfigError before any process starts, and what ended the run otherwise.
    """
    preload = _check(config)
    for key, value in (("transcript", transcript), ("timeline", timeline_steps)):
        if value and config.algorithm == "ddp":
            raise ConfigError(key, value, "a dmlf algorithm: stock DDP records nothing")
    if isinstance(timeline_steps, bool) or timeline_steps < 0:
        raise ConfigError("timeline", timeline_steps, "a number of steps, at least 0")
    started_at, start = datetime.now(UTC), time.monotonic()
    locks = exclusive and speaks_for_the_run(config.transport)
    with measuring_lock() if locks else nullcontext(0.0) as lock_wait_s:
        load_before = os.getloadavg()
        ranks = _run(config, preload, RankJob(config, None, transcript, timeline_steps))
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
    algorithms = ("serial", *registry(), "native", "ddp")
    if config.algorithm not in algorithms:
        raise ConfigError("algorithm", config.algorithm, f"one of {', '.join(algorithms)}")
    if config.algorithm in (*registry(), "native") and config.transport not in TRANSPORTS:
        raise ConfigError("transport", config.transport, f"one of {', '.join(TRANSPORTS)}")
    has_servers = config.algorithm in registry() and registry()[config.algorithm].has_servers
    if config.num_servers != 1 and not has_servers:
        allowed = f"1 with algorithm {config.algorithm!r}, which has no servers"
        raise ConfigError("num_servers", config.num_servers, allowed)
    task = resolve_task(config)
    if isinstance(task, NumpyTask):
        if config.algorithm == "ddp":
            raise ConfigError("algorithm", "ddp", f"a dmlf algorithm: {config.task} needs no torch")
        over_torch = config.transport == "process_group"
        return ["dmlf.training.worker", *(["torch.distributed"] if over_torch else [])]
    if importlib.util.find_spec("torch") is None:
        require_torch()
    # Torch's optimizers import torch._dynamo when they are first made, which takes seconds.
    return [
        "dmlf.training.worker",
        "dmlf.training.torch_backend",
        "torch",
        "torch._dynamo",
        *task.preload,
    ]


def _run(config: RunConfig, preload: list[str], job: RankJob) -> list[RankReport]:
    if started_by_torchrun(config.transport):
        if config.emulates:
            allowed = "0 under torchrun: processes of several hosts share no clock"
            raise ConfigError("emulate_latency_s", config.emulate_latency_s, allowed)
        return run_as_member(config, job)
    context = process_context(preload, config.threads_per_rank)
    if config.algorithm == "serial":
        return run_ranks(context, "dmlf.training.worker:run_rank", [job])
    if config.algorithm == "ddp":
        # Gloo would listen on the address of the host's name; keep it on loopback.
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        with tempfile.TemporaryDirectory(prefix="dmlf-ddp-") as folder:
            ddp_job = DdpJob(config, str(Path(folder) / "rendezvous"))
            return run_ranks(
                context, "dmlf.training.ddp:run_ddp_rank", [ddp_job] * config.world_size
            )
    algorithm = registry().get(config.algorithm)
    num_servers = algorithm.server_count(config.num_servers) if algorithm else 0
    group_size = config.world_size + num_servers
    endpoints = TRANSPORTS[config.transport](context, group_size)
    if config.emulates:
        link = EmulatedLink(config.emulate_latency_s, config.emulate_bandwidth_bits_per_s)
        endpoints = emulate(endpoints, link)
    jobs = [replace(job, endpoint=endpoint) for endpoint in endpoints]
    return run_ranks(context, "dmlf.training.worker:run_rank", jobs)
