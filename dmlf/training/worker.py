"""The readable step loop of one rank, worker or server, of any registered algorithm."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from dmlf.config import RunConfig
from dmlf.env import source_sha256
from dmlf.errors import ReplicaDivergence, SchemaMismatch
from dmlf.protocol import Algorithm, Member, confirm_equal, local_step, registry
from dmlf.runtime import Driver, NoTransport
from dmlf.training.progress import progress
from dmlf.training.recorder import StepRecorder
from dmlf.training.replica import Replica, make_backend
from dmlf.training.result import RankReport
from dmlf.training.sampler import owned_shards
from dmlf.training.transcript import TranscriptRecorder
from dmlf.transport import Endpoint


@dataclass(frozen=True, slots=True)
class RankJob:
    """What a rank's process is told: the run, and its links (None: it trains alone)."""

    config: RunConfig
    endpoint: Endpoint | None
    transcript: bool = False


def run_rank(rank: int, job: RankJob) -> RankReport:
    """Train as `rank`: check that all ranks start equal, step to the end, report.

    Ranks from world_size on are servers. Raises whatever ends the run; see `dmlf.errors`.
    """
    config = job.config
    algorithm = registry().get(config.algorithm)
    is_worker = rank < config.world_size
    shards = owned_shards(rank, config.world_size, config.num_shards) if is_worker else range(0)
    transport = NoTransport() if job.endpoint is None else job.endpoint.connect()
    replica = Replica(config, make_backend(config), rank, shards, transport.allocate)
    trainer = Trainer(
        replica,
        Driver(transport, replica, config.timeout_s),
        Member(rank, config.world_size, algorithm.server_count(config.num_servers))
        if algorithm
        else Member(rank, config.world_size),
        algorithm,
        job.transcript,
    )
    report = trainer.train()
    transport.close()
    return report


class Trainer:
    """One rank's run: `replica` computes, `driver` synchronises, every step ends committed."""

    def __init__(
        self,
        replica: Replica,
        driver: Driver,
        member: Member,
        algorithm: Algorithm | None,
        transcript: bool,
    ) -> None:
        self._replica = replica
        self._driver = driver
        self._member = member
        self._algorithm = algorithm
        self._rank_step = algorithm.rank_step if algorithm else local_step
        self._is_worker = member.rank < member.world_size
        # Workers of a parameter server have no optimizer state: it lives on the servers.
        self._applies = not (self._is_worker and member.num_servers)
        self._recorder = StepRecorder()
        self._transcript = TranscriptRecorder(replica, self._applies) if transcript else None
        self._traffic = (0, 0)

    def train(self) -> RankReport:
        """All steps of the run, with an evaluation on rank 0 after every epoch."""
        replica, sampler = self._replica, self._replica.sampler
        self._handshake(replica.initial_state_sha256)
        self._end_epoch(0, 0, 0, 0)
        first, seen = 0, 0
        for step in progress(range(replica.num_steps), self._member.rank):
            seen += self._step(step)
            if (step + 1) % sampler.steps_per_epoch == 0 or step + 1 == replica.num_steps:
                epoch = step // sampler.steps_per_epoch + 1
                self._end_epoch(epoch, step + 1, step + 1 - first, seen)
                first, seen = step + 1, 0
        return self._report()

    def _step(self, step: int) -> int:
        """One step; return the samples of the global batch."""
        replica, driver = self._replica, self._driver
        with self._recorder.step() as phases:
            start = time.perf_counter()
            shards = replica.sampler.shards(step)
            drawn = time.perf_counter()
            if self._is_worker:
                phases["loss_sum"] = replica.compute(step, shards)
                phases["samples"] = sum(len(shards[index]) for index in replica.shards)
            if self._transcript is not None:
                self._transcript.before_reduction(shards)
            computed = time.perf_counter()
            waited, applied = driver.wait_s, driver.apply_s
            messages, payload_bytes = driver.messages_sent, driver.payload_bytes_sent
            driver.run(self._rank_step(self._member, step, len(replica.buckets)))
            phases["data_s"] = drawn - start
            phases["forward_backward_s"] = computed - drawn
            phases["wait_s"] = driver.wait_s - waited
            phases["optimizer_s"] = driver.apply_s - applied
            phases["communication_s"] = time.perf_counter() - computed - phases["optimizer_s"]
        if self._transcript is not None:
            self._transcript.after_step()
        self._traffic = (
            self._traffic[0] + driver.messages_sent - messages,
            self._traffic[1] + driver.payload_bytes_sent - payload_bytes,
        )
        return sum(len(shard) for shard in shards)

    def _handshake(self, initial_state: str) -> None:
        """Refuse to start unless configuration, code and initial state are the same everywhere."""
        facts = f"{self._replica.config.sha256()}|{source_sha256()}|{initial_state}"
        digest = hashlib.sha256(facts.encode()).digest()
        subject = "configuration, source code or initial state"
        self._driver.run(confirm_equal(self._member, 0, [digest], subject, SchemaMismatch))

    def _end_epoch(self, epoch: int, step: int, steps: int, num_samples: int) -> None:
        """Evaluate on rank 0; then go on together, having checked that replicas are equal."""
        if self._member.rank == 0:
            test_loss, accuracy = self._replica.backend.evaluate()
            self._recorder.end_epoch(epoch, steps, num_samples, test_loss, accuracy)
        digests = self._replica.parameter_digests()
        subject = f"parameters after step {step}"
        self._driver.run(confirm_equal(self._member, step, digests, subject, ReplicaDivergence))

    def _report(self) -> RankReport:
        replica, member = self._replica, self._member
        messages = payload_bytes = 0
        if self._algorithm is not None and member.rank == 0:
            exact = replica.config.reduction == "exact"
            shapes = [bucket.shape(exact) for bucket in replica.buckets]
            traffic = self._algorithm.traffic(shapes, member.world_size, member.num_servers)
            messages = traffic.messages * replica.num_steps
            payload_bytes = traffic.payload_bytes * replica.num_steps
        return self._recorder.report(
            rank=member.rank,
            role="worker" if self._is_worker else "server",
            initial_state_sha256=replica.initial_state_sha256,
            state=replica.state(applies=self._applies),
            messages_sent=self._traffic[0],
            payload_bytes_sent=self._traffic[1],
            theoretical_messages=messages,
            theoretical_payload_bytes=payload_bytes,
            torch_threads=replica.backend.num_threads,
            transcript=self._transcript.records if self._transcript is not None else (),
        )
