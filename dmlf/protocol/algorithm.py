"""What an algorithm is, and the registry of all algorithms.

An all-reduce algorithm is one generator, `all_reduce(member, at, bucket)`; `all_reduce_algorithm`
registers it and wraps it into a whole step. An algorithm whose ranks play different roles (the
parameter server) registers its own step generators with `register`.

Whatever is registered is run by the command line, the workflow, the simulator and the
conformance tests without any further edit, also where another distribution registers it: see
`dmlf.plugins`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from dmlf.plugins import Registry, module_of
from dmlf.protocol.accumulator import Accumulator
from dmlf.protocol.agree import agree, agreement_messages, commit
from dmlf.protocol.effects import Apply, Gradient, Member, Steps
from dmlf.protocol.tags import Phase, Tag

Fold = int | tuple["Fold", "Fold"]
"""The order of one sum: a rank, or the sum of two folds. ((0, 1), 2) adds 0 and 1, then 2."""


@dataclass(frozen=True, slots=True)
class BucketShape:
    """Sizes of a bucket as they decide traffic: elements, bytes per partial, bytes of scale."""

    numel: int
    partial_itemsize: int = 4
    scale_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Messages and payload bytes of something, all ranks together."""

    messages: int
    payload_bytes: int

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.messages + other.messages, self.payload_bytes + other.payload_bytes)


AllReduce = Callable[[Member, Tag, Accumulator], Steps[None]]
RankStep = Callable[[Member, int, int], Steps[None]]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A synchronous algorithm: what workers (and servers) do in one step, and what it promises.

    `worker_step` and `server_step` take (member, step, num_buckets). `fold(numel, world_size)`
    publishes the order of additions as (chunk, Fold) pairs that cover the bucket: a serial
    replay that adds in that order gives the same bits. `traffic(buckets, world_size, num_servers)`
    is the closed form of one step's messages and payload bytes; num_servers as `server_count` has
    it. Each server owns the buckets that `dmlf.protocol.ownership` gives it. `all_reduce` sums one
    bucket, without a commit, where the step is made of such sums, one bucket after the other.
    """

    name: str
    worker_step: RankStep
    server_step: RankStep | None
    fold: Callable[[int, int], list[tuple[slice, Fold]]]
    traffic: Callable[[Sequence[BucketShape], int, int], Traffic]
    all_reduce: AllReduce | None = None

    @property
    def has_servers(self) -> bool:
        """Whether there are processes beside the workers."""
        return self.server_step is not None

    def server_count(self, num_servers: int) -> int:
        """Servers of a run that is configured with `num_servers`: none if it knows no servers."""
        return num_servers if self.has_servers else 0

    def rank_step(self, member: Member, step: int, num_buckets: int) -> Steps[None]:
        """One step of whatever role `member` plays."""
        if member.rank >= member.world_size and self.server_step is not None:
            return self.server_step(member, step, num_buckets)
        return self.worker_step(member, step, num_buckets)


_REGISTRY: Registry[Algorithm] = Registry(
    "algorithm",
    decorator="@all_reduce_algorithm",
    reserved=("serial", "native", "ddp", "unsynchronized"),
)


def register(algorithm: Algorithm) -> Algorithm:
    """Make `algorithm` known by its name; a name can be taken once. Raises PluginError."""
    return _register(algorithm, module_of(algorithm.worker_step))


def registry() -> Registry[Algorithm]:
    """All algorithms by name: dmlf's own sorted, then what others registered or installed."""
    return _REGISTRY


def _register(algorithm: Algorithm, module: str) -> Algorithm:
    _REGISTRY.register(algorithm.name, algorithm, module)
    return algorithm


def all_reduce_algorithm(
    name: str,
    fold: Callable[[int, int], list[tuple[slice, Fold]]],
    traffic: Callable[[int, int], tuple[int, int, int]],
) -> Callable[[AllReduce], AllReduce]:
    """Register the decorated all-reduce generator as the algorithm `name`.

    `traffic(numel, world_size)` returns (messages, partial elements, reduced elements) sent for
    one bucket by all ranks together.
    """

    def step_traffic(buckets: Sequence[BucketShape], world_size: int, _num_servers: int) -> Traffic:
        agreements = agreement_messages(world_size)
        total = Traffic(agreements, agreements)  # the commit: one byte a message
        for bucket in buckets:
            messages, partial, reduced = traffic(bucket.numel, world_size)
            total += Traffic(messages, partial * bucket.partial_itemsize + reduced * 4)
            if bucket.scale_bytes:
                total += Traffic(agreements, agreements * bucket.scale_bytes)
        return total

    def decorate(all_reduce: AllReduce) -> AllReduce:
        def worker_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
            return _synchronize(all_reduce, member, step, num_buckets)

        algorithm = Algorithm(name, worker_step, None, fold, step_traffic, all_reduce)
        _register(algorithm, module_of(all_reduce))
        return all_reduce

    return decorate


def local_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
    """The step of a rank that trains alone: no message, otherwise as any other."""
    return _synchronize(_finish_alone, member, step, num_buckets)


def _finish_alone(_member: Member, _at: Tag, bucket: Accumulator) -> Steps[None]:
    bucket.finish(slice(0, bucket.numel))
    yield from ()


def _scale(bucket: Accumulator) -> bytes:
    scale = bucket.scale()
    assert scale is not None
    return scale


def _synchronize(all_reduce: AllReduce, member: Member, step: int, num_buckets: int) -> Steps[None]:
    """One step of an all-reduce algorithm: sum every bucket, commit, apply."""
    finite = True
    for index in range(num_buckets):
        bucket: Accumulator = yield Gradient(step, index)
        at = Tag(member.generation, step, index, Phase.SCALE, 0, member.rank)
        if bucket.scale() is not None:
            workers = range(member.world_size)
            yield from agree(member, workers, at, partial(_scale, bucket), bucket.merge_scale)
        bucket.begin()
        yield from all_reduce(member, at, bucket)
        finite = finite and bucket.is_finite()
    yield from commit(member, step, finite)
    yield Apply(step)
