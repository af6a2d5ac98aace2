"""A run on several hosts: the coordinator's part, and that of each worker."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from dmlf.config import RunConfig
from dmlf.env import source_sha256
from dmlf.errors import ConfigError, DmlfError
from dmlf.protocol import registry
from dmlf.runtime import process_context
from dmlf.runtime.coordinator import Coordinator, CoordinatorLink, Secret
from dmlf.runtime.launch import Watch, run_ranks
from dmlf.training.checkpoints import CheckpointPlan
from dmlf.training.preflight import preflight
from dmlf.training.result import RankReport, report_from_json, report_to_json
from dmlf.training.worker import RankJob
from dmlf.transport.tcp import Address, TcpEndpoint, listen


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where workers of a run meet, what they must know, and how long to wait for one another."""

    address: Address
    secret: Secret
    timeout_s: float = 300.0


def coordinate(
    config: RunConfig, job: RankJob, rendezvous: Rendezvous
) -> tuple[list[RankReport], float]:
    """Have `config` run by workers on any hosts, one rank each.

    Return all reports, and the seconds until the first step began.

    Raises ConfigError, AddressUnavailable, RendezvousError, and whatever ends the run.
    """
    if config.transport != "tcp":
        raise ConfigError("transport", config.transport, "tcp, with a coordinator")
    algorithm = registry()[config.algorithm]
    size = config.world_size + algorithm.server_count(config.num_servers)
    listener = listen(*rendezvous.address, rendezvous.secret.key)
    coordinator = Coordinator(listener, rendezvous.secret, size, source_sha256())
    try:
        begun = time.monotonic()
        coordinator.wait_for_workers(rendezvous.timeout_s)
        gathering_s = time.monotonic() - begun
        coordinator.start(
            {
                "config": config.as_mapping(),
                "transcript": job.transcript,
                "timeline_steps": job.timeline_steps,
                "checkpoint": None if job.checkpoint is None else asdict(job.checkpoint),
            }
        )
        outcomes = [json.loads(text) for text in coordinator.collect_reports()]
        launch_s = gathering_s + max(float(outcome["launch_s"]) for outcome in outcomes)
        return [report_from_json(outcome["report"]) for outcome in outcomes], launch_s
    finally:
        coordinator.close()


def work(rendezvous: Rendezvous, host: str | None = None, data_dir: str | None = None) -> int:
    """Join the coordinator, run one rank to its end, and return its number.

    host: the address at which other ranks reach this host; by default the one from which the
    coordinator is reached. data_dir: where this host has its data sets, if not where the
    coordinator has them. Raises what ended the run, here or elsewhere.
    """
    secret = rendezvous.secret
    link = CoordinatorLink(rendezvous.address, secret, rendezvous.timeout_s)
    try:
        listener = listen(host or link.own_host, 0, secret.key)
        order = link.join(listener.address, source_sha256(), rendezvous.timeout_s)
        ordered = time.monotonic()
        rank = int(order["rank"])
        addresses = [(str(name), int(port)) for name, port in order["addresses"]]
        endpoint = TcpEndpoint(rank, listener, addresses, secret.key, secret.tls)
        try:
            report = _run(rank, _rank_job(order["job"], endpoint, data_dir), link)
        except DmlfError as error:
            link.send_failure(error)
            raise
        # Clocks of hosts differ, so each tells how long it took.
        launch_s = report.start_s[0] - ordered if report.start_s else 0.0
        outcome = {"launch_s": launch_s, "report": report_to_json(report)}
        link.send_report(json.dumps(outcome))
        return rank
    finally:
        link.close()


def _rank_job(values: dict[str, Any], endpoint: TcpEndpoint, data_dir: str | None) -> RankJob:
    config = RunConfig.from_mapping(values["config"])
    if data_dir is not None:
        config = replace(config, data_dir=data_dir)
    plan = values["checkpoint"]
    return RankJob(
        config,
        endpoint,
        bool(values["transcript"]),
        int(values["timeline_steps"]),
        None if plan is None else CheckpointPlan(**plan),
    )


def _run(rank: int, job: RankJob, link: CoordinatorLink) -> RankReport:
    context = process_context(preflight(job.config), job.config.threads_per_rank)
    reports = run_ranks(
        context, "dmlf.training.worker:run_rank", [job], rank, Watch(link, link.check)
    )
    report: RankReport = reports[0]
    return report
