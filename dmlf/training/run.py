"""A whole run: check the configuration, start the ranks, bring their reports together."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.context import ForkServerContext

from dmlf.config import UNSYNCHRONIZED, RunConfig
from dmlf.errors import ConfigError, RunInterrupted
from dmlf.protocol import registry
from dmlf.runtime import process_context, run_ranks
from dmlf.runtime.events import Start
from dmlf.runtime.faults import OF_FRAMES, OF_MEMBERSHIP, FaultKind, FaultSpec
from dmlf.runtime.limits import Limits
from dmlf.runtime.local import JOIN_S, LocalMembers
from dmlf.runtime.measuring_lock import measuring_lock
from dmlf.runtime.others import cpu_times, share_of_others
from dmlf.runtime.scratch import scratch_folder
from dmlf.runtime.stop import StopSignal
from dmlf.runtime.supervisor import RestartPolicy
from dmlf.training.checkpoints import CheckpointPlan
from dmlf.training.ddp_job import DdpJob
from dmlf.training.hosts import Rendezvous, coordinate
from dmlf.training.preflight import preflight
from dmlf.training.result import RankReport, RunResult
from dmlf.training.supervised import STALL_MARGIN_S, Outcome, supervise
from dmlf.training.torchrun import (
    own_rank,
    run_as_member,
    speaks_for_the_run,
    started_by_torchrun,
)
from dmlf.training.transcript import merge_records
from dmlf.training.worker import RankJob
from dmlf.transport import TRANSPORTS, Endpoint
from dmlf.transport.emulated import EmulatedLink, emulate


def train(
    config: RunConfig,
    *,
    exclusive: bool = False,
    transcript: bool = False,
    timeline_steps: int = 0,
    rendezvous: Rendezvous | None = None,
    checkpoint: CheckpointPlan | None = None,
    restarts: RestartPolicy | None = None,
    faults: Sequence[FaultSpec] = (),
    struck: dict[int, float] | None = None,
) -> RunResult:
    """Run `config` to its end in processes of its own and return what was measured.

    In a process that torchrun has started, with transport `process_group`: as that rank of the
    run, and with the same return value on all ranks.

    exclusive: hold the host-wide measuring lock, so that no other measured run overlaps.
    transcript: let every rank record the hashes of what it does; it costs time in every step, and
    nothing overlaps. timeline_steps: let every rank record when it did what, for the first steps.
    rendezvous: do not start ranks here, but have workers on any hosts run them (`dmlf worker`).
    checkpoint: save the state as the run goes on, or go on from there; SIGTERM and SIGINT then
    end the run between two steps, with a checkpoint, as RunInterrupted (of ranks of this host).
    restarts: begin the group anew when a rank dies, hangs or loses a message, and let workers come
    and go where that says so.
    faults: to be injected. struck: takes, also when this raises, by number of a fault when it
    struck, in seconds on CLOCK_MONOTONIC.
    Raises ConfigError before any process starts, and what ended the run otherwise.
    """
    preload = preflight(config)
    if isinstance(timeline_steps, bool) or timeline_steps < 0:
        raise ConfigError("timeline", timeline_steps, "a number of steps, at least 0")
    here = rendezvous is None and not started_by_torchrun(config.transport)
    if config.emulates and not here:
        key = "emulate_latency_s" if config.emulate_latency_s else "emulate_bandwidth_bits_per_s"
        allowed = "0 where ranks may be on several hosts, which share no clock"
        raise ConfigError(key, getattr(config, key), allowed)
    stop = StopSignal() if checkpoint is not None and here else None
    job = RankJob(config, None, transcript, timeline_steps, checkpoint, stop, tuple(faults))
    _check_recording(job)
    if restarts is None:
        restarts = RestartPolicy(0)
    if restarts.max_restarts or restarts.elastic or faults:
        _check_restarts(job, restarts, here, rendezvous is not None)
    if checkpoint is not None and here:
        checkpoint.check_folder()
    struck = {} if struck is None else struck
    started_at, start = datetime.now(UTC), time.monotonic()
    locks = exclusive and speaks_for_the_run(config.transport)
    with measuring_lock() if locks else nullcontext(0.0) as lock_wait_s:
        load_before = os.getloadavg()
        # On several hosts, or under torchrun, other ranks would pass for others.
        cpu_before = cpu_times() if here else None
        locked = time.monotonic()
        if rendezvous is not None:
            outcome = coordinate(config, job, rendezvous, restarts, struck)
        else:
            outcome = _run(config, preload, job, restarts, struck)
        begun = outcome.trained_s
        if begun is None:
            begun = _first_step(outcome.ranks, own_rank(config.transport), locked)
        launch_s = begun - locked
        others = share_of_others(cpu_before, cpu_times())
        load_after = os.getloadavg()
    ranks = outcome.ranks
    if checkpoint is not None and stop is not None and not all(rank.completed for rank in ranks):
        done = ranks[0].first_step + len(ranks[0].step_s)
        raise RunInterrupted(stop.number, done, checkpoint.folder)
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
        others_cpu_share=others,
        recoveries=outcome.recoveries,
        membership=outcome.membership,
        transcript=outcome.transcript or merge_records([rank.transcript for rank in ranks]),
    )


def _check_recording(job: RankJob) -> None:
    """Refuse to record or to save what is not there. Raises ConfigError."""
    saves = None if job.checkpoint is None else job.checkpoint.folder
    for key, value in (
        ("transcript", job.transcript),
        ("timeline", job.timeline_steps),
        ("checkpoint_dir", saves),
    ):
        if value and job.config.algorithm in ("ddp", UNSYNCHRONIZED):
            raise ConfigError(key, value, f"none with algorithm {job.config.algorithm!r}")
    if job.transcript and job.checkpoint is not None and job.checkpoint.resume:
        raise ConfigError("transcript", True, "a run from its first step, without --resume")


def _check_restarts(job: RankJob, restarts: RestartPolicy, here: bool, hosts: bool) -> None:
    """Refuse what cannot be begun anew, and what cannot be injected. Raises ConfigError."""
    config, times = job.config, restarts.max_restarts
    if (
        not (here or hosts)
        or config.algorithm in ("ddp", UNSYNCHRONIZED)
        or config.transport == "process_group"
    ):
        allowed = "over queue, shm or tcp, not under torchrun: others end with the first failure"
        if job.faults:
            raise ConfigError("fault", str(job.faults[0]), allowed)
        raise ConfigError("max_restarts", times, f"0, or {allowed}")
    if restarts.elastic and config.algorithm == "serial":
        raise ConfigError("max_workers", restarts.max_workers, "none with algorithm 'serial'")
    limits = _limits(config, restarts)
    if limits.max_workers > config.num_shards:
        allowed = f"at most num_shards ({config.num_shards})"
        raise ConfigError("max_workers", limits.max_workers, allowed)
    size = limits.max_workers + limits.servers
    for spec in job.faults:
        if spec.rank >= size:
            raise ConfigError("fault", str(spec), f"a rank below {size}, servers included")
        if spec.kind in OF_FRAMES and config.transport != "tcp":
            allowed = f"{spec.kind} with transport tcp: the others have no frames"
            raise ConfigError("fault", str(spec), allowed)
        if spec.kind is FaultKind.DISK_FULL and job.checkpoint is None:
            raise ConfigError(
                "fault", str(spec), "disk-full with a folder of checkpoints (--checkpoint-dir)"
            )
        if spec.kind in OF_MEMBERSHIP and not restarts.elastic:
            raise ConfigError("fault", str(spec), f"{spec.kind} with min_workers or max_workers")
        if spec.kind is FaultKind.JOIN and hosts:
            raise ConfigError("fault", str(spec), "join on one host; on several, start a worker")
    if job.timeline_steps and (times or restarts.elastic):
        allowed = "a run without --max-restarts and of a fixed size: it records its first steps"
        raise ConfigError("timeline", job.timeline_steps, allowed)


def _limits(config: RunConfig, restarts: RestartPolicy) -> Limits:
    """Of a group on this host."""
    servers = _group_size(config) - config.world_size
    stall_s = config.timeout_s + STALL_MARGIN_S
    return restarts.limits(config.world_size, servers, stall_s, JOIN_S, spawns=True)


def _first_step(ranks: Sequence[RankReport], own_rank: int | None, otherwise: float) -> float:
    """When the first step began, on this host's clock: under torchrun only the own rank's is.

    otherwise: the answer where no step was left to do.
    """
    on_this_clock = ranks if own_rank is None else [ranks[own_rank]]
    return min((rank.start_s[0] for rank in on_this_clock if rank.start_s), default=otherwise)


def replay_hash(config: RunConfig) -> str:
    """The final state's SHA-256 of the serial replay of `config`, in a process of its own."""
    context = process_context(preflight(config), config.threads_per_rank)
    (result,) = run_ranks(context, "dmlf.training.replay:replay", [config])
    return str(result)


def _group_size(config: RunConfig) -> int:
    """Workers and servers."""
    algorithm = registry().get(config.algorithm)
    return config.world_size + (algorithm.server_count(config.num_servers) if algorithm else 0)


def _endpoints(
    context: ForkServerContext, config: RunConfig, group_size: int
) -> Sequence[Endpoint]:
    """A place for every rank in a new group on this host."""
    endpoints = TRANSPORTS[config.transport](context, group_size)
    if not config.emulates:
        return endpoints
    link = EmulatedLink(config.emulate_latency_s, config.emulate_bandwidth_bits_per_s)
    return emulate(endpoints, link)


def _run(
    config: RunConfig,
    preload: list[str],
    job: RankJob,
    restarts: RestartPolicy,
    struck: dict[int, float],
) -> Outcome:
    if started_by_torchrun(config.transport):
        return Outcome(run_as_member(config, job))
    context = process_context(preload, config.threads_per_rank)
    if restarts.max_restarts or restarts.elastic or job.faults:
        return _run_again(context, job, restarts, struck)
    return Outcome(_run_once(context, job))


def _run_once(context: ForkServerContext, job: RankJob) -> list[RankReport]:
    """Run the ranks of this host; the first failure ends them."""
    config = job.config
    if config.algorithm == "serial":
        return run_ranks(context, "dmlf.training.worker:run_rank", [job], stop=job.stop)
    if config.algorithm == "ddp":
        # Gloo would listen on the address of the host's name; keep it on loopback.
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        with scratch_folder() as folder:
            ddp_job = DdpJob(config, str(folder / "rendezvous"))
            return run_ranks(
                context, "dmlf.training.ddp:run_ddp_rank", [ddp_job] * config.world_size
            )
    if config.algorithm == UNSYNCHRONIZED:
        meeting = TRANSPORTS["queue"](context, config.world_size)
        apart = [replace(job, endpoint=endpoint) for endpoint in meeting]
        program = "dmlf.training.unsynchronized:run_unsynchronized_rank"
        return run_ranks(context, program, apart)
    endpoints = _endpoints(context, config, _group_size(config))
    jobs = [replace(job, endpoint=endpoint) for endpoint in endpoints]
    return run_ranks(context, "dmlf.training.worker:run_rank", jobs, stop=job.stop)


def _run_again(
    context: ForkServerContext,
    job: RankJob,
    restarts: RestartPolicy,
    struck: dict[int, float],
) -> Outcome:
    """Run the ranks of this host, beginning anew as often as `restarts` allows."""
    config = job.config

    def make_endpoints(start: Start) -> Sequence[Endpoint | None]:
        return (
            [None]
            if config.algorithm == "serial"
            else _endpoints(context, config, len(start.ranks))
        )

    members = LocalMembers(
        context, "dmlf.training.again:RecoverableRank", job, make_endpoints, restarts.elastic
    )
    reports, outcome = supervise(members, _limits(config, restarts), struck, job.stop)
    return replace(outcome, ranks=reports)
