"""The peer in every comparison: stock torch DistributedDataParallel over Gloo, on loopback."""

from __future__ import annotations

import statistics
import time
from datetime import timedelta
from typing import Any

from dmlf.config import RunConfig
from dmlf.errors import ReplicaDivergence
from dmlf.training.ddp_job import DdpJob
from dmlf.training.progress import progress
from dmlf.training.recorder import StepRecorder
from dmlf.training.replica import Replica, make_backend
from dmlf.training.result import RankReport
from dmlf.training.sampler import SampleIds, owned_shards
from dmlf.training.state import entries_of, entries_sha256
from dmlf.training.torch_backend import TorchBackend

_CALIBRATION_STEPS = 10


def run_ddp_rank(rank: int, job: DdpJob) -> RankReport:
    """Train as `rank` with stock DDP: same model, data, sampler and optimizer as everybody.

    DDP communicates inside backward, so the phases are split by a calibration: the median time of
    forward and backward without synchronisation, taken on all ranks at once before training.
    """
    import torch.distributed as dist

    config = job.config
    backend = make_backend(config)
    assert isinstance(backend, TorchBackend)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{job.rendezvous_path}",
        rank=rank,
        world_size=config.world_size,
        timeout=timedelta(seconds=config.timeout_s),
    )
    try:
        return _DdpRank(rank, config, backend).train()
    finally:
        dist.destroy_process_group()


class _DdpRank:
    def __init__(self, rank: int, config: RunConfig, backend: TorchBackend) -> None:
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        self._dist = dist
        self._rank, self._config, self._backend = rank, config, backend
        backend.detach_interceptor()
        shards = owned_shards(rank, config.world_size, config.num_shards)
        self._replica = Replica(config, backend, rank, shards)
        self._model = DistributedDataParallel(backend.model)
        self._recorder = StepRecorder()

    def train(self) -> RankReport:
        replica, recorder = self._replica, self._recorder
        compute_s = self._calibrate()
        self._end_epoch(0)
        steps_per_epoch, num_steps = replica.sampler.steps_per_epoch, replica.num_steps
        for step in progress(range(num_steps), self._rank):
            self._step(step, compute_s)
            if (step + 1) % steps_per_epoch == 0 or step + 1 == num_steps:
                self._end_epoch(step // steps_per_epoch + 1)
        numel = sum(bucket.numel for bucket in replica.buckets)
        # Gloo's ring: every element travels world_size - 1 hops in each of two phases.
        hops = 2 * (self._config.world_size - 1)
        return recorder.report(
            rank=self._rank,
            role="worker",
            initial_state_sha256=replica.initial_state_sha256,
            state=replica.state(),
            messages_sent=None,
            payload_bytes_sent=None,
            theoretical_messages=None,
            theoretical_payload_bytes=hops * numel * 4 * num_steps if self._rank == 0 else 0,
            torch_threads=self._backend.num_threads,
        )

    def _step(self, step: int, compute_s: float) -> None:
        replica, backend = self._replica, self._backend
        with self._recorder.step() as phases:
            start = time.monotonic()
            batch, mine = self._samples(step)
            drawn = time.monotonic()
            phases["loss_sum"] = backend.backward(self._model, mine, replica.seed(step))
            phases["samples"] = len(mine)
            synchronised = time.monotonic()
            # DDP leaves the mean over ranks of summed gradients; we want the mean over samples.
            backend.step_own_gradients(self._config.world_size / len(batch))
            backward_s = synchronised - drawn
            phases["data_s"] = drawn - start
            phases["forward_backward_s"] = min(compute_s, backward_s)
            phases["communication_s"] = backward_s - phases["forward_backward_s"]
            phases["optimizer_s"] = time.monotonic() - synchronised

    def _samples(self, step: int) -> tuple[SampleIds, SampleIds]:
        """The global batch, and this rank's part of it."""
        sampler = self._replica.sampler
        return sampler.batch(step), self._replica.local_samples(sampler.shards(step))

    def _calibrate(self) -> float:
        """Median seconds of forward and backward without synchronisation; changes no parameter."""
        times = []
        self._dist.barrier()
        with self._model.no_sync():
            for step in range(_CALIBRATION_STEPS):
                _, mine = self._samples(step % self._replica.sampler.steps_per_epoch)
                start = time.monotonic()
                self._backend.backward(self._model, mine, self._replica.seed(step))
                times.append(time.monotonic() - start)
                self._backend.clear_gradients()
        return statistics.median(times)

    def _end_epoch(self, epoch: int) -> None:
        if self._rank == 0:
            test_loss, accuracy = self._backend.evaluate()
            self._recorder.end_epoch(epoch, test_loss, accuracy)
        own = entries_sha256(entries_of(self._backend.parameters()))
        digests: list[Any] = [None] * self._config.world_size
        self._dist.all_gather_object(digests, own)
        for digest in digests:
            if digest != own:
                subject = f"parameters after epoch {epoch}"
                raise ReplicaDivergence(self._rank, own[:16], digest[:16], subject)
