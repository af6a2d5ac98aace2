"""A whole run: check the configuration, start the ranks, bring their reports together."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dmlf.config import UNSYNCHRONIZED, RunConfig
from dmlf.errors import ConfigError
from dmlf.protocol import registry
from dmlf.runtime import process_context, run_ranks
from dmlf.runtime.measuring_lock import measuring_lock
from dmlf.training.ddp_job import DdpJob
from dmlf.training.hosts import Rendezvous, coordinate
from dmlf.training.preflight import preflight
from dmlf.training.result import RankReport, RunResult
from dmlf.training.torchrun import (
    own_rank,
    run_as_member,
    speaks_for_the_run,
    started_by_torchrun,
)
from dmlf.training.worker import RankJob
from dmlf.transport import TRANSPORTS
from dmlf.transport.emulated import EmulatedLink, emulate


def train(
    config: RunConfig,
    *,
    exclusive: bool = False,
    transcript: bool = False,
    timeline_steps: int = 0,
    rendezvous: Rendezvous | None = None,
) -> RunResult:
    """Run `config` to its end in processes of its own and return what was measured.

    In a process that torchrun has started, with transport `process_group`: as that rank of the
    run, and with the same return value on all ranks.

    exclusive: hold the host-wide measuring lock, so that no other measured run overlaps.
    transcript: let every rank record the hashes of what it does; it costs time in every step, and
    nothing overlaps. timeline_steps: let every rank record when it did what, for the first steps.
    rendezvous: do not start ranks here, but have workers on any hosts run them (`dmlf worker`).
    Raises ConfigError before any process starts, and what ended the run otherwise.
    """
    preload = preflight(config)
    for key, value in (("transcript", transcript), ("timeline", timeline_steps)):
        if value and config.algorithm in ("ddp", UNSYNCHRONIZED):
            raise ConfigError(key, value, f"none with algorithm {config.algorithm!r}")
    if isinstance(timeline_steps, bool) or timeline_steps < 0:
        raise ConfigError("timeline", timeline_steps, "a number of steps, at least 0")
    if config.emulates and (rendezvous is not None or started_by_torchrun(config.transport)):
        key = "emulate_latency_s" if config.emulate_latency_s else "emulate_bandwidth_bits_per_s"
        allowed = "0 where ranks may be on several hosts, which share no clock"
        raise ConfigError(key, getattr(config, key), allowed)
    started_at, start = datetime.now(UTC), time.monotonic()
    locks = exclusive and speaks_for_the_run(config.transport)
    with measuring_lock() if locks else nullcontext(0.0) as lock_wait_s:
        load_before = os.getloadavg()
        job = RankJob(config, None, transcript, timeline_steps)
        locked = time.monotonic()
        if rendezvous is not None:
            ranks, launch_s = coordinate(config, job, rendezvous)
        else:
            ranks = _run(config, preload, job)
            launch_s = _first_step(ranks, own_rank(config.transport)) - locked
        load_after = os.getloadavg()
    return RunResult(
        config=config,
        ranks=ranks,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        launch_s=launch_s,
        total_s=time.monotonic() - start,
        lock_wait_s=lock_wait_s,
        load_before=load_before,
        load_after=load_after,
    )


def _first_step(ranks: list[RankReport], own_rank: int | None) -> float:
    """When the first step began, on this host's clock: under torchrun only the own rank's is."""
    if own_rank is not None:
        return ranks[own_rank].start_s[0]
    return min(report.start_s[0] for report in ranks)


def replay_hash(config: RunConfig) -> str:
    """The final state's SHA-256 of the serial replay of `config`, in a process of its own."""
    context = process_context(preflight(config), config.threads_per_rank)
    (result,) = run_ranks(context, "dmlf.training.replay:replay", [config])
    return str(result)


def _run(config: RunConfig, preload: list[str], job: RankJob) -> list[RankReport]:
    if started_by_torchrun(config.transport):
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
    if config.algorithm == UNSYNCHRONIZED:
        meeting = TRANSPORTS["queue"](context, config.world_size)
        apart = [replace(job, endpoint=endpoint) for endpoint in meeting]
        program = "dmlf.training.unsynchronized:run_unsynchronized_rank"
        return run_ranks(context, program, apart)
    algorithm = registry().get(config.algorithm)
    num_servers = algorithm.server_count(config.num_servers) if algorithm else 0
    group_size = config.world_size + num_servers
    endpoints = TRANSPORTS[config.transport](context, group_size)
    if config.emulates:
        link = EmulatedLink(config.emulate_latency_s, config.emulate_bandwidth_bits_per_s)
        endpoints = emulate(endpoints, link)
    jobs = [replace(job, endpoint=endpoint) for endpoint in endpoints]
    return run_ranks(context, "dmlf.training.worker:run_rank", jobs)
