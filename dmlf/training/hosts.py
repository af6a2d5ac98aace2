"""A run on several hosts: the coordinator's part, and that of each worker."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from dmlf.config import RunConfig
from dmlf.env import source_sha256
from dmlf.errors import ConfigError, RendezvousError
from dmlf.protocol import registry
from dmlf.runtime import process_context
from dmlf.runtime.agent import Agent
from dmlf.runtime.coordinator import RemoteMembers, Secret
from dmlf.runtime.events import Start
from dmlf.runtime.faults import parse_fault
from dmlf.runtime.local import LocalMembers
from dmlf.runtime.supervisor import RestartPolicy
from dmlf.training.checkpoints import CheckpointPlan
from dmlf.training.preflight import preflight
from dmlf.training.result import report_from_json
from dmlf.training.supervised import STALL_MARGIN_S, Outcome, supervise
from dmlf.training.worker import RankJob
from dmlf.transport.tcp import Address, Listener, listen
from dmlf.transport.tcp.sockets import is_loopback


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where workers of a run meet, what they must know, and how long to wait for one another."""

    address: Address
    secret: Secret
    timeout_s: float = 300.0


def coordinate(
    config: RunConfig,
    job: RankJob,
    rendezvous: Rendezvous,
    restarts: RestartPolicy,
    struck: dict[int, float],
) -> Outcome:
    """Have `config` run by workers on any hosts, one rank each.

    struck: takes when injected faults struck. Raises ConfigError, AddressUnavailable,
    RendezvousError, and whatever ends the run.
    """
    if config.transport != "tcp":
        raise ConfigError("transport", config.transport, "tcp, with a coordinator")
    servers = registry()[config.algorithm].server_count(config.num_servers)
    limits = restarts.limits(
        config.world_size,
        servers,
        config.timeout_s + STALL_MARGIN_S,
        rendezvous.timeout_s,
        spawns=False,
    )
    members = RemoteMembers(
        _listen(rendezvous), rendezvous.secret, source_sha256(), _plain(job), restarts.elastic
    )
    try:
        reports, outcome = supervise(members, limits, struck)
    except RendezvousError as error:
        raise RendezvousError(None, error.missing, error.timeout_s, members.last_refusal) from None
    return replace(outcome, ranks=[report_from_json(text) for text in reports])


def _listen(rendezvous: Rendezvous) -> Listener:
    """Listen for workers; a name that only this host can reach is remarked upon."""
    asked, _ = rendezvous.address
    listener = listen(*rendezvous.address, rendezvous.secret.key)
    host, _ = listener.address
    if is_loopback(host) and asked != host and "localhost" not in asked:
        print(
            f"dmlf: {asked} is {host} here, which no other host can reach; give --coordinator an "
            "address of the network, or mend /etc/hosts",
            file=sys.stderr,
        )
    return listener


def work(rendezvous: Rendezvous, host: str | None = None, data_dir: str | None = None) -> str:
    """Join the coordinator, run one rank until it leaves or all is done; say which.

    host: the address at which other ranks reach this host; by default the one from which the
    coordinator is reached. data_dir: where this host has its data sets, if not where the
    coordinator has them. Raises what ended the run, here or elsewhere.
    """

    def prepare(values: Any, leaves: bool) -> LocalMembers:
        job = _rank_job(values, data_dir)
        context = process_context(preflight(job.config), job.config.threads_per_rank)
        return LocalMembers(context, "dmlf.training.again:RemoteRank", job, _no_endpoints, leaves)

    agent = Agent(rendezvous.address, rendezvous.secret, host, prepare, rendezvous.timeout_s)
    return agent.run(source_sha256())


def _no_endpoints(start: Start) -> list[Any]:
    raise AssertionError(f"{start}: this rank's endpoint comes from the coordinator")


def _plain(job: RankJob) -> dict[str, Any]:
    return {
        "config": job.config.as_mapping(),
        "transcript": job.transcript,
        "timeline_steps": job.timeline_steps,
        "checkpoint": None if job.checkpoint is None else asdict(job.checkpoint),
        "faults": [str(spec) for spec in job.faults],
    }


def _rank_job(values: Any, data_dir: str | None) -> RankJob:
    config = RunConfig.from_mapping(values["config"])
    if data_dir is not None:
        config = replace(config, data_dir=data_dir)
    plan = values["checkpoint"]
    return RankJob(
        config,
        None,
        bool(values["transcript"]),
        int(values["timeline_steps"]),
        None if plan is None else CheckpointPlan(**plan),
        faults=tuple(parse_fault(text) for text in values["faults"]),
    )
