"""The readable step loop of one rank, worker or server, of any registered algorithm."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmlf.checkpoint import Verified
from dmlf.config import RunConfig
from dmlf.env import source_sha256
from dmlf.errors import DmlfError, ReplicaDivergence, SchemaMismatch
from dmlf.protocol import (
    Algorithm,
    Holding,
    Member,
    Phase,
    Steps,
    confirm_equal,
    local_step,
    registry,
)
from dmlf.runtime import Driver, Local, NoTransport
from dmlf.runtime.clock import seconds_behind_rank_0
from dmlf.runtime.faults import FaultSpec, Injector
from dmlf.runtime.member import Line
from dmlf.runtime.stop import StopSignal
from dmlf.training.checkpoints import Checkpointer, CheckpointPlan, writer_of
from dmlf.training.closing import close_links
from dmlf.training.native import native_step
from dmlf.training.notes import Notebook
from dmlf.training.plugged import plugged_text
from dmlf.training.progress import progress
from dmlf.training.recorder import StepRecorder
from dmlf.training.replica import Replica, make_backend
from dmlf.training.restoring import Restored, restore
from dmlf.training.result import RankReport
from dmlf.training.sampler import owned_shards
from dmlf.training.synchronizer import RankStep, StepTimes, Synchronizer, make_synchronizer
from dmlf.training.timeline import Timeline
from dmlf.training.transcript import KeptRecords, TranscriptRecorder
from dmlf.transport import Endpoint, Transport
from dmlf.transport.process_group import GroupTransport


@dataclass(frozen=True, slots=True)
class RankJob:
    """What a rank's process is told: the run, its links (None: it trains alone), what to record.

    timeline_steps: steps to record in `RankReport.timeline`. checkpoint: None saves nothing.
    stop: asks to end the run between two steps. faults: to be injected.
    """

    config: RunConfig
    endpoint: Endpoint | None
    transcript: bool = False
    timeline_steps: int = 0
    checkpoint: CheckpointPlan | None = None
    stop: StopSignal | None = None
    faults: tuple[FaultSpec, ...] = ()


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
    num_servers = algorithm.server_count(config.num_servers) if algorithm else 0
    member = Member(rank, config.world_size, num_servers)
    report = Trainer(replica, transport, member, algorithm, job).train()
    close_links(transport, rank)
    return report


@dataclass(frozen=True, slots=True)
class Again:
    """What a rank brings to a generation, where there may be several of them.

    holding: what its process holds that may be used. history: of the run, from the first of its
    kind on, up to `history_step`; it matters on rank 0. verified: checkpoints that its process has
    read or written. saved: the step of the run's last checkpoint, on whichever host.
    """

    generation: int
    line: Line
    holding: Holding | None
    history: Mapping[str, Any] | None
    history_step: int
    injector: Injector | None = None
    verified: Verified = frozenset()
    saved: int | None = None


class Trainer:
    """One rank's run: the replica computes, messages synchronise, every step ends committed.

    again: what a rank brings that has been here before, where the group may be begun anew.
    """

    def __init__(
        self,
        replica: Replica,
        transport: Transport,
        member: Member,
        algorithm: Algorithm | None,
        job: RankJob,
        again: Again | None = None,
    ) -> None:
        self._again = again
        self._replica = replica
        self._member = member
        self._algorithm = algorithm
        self._is_worker = member.rank < member.world_size
        self._interrupt = None if again is None else again.line.check
        clock_s = 0.0
        if job.timeline_steps and member.group_size > 1:
            driver = Driver(transport, replica, job.config.timeout_s, None, self._interrupt)
            clock_s = driver.run(seconds_behind_rank_0(member))
        self._timeline = Timeline(member.rank, job.timeline_steps, clock_s)
        self._synchronizer = self._make_synchronizer(transport, job)
        # Workers of a parameter server have no optimizer state: it lives on the servers.
        self._applies = not (self._is_worker and member.num_servers)
        self.recorder = StepRecorder()
        self._notebook = None if again is None else Notebook(again.line, self.recorder)
        self._kept = KeptRecords()
        self._transcript: TranscriptRecorder | None = None
        if job.transcript:
            tell = self._kept if again is None else again.line.record
            self._transcript = TranscriptRecorder(replica, self._applies, tell)
        self._checkpointer: Checkpointer | None = None
        if job.checkpoint is not None:
            self._checkpointer = Checkpointer(
                job.checkpoint,
                replica,
                member,
                self.recorder,
                self._drive,
                self._confirm_state,
                None if again is None else again.injector,
                None if again is None else again.line,
                frozenset() if again is None else again.verified,
            )
        self._plan = job.checkpoint
        self._stop = job.stop
        self._traffic = (0, 0)

    def _make_synchronizer(self, transport: Transport, job: RankJob) -> Synchronizer:
        num_buckets = len(self._replica.buckets)
        # A server computes nothing that could hide its messages; and a transcript needs every
        # gradient as it was before it was added to.
        overlap = job.config.overlap and self._is_worker and not job.transcript
        timeout_s, observer = job.config.timeout_s, self._timeline.observe

        def make_driver(local: Local) -> Driver:
            self._driver = Driver(
                transport,
                local,
                timeout_s,
                observer if job.timeline_steps else None,
                self._interrupt,
            )
            return self._driver

        return make_synchronizer(
            make_driver,
            self._replica,
            num_buckets,
            self._rank_step(transport, num_buckets),
            overlap,
        )

    def _rank_step(self, transport: Transport, num_buckets: int) -> RankStep:
        member = self._member
        config = self._replica.config
        if isinstance(transport, GroupTransport) and config.algorithm == "native":
            return lambda step: native_step(transport, step, num_buckets, config.timeout_s)
        rank_step = self._algorithm.rank_step if self._algorithm else local_step
        injector = None if self._again is None else self._again.injector
        if injector is not None:
            return lambda step: injector.through(step, rank_step(member, step, num_buckets))
        return lambda step: rank_step(member, step, num_buckets)

    @property
    def verified(self) -> Verified:
        """The checkpoints that need not be read again, once training has ended."""
        return frozenset() if self._checkpointer is None else self._checkpointer.verified

    def train(self) -> RankReport:
        """All steps of the run, with an evaluation on rank 0 after every epoch."""
        try:
            return self._train()
        finally:
            self._synchronizer.close()
            if self._checkpointer is not None:
                self._checkpointer.abandon()

    def _train(self) -> RankReport:
        replica, sampler = self._replica, self._replica.sampler
        self._handshake(replica.initial_state_sha256)
        done = self._begin()
        for step in progress(range(done, replica.num_steps), self._member.rank):
            if self._again is not None:
                self._again.line.begin(step)
            if self._stop is not None and self._member.rank == 0:
                self._stop.begin(step)
            self._step(step)
            done = step + 1
            whole = done % sampler.steps_per_epoch == 0
            if whole or done == replica.num_steps:
                self._end_epoch(step // sampler.steps_per_epoch + 1, done, whole)
            if self._checkpointer is not None:
                self._checkpointer.after(done)
            if self._stop is not None and self._stop.follows(step):
                break
        if self._checkpointer is not None:
            self._checkpointer.finish(done)
        return self._report(completed=done == replica.num_steps)

    def _begin(self) -> int:
        """Return the first step to do: 0, or where a checkpoint or those who were here go on."""
        restored = self._restore()
        done, again = restored.step, self._again
        self.recorder.first_step = done
        if self._checkpointer is not None:
            self._checkpointer.begin(done if restored.durable else None)
        epoch, into_epoch = divmod(done, self._replica.sampler.steps_per_epoch)
        if self._member.rank == 0:
            if self.recorder.last_epoch < epoch and not into_epoch:
                self._evaluate(epoch, whole=True)
            if done == self._replica.num_steps and into_epoch:
                self._evaluate(epoch + 1, whole=False)
        self._confirm_state(done)
        if again is not None:
            again.line.resumed(done, restored.source)
        if restored.durable and self._member.rank == 0 and (again is None or not again.generation):
            print(f"dmlf: going on after step {done}, from {restored.source}", file=sys.stderr)
        return done

    def _restore(self) -> Restored:
        """Come by the state to go on with, and on rank 0 by the history of the run."""
        again, plan = self._again, self._plan
        if again is None or again.generation == 0:
            if plan is not None and self._member.rank == writer_of(self._member):
                plan.check_folder()
            if plan is None or not plan.resume:
                return Restored(0, "the start", False, None)
        holding = None if again is None else again.holding
        saved = None if again is None else again.saved
        restored = restore(self._replica, self._member, self._drive, plan, holding, saved)
        if self._member.rank != 0:
            return restored
        if restored.history is not None:
            self.recorder.go_on(restored.history)
        elif again is not None and again.history is not None:
            self.recorder.go_on(again.history)
        known = again is None or again.history_step == restored.step
        if restored.history is None and restored.step and not known:
            self.recorder.lose_losses()
        return restored

    def _drive(self, protocol: Steps[None]) -> None:
        """Drive a protocol between steps."""
        injector = None if self._again is None else self._again.injector
        self._synchronizer.run(protocol if injector is None else injector.through(-1, protocol))

    def _step(self, step: int) -> None:
        replica, driver = self._replica, self._driver
        injector = None if self._again is None else self._again.injector
        if injector is not None:
            injector.compute(step)
        messages, payload_bytes = driver.messages_sent, driver.payload_bytes_sent
        self._timeline.begin_step(step)
        with self.recorder.step() as phases:
            start = time.monotonic()
            shards = replica.sampler.shards(step)
            drawn = time.monotonic()
            on_complete = self._synchronizer.begin(step)
            if self._is_worker:
                phases["loss_sum"] = replica.compute(step, shards, on_complete)
                if injector is not None:
                    injector.computed(step, replica.store.rows)
                phases["samples"] = sum(len(shards[index]) for index in replica.shards)
            if self._transcript is not None:
                self._transcript.before_reduction(step, shards)
            computed = time.monotonic()
            times = self._finish(step)
            phases["data_s"] = drawn - start
            phases["forward_backward_s"] = computed - drawn
            phases["communication_s"] = times.communication_s
            phases["wait_s"] = times.wait_s
            phases["hidden_s"] = times.hidden_s
            phases["optimizer_s"] = times.optimizer_s
        if self._is_worker:
            self._timeline.computed("draw samples", start, drawn)
            self._timeline.computed("forward and backward", drawn, computed)
        self._traffic = (
            self._traffic[0] + driver.messages_sent - messages,
            self._traffic[1] + driver.payload_bytes_sent - payload_bytes,
        )

    def _finish(self, step: int) -> StepTimes:
        """Bring the gradients of the step together, and record what came of it."""
        try:
            times = self._synchronizer.finish(step)
        except DmlfError:
            if self._transcript is not None and self._replica.done == step + 1:
                self._transcript.after_step(step)  # it counts, though others have not ended it
            raise
        if self._transcript is not None:
            self._transcript.after_step(step)
        return times

    def _handshake(self, initial_state: str) -> None:
        """Refuse to start unless configuration, code and initial state are the same everywhere.

        The order of the parameters too, which the hash of a state does not see: it decides where
        they lie in the buckets.
        """
        order = "|".join(name for bucket in self._replica.buckets for name in bucket.names)
        config = self._replica.config
        code = f"{source_sha256()}{plugged_text(config)}"
        facts = f"{config.sha256()}|{code}|{initial_state}|{order}"
        digest = hashlib.sha256(facts.encode()).digest()
        subject = "configuration, source code, initial state or order of parameters"
        self._drive(confirm_equal(self._member, 0, [digest], subject, SchemaMismatch))

    def _end_epoch(self, epoch: int, step: int, whole: bool) -> None:
        """Evaluate on rank 0; then go on together, having checked that replicas are equal."""
        if self._member.rank == 0:
            self._evaluate(epoch, whole)
        self._confirm_replicas(step)

    def _evaluate(self, epoch: int, whole: bool) -> None:
        start = time.monotonic()
        test_loss, accuracy = self._replica.backend.evaluate()
        self._timeline.computed("evaluate", start, time.monotonic())
        self.recorder.end_epoch(epoch, test_loss, accuracy, whole=whole)
        self.note()

    def note(self) -> None:
        """Leave the records so far with the launcher; nothing on a rank that has none of epochs."""
        if self._notebook is not None:
            self._notebook.write()

    def _confirm_replicas(self, step: int) -> None:
        self._confirm(step, self._replica.parameter_digests(), f"parameters after step {step}")

    def _confirm_state(self, step: int) -> None:
        """Check that all who hold a part of parameters or optimizer hold the same."""
        replica = self._replica
        digests = [*replica.parameter_digests(), *replica.optimizer_digests(self._applies)]
        self._confirm(step, digests, f"state after step {step}")

    def _confirm(self, step: int, digests: Sequence[bytes | None], subject: str) -> None:
        self._drive(
            confirm_equal(
                self._member, step, digests, subject, ReplicaDivergence, Phase.REPLICA_CHECK
            )
        )

    def _report(self, completed: bool) -> RankReport:
        replica, member = self._replica, self._member
        messages: int | None = 0
        payload_bytes: int | None = 0
        native = replica.config.algorithm == "native"
        if native:  # the engine sends what it likes, and does not tell
            messages = payload_bytes = None
        if self._algorithm is not None and member.rank == 0:
            exact = replica.config.reduction == "exact"
            shapes = [bucket.shape(exact) for bucket in replica.buckets]
            traffic = self._algorithm.traffic(shapes, member.world_size, member.num_servers)
            messages = traffic.messages * len(self.recorder.step_s)
            payload_bytes = traffic.payload_bytes * len(self.recorder.step_s)
        return self.recorder.report(
            rank=member.rank,
            role="worker" if self._is_worker else "server",
            completed=completed,
            initial_state_sha256=replica.initial_state_sha256,
            state=replica.state(applies=self._applies),
            messages_sent=None if native else self._traffic[0],
            payload_bytes_sent=None if native else self._traffic[1],
            theoretical_messages=messages,
            theoretical_payload_bytes=payload_bytes,
            torch_threads=replica.backend.num_threads,
            transcript=self._kept.records,
            timeline=self._timeline.spans,
        )
