"""A whole run with the product's own step loop, one thread per rank, in this process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dmlf.config import RunConfig
from dmlf.conformance.groups import close_all, group
from dmlf.protocol import Member, registry
from dmlf.runtime import NoTransport
from dmlf.training.checkpoints import CheckpointPlan
from dmlf.training.replica import Replica, make_backend
from dmlf.training.result import RankReport
from dmlf.training.sampler import owned_shards
from dmlf.training.state import merge_states
from dmlf.training.worker import RankJob, Trainer


def train_in_threads(config: RunConfig, plan: CheckpointPlan | None = None) -> list[RankReport]:
    """Train `config` over its transport; return the reports by rank."""
    algorithm = registry().get(config.algorithm)
    num_servers = algorithm.server_count(config.num_servers) if algorithm else 0
    size = config.world_size + num_servers
    transports = group(config.transport, size) if algorithm else [NoTransport()]
    # Not in the threads: building a torch model draws from the process's one random stream.
    replicas = [
        Replica(
            config,
            make_backend(config),
            rank,
            owned_shards(rank, config.world_size, config.num_shards)
            if rank < config.world_size
            else range(0),
            transports[rank].allocate,
        )
        for rank in range(size)
    ]
    job = RankJob(config, None, checkpoint=plan)

    def train(rank: int) -> RankReport:
        member = Member(rank, config.world_size, num_servers)
        return Trainer(replicas[rank], transports[rank], member, algorithm, job).train()

    with ThreadPoolExecutor(size) as pool:
        reports = list(pool.map(train, range(size)))
    close_all(transports)
    return reports


def final_state(reports: list[RankReport]) -> str:
    return merge_states([report.state for report in reports]).sha256()


def plan(folder: Path, **changes: object) -> CheckpointPlan:
    return CheckpointPlan(str(folder), **changes)
