"""One rank's replica: it computes shard gradients, holds them in buckets, and applies the sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.config import RunConfig
from dmlf.errors import SchemaMismatch
from dmlf.numerics.exact import Float32
from dmlf.protocol import Accumulator, owned_buckets, owner, registry
from dmlf.runtime.cores import server_threads
from dmlf.tasks.registry import resolve_task
from dmlf.tasks.task import NumpyTask
from dmlf.training.backend import Backend
from dmlf.training.gradients import Allocate, GradientStore
from dmlf.training.layout import make_buckets
from dmlf.training.numpy_backend import NumpyBackend
from dmlf.training.sampler import SampleIds, ShardSampler
from dmlf.training.state import RankState, compared_entries, entries_of, entries_sha256
from dmlf.transport import allocate_plain

Arrays = Mapping[str, npt.NDArray[Any]]


def make_backend(config: RunConfig) -> Backend:
    """The backend of the configured task. Raises ConfigError, DatasetError, DependencyMissing."""
    task = resolve_task(config)
    if isinstance(task, NumpyTask):
        return NumpyBackend(config, task)
    from dmlf.training.torch_backend import TorchBackend

    return TorchBackend(config, task)


def compute_seed(seed: int, step: int, shard: int) -> int:
    """The seed for what a model draws at random in one shard of one step."""
    words = np.random.SeedSequence([seed, step, shard]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def of_parameters(optimizer: Arrays, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """The optimizer's state of some parameters, with what it keeps for all of them together."""
    chosen = frozenset(names)
    return {
        key: value
        for key, value in optimizer.items()
        if "." not in key or key.rpartition(".")[0] in chosen
    }


class Replica:
    """A copy of the model with the gradients of `shards`; fulfils `dmlf.runtime.Local`.

    A worker's copy is whole. A server (rank world_size or more) keeps parameters, gradients and
    optimizer of the buckets that it owns, and nothing of the others.
    shards: the logical shards that this rank computes; a server has none.
    initial_state_sha256: of the whole model and optimizer, on every rank.
    allocate: makes the vectors that are sent; the transport's own spares it their copies.
    done: the steps whose state is held here, to the bit; None where that is not known.
    """

    def __init__(
        self,
        config: RunConfig,
        backend: Backend,
        rank: int,
        shards: range,
        allocate: Allocate = allocate_plain,
    ) -> None:
        self.config = config
        self.backend = backend
        self.sampler = ShardSampler(
            backend.num_samples, config.global_batch_size, config.num_shards, config.seed
        )
        shapes = {name: value.shape for name, value in backend.parameters().items()}
        self.buckets = make_buckets(shapes, config.bucket_cap_bytes)
        self._bucket_of = {
            placed.name: bucket.index for bucket in self.buckets for placed in bucket.placements
        }
        self.initial_state_sha256 = self.state().sha256()
        self._held = range(config.num_servers)  # the servers whose buckets are here
        if rank >= config.world_size:
            server = rank - config.world_size
            self._held = range(server, server + 1)
            backend.keep(self.names_of(server))
        self.done: int | None = 0
        self.enter(rank, shards, allocate)

    def enter(self, rank: int, shards: range, allocate: Allocate) -> None:
        """Take a place in a group: compute `shards`, and send from the memory of its transport."""
        self._rank, self.shards = rank, shards
        held = [
            bucket
            for bucket in self.buckets
            if owner(bucket.index, self.config.num_servers) in self._held
        ]
        algorithm = registry().get(self.config.algorithm)  # None: serial, native, ddp
        one_by_one = algorithm is None or (
            algorithm.all_reduce is not None and not algorithm.has_servers
        )
        self.store = GradientStore(
            self._rank,
            held,
            self.config.reduction,
            len(self.shards),
            self.config.num_shards,
            one_by_one,
            allocate,
            1 if self.shards else server_threads(self.config.num_servers),
        )
        self._allocate = allocate
        self._outgoing: dict[int, Float32] = {}

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        steps = self.config.epochs * self.sampler.steps_per_epoch
        return steps if self.config.max_steps is None else min(steps, self.config.max_steps)

    def compute(
        self,
        step: int,
        shards: Sequence[SampleIds],
        on_complete: Callable[[int], None] | None = None,
    ) -> float:
        """Compute the gradients of this rank's shards of `step`; return their summed loss.

        on_complete: called with each bucket as soon as the gradients of all its parameters are
        there, where that is known before the end.

        float32: all local samples in one pass. exact: one pass per shard, always of the same
        shapes, whatever the world size is.
        """
        if self.config.reduction == "float32":
            mine = [self.local_samples(shards)]
        else:
            mine = [shards[index] for index in self.shards]
        loss = 0.0
        for row, (ids, gradients) in enumerate(zip(mine, self.store.rows, strict=True)):
            last = row == len(mine) - 1
            notify = self._count_down(on_complete) if on_complete and last else None
            loss += self.backend.forward_backward(ids, self.seed(step, row), gradients, notify)
        return loss

    def _count_down(self, on_complete: Callable[[int], None]) -> Callable[[str], None]:
        """What to call with every parameter's name, to call `on_complete` with every bucket."""
        missing = [len(bucket.placements) for bucket in self.buckets]

        def notify(name: str) -> None:
            bucket = self._bucket_of[name]
            missing[bucket] -= 1
            if not missing[bucket]:
                on_complete(bucket)

        return notify

    def local_samples(self, shards: Sequence[SampleIds]) -> SampleIds:
        """The samples of all of this rank's shards."""
        return np.concatenate([shards[index] for index in self.shards])

    def seed(self, step: int, row: int = 0) -> int:
        """The seed of whatever the model draws at random in the `row`-th local shard."""
        return compute_seed(self.config.seed, step, self.shards.start + row)

    def gradient(self, step: int, bucket: int) -> Accumulator:
        """The accumulator of a bucket."""
        return self.store.accumulator(bucket)

    def apply(self, step: int) -> None:
        """Scale the summed gradient to the mean over the global batch; let the optimizer step."""
        self.store.scale_to_mean(len(self.sampler.batch(step)))
        self.done = None
        self.backend.step(self.store.reduced)
        self.done = step + 1

    def read_parameters(self, bucket: int) -> Float32:
        """The parameters of a bucket, flattened: [bucket numel] float32.

        The same vector in every step: every worker has pulled it before it pushes again, and the
        server reads new parameters after it has all pushes.
        """
        if bucket not in self._outgoing:
            self._outgoing[bucket] = self._allocate(self.buckets[bucket].numel, np.float32)
        flat, parameters = self._outgoing[bucket], self.backend.parameters()
        for placed in self.buckets[bucket].placements:
            flat[placed.slice] = parameters[placed.name].reshape(-1)
        return flat

    def write_parameters(self, bucket: int, payload: Float32) -> None:
        """Replace the parameters of a bucket. Raises SchemaMismatch on a wrong payload."""
        numel = self.buckets[bucket].numel
        whole = isinstance(payload, np.ndarray) and payload.shape == (numel,)
        if not whole or payload.dtype != np.float32:
            raise SchemaMismatch(self._rank, f"float32[{numel}]", payload, "parameters")
        parameters = self.backend.parameters()
        for placed in self.buckets[bucket].placements:
            parameters[placed.name][...] = payload[placed.slice].reshape(placed.shape)

    def state(self, *, applies: bool = True) -> RankState:
        """All parameters that are here, with the optimizer's state on a rank that `applies`."""
        optimizer = entries_of(self.backend.optimizer_state()) if applies else None
        return RankState(entries_of(self.backend.parameters()), optimizer)

    def part(self, index: int) -> tuple[Arrays, Arrays]:
        """Parameters and optimizer state of the buckets that one server owns, not copied.

        All of both where there is no server and `index` is 0. What a backend keeps for all
        parameters together (a step count) belongs to every part.
        """
        names = self.names_of(index)
        held = self.backend.parameters()
        optimizer = of_parameters(self.backend.optimizer_state(), names)
        return {name: held[name] for name in names}, optimizer

    def part_digests(self) -> dict[int, str]:
        """A hash of parameters and optimizer's state of each part (see `part`) that is here."""
        digests = {}
        for index in self._held:
            parameters, optimizer = self.part(index)
            digests[index] = RankState(
                compared_entries(parameters), compared_entries(optimizer)
            ).sha256()
        return digests

    def load_state(self, parameters: Arrays, optimizer: Arrays | None, done: int) -> None:
        """Replace what is held here by the state of another replica of the same run.

        done: after how many steps.
        parameters, optimizer: at least what this rank keeps; optimizer None: it never steps here.
        Raises SchemaMismatch, before anything is changed, when they do not fit.
        """
        kept = self.backend.parameters()
        expected = {name: (value.dtype.str, value.shape) for name, value in kept.items()}
        given = {
            name: (value.dtype.str, value.shape)
            for name, value in parameters.items()
            if name in expected
        }
        if given != expected:
            raise SchemaMismatch(self._rank, expected, given, "parameters of a restored state")
        mine = None if optimizer is None else of_parameters(optimizer, expected)
        self.done = None
        self.backend.load_state(parameters, mine)
        self.done = done

    def parameter_digests(self) -> list[bytes | None]:
        """A hash of the parameters of each server's buckets, None where they are not here.

        One of all parameters where there is no server.
        """
        entries = compared_entries(self.backend.parameters())
        return [
            bytes.fromhex(entries_sha256(entries, self.names_of(server)))
            if server in self._held
            else None
            for server in range(self.config.num_servers)
        ]

    def optimizer_digests(self, applies: bool) -> list[bytes | None]:
        """A hash of the optimizer's state of each server's buckets, None where it is not here."""
        digests: list[bytes | None] = []
        for server in range(self.config.num_servers):
            here = applies and server in self._held
            entries = compared_entries(self.part(server)[1]) if here else {}
            digests.append(bytes.fromhex(entries_sha256(entries)) if here else None)
        return digests

    def names_of(self, server: int) -> list[str]:
        """The parameters in the buckets that a server owns."""
        owned = owned_buckets(server, len(self.buckets), self.config.num_servers)
        return [name for index in owned for name in self.buckets[index].names]
