"""A whole training run in one process: every rank's replica, driven by the tests' own driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dmlf.config import RunConfig
from dmlf.conformance.driving import drive
from dmlf.protocol import Effect, Member, local_step, registry
from dmlf.training.replica import Replica, make_backend
from dmlf.training.sampler import owned_shards
from dmlf.training.state import RankState, merge_states

SMALL = RunConfig(hidden_sizes=(32,), max_steps=4, global_batch_size=64, bucket_cap_bytes=4096)


def config(algorithm: str = "ring", world_size: int = 1, **changes: object) -> RunConfig:
    if algorithm == "serial":
        return replace(SMALL, **changes)
    return replace(SMALL, algorithm=algorithm, transport="queue", world_size=world_size, **changes)


def make_replicas(run: RunConfig) -> list[Replica]:
    """All replicas of `run` by rank, servers last."""
    algorithm = registry()[run.algorithm]
    size = run.world_size + algorithm.server_count(run.num_servers)
    return [
        Replica(
            run,
            make_backend(run),
            rank,
            owned_shards(rank, run.world_size, run.num_shards)
            if rank < run.world_size
            else range(0),
        )
        for rank in range(size)
    ]


def answers_of(replicas: list[Replica]) -> Callable[[int, Effect], object]:
    """Fulfil local effects: the effect `ReadParameters(bucket)` calls `read_parameters(bucket)`."""

    def answer(rank: int, effect: Effect) -> object:
        name = "".join("_" + c.lower() if c.isupper() else c for c in type(effect).__name__)
        return getattr(replicas[rank], name.lstrip("_"))(*effect)

    return answer


def train_in_process(
    run: RunConfig, plant: Callable[[int, list[Replica]], None] | None = None
) -> list[Replica]:
    """Train all steps of `run` and return its replicas.

    plant: called with (step, replicas) when all gradients of the step are computed.
    """
    algorithm = registry()[run.algorithm]
    replicas = make_replicas(run)
    size = len(replicas)

    for step in range(replicas[0].num_steps):
        for replica in replicas[: run.world_size]:
            replica.compute(step, replica.sampler.shards(step))
        if plant is not None:
            plant(step, replicas)
        programs = {
            rank: algorithm.rank_step(
                Member(rank, run.world_size, size - run.world_size), step, len(replicas[0].buckets)
            )
            for rank in range(size)
        }
        outcome = drive(programs, answers_of(replicas))
        if outcome.errors:
            raise outcome.errors[min(outcome.errors)]
        assert outcome.completed(size)
    return replicas


def final_state(replicas: list[Replica]) -> str:
    """Hash of parameters and optimizer state of all ranks, as their reports give it."""
    return merge_states(states_of(replicas)).sha256()


def states_of(replicas: list[Replica]) -> list[RankState]:
    """What every rank reports: workers that have servers have no optimizer."""
    run = replicas[0].config
    servers = len(replicas) > run.world_size
    return [
        replica.state(applies=not servers or rank >= run.world_size)
        for rank, replica in enumerate(replicas)
    ]


def serial_state(run: RunConfig) -> str:
    """Train serially, without any algorithm; return the final state's hash."""
    replica = Replica(run, make_backend(run), 0, range(run.num_shards))
    for step in range(replica.num_steps):
        replica.compute(step, replica.sampler.shards(step))
        program = local_step(Member(0, 1), step, len(replica.buckets))
        outcome = drive({0: program}, answers_of([replica]))
        if outcome.errors:
            raise outcome.errors[0]
    return replica.state().sha256()
