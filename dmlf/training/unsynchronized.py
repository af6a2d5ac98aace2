"""The ceiling in every comparison: ranks that train apart, at once, and exchange nothing.

Each rank computes its own shards and lets its own optimizer step, as in a synchronous run, but
without a single message after the start. What it ends with is no training result: its replicas
differ. Its speed is what synchronisation that costs nothing would reach.
"""

from __future__ import annotations

import hashlib
import time

from dmlf.errors import SchemaMismatch
from dmlf.protocol import Member, confirm_equal, local_step
from dmlf.runtime import Driver, NoTransport
from dmlf.training.closing import close_links
from dmlf.training.progress import progress
from dmlf.training.recorder import StepRecorder
from dmlf.training.replica import Replica, make_backend
from dmlf.training.result import RankReport
from dmlf.training.sampler import owned_shards
from dmlf.training.worker import RankJob

_ALONE = Member(0, 1)


def run_unsynchronized_rank(rank: int, job: RankJob) -> RankReport:
    """Train as `rank`, apart; `job.endpoint` serves only to start equal and together.

    Nothing is evaluated: while one rank did so, the others would have more of the machine.
    """
    config = job.config
    assert job.endpoint is not None
    transport = job.endpoint.connect()
    shards = owned_shards(rank, config.world_size, config.num_shards)
    replica = Replica(config, make_backend(config), rank, shards)
    initial = replica.initial_state_sha256
    digest = hashlib.sha256(f"{config.sha256()}|{initial}".encode()).digest()
    subject = "configuration or initial state"
    everyone = Member(rank, config.world_size)
    together = Driver(transport, replica, config.timeout_s)
    together.run(confirm_equal(everyone, 0, [digest], subject, SchemaMismatch))
    alone = Driver(NoTransport(), replica, config.timeout_s)
    recorder = StepRecorder()
    for step in progress(range(replica.num_steps), rank):
        with recorder.step() as phases:
            start = time.monotonic()
            samples = replica.sampler.shards(step)
            drawn = time.monotonic()
            phases["loss_sum"] = replica.compute(step, samples)
            phases["samples"] = sum(len(samples[index]) for index in shards)
            computed, applied = time.monotonic(), alone.apply_s
            alone.run(local_step(_ALONE, step, len(replica.buckets)))
            phases["data_s"] = drawn - start
            phases["forward_backward_s"] = computed - drawn
            phases["optimizer_s"] = alone.apply_s - applied
            phases["communication_s"] = time.monotonic() - computed - phases["optimizer_s"]
    close_links(transport, rank)
    return recorder.report(
        rank=rank,
        role="worker",
        initial_state_sha256=initial,
        state=replica.state(applies=True),
        messages_sent=alone.messages_sent,
        payload_bytes_sent=alone.payload_bytes_sent,
        theoretical_messages=0,
        theoretical_payload_bytes=0,
        torch_threads=replica.backend.num_threads,
    )
